"""rtnetlink messages about routes, as bytes: encoding, and the decoding of the few fields we use.

By hand, as `wire` is: a general encoder takes 0.6 ms for one route, and there may be ten thousand. Layouts:
linux/rtnetlink.h.
"""

from __future__ import annotations

import ipaddress
import struct
from functools import lru_cache
from typing import NamedTuple

from hostagent.edges.netlink import wire
from hostagent.model.names import Network

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
TABLE_MAIN = 254

_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 6, 15
_AF_INET, _AF_INET6 = 2, 10
_RTN_UNICAST = 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_LOOPBACK_INDEX = 1  # in every network namespace
_RTMSG = struct.Struct("=BBBBBBBBI")
_HEADER = struct.Struct("=IHHII")
_U32 = struct.Struct("=I")


class Route(NamedTuple):
    """A route of ours: where to, and its metric, which is the number of its attribute class."""

    network: Network
    metric: int


def add_request(route: Route, table: int, protocol: int) -> bytes:
    """Create the route, or answer EEXIST: the same prefix with another metric is another route."""
    return _request(RTM_NEWROUTE, wire.NLM_F_CREATE | wire.NLM_F_EXCL, route, table, protocol)


def remove_request(route: Route, table: int, protocol: int) -> bytes:
    """Delete the route of this metric and protocol; ESRCH if it is not there."""
    return _request(RTM_DELROUTE, 0, route, table, protocol)


def dump_request(version: int, table: int, protocol: int) -> bytes:
    """Ask for the routes of one table and protocol: with NETLINK_GET_STRICT_CHK the kernel leaves out all others, so
    that a host with a full Internet table pays for ours only.
    """
    family = _AF_INET if version == 4 else _AF_INET6
    body = _RTMSG.pack(family, 0, 0, 0, _low(table), protocol, 0, 0, 0) + wire.attribute(_RTA_TABLE, _U32.pack(table))
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, RTM_GETROUTE, wire.NLM_F_REQUEST | wire.NLM_F_DUMP, 1, 0) + body


def route_of(body: bytes, table: int, protocol: int) -> Route | None:
    """Decode RTM_NEWROUTE; None if it is in another table, or of another protocol (should the kernel not filter)."""
    family, prefix_len, _source_len, _tos, low_table, of_protocol, *_rest = _RTMSG.unpack_from(body)
    if of_protocol != protocol or family not in (_AF_INET, _AF_INET6):
        return None
    attributes = wire.attributes(body, _RTMSG.size)
    in_table = _U32.unpack(attributes[_RTA_TABLE])[0] if _RTA_TABLE in attributes else low_table
    if in_table != table:
        return None
    size = 4 if family == _AF_INET else 16
    network = _network(attributes.get(_RTA_DST, bytes(size)), prefix_len)
    metric = _U32.unpack(attributes[_RTA_PRIORITY])[0] if _RTA_PRIORITY in attributes else 0
    return Route(network, metric)


def _request(kind: int, flags: int, route: Route, table: int, protocol: int) -> bytes:
    """A unicast route to the loopback. Not a blackhole: FRR 8 copies the routes into the main table, where a blackhole
    fails this host's own connections to the VIP before kube-proxy could redirect them (EINVAL on connect).
    """
    v4 = route.network.version == 4
    family, scope = (_AF_INET, _SCOPE_LINK) if v4 else (_AF_INET6, _SCOPE_UNIVERSE)
    body = _RTMSG.pack(family, route.network.prefixlen, 0, 0, _low(table), protocol, scope, _RTN_UNICAST, 0)
    body += wire.attribute(_RTA_DST, route.network.network_address.packed)
    body += wire.attribute(_RTA_TABLE, _U32.pack(table))
    body += wire.attribute(_RTA_PRIORITY, _U32.pack(route.metric))
    body += wire.attribute(_RTA_OIF, _U32.pack(_LOOPBACK_INDEX))
    return _HEADER.pack(_HEADER.size + len(body), kind, wire.NLM_F_REQUEST | wire.NLM_F_ACK | flags, 1, 0) + body


@lru_cache(maxsize=1 << 15)
def _network(packed: bytes, prefix_len: int) -> Network:
    """Making one takes longer than all the rest of decoding, and it is the same ones again and again."""
    return ipaddress.ip_network((packed, prefix_len))


def _low(table: int) -> int:
    return table if table < 256 else 0
