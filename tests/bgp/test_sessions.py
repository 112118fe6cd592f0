"""What is said in BGPPeer, BFDProfile and BGPAdvertisement, as the router at the other end sees it."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address

import pytest

from hostagent.model.bgp import AttributeClass, BfdProfile, Grant, Line, Peer, Secret, SessionState
from hostagent.model.cluster import Family
from hostagent.model.errors import EdgeError
from hostagent.model.names import InterfaceName
from tests.bgp.routers import (
    BIRD_PORT,
    HOSTS_ASN,
    LOCAL_ASN,
    PASSWORD,
    TOR2_V4,
    TOR_ASN,
    TOR_LOOPBACK,
    TOR_V4,
    TOR_V6,
    BirdRouterHost,
    FrrRouterHost,
    Neighbour,
    counting,
    until,
    vtysh,
)
from tests.bgp.speaker import PLAIN, Speaker

VIP, VIP6, OTHER = "203.0.113.1/32", "2001:db8:64::1/128", "203.0.113.2/32"
Neighbours = dict[str, Neighbour]


def a_peer(name: str = "tor", address: str | None = TOR_V4, **fields: object) -> Peer:
    given: dict[str, object] = {"my_asn": HOSTS_ASN, "peer_asn": TOR_ASN, "connect_time_s": 1, **fields}
    return Peer(name=name, address=ip_address(address) if address else None, **given)  # type: ignore[arg-type]


BIRD_PEER = a_peer("tor2", TOR2_V4, peer_asn=None, dynamic_asn="internal", port=BIRD_PORT, dual_stack=True)


def one(*grants: Grant) -> AttributeClass:
    return AttributeClass(tuple(sorted(grants)))


def test_attributes_arrive_and_each_router_hears_its_own(
    speaker: Speaker, tor: FrrRouterHost, tor2: BirdRouterHost, neighbours: Neighbours
) -> None:
    """Communities of several advertisements together; local preference only inside the AS; MED, prepending outside."""
    rich = one(
        Grant(
            communities=("65001:1", "65535:0"),
            large_communities=("65001:1:1",),
            local_pref=200,
            med=50,
            prepend=2,
        ),
        Grant(peers=("tor",), communities=("65001:7",)),
    )
    only_second = one(Grant(peers=("tor2",), communities=("65001:9",)))
    speaker.peer_with(a_peer(dual_stack=True), BIRD_PEER, classes=(PLAIN, rich, only_second))
    speaker.announce({VIP: rich, VIP6: rich, OTHER: only_second, "203.0.113.3/32": PLAIN})

    at = neighbours[speaker.host.name].v4
    for prefix in (VIP, VIP6):
        path = tor.path(prefix, at)
        assert set(path["community"]["string"].split()) == {"65001:1", "65001:7", "graceful-shutdown"}
        assert path["largeCommunity"]["string"] == "65001:1:1"
        assert path["metric"] == 50
        assert path["aspath"]["string"] == f"{HOSTS_ASN} {HOSTS_ASN} {HOSTS_ASN}"
        said = tor2.path(prefix, speaker.host.name)
        assert said["BGP.local_pref"] == "200"
        assert set(said["BGP.community"].split()) == {"(65001,1)", "(65535,0)"}
        assert said["BGP.large_community"] == "(65001, 1, 1)"
    assert tor2.path(OTHER, speaker.host.name)["BGP.community"] == "(65001,9)"
    plain = tor.path("203.0.113.3/32", at)
    assert "community" not in plain
    assert (plain["metric"], plain["origin"]) == (0, "IGP")
    assert tor.prefixes(at) == {VIP, "203.0.113.3/32"}  # and never OTHER


def test_a_session_between_loopbacks_with_all_that_can_be_set(
    speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours
) -> None:
    """Password, timers, localASN, multihop, source address, router ID, BFD, graceful restart: by the router's word."""
    loopback = neighbours[speaker.host.name].loopback
    peer = a_peer(
        "loopback",
        TOR_LOOPBACK,
        local_asn=LOCAL_ASN,
        password=Secret(PASSWORD),
        ebgp_multi_hop=True,
        source_address=ip_address(loopback),
        hold_time_s=9,
        keepalive_time_s=1,
        router_id="192.0.2.77",
        graceful_restart=True,
        bfd=True,
        bfd_profile="fast",
    )
    profile = BfdProfile(
        name="fast", receive_interval_ms=150, transmit_interval_ms=120, detect_multiplier=4, minimum_ttl=1
    )
    speaker.peer_with(peer, profiles=(profile,))
    kept = "203.0.113.77/32"  # no other test's: by graceful restart the router keeps it when the session goes
    speaker.announce([kept])

    assert tor.path(kept, loopback)["aspath"]["string"] == str(LOCAL_ASN)
    said = tor.neighbour(loopback)
    assert said["remoteRouterId"] == "192.0.2.77"
    assert said["bgpTimerHoldTimeMsecs"] == 9000
    assert said["hostForeign"] == loopback
    assert said["gracefulRestartInfo"]["remoteGrMode"] == "Restart"
    alive = said["messageStats"]["keepalivesRecv"]  # a third of the hold time would be three in as many seconds
    until(lambda: tor.neighbour(loopback)["messageStats"]["keepalivesRecv"] >= alive + 5, "one each second", 9)
    bfd = until(lambda: tor.bfd(loopback) if tor.bfd(loopback).get("status") == "up" else None, "BFD with the host")
    assert bfd is not None
    assert (bfd["remote-receive-interval"], bfd["remote-transmit-interval"]) == (150, 120)
    assert bfd["remote-detect-multiplier"] == 4
    (state,) = [each for each in speaker.states() if each.neighbor == TOR_LOOPBACK]
    assert (state.state, state.bfd, state.sent[Family.V4]) == (SessionState.ESTABLISHED, "up", 1)

    speaker.peer_with(replace(peer, password=Secret("wrong")), profiles=(profile,))
    until(lambda: not tor.established(loopback), "no session with a wrong password")
    assert PASSWORD not in speaker.host.journal_text()


def test_a_session_that_is_refused_is_tried_again_after_the_connect_time(
    speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours
) -> None:
    at, nobodys_port = neighbours[speaker.host.name].v4, 1180
    said = ("configure terminal", f"router bgp {TOR_ASN}")
    vtysh(tor.host, *said, f"neighbor {at} shutdown")  # or it begins itself
    try:
        with counting(tor.host, f"ip saddr {at} tcp dport {nobodys_port} tcp flags & (syn | ack) == syn") as attempts:
            speaker.peer_with(a_peer(port=nobodys_port, connect_time_s=2))
            until(lambda: attempts() >= 1, "the first attempt")
            began = time.monotonic()
            until(lambda: attempts() >= 4, "three more", 30)  # FRR's own time is 120 s
            assert time.monotonic() - began >= 5
    finally:
        vtysh(tor.host, *said, f"no neighbor {at} shutdown")


def test_a_bfd_profile_as_the_router_sees_it(speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours) -> None:
    """Echoes, and who begins."""
    at = neighbours[speaker.host.name].v4
    said = ("configure terminal", f"router bgp {TOR_ASN}")
    vtysh(tor.host, *said, f"no neighbor {at} bfd")
    try:
        passive = BfdProfile(name="passive", passive_mode=True)
        with counting(tor.host, f"ip saddr {at} udp dport 3784") as control_packets:
            speaker.peer_with(a_peer(bfd=True, bfd_profile="passive"), profiles=(passive,))
            until(lambda: [each.bfd for each in speaker.states()] == ["down"], "BFD to be waiting")
            time.sleep(4)  # who begins has sent four by then
            assert control_packets() <= 2  # FRR sends one when it has made the session, and reads the profile later
            vtysh(tor.host, *said, f"neighbor {at} bfd profile fast")
            until(lambda: tor.bfd(at).get("status") == "up", "BFD, once the router has begun")
            assert control_packets() > 2
            until(lambda: tor.established(at), "a session")

        echo = BfdProfile(name="echo", echo_mode=True, echo_interval_ms=40)
        with counting(tor.host, "udp dport 3785") as echoes:
            speaker.peer_with(a_peer(bfd=True, bfd_profile="echo"), profiles=(echo,))
            until(lambda: tor.bfd(at).get("remote-echo-receive-interval") == 40, "the interval of echoes")
            until(lambda: echoes() > 40, "echoes at the router")
        assert tor.bfd(at)["status"] == "up"
    finally:
        vtysh(tor.host, *said, f"neighbor {at} bfd profile fast")


def test_the_lowest_ttl_that_bfd_takes_from_afar(speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours) -> None:
    """The router's packets arrive as if 155 other routers had passed them on.

    Says nothing of the session: FRR 10.3.0 begins none while it knows that BFD is down.
    """
    loopback = neighbours[speaker.host.name].loopback
    peer = a_peer(
        "loopback", TOR_LOOPBACK, local_asn=LOCAL_ASN, password=Secret(PASSWORD), ebgp_multi_hop=True,
        source_address=ip_address(loopback), bfd=True, bfd_profile="far",
    )  # fmt: skip
    chain = "chain out {\n type route hook output priority mangle\n udp dport 4784 ip ttl set 100\n }"
    tor.host.run(["nft", "-f", "-"], stdin=f"table ip afar {{\n{chain}\n}}\n")
    try:
        with counting(speaker.host, f"ip saddr {TOR_LOOPBACK} ip ttl 100 udp dport 4784") as from_afar:
            speaker.peer_with(peer, profiles=(BfdProfile(name="far", minimum_ttl=101),))
            until(lambda: from_afar() >= 6, "six of the router's packets, one each second while BFD is down")
        assert tor.bfd(loopback)["status"] != "up"
        speaker.peer_with(peer, profiles=(BfdProfile(name="far", minimum_ttl=100),))
        until(lambda: tor.bfd(loopback).get("status") == "up", "BFD with the host")
    finally:
        tor.host.run(["nft", "delete", "table", "ip", "afar"])


def test_an_unnumbered_session(speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours) -> None:
    card = neighbours[speaker.host.name].interface
    speaker.peer_with(a_peer("direct", None, interface=InterfaceName("eth1"), peer_asn=None, dynamic_asn="external"))
    speaker.announce([VIP, VIP6])

    until(lambda: tor.established(card), "a session on the wire")
    (gateway,) = until(lambda: tor.kernel().get("203.0.113.1"), "the IPv4 route at the router") or []
    assert gateway.startswith("fe80::")  # an IPv4 prefix by way of a link-local neighbour
    assert until(lambda: tor.kernel(6).get("2001:db8:64::1"), "the IPv6 route at the router")


def test_ipv4_prefixes_over_an_ipv6_session(speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours) -> None:
    """With a neighbour of whatever AS, but not of our own."""
    at = neighbours[speaker.host.name].v6
    speaker.peer_with(a_peer("six", TOR_V6, dual_stack=True, peer_asn=None, dynamic_asn="internal"))
    until(lambda: "Bad Peer AS" in tor.neighbour(at).get("lastNotificationReason", ""), "the wrong AS to be refused")
    speaker.peer_with(a_peer("six", TOR_V6, dual_stack=True, peer_asn=None, dynamic_asn="external"))
    speaker.announce([VIP, VIP6])

    path = tor.path(VIP, at)
    assert any(hop["afi"] == "ipv6" for hop in path["nexthops"])
    assert tor.path(VIP6, at)
    assert until(lambda: tor.kernel().get("203.0.113.1"), "the route at the router")


def test_nothing_comes_in(speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours) -> None:
    speaker.peer_with(a_peer(dual_stack=True))
    at = neighbours[speaker.host.name].v4
    until(lambda: tor.established(at), "a session")
    until(
        lambda: tor.neighbour(at)["addressFamilyInfo"]["ipv4Unicast"].get("sentPrefixCounter"),
        "the router's own prefix",
    )

    (state,) = [each for each in speaker.states() if each.neighbor == TOR_V4]
    assert set(state.received.values()) == {0}
    assert "192.0.2.128/25" not in vtysh(speaker.host, "show ip route")


def test_a_peer_in_a_vrf_is_configured_there(speaker: Speaker) -> None:
    """The lab's kernel has no VRF devices: that FRR has it in the right place is what can be seen."""
    speaker.peer_with(a_peer("tenant", "192.0.2.7", vrf="red", router_id="192.0.2.9"))

    running = vtysh(speaker.host, "show running-config")
    start = running.index(f"router bgp {HOSTS_ASN} vrf red")
    inside = running[start : running.index("\nexit\n", start)]
    assert " neighbor 192.0.2.7 remote-as 65000" in inside
    assert [(each.neighbor, each.vrf) for each in speaker.states()] == [("192.0.2.7", "red")]


@pytest.mark.parametrize("spoiled", ["set community 65001:1:1", "match tag 0 0", "neighbour 192.0.2.1 remote-as 1"])
def test_what_frr_refuses_is_told_with_its_line(speaker: Speaker, spoiled: str) -> None:
    lines = [
        Line(("route-map hostagent-x permit 10",), "set metric 1"),
        Line(("route-map hostagent-x permit 10",), spoiled),
    ]
    try:
        with pytest.raises(EdgeError, match=spoiled.split(maxsplit=1)[0]):
            speaker.run(lambda edges: edges.router.apply(lines))
    finally:
        speaker.run(lambda edges: edges.router.apply([Line((), "no route-map hostagent-x")]))
