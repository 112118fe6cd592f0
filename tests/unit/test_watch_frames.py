"""Questions by unicast, held against what scapy builds."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from hostagent.edges.neighbors import frames
from hostagent.model.names import InterfaceName, Mac

MAC, HOLDER = Mac("02:00:00:00:00:01"), Mac("02:00:00:00:00:02")
SOURCE = IPv6Address("fe80::1")


@given(vip=st.ip_addresses(v=4))
def test_ipv4_is_asked_for_by_a_probe_to_the_holder_alone(vip: IPv4Address) -> None:
    arp = ARP(op=1, hwsrc=MAC, psrc="0.0.0.0", hwdst="00:00:00:00:00:00", pdst=str(vip))
    assert frames.question(vip, MAC, HOLDER) == bytes(Ether(src=MAC, dst=HOLDER) / arp)


@given(vip=st.ip_addresses(v=6))
def test_ipv6_is_asked_for_as_for_reachability(vip: IPv6Address) -> None:
    packet = (
        Ether(src=MAC, dst=HOLDER)
        / IPv6(src=str(SOURCE), dst=str(vip), hlim=255)
        / ICMPv6ND_NS(tgt=str(vip))
        / ICMPv6NDOptSrcLLAddr(lladdr=MAC)
    )
    assert frames.question(vip, MAC, HOLDER, SOURCE) == bytes(packet)


@given(vip=st.ip_addresses(v=6))
def test_ipv6_without_a_source_is_a_probe_to_the_holder_alone(vip: IPv6Address) -> None:
    asked = frames.question(vip, MAC, HOLDER)
    assert asked == bytes.fromhex("020000000002") + frames.probe(vip, MAC)[6:]
    assert frames.parse(asked, InterfaceName("eth0")) is None


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("02:00:00:00:00:0a", True), ("", False), ("02:00:00:00:00", False), ("02:00:00:00:00:0A", False), ("x", False)],
)
def test_what_is_a_mac(text: str, is_one: bool) -> None:
    assert frames.is_mac(text) is is_one
