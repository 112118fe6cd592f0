"""ARP and NDP frames: what is sent for a VIP, and what others' frames say.

Packed here, byte by byte: a few microseconds per frame, where scapy takes half a millisecond, and 31 MB to import.
Tests hold every frame against what scapy builds; `hostagent who-has` asks and listens with scapy alone (`diagnosis`).
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Sequence
from functools import lru_cache

from hostagent.model.host import Heard
from hostagent.model.names import IP, InterfaceName, Mac

_ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0806, 0x86DD
_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826, for Ethernet and IPv4
_ARP_KINDS = (1, 0x0800, 6, 4)
_REQUEST, _REPLY = 1, 2
_IPV6 = struct.Struct("!IHBB16s16s")  # RFC 8200 3
_NDP = struct.Struct("!BBHI16s")  # RFC 4861 4.3, 4.4: type, code, checksum, flags, target
_SOLICITATION, _ADVERTISEMENT = 135, 136
_OVERRIDE = 0x2000_0000
_SOURCE_MAC, _TARGET_MAC = 1, 2  # RFC 4861 4.6.1: what the one option is about
_EVERYBODY, _NOBODY = b"\xff" * 6, bytes(6)
_ALL_NODES, _ALL_NODES_MAC = ipaddress.IPv6Address("ff02::1").packed, bytes.fromhex("333300000001")
_SOLICITED_NODE, _SOLICITED_NODE_MAC = bytes.fromhex("ff0200000000000000000001ff"), bytes.fromhex("3333ff")
_MAC = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def announcement(vip: IP, mac: Mac) -> Sequence[bytes]:
    """The frames that make neighbours send the VIP's traffic to `mac`.

    IPv4: a gratuitous ARP request, which all stacks learn from, and a reply whose target MAC is our own, for those that
    learn from replies only; a reply to ff:ff:ff:ff:ff:ff is ignored by Linux for a second after an entry changed. IPv6:
    an unsolicited NA with Override to all nodes (RFC 4861 7.2.6); without Override clients stay away for seconds.
    """
    own, target = _packed(mac), vip.packed
    if vip.version == 4:
        return (_arp(_REQUEST, own, target, _NOBODY, target), _arp(_REPLY, own, target, own, target))
    message = _NDP.pack(_ADVERTISEMENT, 0, 0, _OVERRIDE, target) + _option_of(_TARGET_MAC, own)
    return (_ndp(_ALL_NODES_MAC, own, target, _ALL_NODES, message),)


def probe(vip: IP, mac: Mac) -> bytes:
    """The question whether anybody has the VIP, which teaches nobody anything (RFC 5227 2.1.1, RFC 4862 5.4.2).

    Both ask from the unspecified address. An ARP answer then comes to `mac`; an NDP answer goes to all nodes, which
    every host hears without joining a group, and no link-local address is needed.
    """
    own, target = _packed(mac), vip.packed
    if vip.version == 4:
        return _arp(_REQUEST, own, bytes(4), _NOBODY, target)
    message = _NDP.pack(_SOLICITATION, 0, 0, 0, target)  # no option: RFC 4861 4.3 forbids it from the unspecified one
    return _ndp(_SOLICITED_NODE_MAC + target[-3:], own, bytes(16), _SOLICITED_NODE + target[-3:], message)


@lru_cache(maxsize=1024)  # asked again and again: as many as one host may watch
def question(vip: IP, mac: Mac, holder: Mac, source: ipaddress.IPv6Address | None = None) -> bytes:
    """The question whether `holder` still has the VIP, to its MAC alone.

    IPv4: a probe by unicast (RFC 1122 2.3.2.1, RFC 5227 1.1): with no sender address it cannot change anybody's cache.
    IPv6: a solicitation as for unreachability detection (RFC 4861 7.2.2, 7.3.3), from this interface's link-local
    address; the answer comes to it alone, and what the holder learns of it is true. Without a source (the interface has
    no link-local address) it is a probe, too: from the unspecified address it must go to the solicited-node group, if
    only at IP level, and the answer goes to all nodes.
    """
    if source is None:
        return _packed(holder) + probe(vip, mac)[6:]
    own, target = _packed(mac), vip.packed
    message = _NDP.pack(_SOLICITATION, 0, 0, 0, target) + _option_of(_SOURCE_MAC, own)
    return _ndp(_packed(holder), own, source.packed, target, message)


def parse(frame: bytes, interface: InterfaceName) -> Heard | None:
    """What a frame says about who has an address: an ARP reply or announcement, or a neighbour advertisement.

    None for all others, and for what RFC 4861 7.1.2 says not to believe. A checksum is not looked at: a frame damaged
    on the way does not get past the Ethernet one.
    """
    if len(frame) < _ETHERNET.size:
        return None
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ETHERTYPE_ARP:
        return _parse_arp(frame, interface)
    if kind == _ETHERTYPE_IPV6:
        return _parse_advertisement(frame, interface)
    return None


def is_mac(text: str) -> bool:
    """Whether this is an Ethernet address as `Mac` has it: other hosts' come through the API, where anybody writes."""
    return _MAC.fullmatch(text) is not None


def mac_text(mac: bytes) -> Mac:
    return Mac(mac.hex(":"))


def _parse_arp(frame: bytes, interface: InterfaceName) -> Heard | None:
    if len(frame) < _ETHERNET.size + _ARP.size:
        return None
    *kinds, operation, sender_mac, sender, _target_mac, target = _ARP.unpack_from(frame, _ETHERNET.size)
    announces = operation == _REPLY or (operation == _REQUEST and sender == target)
    if tuple(kinds) != _ARP_KINDS or not announces or sender == bytes(4):
        return None
    return Heard(ip=ipaddress.IPv4Address(sender), mac=mac_text(sender_mac), interface=interface)


def _parse_advertisement(frame: bytes, interface: InterfaceName) -> Heard | None:
    message = frame[_ETHERNET.size + _IPV6.size :]
    next_header, hop_limit = frame[20:22] if len(frame) > 22 else b"\0\0"
    if (
        next_header != socket.IPPROTO_ICMPV6
        or hop_limit != 255
        or len(message) < _NDP.size
        or message[0] != _ADVERTISEMENT
    ):
        return None
    target = ipaddress.IPv6Address(message[8:24])
    if target.is_multicast or target.is_unspecified:
        return None
    mac = _option(message[_NDP.size :], _TARGET_MAC) or frame[6:12]  # else who sent the frame
    return Heard(ip=target, mac=mac_text(mac[:6]), interface=interface)


def _option(options: bytes, wanted: int) -> bytes | None:
    while len(options) >= 8 and options[1]:  # length in units of eight bytes; zero is malformed
        if options[0] == wanted:
            return options[2 : options[1] * 8]
        options = options[options[1] * 8 :]
    return None


@lru_cache(maxsize=1024)
def _packed(mac: Mac) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _arp(operation: int, own: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    """To everybody."""
    return _ETHERNET.pack(_EVERYBODY, own, _ETHERTYPE_ARP) + _ARP.pack(
        *_ARP_KINDS, operation, own, sender, target_mac, target
    )


def _ndp(to: bytes, own: bytes, source: bytes, destination: bytes, message: bytes) -> bytes:
    """`message` has a checksum of zero. With a hop limit of 255, which no router lets through (RFC 4861 11.2)."""
    header = _IPV6.pack(6 << 28, len(message), socket.IPPROTO_ICMPV6, 255, source, destination)
    checksum = _icmp6_checksum(source, destination, message)
    return _ETHERNET.pack(to, own, _ETHERTYPE_IPV6) + header + message[:2] + checksum + message[4:]


def _option_of(kind: int, mac: bytes) -> bytes:
    return bytes((kind, 1)) + mac  # length in units of eight bytes


def _icmp6_checksum(source: bytes, destination: bytes, message: bytes) -> bytes:
    """RFC 4443 2.3: over addresses, length, next header, and the message, whose checksum field is zero."""
    data = source + destination + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6) + message
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))  # NDP messages have even length
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
