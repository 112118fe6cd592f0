"""Frames are built from templates; scapy, which built the templates, says what they ought to be."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from hostagent.edges.neighbors import frames
from hostagent.model.host import Heard
from hostagent.model.names import InterfaceName, Mac

MAC, OTHER = Mac("02:00:00:00:00:01"), Mac("02:00:00:00:00:02")
ETH0 = InterfaceName("eth0")
BROADCAST = Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff")


@given(vip=st.ip_addresses(v=4))
def test_ipv4_is_announced_by_request_and_reply(vip: IPv4Address) -> None:
    text = str(vip)
    assert list(frames.announcement(vip, MAC)) == [
        bytes(BROADCAST / ARP(op=1, hwsrc=MAC, psrc=text, hwdst="00:00:00:00:00:00", pdst=text)),
        bytes(BROADCAST / ARP(op=2, hwsrc=MAC, psrc=text, hwdst=MAC, pdst=text)),
    ]


@given(vip=st.ip_addresses(v=6))
def test_ipv6_is_announced_to_all_nodes_with_override(vip: IPv6Address) -> None:
    text = str(vip)
    packet = (
        Ether(src=MAC, dst="33:33:00:00:00:01")
        / IPv6(src=text, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=text, R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=MAC)
    )
    assert list(frames.announcement(vip, MAC)) == [bytes(packet)]


@given(vip=st.ip_addresses(v=4))
def test_an_arp_probe_names_no_sender(vip: IPv4Address) -> None:
    arp = ARP(op=1, hwsrc=MAC, psrc="0.0.0.0", hwdst="00:00:00:00:00:00", pdst=str(vip))
    assert frames.probe(vip, MAC) == bytes(BROADCAST / arp)


@given(vip=st.ip_addresses(v=6))
def test_an_nd_probe_asks_the_solicited_node_group_from_nowhere(vip: IPv6Address) -> None:
    low = vip.packed[-3:]
    group = IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + low)
    packet = (
        Ether(src=MAC, dst="33:33:ff:" + low.hex(":"))
        / IPv6(src="::", dst=str(group), hlim=255)
        / ICMPv6ND_NS(tgt=str(vip))
    )
    assert frames.probe(vip, MAC) == bytes(packet)


@given(vip=st.ip_addresses().filter(lambda ip: not ip.is_unspecified and not ip.is_multicast))
def test_what_is_announced_is_understood(vip: IPv4Address | IPv6Address) -> None:
    for frame in frames.announcement(vip, MAC):
        assert frames.parse(frame, ETH0) == Heard(ip=vip, mac=MAC, interface=ETH0)
    assert frames.parse(frames.probe(vip, MAC), ETH0) is None


def test_each_interface_speaks_for_itself() -> None:
    vip = ip_address("192.0.2.1")
    assert frames.announcement(vip, MAC) != frames.announcement(vip, OTHER)


V6 = ip_address("2001:db8::1")
NA = Ether(src=OTHER, dst=MAC) / IPv6(src="fe80::1", dst="fe80::2", hlim=255) / ICMPv6ND_NA(tgt=str(V6))


@pytest.mark.parametrize(
    ("packet", "mac"),
    [
        (Ether(src=OTHER, dst=MAC) / ARP(op=2, hwsrc=OTHER, psrc="192.0.2.1", hwdst=MAC, pdst="0.0.0.0"), OTHER),
        (NA, OTHER),  # without the option: who sent the frame
        (NA / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:03"), Mac("02:00:00:00:00:03")),
    ],
)
def test_answers_are_understood(packet: Ether, mac: Mac) -> None:
    heard = frames.parse(bytes(packet), ETH0)
    assert heard
    assert heard.mac == mac


@pytest.mark.parametrize(
    "packet",
    [
        BROADCAST / ARP(op=1, hwsrc=OTHER, psrc="192.0.2.1", pdst="192.0.2.2"),  # an ordinary question
        BROADCAST / ARP(op=2, hwsrc=OTHER, psrc="0.0.0.0", pdst="0.0.0.0"),
        Ether(src=OTHER, dst=MAC) / IPv6(src="fe80::1", dst="fe80::2", hlim=64) / ICMPv6ND_NA(tgt=str(V6)),  # routed
        Ether(src=OTHER, dst=MAC) / IPv6(src="fe80::1", dst="fe80::2", hlim=255) / ICMPv6ND_NA(tgt="ff02::1"),
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(packet: Ether) -> None:
    assert frames.parse(bytes(packet), ETH0) is None


@given(st.binary(max_size=100), st.sampled_from([b"\x08\x06", b"\x86\xdd", b"\x08\x00"]))
def test_no_frame_is_too_strange(rest: bytes, ethertype: bytes) -> None:
    frames.parse(rest, ETH0)
    frames.parse(bytes(12) + ethertype + rest, ETH0)
    frames.parse(bytes(NA)[:54] + rest, ETH0)
