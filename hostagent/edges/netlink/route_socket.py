"""One NETLINK_ROUTE socket for requests, and the thread that waits on the kernel's routing lock in our stead."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from hostagent.edges.netlink import wire
from hostagent.model.errors import EdgeError

T = TypeVar("T")

SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10  # acknowledgements without a copy of the request: 500 fit where 100 did
_NETLINK_GET_STRICT_CHK = 12  # dumps are filtered by the kernel
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_BUFFER_BYTES = 1 << 20
BATCH = 200
"""Messages per send: 2 ms for IPv4, up to 80 ms for IPv6 with a thousand addresses. Others' requests go in between."""
_DUMP_TRIES = 5
_TIMEOUT_S = 10.0  # longer than any holder of the routing lock seen; a request that hangs must not hang for ever

_REMEDY = {
    errno.EPERM: "not permitted: the agent needs CAP_NET_ADMIN (AmbientCapabilities= in its unit)",
    errno.ENODEV: "the interface is gone",
    errno.EACCES: "IPv6 is disabled on the interface: set sysctl net.ipv6.conf.<interface>.disable_ipv6=0",
    errno.ENOBUFS: "the kernel is out of buffers for netlink; will be tried again",
    errno.ENOMEM: "the kernel is out of memory; will be tried again",
    errno.EAFNOSUPPORT: "the kernel has no support for this address family",
    errno.EOPNOTSUPP: "the kernel has no support for this address family",
}


def cause_of(code: int) -> str:
    """An errno in an operator's words, with the remedy where there is one."""
    return f"{_REMEDY[code]} ({errno.errorcode[code]})" if code in _REMEDY else _plain(code)


def _plain(code: int) -> str:
    return f"{os.strerror(code)} ({errno.errorcode.get(code, code)})"


class RouteSocket:
    """Requests to the kernel, one after the other, in the order in which they were made.

    sendmsg() of a request returns only when the kernel has carried it out, which includes waiting for the routing lock:
    up to 160 ms were measured while other programs load large rule sets. So a thread of our own does the waiting;
    it is one thread, so that a removal asked for after a refresh also happens after it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self.port: int = sock.getsockname()[0]
        """What the kernel calls us in its notifications: how we tell our own changes from others'."""

    @classmethod
    def open(cls) -> Self:
        """Raises EdgeError."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            enlarge_buffers(sock, _BUFFER_BYTES)
            sock.setsockopt(SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            sock.setsockopt(SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            sock.settimeout(_TIMEOUT_S)
            sock.bind((0, 0))
        except OSError as exc:
            sock.close()
            raise EdgeError("netlink.open", "the kernel", cause_of(exc.errno or 0), status=exc.errno) from exc
        return cls(sock)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._worker.shutdown)
        self._sock.close()

    async def request(self, message: bytes) -> int:
        """Carry out one request; return the kernel's errno, 0 for success. Raises EdgeError."""
        return (await self._run([message]))[0]

    async def requests(self, batch: Sequence[bytes]) -> list[int]:
        """Carry out many, `BATCH` at a time; one errno for each, in order. Raises EdgeError."""
        codes: list[int] = []
        for start in range(0, len(batch), BATCH):
            codes += await self._run(batch[start : start + BATCH])
        return codes

    async def addresses(self) -> list[wire.Address]:
        """All addresses of this host, as of one moment. Raises EdgeError."""
        return await self.dump(wire.dump_request(), wire.RTM_NEWADDR, wire.address_of, "addresses")

    async def dump(self, request: bytes, kind: int, decode: Callable[[bytes], T | None], what: str) -> list[T]:
        """All of a kind, as of one moment; what `decode` has no use for is left out. Raises EdgeError."""
        return await asyncio.get_running_loop().run_in_executor(
            self._worker, lambda: self._dump(request, kind, decode, what)
        )

    async def _run(self, batch: Sequence[bytes]) -> list[int]:
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._exchange, batch)

    def _exchange(self, batch: Sequence[bytes]) -> list[int]:
        codes: list[int] = []
        try:
            self._sock.send(b"".join(batch))
            while len(codes) < len(batch):
                codes += [wire.error_code(m.body) for m in self._receive() if m.kind == wire.NLMSG_ERROR]
        except OSError as exc:
            self._drain()  # a late acknowledgement must not be taken for that of the next request
            raise EdgeError("netlink.request", f"{len(batch)} change(s)", _cause(exc), status=exc.errno) from exc
        return codes

    def _dump(self, request: bytes, kind: int, decode: Callable[[bytes], T | None], what: str) -> list[T]:
        for _ in range(_DUMP_TRIES):
            try:
                found = self._dump_once(request, kind, decode)
            except OSError as exc:
                self._drain()
                raise EdgeError("netlink.dump", what, _cause(exc), status=exc.errno) from exc
            if found is not None:
                return found
        raise EdgeError("netlink.dump", what, "they changed faster than they could be read; will be tried again")

    def _dump_once(self, request: bytes, kind: int, decode: Callable[[bytes], T | None]) -> list[T] | None:
        """None: something changed between two parts of the dump, so that it may lack one or have one twice."""
        self._sock.send(request)
        found: list[T] = []
        consistent = True
        while True:
            for message in self._receive():
                consistent = consistent and not message.flags & wire.NLM_F_DUMP_INTR
                if message.kind == kind:
                    decoded = decode(message.body)
                    if decoded is not None:
                        found.append(decoded)
                elif message.kind in (wire.NLMSG_DONE, wire.NLMSG_ERROR):
                    if code := wire.error_code(message.body):
                        raise OSError(code, "dump refused")
                    return found if consistent else None

    def _receive(self) -> Iterator[wire.Message]:
        return wire.messages(self._sock.recv(1 << 18))

    def _drain(self) -> None:
        self._sock.setblocking(False)
        try:
            while True:
                try:
                    self._sock.recv(1 << 18)
                except OSError as exc:
                    if exc.errno != errno.ENOBUFS:  # that is reported once, then what is queued can be read
                        return
        finally:
            self._sock.settimeout(_TIMEOUT_S)


def enlarge_buffers(sock: socket.socket, size: int) -> None:
    """Past net.core.{r,w}mem_max where we may (CAP_NET_ADMIN), as far as they go otherwise."""
    for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)


def _cause(exc: OSError) -> str:
    return "no answer from the kernel within 10 s" if isinstance(exc, TimeoutError) else cause_of(exc.errno or 0)
