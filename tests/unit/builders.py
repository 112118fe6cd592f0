"""Nouns for tests: each function makes one that is ordinary in every respect that a test does not name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from hostagent.core.allocate import Ledger
from hostagent.model.cluster import (
    AddressRange,
    ConfigSet,
    Endpoints,
    Expression,
    Family,
    FamilyPolicy,
    Fault,
    L2Advertisement,
    Node,
    Pool,
    Port,
    Selector,
    Service,
    family_of,
)
from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName, ServiceKey
from hostagent.model.ownership import Claim, Segment, Session
from hostagent.telemetry.metrics import Snapshot

CLUSTER_IPS = {Family.V4: ip_address("10.96.0.1"), Family.V6: ip_address("fd00:96::1")}
V4, V6 = (Family.V4,), (Family.V6,)
DUAL = (Family.V4, Family.V6)
PREFER, REQUIRE = FamilyPolicy.PREFER_DUAL, FamilyPolicy.REQUIRE_DUAL
HTTP, HTTPS = (Port("tcp", 80),), (Port("tcp", 443),)


def a_key(name: str) -> ServiceKey:
    namespace, _, short = name.rpartition("/")
    return ServiceKey(namespace or "default", short)


def a_service(
    name: str = "web",
    *,
    has: Iterable[str] = (),
    families: Iterable[Family] = V4,
    policy: FamilyPolicy = FamilyPolicy.SINGLE,
    annotations: Mapping[str, str] | None = None,
    ports: tuple[Port, ...] = HTTP,
    **fields: Any,
) -> Service:
    """`name` may be `namespace/name`; `has` is what its status says; annotation names get MetalLB's prefix."""
    named = {key if "/" in key else f"metallb.io/{key}": value for key, value in (annotations or {}).items()}
    return Service(
        key=a_key(name),
        uid=f"uid-{name}",
        resource_version="1",
        cluster_ips=tuple(CLUSTER_IPS[family] for family in families),
        families=tuple(families),
        family_policy=policy,
        annotations=named,
        ports=ports,
        assigned=tuple(has),
        **fields,
    )


def a_range(text: str) -> AddressRange:
    """A CIDR or `first-last`, or one address."""
    if "-" in text:
        first, last = map(ip_address, text.split("-"))
        return AddressRange(first, last)
    network = ip_network(text)
    return AddressRange(network[0], network[-1])


def a_pool(name: str, *ranges: str, **fields: Any) -> Pool:
    return Pool(name=name, ranges=tuple(map(a_range, ranges)), **fields)


def a_config(*pools: Pool, ads: Iterable[L2Advertisement] = (), set_aside: bool = False) -> ConfigSet:
    fault = Fault(kind="IPAddressPool", namespace="metallb-system", name="broken", field="spec", message="no range")
    return ConfigSet(
        pools=tuple(sorted(pools, key=lambda pool: pool.name)),
        l2_advertisements=tuple(ads),
        faults=(fault,) if set_aside else (),
    )


def a_ledger(*pools: Pool, services: Iterable[Service] = (), **fields: Any) -> Ledger:
    """A ledger that has noted these Services' statuses, and decided nothing yet."""
    ledger = Ledger(config=a_config(*pools, set_aside=fields.pop("set_aside", False)), **fields)
    for service in services:
        ledger.note(service)
    return ledger


def label_is(key: str, *values: str) -> Selector:
    return Selector((Expression(key, "In", frozenset(values)),))


def a_node(name: str, **fields: Any) -> Node:
    return Node(name=NodeName(name), **fields)


def a_segment(interface: str = "eth0", *subnets: str) -> Segment:
    return Segment(
        interface=InterfaceName(interface),
        mac=Mac("02:00:00:00:00:01"),
        subnets=tuple(map(ip_interface, subnets or ("198.51.100.2/24",))),
    )


def a_session(name: str, *segments: Segment, ended: bool = False, seen_at: float = 0.0, **fields: Any) -> Session:
    return Session(
        node=NodeName(name),
        instance="" if ended else "boot",
        resource_version=fields.pop("resource_version", "1"),
        seen_at=Instant(seen_at),
        duration_s=15.0,
        segments=segments or (a_segment(),),
        **fields,
    )


def an_advertisement(name: str = "ad", *, pools: Iterable[str] = ("pool",), **fields: Any) -> L2Advertisement:
    return L2Advertisement(name=name, pools=frozenset(pools), **fields)


def a_claim(holder: str | None, *, predecessor: str | None = None, version: int = 1, seen_at: float = 0.0) -> Claim:
    return Claim(
        holder=NodeName(holder) if holder else None,
        predecessor=NodeName(predecessor) if predecessor else None,
        resource_version=str(version),
        seen_at=Instant(seen_at),
    )


def serving_on(*nodes: str) -> Endpoints:
    return Endpoints(serving=True, nodes=frozenset(map(NodeName, nodes)))


def a_snapshot(**fields: Any) -> Snapshot:
    ordinary: dict[str, Any] = {
        "node": NodeName("h1"),
        "version": "1.2.3",
        "held": {},
        "bgp_sessions": (),
        "moves": {},
        "claim_writes": {},
        "api_reachable": True,
        "certificate_ends": 1_893_456_000.0,
        "session_renewed_ago_s": 2.0,
    }
    zero = dict.fromkeys((field.name for field in dataclasses.fields(Snapshot)), 0)
    return Snapshot(**zero | ordinary | fields)


def texts(addresses: Iterable[IP]) -> tuple[str, ...]:
    return tuple(map(str, addresses))


def families_of(addresses: Iterable[IP]) -> tuple[Family, ...]:
    return tuple(map(family_of, addresses))
