"""When a packet came in, by the kernel's own stamp: a busy Python process reads it late, and must not be believed."""

from __future__ import annotations

import socket
import struct
import time

# asm-generic/socket.h; with the 64-bit timespec of all machines that we run on. Python does not name it.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")


def enable(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def receive(sock: socket.socket, size: int) -> tuple[bytes, tuple[object, ...], float]:
    """The next packet, its sender, and when it came, in seconds of the monotonic clock."""
    data, ancillary, _, sender = sock.recvmsg(size, socket.CMSG_SPACE(_TIMESPEC.size))
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(value[: _TIMESPEC.size])
            # The stamp is wall time. How long ago that was is the same on both clocks.
            age_s = time.time() - (seconds + nanoseconds / 1e9)
            return data, sender, time.monotonic() - age_s
    raise OSError("the kernel stamped no time on a packet though asked to")
