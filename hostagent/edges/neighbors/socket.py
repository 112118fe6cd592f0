"""Packet sockets on one interface: frames out, and in what others say about who has an address, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from typing import Self

from hostagent.edges import bpf
from hostagent.model.errors import EdgeError
from hostagent.model.names import InterfaceName, Mac

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_ARP = _ETH_P_ARP.to_bytes(2, "big")
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 8 << 20  # answers to three probes for thousands of VIPs, while the loop is busy
_FRAMES_PER_TURN = 500
_FRAME_BYTES = 2048  # NDP frames are smaller than the smallest MTU of IPv6

FULL = frozenset({errno.EAGAIN, errno.ENOBUFS})
"""The send queue is full: not now, but soon."""

_REMEDY = {
    errno.EPERM: "not permitted: the agent needs CAP_NET_RAW (AmbientCapabilities= in its unit)",
    errno.ENETDOWN: "the interface is down",
    errno.ENXIO: "the interface is gone",
    errno.ENODEV: "the interface is gone",
    errno.ENOBUFS: "the interface's send queue stays full",
}


def cause_of(code: int) -> str:
    """An errno in an operator's words, with the remedy where there is one."""
    return f"{_REMEDY.get(code) or os.strerror(code)} ({errno.errorcode.get(code, code)})"


def arp_filter() -> list[bpf.Instruction]:
    """ARP replies, and requests whose sender asks for itself, which are announcements (a probe has no sender).

    Ethernet header 14 bytes; ARP operation at 20, sender address at 28, target address at 38.
    """
    return [
        bpf.word(bpf.PACKET_TYPE),  # 0
        bpf.jump_if_above(socket.PACKET_MULTICAST, then=10),  # 1: to another host, or our own: to 12
        bpf.word(bpf.VLAN_TAG_PRESENT),  # 2
        bpf.jump_if(0, otherwise=8),  # 3: of a VLAN that is not this interface: to 12
        bpf.half(20),  # 4: operation
        bpf.jump_if(2, then=5),  # 5: reply: to 11
        bpf.jump_if(1, otherwise=5),  # 6: neither reply nor request: to 12
        bpf.word(28),  # 7: sender address
        bpf.remember(),  # 8
        bpf.word(38),  # 9: target address
        bpf.jump_if_same(then=0, otherwise=1),  # 10: asks for another: to 12
        bpf.accept(),  # 11
        bpf.drop(),  # 12
    ]


def advertisement_filter() -> list[bpf.Instruction]:
    """Neighbour advertisements: ICMPv6 (next header, at 20, is 58) of type 136 (at 54)."""
    return [
        bpf.word(bpf.PACKET_TYPE),  # 0
        bpf.jump_if_above(socket.PACKET_MULTICAST, then=7),  # 1: to 9
        bpf.word(bpf.VLAN_TAG_PRESENT),  # 2
        bpf.jump_if(0, otherwise=5),  # 3: to 9
        bpf.byte(20),  # 4: next header; NDP has no extension headers before it
        bpf.jump_if(socket.IPPROTO_ICMPV6, otherwise=3),  # 5: to 9
        bpf.byte(54),  # 6: ICMPv6 type
        bpf.jump_if(136, otherwise=1),  # 7: to 9
        bpf.accept(),  # 8
        bpf.drop(),  # 9
    ]


class PacketSockets:
    """Two sockets, one for each protocol.

    One socket for all protocols would make the kernel clone every packet that the host sends (dev_queue_xmit_nit), and
    would show it the frames of other VLANs. Sockets for one protocol see what comes in, and only on this interface.
    """

    def __init__(self, interface: InterfaceName, mac: Mac, index: int, socks: Sequence[socket.socket]) -> None:
        self.interface = interface
        self.mac = mac
        self.index = index
        self.was_down = False
        """The interface was down at some time since the sockets were opened."""
        self._socks = tuple(socks)
        self._on_frame: Callable[[bytes], None] | None = None

    @classmethod
    def open(cls, interface: InterfaceName, mac: Mac) -> Self:
        """Raises EdgeError: no such interface, or no permission."""
        with contextlib.ExitStack() as stack:
            try:
                index = socket.if_nametoindex(interface)
                socks = [
                    stack.enter_context(_open(interface, protocol, program))
                    for protocol, program in ((_ETH_P_ARP, arp_filter()), (_ETH_P_IPV6, advertisement_filter()))
                ]
            except OSError as exc:
                raise EdgeError(
                    "neighbors.open", interface, cause_of(exc.errno or errno.ENODEV), status=exc.errno
                ) from exc
            stack.pop_all()
        return cls(interface, mac, index, socks)

    def listen(self, on_frame: Callable[[bytes], None]) -> None:
        """Hand every frame that comes in to `on_frame`, on the event loop."""
        self._on_frame = on_frame
        for sock in self._socks:
            asyncio.get_running_loop().add_reader(sock, self._read, sock, _FRAMES_PER_TURN)

    def close(self) -> None:
        for sock in self._socks:
            if self._on_frame:
                asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    def still_valid(self, mac: Mac) -> bool:
        """Whether these sockets are on the interface that has that name now, and its MAC is as it was."""
        try:
            return self.mac == mac and self.index == socket.if_nametoindex(self.interface)
        except OSError:
            return False

    def link_local(self) -> IPv6Address | None:
        """The interface's link-local address as it is now: None while it has none that may be used.

        Nothing is sent: to connect a UDP socket only makes the kernel choose a source address. 12 microseconds.
        """
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.connect(("ff02::1", 9, 0, self.index))
            except OSError:
                return None
            chosen = IPv6Address(sock.getsockname()[0])
        return chosen if chosen.is_link_local else None  # where there is none it may be a VIP

    def send(self, frame: bytes) -> None:
        """Raises OSError; in `FULL` when it is worth trying again at once."""
        try:
            # Each by the socket of its protocol: the kernel believes the socket, not the frame, about what it is.
            self._socks[0 if frame[12:14] == _ARP else 1].send(frame)
        except OSError as exc:
            if exc.errno not in FULL:
                self.was_down = True
            raise

    def read_all(self) -> None:
        """Take what has arrived but waits for the event loop to turn."""
        for sock in self._socks:
            self._read(sock, None)

    def _read(self, sock: socket.socket, limit: int | None) -> None:
        assert self._on_frame  # noqa: S101 - set by listen(), which registers this
        taken = 0
        while limit is None or taken < limit:
            try:
                frame = sock.recv(_FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno != errno.ENETDOWN:
                    raise
                self.was_down = True  # said once; the kernel revives the socket with the interface
                return
            taken += 1
            self._on_frame(frame)


def _open(interface: InterfaceName, protocol: int, program: Sequence[bpf.Instruction]) -> socket.socket:
    # Protocol 0: deaf until bound, so that nothing comes in from other interfaces or past the filter.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:  # CAP_NET_RAW without CAP_NET_ADMIN: as much as net.core.rmem_max allows
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        bpf.attach(sock, program)
        sock.bind((interface, protocol))
    except OSError:
        sock.close()
        raise
    return sock
