"""The listening process: `python -m tests.fabric.capture [ASK_EVERY_MS ADDRESS...]`, in the bridge's namespace.

Prints `listening`, then one JSON line per frame in which somebody says "this address is at this MAC", as [when in
seconds of the monotonic clock, address, MAC, kind, port of the bridge]. Frames are taken from the bridge's ports where
they come in: a unicast answer from port to port never reaches the bridge's own interface.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence

from tests.fabric import stamps
from tests.fabric.pinger import checksum

BRIDGE = "br0"
ASKER_MAC = bytes.fromhex("026c61620001")  # locally administered
# Nobody's addresses and nobody's MAC: had the client itself asked, the answers would refresh its neighbour cache,
# and an outage that clients with a stale cache suffer would never show.
ASKER_V4 = ipaddress.IPv4Address("198.51.100.201")
ASKER_V6 = ipaddress.IPv6Address("2001:db8:51::201")

_ETH_P_ALL = 0x0003  # more special types are handed out only after the bridge has taken the frame
_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826
_ICMPV6, _NS, _NA = 58, 135, 136
_ETHERNET_LEN, _IPV6_LEN = 14, 40
_SO_ATTACH_FILTER = 26

# Classic BPF: ARP, or IPv6 with ICMPv6 right after its header and of type 136. As (code, jump true, jump false, k).
_FILTER = (
    (0x28, 0, 0, 12),  # load the Ethernet type
    (0x15, 5, 0, _ETH_P_ARP),
    (0x15, 0, 5, _ETH_P_IPV6),
    (0x30, 0, 0, 20),  # load the next header
    (0x15, 0, 3, _ICMPV6),
    (0x30, 0, 0, 54),  # load the ICMPv6 type
    (0x15, 0, 1, _NA),
    (0x06, 0, 0, 0x40000),
    (0x06, 0, 0, 0),
)


def claim(frame: bytes) -> tuple[str, str, str] | None:
    """Address, MAC and kind of what a frame says about who has an address; None when it says nothing of it.

    Kinds: `reply` and `na` answer a question, `garp` and `unsolicited-na` announce (RFC 5227, RFC 4861 7.2.6);
    `request` is an ARP question asked *from* the address, which teaches the listeners as well.
    """
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ETH_P_ARP and len(frame) >= _ETHERNET_LEN + _ARP.size:
        _, _, _, _, operation, mac, sender, _, target = _ARP.unpack_from(frame, _ETHERNET_LEN)
        if sender == bytes(4):  # a probe, that claims nothing yet
            return None
        word = "garp" if sender == target else "reply" if operation == 2 else "request"
        return str(ipaddress.IPv4Address(sender)), mac.hex(":"), word
    icmp = frame[_ETHERNET_LEN + _IPV6_LEN :]
    if kind == _ETH_P_IPV6 and len(icmp) >= 24 and icmp[0] == _NA:
        option = icmp[24:32]
        mac = option[2:8] if option[:2] == b"\x02\x01" else frame[6:12]
        solicited = icmp[4] & 0x40
        return str(ipaddress.IPv6Address(icmp[8:24])), mac.hex(":"), "na" if solicited else "unsolicited-na"
    return None


def question(address: str) -> bytes:
    """An ARP request, or a neighbour solicitation, of ours for the address."""
    wanted = ipaddress.ip_address(address)
    if isinstance(wanted, ipaddress.IPv4Address):
        arp = _ARP.pack(1, 0x0800, 6, 4, 1, ASKER_MAC, ASKER_V4.packed, bytes(6), wanted.packed)
        return b"\xff" * 6 + ASKER_MAC + _ETH_P_ARP.to_bytes(2, "big") + arp
    group = bytes.fromhex("ff0200000000000000000001ff") + wanted.packed[-3:]  # RFC 4291 2.7.1
    body = struct.pack("!BBHI", _NS, 0, 0, 0) + wanted.packed + b"\x01\x01" + ASKER_MAC
    pseudo = ASKER_V6.packed + group + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + ASKER_V6.packed + group
    return b"\x33\x33" + group[-4:] + ASKER_MAC + _ETH_P_IPV6.to_bytes(2, "big") + header + body


def _open() -> socket.socket:
    program = b"".join(struct.pack("@HBBI", *instruction) for instruction in _FILTER)
    buffer = ctypes.create_string_buffer(program)
    # Of all interfaces. A few frames that slip in before the filter is there say nothing to claim().
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    program_at = struct.pack("@HP", len(_FILTER), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program_at)
    stamps.enable(sock)
    return sock


def listen(questions: Sequence[bytes], every_s: float) -> Iterator[tuple[float, str, str, str, str]]:
    """All claims from now on; asks the questions meanwhile, each time all of them."""
    ear, mouth = _open(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    mouth.bind((BRIDGE, 0))
    print(json.dumps("listening"), flush=True)
    next_at = time.monotonic()
    while True:
        wait_s = max(0.0, next_at - time.monotonic()) if questions else None
        ready, _, _ = select.select([ear], [], [], wait_s)
        if ready:
            frame, sender, at_s = stamps.receive(ear, 2048)
            port, kind = str(sender[0]), sender[2]
            said = claim(frame) if port.startswith("p-") and kind != socket.PACKET_OUTGOING else None
            if said:
                yield (at_s, *said, port)
        if questions and (now := time.monotonic()) >= next_at:
            for each in questions:
                mouth.send(each)
            next_at = max(next_at + every_s, now)


def main() -> None:
    every_ms, *addresses = sys.argv[1:] or ["0"]
    for said in listen([question(address) for address in addresses], float(every_ms) / 1000):
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
