"""Asking and listening as somebody else would: scapy's frames and scapy's reading, for `hostagent who-has`.

Who looks for a fault of the agent must not look through the agent's own eyes (`frames`). scapy takes 31 MB and half a
second to import: nothing that runs for long imports this module.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from hostagent.model.host import Heard
from hostagent.model.names import IP, InterfaceName, Mac

_REPLY = 2
_GROUP = IPv6Address("ff02::1:ff00:0").packed[:13]  # solicited-node: RFC 4291 2.7.1


def probe(vip: IP, mac: Mac) -> bytes:
    """The question whether anybody has the VIP, which teaches nobody anything (RFC 5227 2.1.1, RFC 4862 5.4.2)."""
    text = str(vip)
    if vip.version == 4:
        question = ARP(op=1, hwsrc=mac, psrc="0.0.0.0", hwdst="00:00:00:00:00:00", pdst=text)
        return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / question)
    low = vip.packed[-3:]
    group = str(IPv6Address(_GROUP + low))
    question = IPv6(src="::", dst=group, hlim=255) / ICMPv6ND_NS(tgt=text)
    return bytes(Ether(src=mac, dst=f"33:33:ff:{low.hex(':')}") / question)


def parse(frame: bytes, interface: InterfaceName) -> Heard | None:
    """Who says that it has an address; None where the frame says nothing of the kind."""
    try:
        packet = Ether(frame)
    except Exception:  # noqa: BLE001  # scapy says in many ways that it cannot read something; nobody answered by that
        return None
    if ARP in packet:
        arp = packet[ARP]
        announces = arp.op == _REPLY or arp.psrc == arp.pdst
        return None if not announces or arp.psrc == "0.0.0.0" else _heard(arp.psrc, arp.hwsrc, interface)
    if ICMPv6ND_NA not in packet or packet[IPv6].hlim != 255:
        return None
    named = packet[ICMPv6NDOptDstLLAddr].lladdr if ICMPv6NDOptDstLLAddr in packet else packet[Ether].src
    return _heard(packet[ICMPv6ND_NA].tgt, named, interface)


def _heard(ip: str, mac: str, interface: InterfaceName) -> Heard:
    return Heard(ip=ip_address(ip), mac=Mac(mac), interface=interface)
