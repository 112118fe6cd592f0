"""Our own encoding and decoding, held against pyroute2's."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from hostagent.edges.netlink import wire
from hostagent.model.names import IP

V4, V6 = ip_address("198.51.100.7"), ip_address("2001:db8::7")
BOTH = pytest.mark.parametrize("vip", [V4, V6], ids=["v4", "v6"])


def decoded(message: bytes) -> Any:
    parsed = ifaddrmsg(message)
    parsed.decode()
    return parsed


@BOTH
def test_an_addition(vip: IP) -> None:
    message = decoded(wire.add_request(vip, 3, 10))
    assert message["header"]["type"] == wire.RTM_NEWADDR
    assert message["header"]["flags"] == wire.NLM_F_REQUEST | wire.NLM_F_ACK | wire.NLM_F_CREATE | wire.NLM_F_EXCL
    assert (message["index"], message["prefixlen"]) == (3, vip.max_prefixlen)
    assert message.get("local") == message.get("address") == str(vip)
    assert message.get("cacheinfo")["ifa_valid"] == 10
    assert message.get("cacheinfo")["ifa_preferred"] == 0
    assert message.get("proto") == 104
    assert message.get("flags") == 0x202  # no DAD, no prefix route


@BOTH
def test_a_refresh_never_creates(vip: IP) -> None:
    message = decoded(wire.refresh_request(vip, 3, 10))
    assert message["header"]["flags"] == wire.NLM_F_REQUEST | wire.NLM_F_ACK | wire.NLM_F_REPLACE
    assert message.get("flags") == 0x602  # and multicast autojoin, which creating a unicast address fails at


@BOTH
def test_a_removal(vip: IP) -> None:
    message = decoded(wire.remove_request(vip, 3))
    assert message["header"]["type"] == wire.RTM_DELADDR
    assert (message["index"], message["prefixlen"], message.get("local")) == (3, vip.max_prefixlen, str(vip))


@BOTH
def test_an_address_is_read_back(vip: IP) -> None:
    (message,) = wire.messages(wire.add_request(vip, 3, 10))
    assert wire.address_of(message.body) == wire.Address(
        on_link=ip_interface(f"{vip}/{vip.max_prefixlen}"), index=3, ours=True, lifetime_left_s=10
    )


def test_a_link_is_read() -> None:
    link = ifinfmsg()
    link["index"], link["attrs"] = 7, [("IFLA_MTU", 1500), ("IFLA_IFNAME", "bond0.12")]
    link.encode()
    (message,) = wire.messages(bytes(link.data))
    assert wire.link_of(message.body) == (7, "bond0.12")


def test_several_messages_in_one_read() -> None:
    data = wire.add_request(V4, 1, 1) + wire.remove_request(V6, 2) + wire.dump_request()
    assert [m.kind for m in wire.messages(data)] == [wire.RTM_NEWADDR, wire.RTM_DELADDR, wire.RTM_GETADDR]


@pytest.mark.parametrize("data", [b"", b"\0" * 15, b"\0" * 64])
def test_rubbish_ends(data: bytes) -> None:
    assert list(wire.messages(data)) == []
