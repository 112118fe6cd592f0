"""`hostagent who-has` asks and listens with scapy, the agent with its own code: each is the other's check."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from hostagent.edges.neighbors import diagnosis, frames
from hostagent.model.host import Heard
from hostagent.model.names import InterfaceName, Mac

MAC, OTHER, THIRD = Mac("02:00:00:00:00:01"), Mac("02:00:00:00:00:02"), Mac("02:00:00:00:00:03")
ETH0 = InterfaceName("eth0")
NA = Ether(src=OTHER, dst=MAC) / IPv6(src="fe80::1", dst="fe80::2", hlim=255) / ICMPv6ND_NA(tgt="2001:db8::1")
REPLY = Ether(src=OTHER, dst=MAC) / ARP(op=2, hwsrc=OTHER, psrc="192.0.2.1", hwdst=MAC, pdst="192.0.2.9")


@given(vip=st.ip_addresses())
def test_both_ask_alike(vip: IPv4Address | IPv6Address) -> None:
    assert diagnosis.probe(vip, MAC) == frames.probe(vip, MAC)


@given(vip=st.ip_addresses().filter(lambda ip: not ip.is_unspecified and not ip.is_multicast))
def test_what_the_agent_announces_is_heard(vip: IPv4Address | IPv6Address) -> None:
    for frame in frames.announcement(vip, MAC):
        assert diagnosis.parse(frame, ETH0) == Heard(ip=vip, mac=MAC, interface=ETH0)


@pytest.mark.parametrize(
    "frame",
    [
        bytes(REPLY),
        bytes(NA),
        bytes(NA / ICMPv6NDOptDstLLAddr(lladdr=THIRD)),
        bytes(Ether(src=OTHER, dst=MAC) / ARP(op=1, hwsrc=OTHER, psrc="192.0.2.1", pdst="192.0.2.2")),
        bytes(Ether(src=OTHER, dst=MAC) / IPv6(src="fe80::1", dst="fe80::2", hlim=64) / ICMPv6ND_NA(tgt="2001:db8::1")),
        bytes(REPLY)[:30],
        b"",
    ],
)
def test_answers_are_understood_alike(frame: bytes) -> None:
    assert diagnosis.parse(frame, ETH0) == frames.parse(frame, ETH0)


def test_the_agent_starts_without_what_only_other_commands_need() -> None:
    """31 MB for scapy, 19 MB for kubernetes (until the kubeconfig is read), 4 MB for tables, on every host."""
    code = "import sys, hostagent.cli.run; print(*({'scapy', 'kubernetes', 'rich', 'yaml'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
