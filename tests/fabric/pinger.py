"""The pinging process: `python -m tests.fabric.pinger INTERVAL_MS ADDRESS...`, in the client's namespace.

A process of its own, as a thread beside a busy test would ping late. Each address is pinged once per interval, one
after another, evenly spread. Says `sending`, then `answered` once all have answered, and when its standard input ends
(also because its parent died) one line of JSON: all it sent and got.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence

from tests.fabric import stamps

_HEADER = struct.Struct("!BBHHH")  # RFC 792, RFC 4443: type, code, checksum, identifier, sequence number
_NUMBER = struct.Struct("!Q")  # ours; ICMP's own wraps after 11 minutes of 10 ms pings
# After the last ping, as long as any answer on a wire of this machine can sensibly take.
_LAST_ANSWERS_S = 0.5
# The network says that it cannot deliver, which is a lost ping, not a broken pinger.
_UNDELIVERED = {
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.ENETDOWN,
    errno.ENOBUFS,
    errno.ECONNREFUSED,
    errno.EPERM,
}


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# Hundreds of answers come at once when a machine has been busy; lost here, they would count as lost on the wire.
_RECEIVE_BUFFER = 8 << 20
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python does not name it


class _Echo:
    """ICMP echo over one family. Raw sockets: datagram ones are forbidden in a new namespace, even for root."""

    def __init__(self, version: int) -> None:
        self._v6 = version == 6
        self._identifier = os.getpid() & 0xFFFF
        family, protocol = (
            (socket.AF_INET6, socket.IPPROTO_ICMPV6) if self._v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
        )
        self.socket = socket.socket(family, socket.SOCK_RAW, protocol)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        stamps.enable(self.socket)

    def send(self, address: str, number: int) -> None:
        request = 128 if self._v6 else 8
        body = _NUMBER.pack(number)
        head = _HEADER.pack(request, 0, 0, self._identifier, number & 0xFFFF)
        # The kernel fills in ICMPv6's checksum, as it covers addresses.
        summed = (
            head if self._v6 else _HEADER.pack(request, 0, checksum(head + body), self._identifier, number & 0xFFFF)
        )
        self.socket.sendto(summed + body, (address, 0))

    def receive(self) -> tuple[int, float] | None:
        """Number and time of an answer to us; None for any other packet. BlockingIOError when there is none."""
        data, _, at_s = stamps.receive(self.socket, 2048)
        if not self._v6:
            data = data[(data[0] & 0x0F) * 4 :]  # raw IPv4 sockets hand out the IP header too
        if len(data) < _HEADER.size + _NUMBER.size:
            return None
        kind, _, _, identifier, _ = _HEADER.unpack_from(data)
        if kind != (129 if self._v6 else 0) or identifier != self._identifier:
            return None
        number: int = _NUMBER.unpack_from(data, _HEADER.size)[0]
        return number, at_s


class _Log:
    """Pings are numbered in the order sent; the address of a number follows from it, as they take turns."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = addresses
        self.sent_at: list[float] = []
        self.answered_at: dict[int, float] = {}
        self._silent = set(range(len(addresses)))
        self._echoes = {
            version: _Echo(version) for version in {ipaddress.ip_address(each).version for each in addresses}
        }

    @property
    def sockets(self) -> list[socket.socket]:
        return [echo.socket for echo in self._echoes.values()]

    def send(self, at_s: float) -> None:
        address = self.addresses[len(self.sent_at) % len(self.addresses)]
        self.sent_at.append(at_s)
        try:
            self._echoes[ipaddress.ip_address(address).version].send(address, len(self.sent_at) - 1)
        except OSError as exc:
            if exc.errno not in _UNDELIVERED:
                raise

    def take_answers(self) -> None:
        """Take in all answers that have come."""
        for echo in self._echoes.values():
            while True:
                try:
                    answer = echo.receive()
                except BlockingIOError:
                    break
                except OSError as exc:
                    if exc.errno not in _UNDELIVERED:
                        raise
                    continue  # told about an earlier ping, which stays unanswered
                if answer:
                    self._answered(*answer)

    def _answered(self, number: int, at_s: float) -> None:
        self.answered_at.setdefault(number, at_s)
        if self._silent:
            self._silent.discard(number % len(self.addresses))
            if not self._silent:
                print("answered", flush=True)

    def all_answered(self) -> bool:
        """Each address has answered the last of its pings."""
        last = range(max(0, len(self.sent_at) - len(self.addresses)), len(self.sent_at))
        return all(number in self.answered_at for number in last)


def ping(addresses: Sequence[str], interval_s: float) -> _Log:
    """Ping until standard input ends. Ticks missed by a busy machine are left out, never made up in a burst."""
    log = _Log(addresses)
    tick_s = interval_s / len(addresses)
    next_at = time.monotonic()
    print("sending", flush=True)
    while True:
        ready, _, _ = select.select([*log.sockets, sys.stdin], [], [], max(0.0, next_at - time.monotonic()))
        log.take_answers()
        if sys.stdin in ready:
            break
        if (now := time.monotonic()) >= next_at:
            log.send(now)
            next_at = max(next_at + tick_s, now)
    _take_last_answers(log)
    return log


def _take_last_answers(log: _Log) -> None:
    give_up_at = time.monotonic() + _LAST_ANSWERS_S
    while not log.all_answered() and (left_s := give_up_at - time.monotonic()) > 0:
        select.select(log.sockets, [], [], left_s)
        log.take_answers()


def main() -> None:
    log = ping(sys.argv[2:], float(sys.argv[1]) / 1000)
    print(json.dumps({"sent_at": log.sent_at, "answered_at": log.answered_at}), flush=True)


if __name__ == "__main__":
    main()
