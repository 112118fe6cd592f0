"""A real API server, reached through a line that the tests can break."""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from hostagent.edges.kube import access
from hostagent.edges.kube.transport import Api
from tests.fabric.controlplane import PORT, ControlPlane
from tests.fabric.processes import connect_in
from tests.kube.hosts import GROUPS, H3, Act, Hosts, in_force

T = TypeVar("T")
ADDRESS = "198.51.100.1"


class Line:
    """A TCP port here that leads to the API server in its namespace."""

    def __init__(self, netns: str) -> None:
        self._netns = netns
        self._open: list[socket.socket] = []
        self._closed = False
        self.swallow_replies = threading.Event()
        """While set, requests arrive and replies do not."""
        self.flowing = threading.Event()
        """While clear, nothing more arrives; it does afterwards."""
        self.flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        self.flowing.set()
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection there is."""
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = connect_in(self._netns, ADDRESS, PORT, timeout_s=2.0)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._open += [near, far]
            if self._closed:  # it was accepted in the last moment
                self.cut()
                return
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.flowing.wait()
                if not (replies and self.swallow_replies.is_set()):
                    sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane in a namespace of its own."""
    netns = f"kube-{secrets.token_hex(3)}"
    plane = ControlPlane(netns, ADDRESS, tmp_path_factory.mktemp("kube") / "control-plane")
    try:
        for words in (
            f"ip netns add {netns}",
            f"ip -n {netns} link set lo up",
            f"ip -n {netns} address add {ADDRESS}/32 dev lo",
        ):
            subprocess.run(words.split(), check=True)
        plane.start()
        yield plane
    finally:
        plane.teardown()
        subprocess.run(["ip", "netns", "delete", netns], check=False)


@pytest.fixture
def line(plane: ControlPlane) -> Iterator[Line]:
    made = Line(plane.netns)
    yield made
    made.close()


Kubeconfig = Callable[..., Path]


@pytest.fixture
def kubeconfig(plane: ControlPlane, line: Line, tmp_path: Path) -> Kubeconfig:
    """Writes a kubeconfig for a user, through `line`; cluster admin by default."""

    def write(user: str = "admin", groups: tuple[str, ...] = ("system:masters",)) -> Path:
        config = yaml.safe_load(plane.kubeconfig_for(user, groups))
        cluster: dict[str, Any] = config["clusters"][0]["cluster"]
        cluster["server"] = f"https://127.0.0.1:{line.port}"
        cluster["tls-server-name"] = ADDRESS
        path = tmp_path / f"{user.replace(':', '-')}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


Body = Callable[[Api], Coroutine[Any, Any, None]]


def play(kubeconfig: Kubeconfig, body: Body) -> None:
    """Run `body` as cluster admin, for a minute at most."""

    async def run() -> None:
        api = await Api.open(kubeconfig())
        try:
            await body(api)
        finally:
            await api.close()

    asyncio.run(asyncio.wait_for(run(), 60))


async def until(met: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait for what a running task brings about."""
    async with asyncio.timeout(within_s):
        while not met():  # noqa: ASYNC110  # what is waited for has no event to wait on
            await asyncio.sleep(0.01)


async def beside(body: Coroutine[Any, Any, Any], act: Callable[[], Awaitable[T]]) -> T:
    """Run `act` while `body` runs, then end `body`; a failure of `body` is a failure of the test."""
    task = asyncio.create_task(body)
    try:
        result = await act()
        if task.done():
            task.result()
        return result
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(scope="module")
def _installed(plane: ControlPlane) -> None:
    plane.apply(access.objects(text for _, text in access.manifests()))


@pytest.fixture
def act(kubeconfig: Kubeconfig, _installed: None) -> Callable[[Act], None]:
    """Play with the access rules in force."""

    async def run(body: Act) -> None:
        admin = await Api.open(kubeconfig())
        apis = {node: await Api.open(kubeconfig(f"hostagent:node:{node}", groups)) for node, groups in GROUPS.items()}
        try:
            await in_force(apis[H3])
            await body(Hosts(admin, apis))
        finally:
            for api in (admin, *apis.values()):
                await api.close()

    return lambda body: asyncio.run(asyncio.wait_for(run(body), 120))
