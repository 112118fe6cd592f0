"""Network namespaces: made, filled, removed."""

from __future__ import annotations

from tests.fabric.command import run
from tests.fabric.state import netns_path


def exists(netns: str) -> bool:
    return netns_path(netns).exists()


def create(netns: str) -> None:
    """A namespace with its loopback up."""
    run(["ip", "netns", "add", netns])
    run(["ip", "-n", netns, "link", "set", "lo", "up"])


def delete(netns: str) -> None:
    """Take the name away; the namespace goes with its last process. One that is not there is fine."""
    if exists(netns):
        run(["ip", "netns", "delete", netns])


def pids(netns: str) -> list[int]:
    """The processes that live in the namespace."""
    return [int(word) for word in run(["ip", "netns", "pids", netns]).stdout.split()] if exists(netns) else []


def ip_batch(netns: str, *commands: str) -> None:
    """Several `ip` commands in one go, in order. Raises CommandError at the first that fails."""
    run(["ip", "-n", netns, "-batch", "-"], stdin="\n".join(commands) + "\n")
