"""Code of ours that runs in another network namespace: sockets stay in the one that they were made in."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


def named(netns: str) -> Path:
    """Of a namespace that `ip netns` knows by this name."""
    return Path("/run/netns", netns)


def of_process(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net")


def call_inside(namespace: Path, function: Callable[[], T]) -> T:
    """Run a function there, in a thread of its own; what it raises is raised here. OSError: there is no such one."""
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            _enter(namespace)  # moves one thread; this one ends before it could do anything else there
            results.append(function())
        except BaseException as exc:  # noqa: BLE001 - handed over
            failures.append(exc)

    thread = threading.Thread(target=body, name=f"in {namespace}", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _enter(namespace: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(namespace, os.O_RDONLY)
    try:
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(namespace))
    finally:
        os.close(handle)
