"""What the agent tells systemd, over a real notify socket: never waiting for who reads it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.edges import systemd
from hostagent.edges.systemd import Notifier

MORE_THAN_FIT = 2000


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The manager's end, which nobody reads unless the test does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield end


def received(manager: socket.socket) -> list[dict[str, str]]:
    """All messages that are there, oldest first."""
    manager.setblocking(False)
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            lines = manager.recv(4096).decode().splitlines()
            messages.append(dict(line.split("=", 1) for line in lines))
    return messages


async def _said(*acts: str, filled: int = 0) -> None:
    """Say these things, each `name text`, after so many that nobody read."""
    notifier = Notifier()
    for number in range(filled):
        notifier.status(f"turn {number}")
    for act in acts:
        name, _, text = act.partition(" ")
        getattr(notifier, name)(*([text] if text else []))
    await notifier.flush()
    notifier.close()


async def _merged(manager: socket.socket, *acts: str) -> dict[str, str]:
    """What arrives of these when there is room only after all of them were said."""
    saying = asyncio.create_task(_said(*acts, filled=MORE_THAN_FIT))
    await asyncio.sleep(0)
    received(manager)
    await saying
    [message] = received(manager)
    return message


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        ("ready well", {"READY": "1", "STATUS": "well"}),
        ("status well", {"STATUS": "well"}),
        ("alive", {"WATCHDOG": "1"}),
        ("stopping handing over", {"STOPPING": "1", "STATUS": "handing over"}),
    ],
)
def test_a_message(manager: socket.socket, act: str, expected: dict[str, str]) -> None:
    asyncio.run(_said(act))
    assert received(manager) == [expected]


def test_what_comes_while_there_is_no_room_goes_into_one_message(manager: socket.socket) -> None:
    merged = asyncio.run(_merged(manager, "status one", "alive", "status two", "stopping three"))
    assert merged == {"STATUS": "three", "WATCHDOG": "1", "STOPPING": "1"}


def test_a_reload_and_its_end_are_never_told_as_one(manager: socket.socket) -> None:
    """`READY=1` and `RELOADING=1` in one message would leave it to systemd which came last."""
    merged = asyncio.run(_merged(manager, "reloading", "ready well"))
    assert merged["READY"] == "1"
    assert "RELOADING" not in merged
    merged = asyncio.run(_merged(manager, "ready well", "reloading"))
    assert merged["RELOADING"] == "1"
    assert merged["MONOTONIC_USEC"].isdecimal()
    assert "READY" not in merged


def test_a_manager_that_started_anew_is_found_again(manager: socket.socket, tmp_path: Path) -> None:
    async def through_it() -> None:
        notifier = Notifier()
        notifier.status("before")
        assert received(manager) == [{"STATUS": "before"}]
        manager.close()
        (tmp_path / "notify").unlink()
        notifier.status("meanwhile")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as fresh:
            fresh.bind(str(tmp_path / "notify"))
            notifier.status("after")
            assert received(fresh) == [{"STATUS": "after"}]
        notifier.close()

    asyncio.run(through_it())


def test_starting_asks_for_more_time(manager: socket.socket) -> None:
    async def start() -> None:
        notifier = Notifier()
        notifier.starting("waiting for the API", more_s=30)
        notifier.close()

    asyncio.run(start())
    assert received(manager) == [{"STATUS": "waiting for the API", "EXTEND_TIMEOUT_USEC": "30000000"}]


def test_a_manager_that_does_not_read_holds_up_neither_the_loop_nor_a_stop(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "FLUSH_S", 0.05)

    async def turn() -> tuple[float, list[dict[str, str]]]:
        notifier = Notifier()
        longest_s = 0.0
        for number in range(MORE_THAN_FIT):
            began_s = time.monotonic()
            notifier.status(f"turn {number}")
            notifier.alive()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.monotonic() - began_s)
        await notifier.flush()
        kept = received(manager)
        monkeypatch.setattr(systemd, "FLUSH_S", 5.0)
        await notifier.flush()  # it reads again
        notifier.close()
        return longest_s, kept + received(manager)

    longest_s, messages = asyncio.run(turn())
    assert longest_s < 1.0
    assert len(messages) < MORE_THAN_FIT
    assert messages[-1]["STATUS"] == f"turn {MORE_THAN_FIT - 1}"


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    asyncio.run(_said("ready well", "alive"))
