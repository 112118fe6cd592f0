"""The agent's own control socket, served beside a test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostagent.agent import control
from hostagent.agent.control import Verb


@contextmanager
def an_agents_socket(
    path: Path, status: Callable[[], dict[str, Any]], verbs: Mapping[str, Verb] | None = None
) -> Iterator[asyncio.AbstractEventLoop]:
    """The agent's own server, in a loop of its own."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(control.serve(path, status, verbs))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
