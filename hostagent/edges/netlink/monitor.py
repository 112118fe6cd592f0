"""What the kernel says about interfaces and addresses, unasked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hostagent.edges import bpf
from hostagent.edges.netlink import wire
from hostagent.edges.netlink.route_socket import cause_of, enlarge_buffers
from hostagent.model.errors import EdgeError
from hostagent.model.host import AddressRemoved
from hostagent.model.names import IP, InterfaceName

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_BUFFER_BYTES = 4 << 20
_PID_LIMIT = 1 << 22  # the kernel's largest pid_max; port ids above are not process ids
_MESSAGES_PER_TURN = 200


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """An interface came, went or changed, or got or lost an address that is not a VIP: look at it again."""

    index: int
    interface: InterfaceName


@dataclass(frozen=True, slots=True)
class Resync:
    """Events were lost: look at everything again."""

    why: str


Event = LinkChanged | AddressRemoved | Resync


class Monitor:
    """A socket that listens. Equal events that nobody has taken yet are one event."""

    def __init__(self, sock: socket.socket, own_port: int) -> None:
        self._sock = sock
        self._own_port = own_port
        self._names: dict[int, InterfaceName] = {}
        self._pending: dict[Event, None] = {}  # a set that keeps the order
        self._wake = asyncio.Event()
        self._closed = False
        self._own_removals: Counter[tuple[IP, int]] = Counter()
        asyncio.get_running_loop().add_reader(sock, self._read)

    @classmethod
    def open(cls, own_port: int) -> Self:
        """`own_port` is the netlink port whose changes are no news to us. Raises EdgeError."""
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        sock = socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)
        try:
            enlarge_buffers(sock, _BUFFER_BYTES)
            bpf.attach(sock, _all_but_own_additions(own_port))
            sock.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        except OSError as exc:
            sock.close()
            raise EdgeError("netlink.monitor", "the kernel", cause_of(exc.errno or 0), status=exc.errno) from exc
        return cls(sock, own_port)

    def close(self) -> None:
        """Stop listening; `events` ends."""
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._wake.set()

    def know(self, names: Mapping[int, InterfaceName]) -> None:
        """Learn interface names; those of interfaces that are gone stay known until now."""
        self._names = dict(names)

    def expect_removal(self, ip: IP, index: int) -> None:
        """The next removal of this address is our own: those of IPv6 do not tell whose they are (port is always 0)."""
        if ip.version == 6:
            self._own_removals[ip, index] += 1

    def expect_no_removal(self, ip: IP, index: int) -> None:
        """It was not there to be removed, after all."""
        self._was_own_removal(ip, index)

    async def events(self) -> AsyncIterator[Event]:
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            while self._pending and not self._closed:
                event = next(iter(self._pending))
                del self._pending[event]
                yield event

    def _read(self) -> None:
        for _ in range(_MESSAGES_PER_TURN):
            try:
                data = self._sock.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
                self._own_removals.clear()  # their notifications may be among those lost
                self._tell(Resync("the kernel had more to say than the socket could hold"))
                continue
            for message in wire.messages(data):
                if event := self._event(message):
                    self._tell(event)

    def _event(self, message: wire.Message) -> Event | None:
        if message.kind in (wire.RTM_NEWLINK, wire.RTM_DELLINK):
            return self._link_event(message)
        if message.kind not in (wire.RTM_NEWADDR, wire.RTM_DELADDR):
            return None
        address = wire.address_of(message.body)
        if address is None:
            return None
        if not address.ours:
            return LinkChanged(address.index, self._name(address.index))
        if message.kind != wire.RTM_DELADDR or message.port == self._own_port:
            return None
        if self._was_own_removal(address.ip, address.index):
            return None
        return AddressRemoved(ip=address.ip, interface=self._name(address.index), by=culprit(message.port, address))

    def _was_own_removal(self, ip: IP, index: int) -> bool:
        expected = self._own_removals.pop((ip, index), 0)
        if expected > 1:
            self._own_removals[ip, index] = expected - 1
        return expected > 0

    def _name(self, index: int) -> InterfaceName:
        if index not in self._names:
            try:
                self._names[index] = InterfaceName(socket.if_indextoname(index))
            except OSError:
                return InterfaceName(f"interface {index} (gone)")
        return self._names[index]

    def _link_event(self, message: wire.Message) -> Event | None:
        link = wire.link_of(message.body)
        if link is None:
            return None
        index, name = link
        self._names[index] = InterfaceName(name)  # also of one that goes: its addresses' removals name it
        return LinkChanged(index, InterfaceName(name))

    def _tell(self, event: Event) -> None:
        self._pending[event] = None
        self._wake.set()


def culprit(port: int, address: wire.Address) -> str:
    """Who is behind the removal of an address, as far as the kernel tells.

    A process's first netlink socket gets its process id as port id (netlink_autobind), further ones arbitrary large
    numbers. Processes of other PID namespaces, and with hidepid= also those of other users, cannot be named. IPv6
    always says port 0; there an address that had lifetime left was removed by somebody, or went as its link went down.
    """
    if port == 0 and address.ip.version == 6 and address.lifetime_left_s > 1:
        return "somebody, or the link went down (IPv6 removals do not tell)"
    if port == 0:
        return "the kernel (lifetime expired or link gone)"
    if port >= _PID_LIMIT:
        return f"an unknown process (netlink port {port})"
    with contextlib.suppress(OSError):
        return f"pid {port} ({Path('/proc', str(port), 'comm').read_text(errors='replace').strip()})"
    return f"pid {port} (already gone)"


def _all_but_own_additions(own_port: int) -> list[bpf.Instruction]:
    """Each refresh of each VIP is announced to all listeners: 10 000 messages every few seconds about ourselves.

    Offsets are those of struct nlmsghdr, which is in host byte order, while BPF loads big-endian.
    """
    return [
        bpf.half(4),  # 0: nlmsg_type
        bpf.jump_if(socket.htons(wire.RTM_NEWADDR), then=0, otherwise=2),  # 1: else to 4
        bpf.word(12),  # 2: nlmsg_pid
        bpf.jump_if(socket.htonl(own_port), then=1, otherwise=0),  # 3: ours: to 5
        bpf.accept(),  # 4
        bpf.drop(),  # 5
    ]
