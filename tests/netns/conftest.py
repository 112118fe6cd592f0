"""Network namespaces to try the edges in: one bridge as the segment, hosts on it, and code that runs inside a host."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hostagent.model.names import InterfaceName, Mac
from tests.fabric.inside import call_inside, named

T = TypeVar("T")
_TIMEOUT_S = 30.0
_counter = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.netns)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root for network namespaces"))


def sh(*argv: str, check: bool = True, stdin: str | None = None, timeout: float = _TIMEOUT_S) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


class Namespace:
    """A network namespace of the test's own."""

    def __init__(self, name: str) -> None:
        self.name = name
        sh("ip", "netns", "add", name)
        self.sh("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        self.sh("ip", "link", "set", "lo", "up")

    def sh(self, *argv: str, check: bool = True, stdin: str | None = None) -> str:
        return sh("ip", "netns", "exec", self.name, *argv, check=check, stdin=stdin)

    def popen(self, *argv: str) -> subprocess.Popen[str]:
        argv = ("ip", "netns", "exec", self.name, *argv)
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, text=True, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function inside, in a thread of its own; what it raises is raised here."""
        return call_inside(named(self.name), function)

    def run(self, main: Callable[[], Coroutine[Any, Any, T]], timeout: float = _TIMEOUT_S) -> T:
        """Run a coroutine inside, on an event loop of its own."""

        async def bounded() -> T:
            async with asyncio.timeout(timeout):
                return await main()

        return self.call(lambda: asyncio.run(bounded()))

    def remove(self) -> None:
        sh("ip", "netns", "del", self.name, check=False)


class Host(Namespace):
    """A host on the segment with interface `eth0`: 192.0.2.<n>/24 and 2001:db8::<n>/64."""

    interface = InterfaceName("eth0")

    def __init__(self, name: str, segment: Namespace, number: int) -> None:
        super().__init__(name)
        self.number = number
        self.port = f"p{number}"
        self.plug(segment)

    def plug(self, segment: Namespace) -> None:
        """Make the interface and its cable."""
        port = ("peer", "name", self.port, "netns", segment.name)
        self.sh("ip", "link", "add", self.interface, "type", "veth", *port)
        segment.sh("ip", "link", "set", self.port, "master", "br0", "up")
        self.sh("ip", "link", "set", self.interface, "up")
        self.sh("ip", "address", "add", f"192.0.2.{self.number}/24", "dev", self.interface)
        self.sh("ip", "address", "add", f"2001:db8::{self.number}/64", "dev", self.interface, "nodad")
        (link,) = json.loads(self.sh("ip", "-json", "link", "show", "dev", self.interface))
        self.index, self.mac = int(link["ifindex"]), Mac(link["address"])

    def holds(self, ip: str) -> bool:
        return f" {ip}/" in self.sh("ip", "address", "show", "dev", self.interface)


class Segment(Namespace):
    """A bridge that forwards at once, and the hosts on it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.hosts: list[Host] = []
        self.sh(
            "ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"
        )
        self.sh("ip", "link", "set", "br0", "up")

    def host(self) -> Host:
        number = len(self.hosts) + 1
        host = Host(f"{self.name}-{number}", self, number)
        self.hosts.append(host)
        return host

    def remove(self) -> None:
        for host in self.hosts:
            host.remove()
        super().remove()


@pytest.fixture
def segment() -> Iterator[Segment]:
    """An empty segment; removed with all its hosts, whatever happens."""
    made: list[Segment] = []
    name = f"ha{os.getpid()}-{next(_counter)}"
    try:
        made.append(Segment(name))
        yield made[0]
    finally:
        for each in made:
            each.remove()
        sh("ip", "netns", "del", name, check=False)


@pytest.fixture
def host(segment: Segment) -> Host:
    return segment.host()


@pytest.fixture
def client(segment: Segment, host: Host) -> Host:  # noqa: ARG001 - the host is the first on the segment
    return segment.host()
