"""The agent's own socket: answers what `hostagent status` asks, to whoever may open it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

SOCKET = "agent.sock"
ANSWER_TIMEOUT_S = 5.0


class Server:
    """Listens until closed."""

    def __init__(self, server: asyncio.Server, path: Path) -> None:
        self._server = server
        self._path = path

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()
        self._path.unlink(missing_ok=True)


async def serve(path: Path, status: Callable[[], dict[str, Any]]) -> Server:
    """Answer every connection with the status as one JSON document, then hang up.

    Read-only and without secrets, so every local user may ask (0666).
    """

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                writer.write(msgspec.json.encode(status()))
                await writer.drain()
        except (TimeoutError, ConnectionError):
            pass  # who asked went away: nobody is left to be told
        finally:
            writer.close()

    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, path)
    path.chmod(0o666)
    return Server(server, path)
