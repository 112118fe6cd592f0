"""The pinging process: `python -m tests.fabric.pinger ADDRESS INTERVAL_MS`, in the client's namespace.

A process of its own, as a thread beside a busy test would ping late. Says `sending`, then `answered` at the first
answer, and when its standard input ends (also because its parent died) one line of JSON: all it sent and got.
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


class _Echo:
    """ICMP echo over one family. Raw sockets: datagram ones are forbidden in a new namespace, even for root."""

    def __init__(self, address: str) -> None:
        self._v6 = ipaddress.ip_address(address).version == 6
        self._identifier = os.getpid() & 0xFFFF
        family, protocol = (
            (socket.AF_INET6, socket.IPPROTO_ICMPV6) if self._v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
        )
        self.socket = socket.socket(family, socket.SOCK_RAW, protocol)
        self.socket.setblocking(False)
        stamps.enable(self.socket)
        self.socket.connect((address, 0))  # the kernel then hands us only this address's answers

    def send(self, number: int) -> None:
        request = 128 if self._v6 else 8
        body = _NUMBER.pack(number)
        head = _HEADER.pack(request, 0, 0, self._identifier, number & 0xFFFF)
        # The kernel fills in ICMPv6's checksum, as it covers addresses.
        summed = (
            head if self._v6 else _HEADER.pack(request, 0, checksum(head + body), self._identifier, number & 0xFFFF)
        )
        self.socket.send(summed + body)

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
    def __init__(self) -> None:
        self.sent_at: list[float] = []
        self.answered_at: dict[int, float] = {}

    def answers(self, echo: _Echo) -> None:
        """Take in all answers that have come."""
        while True:
            try:
                answer = echo.receive()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno not in _UNDELIVERED:
                    raise
                continue  # told about an earlier ping, which stays unanswered
            if answer and answer[0] not in self.answered_at:
                self.answered_at[answer[0]] = answer[1]
                if len(self.answered_at) == 1:
                    print("answered", flush=True)


def ping(address: str, interval_s: float) -> _Log:
    """Ping until standard input ends. Ticks missed by a busy machine are left out, never made up in a burst."""
    echo, log = _Echo(address), _Log()
    next_at = time.monotonic()
    print("sending", flush=True)
    while True:
        ready, _, _ = select.select([echo.socket, sys.stdin], [], [], max(0.0, next_at - time.monotonic()))
        log.answers(echo)
        if sys.stdin in ready:
            break
        if (now := time.monotonic()) >= next_at:
            log.sent_at.append(now)
            try:
                echo.send(len(log.sent_at) - 1)
            except OSError as exc:
                if exc.errno not in _UNDELIVERED:
                    raise
            next_at = max(next_at + interval_s, now)
    _take_last_answers(echo, log)
    return log


def _take_last_answers(echo: _Echo, log: _Log) -> None:
    give_up_at = time.monotonic() + _LAST_ANSWERS_S
    while len(log.sent_at) - 1 not in log.answered_at and (left_s := give_up_at - time.monotonic()) > 0:
        select.select([echo.socket], [], [], left_s)
        log.answers(echo)


def main() -> None:
    log = ping(sys.argv[1], float(sys.argv[2]) / 1000)
    print(json.dumps({"sent_at": log.sent_at, "answered_at": log.answered_at}), flush=True)


if __name__ == "__main__":
    main()
