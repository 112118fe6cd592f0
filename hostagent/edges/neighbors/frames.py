"""ARP and NDP frames: what is sent for a VIP, and what others' frames say.

scapy builds one frame of each kind per MAC, with a placeholder for the VIP; the VIP's bytes are put in where the
placeholder was (and the ICMPv6 checksum adjusted), as building one by one costs scapy half a millisecond per VIP. Tests
hold the result against what scapy builds for that VIP. scapy takes 40 MiB and half a second to import: hence only when
the first frame is needed.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from hostagent.model.host import Heard
from hostagent.model.names import IP, InterfaceName, Mac

_V4_PLACEHOLDER = ipaddress.IPv4Address("203.0.113.254")
_V6_PLACEHOLDER = ipaddress.IPv6Address("2001:db8:ffff:fffe:fffd:fffc:fffb:fffa")

_ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0806, 0x86DD
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826, for Ethernet and IPv4
_MAC = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_ETHERNET_BYTES, _IPV6_BYTES = 14, 40
_CHECKSUM_AT = _ETHERNET_BYTES + _IPV6_BYTES + 2
_SOLICITED_NODE_MAC, _SOLICITED_NODE_PREFIX = bytes.fromhex("3333ff"), bytes.fromhex("ff0200000000000000000001ff")


@dataclass(frozen=True, slots=True)
class Template:
    """A frame for any VIP of one family."""

    frame: bytes
    vip_at: tuple[int, ...]
    """Where the VIP's bytes go."""
    group_at: int | None = None
    """Where the solicited-node group of the VIP goes (RFC 4291 2.7.1), and with it the Ethernet destination."""

    def __call__(self, vip: IP) -> bytes:
        frame = bytearray(self.frame)
        for at in self.vip_at:
            frame[at : at + len(vip.packed)] = vip.packed
        if self.group_at is not None:
            frame[self.group_at : self.group_at + 16] = _SOLICITED_NODE_PREFIX + vip.packed[-3:]
            frame[0:6] = _SOLICITED_NODE_MAC + vip.packed[-3:]
        if vip.version == 6:
            frame[_CHECKSUM_AT : _CHECKSUM_AT + 2] = b"\0\0"
            frame[_CHECKSUM_AT : _CHECKSUM_AT + 2] = _icmp6_checksum(frame)
        return bytes(frame)


def prepare(mac: Mac) -> None:
    """Build what the other functions need for this MAC, so that they are fast: the first time loads scapy (0.5 s)."""
    _templates(mac)


def announcement(vip: IP, mac: Mac) -> Sequence[bytes]:
    """The frames that make neighbours send the VIP's traffic to `mac`.

    IPv4: a gratuitous ARP request, which all stacks learn from, and a reply whose target MAC is our own, for those that
    learn from replies only; a reply to ff:ff:ff:ff:ff:ff is ignored by Linux for a second after an entry changed. IPv6:
    an unsolicited NA with Override to all nodes (RFC 4861 7.2.6); without Override clients stay away for seconds.
    """
    templates = _templates(mac)
    if vip.version == 4:
        return (templates.garp_request(vip), templates.garp_reply(vip))
    return (templates.unsolicited_na(vip),)


def probe(vip: IP, mac: Mac) -> bytes:
    """The question whether anybody has the VIP, which teaches nobody anything (RFC 5227 2.1.1, RFC 4862 5.4.2).

    Both ask from the unspecified address. An ARP answer then comes to `mac`; an NDP answer goes to all nodes, which
    every host hears without joining a group, and no link-local address is needed.
    """
    templates = _templates(mac)
    return templates.arp_probe(vip) if vip.version == 4 else templates.nd_probe(vip)


@lru_cache(maxsize=1024)  # asked again and again: as many as one host may watch
def question(vip: IP, mac: Mac, holder: Mac, source: ipaddress.IPv6Address | None = None) -> bytes:
    """The question whether `holder` still has the VIP, to its MAC alone.

    IPv4: a probe by unicast (RFC 1122 2.3.2.1, RFC 5227 1.1): with no sender address it cannot change anybody's cache.
    IPv6: a solicitation as for unreachability detection (RFC 4861 7.2.2, 7.3.3), from this interface's link-local
    address; the answer comes to it alone, and what the holder learns of it is true. Without a source (the interface has
    no link-local address) it is a probe, too: from the unspecified address it must go to the solicited-node group, if
    only at IP level, and the answer goes to all nodes.
    """
    frame = probe(vip, mac) if source is None else _solicitation(mac, source)(vip)
    return bytes.fromhex(holder.replace(":", "")) + frame[6:]


def parse(frame: bytes, interface: InterfaceName) -> Heard | None:
    """What a frame says about who has an address: an ARP reply or announcement, or a neighbour advertisement.

    None for all others, and for what RFC 4861 7.1.2 says not to believe. A checksum is not looked at: a frame damaged
    on the way does not get past the Ethernet one.
    """
    if len(frame) < _ETHERNET_BYTES:
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
    if len(frame) < _ETHERNET_BYTES + _ARP.size:
        return None
    *kinds, operation, sender_mac, sender, _target_mac, target = _ARP.unpack_from(frame, _ETHERNET_BYTES)
    announces = operation == 2 or (operation == 1 and sender == target)
    if kinds != [1, 0x0800, 6, 4] or not announces or sender == bytes(4):
        return None
    return Heard(ip=ipaddress.IPv4Address(sender), mac=mac_text(sender_mac), interface=interface)


def _parse_advertisement(frame: bytes, interface: InterfaceName) -> Heard | None:
    message = frame[_ETHERNET_BYTES + _IPV6_BYTES :]
    next_header, hop_limit = frame[20:22] if len(frame) > 22 else b"\0\0"
    if next_header != socket.IPPROTO_ICMPV6 or hop_limit != 255 or len(message) < 24 or message[0] != 136:
        return None
    target = ipaddress.IPv6Address(message[8:24])
    if target.is_multicast or target.is_unspecified:
        return None
    mac = _option(message[24:], 2) or frame[6:12]  # target link-layer address, else who sent the frame
    return Heard(ip=target, mac=mac_text(mac[:6]), interface=interface)


def _option(options: bytes, wanted: int) -> bytes | None:
    while len(options) >= 8 and options[1]:  # length in units of eight bytes; zero is malformed
        if options[0] == wanted:
            return options[2 : options[1] * 8]
        options = options[options[1] * 8 :]
    return None


def _icmp6_checksum(frame: bytes | bytearray) -> bytes:
    """RFC 4443 2.3: over addresses, length, next header, and the message, whose checksum field is zero."""
    message = bytes(frame[_ETHERNET_BYTES + _IPV6_BYTES :])
    data = bytes(frame[22:54]) + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6) + message
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))  # NDP messages have even length
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


@dataclass(frozen=True, slots=True)
class _Templates:
    garp_request: Template
    garp_reply: Template
    unsolicited_na: Template
    arp_probe: Template
    nd_probe: Template


@lru_cache(maxsize=64)  # interfaces of one host, with room for those that were re-created with another MAC
def _templates(mac: Mac) -> _Templates:
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6  # noqa: PLC0415
    from scapy.layers.l2 import ARP, Ether  # noqa: PLC0415

    vip4, vip6 = str(_V4_PLACEHOLDER), str(_V6_PLACEHOLDER)
    everybody = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff")
    return _Templates(
        garp_request=_template(everybody / ARP(op=1, hwsrc=mac, psrc=vip4, hwdst="00:00:00:00:00:00", pdst=vip4)),
        garp_reply=_template(everybody / ARP(op=2, hwsrc=mac, psrc=vip4, hwdst=mac, pdst=vip4)),
        unsolicited_na=_template(
            Ether(src=mac, dst="33:33:00:00:00:01")
            / IPv6(src=vip6, dst="ff02::1", hlim=255)
            / ICMPv6ND_NA(tgt=vip6, R=0, S=0, O=1)
            / ICMPv6NDOptDstLLAddr(lladdr=mac)
        ),
        arp_probe=_template(everybody / ARP(op=1, hwsrc=mac, psrc="0.0.0.0", hwdst="00:00:00:00:00:00", pdst=vip4)),
        nd_probe=_template(  # no source link-layer option: RFC 4861 4.3 forbids it with the unspecified source
            Ether(src=mac, dst="33:33:ff:fb:ff:fa")
            / IPv6(src="::", dst="ff02::1:fffb:fffa", hlim=255)
            / ICMPv6ND_NS(tgt=vip6)
        ),
    )


@lru_cache(maxsize=64)
def _solicitation(mac: Mac, source: ipaddress.IPv6Address) -> Template:
    from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6  # noqa: PLC0415
    from scapy.layers.l2 import Ether  # noqa: PLC0415

    vip6 = str(_V6_PLACEHOLDER)
    return _template(
        Ether(src=mac, dst="00:00:00:00:00:00")
        / IPv6(src=str(source), dst=vip6, hlim=255)
        / ICMPv6ND_NS(tgt=vip6)
        / ICMPv6NDOptSrcLLAddr(lladdr=mac)
    )


def _template(packet: object) -> Template:
    frame = bytes(packet)  # type: ignore[call-overload]  # scapy packets have __bytes__
    group = _SOLICITED_NODE_PREFIX + _V6_PLACEHOLDER.packed[-3:]
    places = tuple(at for p in (_V4_PLACEHOLDER, _V6_PLACEHOLDER) for at in _occurrences(frame, p.packed))
    return Template(frame, places, frame.index(group) if group in frame else None)


def _occurrences(frame: bytes, wanted: bytes) -> list[int]:
    return [at for at in range(len(frame)) if frame.startswith(wanted, at)]
