"""Who may answer for a VIP, on which interface, in which order; and why each of the others may not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.core.candidates import Candidate, Placement, Ranking, Use, WhyNot, interface_for, rendezvous
from hostagent.model.cluster import EXCLUDE_LABEL, NO_ENDPOINTS, L2Advertisement, Node, Preference, TrafficPolicy
from hostagent.model.names import InterfaceName, NodeName
from hostagent.model.ownership import Segment, Session
from tests.unit.builders import (
    a_config,
    a_node,
    a_pool,
    a_segment,
    a_service,
    a_session,
    an_advertisement,
    label_is,
    serving_on,
)

VIP = ip_address("198.51.100.64")
POOL = a_pool("pool", "198.51.100.64/26", "2001:db8:64::/64", "203.0.113.0/24")
H1, H2, H3 = NodeName("h1"), NodeName("h2"), NodeName("h3")
USE = Use(service=a_service(), endpoints=serving_on("h1"))
LOCAL = TrafficPolicy.LOCAL


def ranked(
    *,
    ads: Iterable[L2Advertisement] = (an_advertisement(),),
    nodes: Iterable[Node] = (a_node("h1"), a_node("h2"), a_node("h3")),
    sessions: Iterable[Session] = (a_session("h1"), a_session("h2"), a_session("h3")),
    uses: Sequence[Use] = (USE,),
    vip: str = str(VIP),
) -> Ranking:
    placement = Placement(
        config=a_config(POOL, ads=ads),
        nodes={node.name: node for node in nodes},
        sessions={session.node: session for session in sessions},
    )
    return placement.rank(ip_address(vip), uses)


def names(ranking: Ranking) -> set[NodeName]:
    return {candidate.node for candidate in ranking.ranked}


def test_every_node_with_an_agent_and_the_subnet_is_a_candidate() -> None:
    ranking = ranked()
    assert names(ranking) == {H1, H2, H3}
    assert not ranking.excluded
    assert all(c.interface == "eth0" and c.weight == 0 for c in ranking.ranked)


@pytest.mark.parametrize(
    ("why", "ranking"),
    [
        (WhyNot.NO_POOL, ranked(vip="192.0.2.1")),
        (WhyNot.NO_ADVERTISEMENT, ranked(ads=())),
        (WhyNot.NO_ADVERTISEMENT, ranked(ads=[an_advertisement(pools=["other"])])),
        (WhyNot.NO_ADVERTISEMENT, ranked(ads=[an_advertisement(service_selectors=(label_is("tier", "gold"),))])),
        (WhyNot.NO_ADVERTISEMENT, ranked(uses=())),
        (WhyNot.NODE_SELECTOR, ranked(ads=[an_advertisement(node_selectors=(label_is("rack", "b"),))])),
        (WhyNot.NO_ENDPOINT, ranked(uses=[replace(USE, endpoints=NO_ENDPOINTS)])),
        (
            WhyNot.NO_LOCAL_ENDPOINT,
            ranked(uses=[Use(service=a_service(traffic_policy=LOCAL), endpoints=serving_on("elsewhere"))]),
        ),
        (WhyNot.NO_AGENT, ranked(sessions=[a_session("h2"), a_session("h3")])),
        (WhyNot.NO_AGENT, ranked(sessions=[a_session("h1", ended=True)])),
        (WhyNot.NO_AGENT, ranked(nodes=[a_node("h2")])),
        (WhyNot.EXCLUDED, ranked(nodes=[a_node("h1", labels={EXCLUDE_LABEL: ""})])),
        (WhyNot.NETWORK_UNAVAILABLE, ranked(nodes=[a_node("h1", network_unavailable=True)])),
        (WhyNot.NO_INTERFACE, ranked(sessions=[a_session("h1", a_segment("eth0", "192.0.2.2/24"))])),
        (WhyNot.NO_INTERFACE, ranked(ads=[an_advertisement(interfaces=frozenset({InterfaceName("eth9")}))])),
    ],
)
def test_why_a_node_is_no_candidate(why: WhyNot, ranking: Ranking) -> None:
    assert ranking.of(H1) is None
    if why is WhyNot.NO_AGENT and H1 not in ranking.excluded:
        pytest.fail("a node without an agent is named, too")
    assert ranking.excluded[H1] is why


def test_cordoned_nodes_stay_candidates() -> None:
    """As MetalLB since 0.15: cordoning is about Pods."""
    assert names(ranked(nodes=[a_node("h1", unschedulable=True)])) == {H1}


ETH0, ETH1 = a_segment("eth0", "192.0.2.2/24"), a_segment("eth1", "198.51.100.2/24", "2001:db8:64::2/64")


@pytest.mark.parametrize(
    ("vip", "segments", "allowed", "on"),
    [
        pytest.param("198.51.100.64", (ETH0, ETH1), (), "eth1", id="where-the-subnet-is"),
        pytest.param("2001:db8:64::64", (ETH0, ETH1), (), "eth1", id="v6"),
        pytest.param("203.0.113.5", (ETH1, ETH0), (), "eth0", id="routed-pool-on-the-nodes-own-interface"),
        pytest.param("203.0.113.5", (ETH1,), (), None, id="routed-pool-and-no-own-interface"),
        pytest.param("198.51.100.64", (ETH0, ETH1), ("eth0",), "eth0", id="restricted-to-the-nodes-own"),
        pytest.param("198.51.100.64", (ETH0, ETH1), ("eth1",), "eth1", id="restricted-to-the-subnets"),
        pytest.param("198.51.100.64", (ETH0, ETH1), ("eth7",), None, id="restricted-to-none-of-them"),
        pytest.param("198.51.100.64", (), (), None, id="no-carrier-anywhere"),
    ],
)
def test_the_interface(vip: str, segments: tuple[Segment, ...], allowed: tuple[str, ...], on: str | None) -> None:
    node = a_node("h1", addresses=(ip_address("192.0.2.2"),))
    found = interface_for(ip_address(vip), node, segments, frozenset(map(InterfaceName, allowed)))
    assert (found.interface if found else None) == on


def test_interfaces_of_several_advertisements_add_up_and_one_without_allows_all() -> None:
    sessions = [a_session("h1", ETH0, ETH1)]
    one = an_advertisement("one", interfaces=frozenset({InterfaceName("eth0")}))
    two = an_advertisement("two", interfaces=frozenset({InterfaceName("eth1")}))
    free = an_advertisement("free")
    assert names(ranked(ads=[one], sessions=sessions)) == set()
    assert names(ranked(ads=[one, two], sessions=sessions)) == {H1}
    assert names(ranked(ads=[one, free], sessions=sessions)) == {H1}


def test_an_interface_counts_only_where_its_advertisement_selects_the_node() -> None:
    """The advertisement for another rack lends this node no interface."""
    here = an_advertisement("here", interfaces=frozenset({InterfaceName("eth0")}))
    there = an_advertisement("there", node_selectors=(label_is("rack", "b"),))
    assert ranked(ads=[here, there], sessions=[a_session("h1", ETH0, ETH1)]).excluded[H1] is WhyNot.NO_INTERFACE


def test_preferred_nodes_come_first_and_weights_add_up() -> None:
    nodes = [a_node("h1"), a_node("h2", labels={"rack": "a"}), a_node("h3", labels={"rack": "a", "disk": "ssd"})]
    rack = Preference(weight=5, selector=label_is("rack", "a"))
    disk = Preference(weight=2, selector=label_is("disk", "ssd"))
    ads = [an_advertisement("one", preferences=(rack,)), an_advertisement("two", preferences=(disk,))]
    assert [(c.node, c.weight) for c in ranked(ads=ads, nodes=nodes).ranked] == [(H3, 7), (H2, 5), (H1, 0)]


def test_local_traffic_goes_where_the_endpoints_are() -> None:
    ranking = ranked(uses=[Use(service=a_service(traffic_policy=LOCAL), endpoints=serving_on("h1", "h2"))])
    assert names(ranking) == {H1, H2}
    assert ranking.excluded == {H3: WhyNot.NO_LOCAL_ENDPOINT}


def local(name: str, *nodes: str) -> Use:
    return Use(service=a_service(name, traffic_policy=LOCAL), endpoints=serving_on(*nodes))


@pytest.mark.parametrize(
    ("uses", "expected"),
    [
        pytest.param((local("a", "h1", "h2"), local("b", "h2", "h3")), {H2}, id="where-all-can"),
        pytest.param((local("a", "h1"), local("b", "h3")), {H1, H3}, id="where-any-can"),
        pytest.param((local("a", "h1"), replace(USE, endpoints=NO_ENDPOINTS)), {H1}, id="one-serves-nobody"),
        pytest.param((local("a", "h1"), USE), {H1}, id="local-and-cluster"),
    ],
)
def test_a_shared_vip(uses: tuple[Use, ...], expected: set[NodeName]) -> None:
    ranking = ranked(uses=uses)
    assert names(ranking) == expected
    assert names(ranking).isdisjoint(ranking.excluded)
    assert names(ranking) | ranking.excluded.keys() == {H1, H2, H3}


def test_one_placement_gives_each_vip_its_own_interface() -> None:
    """What is remembered between VIPs depends on the subnet, not on the first VIP that was asked for."""
    nodes = {H1: a_node("h1", addresses=(ip_address("192.0.2.2"),))}
    placement = Placement(
        config=a_config(POOL, ads=[an_advertisement()]), nodes=nodes, sessions={H1: a_session("h1", ETH0, ETH1)}
    )
    found = {
        vip: placement.rank(ip_address(vip), [USE]).of(H1) for vip in ("198.51.100.64", "203.0.113.5", "198.51.100.65")
    }
    assert found == {
        "198.51.100.64": Candidate(node=H1, weight=0, interface=InterfaceName("eth1")),
        "203.0.113.5": Candidate(node=H1, weight=0, interface=InterfaceName("eth0")),
        "198.51.100.65": Candidate(node=H1, weight=0, interface=InterfaceName("eth1")),
    }


def test_the_order_is_metallbs() -> None:
    """A migrated cluster's VIPs stay where they were (internal/layer2: SHA-256 of node, "#", address)."""
    expected = sorted("123", key=lambda n: hashlib.sha256(f"h{n}#198.51.100.64".encode()).digest())
    assert [c.node for c in ranked().ranked] == [f"h{n}" for n in expected]
    assert rendezvous(H1, "198.51.100.64").hex()[:16] == hashlib.sha256(b"h1#198.51.100.64").hexdigest()[:16]


@given(vip=st.integers(64, 127).map(lambda last: f"198.51.100.{last}"), gone=st.sampled_from(["h1", "h2", "h3"]))
@settings(max_examples=100)
def test_losing_a_node_moves_only_its_own_vips(vip: str, gone: str) -> None:
    before = [c.node for c in ranked(vip=vip).ranked]
    after = [c.node for c in ranked(vip=vip, sessions=[a_session(n) for n in ("h1", "h2", "h3") if n != gone]).ranked]
    assert after == [node for node in before if node != gone]
