"""BGP nouns for tests."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from hostagent.core.frr_text import Wanted, number_classes
from hostagent.model.bgp import AttributeClass, BfdProfile, BgpAdvertisement, Grant, Observed, Peer, Secret
from hostagent.model.names import InterfaceName

TABLE = 174


def a_peer(name: str = "tor1", address: str | None = "192.0.2.2", **fields: Any) -> Peer:
    fields = {"my_asn": 65001, "peer_asn": 65000, **fields}
    return Peer(name=name, address=ip_address(address) if address else None, **fields)


def a_grant(*peers: str, communities: tuple[str, ...] = (), **fields: Any) -> Grant:
    return Grant(peers=peers, communities=communities, **fields)


def a_class(*grants: Grant) -> AttributeClass:
    return AttributeClass(tuple(sorted(grants)) or (Grant(),))


def an_ad(name: str = "all", *pools: str, grant: Grant | None = None, **fields: Any) -> BgpAdvertisement:
    return BgpAdvertisement(name=name, pools=frozenset(pools or ("public",)), grant=grant or Grant(), **fields)


def a_wanted(
    *peers: Peer, classes: tuple[AttributeClass, ...] = (AttributeClass((Grant(),)),), **fields: Any
) -> Wanted:
    return Wanted(peers=peers, classes=number_classes(classes, taken={}), table=TABLE, **fields)


def an_observed(running: str = "", *, persisted: str = "", version: tuple[int, int] = (8, 4)) -> Observed:
    return Observed(version=version, running=running, persisted=persisted)


EVERYTHING = a_wanted(
    a_peer(
        "tor1",
        bfd=True,
        bfd_profile="fast",
        local_asn=65010,
        password=Secret("s3cret"),
        port=1179,
        ebgp_multi_hop=True,
        source_address=ip_address("192.0.2.1"),
        hold_time_s=9,
        keepalive_time_s=3,
        connect_time_s=1,
        router_id="192.0.2.9",
        graceful_restart=True,
        dual_stack=True,
    ),
    a_peer("tor2", "2001:db8::2", peer_asn=None, dynamic_asn="external", dual_stack=True, bfd=True),
    a_peer("tor3", "2001:db8::3", peer_asn=65001),
    a_peer("tor4", "192.0.2.4", peer_asn=None, dynamic_asn="internal", hold_time_s=0, keepalive_time_s=0),
    a_peer("direct", None, interface=InterfaceName("veth0"), peer_asn=None, dynamic_asn="external"),
    a_peer("tenant", "192.0.2.7", vrf="red"),
    profiles=(
        BfdProfile(
            name="fast",
            receive_interval_ms=100,
            transmit_interval_ms=100,
            detect_multiplier=5,
            echo_mode=True,
            echo_interval_ms=40,
            passive_mode=True,
            minimum_ttl=250,
        ),
    ),
    classes=(
        a_class(),
        a_class(
            a_grant(
                communities=("65001:1", "65535:0", "65535:65281"),
                large_communities=("65001:1:1", "65001:1:2"),
                local_pref=200,
                med=50,
                prepend=2,
            )
        ),
        a_class(a_grant("tor1", communities=("65001:7",)), a_grant("tor1", "tor2")),
    ),
)
"""Each thing that can be said to FRR, once."""
