"""Classic BPF, as much of it as two socket filters need: the kernel drops what we would only have thrown away.

Instructions are four-field tuples as `struct sock_filter` has them (linux/filter.h): code, jump if true, jump if false,
constant. Jumps are relative: 0 is the next instruction.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

Instruction = tuple[int, int, int, int]

_SO_ATTACH_FILTER = 26
_LD_WORD, _LD_HALF, _LD_BYTE = 0x20, 0x28, 0x30  # A = the packet's 4, 2 or 1 bytes at a fixed offset, big-endian
_JEQ, _JGT, _JEQ_X, _TAX, _RET = 0x15, 0x25, 0x1D, 0x07, 0x06

ANCILLARY = 0xFFFFF000
"""SKF_AD_OFF: loads from here read what the kernel knows about the packet instead of the packet itself."""
PACKET_TYPE = ANCILLARY + 4
VLAN_TAG_PRESENT = ANCILLARY + 48


def word(offset: int) -> Instruction:
    return (_LD_WORD, 0, 0, offset)


def half(offset: int) -> Instruction:
    return (_LD_HALF, 0, 0, offset)


def byte(offset: int) -> Instruction:
    return (_LD_BYTE, 0, 0, offset)


def jump_if(value: int, *, then: int = 0, otherwise: int = 0) -> Instruction:
    """Compare what was loaded last with a constant."""
    return (_JEQ, then, otherwise, value)


def jump_if_above(value: int, *, then: int = 0, otherwise: int = 0) -> Instruction:
    return (_JGT, then, otherwise, value)


def remember() -> Instruction:
    """Keep what was loaded last, for `jump_if_same`."""
    return (_TAX, 0, 0, 0)


def jump_if_same(*, then: int = 0, otherwise: int = 0) -> Instruction:
    """Compare what was loaded last with what was remembered."""
    return (_JEQ_X, then, otherwise, 0)


def accept() -> Instruction:
    return (_RET, 0, 0, 0x40000)  # more bytes than any packet has: all of it


def drop() -> Instruction:
    return (_RET, 0, 0, 0)


def attach(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Let the kernel deliver only what `program` accepts.

    Attach before binding, or packets that came in between are delivered unfiltered.

    Raises:
        OSError: the kernel's verifier refused the program.
    """
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
