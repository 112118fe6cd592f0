"""What a host advertises, to whom, and why not."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.core.advertise import Leaving, Plan, WhyNot, peers_here
from hostagent.core.candidates import Use
from hostagent.model.bgp import GRACEFUL_SHUTDOWN, AttributeClass, BgpAdvertisement, BgpConfig, Grant, Peer
from hostagent.model.cluster import EXCLUDE_LABEL, ConfigSet, Endpoints, Node, Service, TrafficPolicy
from hostagent.model.names import IP
from tests.unit.bgp import a_class, a_grant, a_peer, an_ad
from tests.unit.builders import a_key, a_node, a_pool, a_service, label_is, serving_on

VIP = ip_address("198.51.100.1")
VIP6 = ip_address("2001:db8::1")
PREFIX = ip_network("198.51.100.1/32")
ME = a_node("me", labels={"rack": "a"})


def a_config(*ads: BgpAdvertisement, peers: Iterable[Peer] = ()) -> ConfigSet:
    pools = (a_pool("public", "198.51.100.0/24", "2001:db8::/64"), a_pool("tenant", "203.0.113.0/24"))
    return ConfigSet(pools=pools, bgp=BgpConfig(peers=tuple(peers), advertisements=ads))


def a_plan(
    *ads: BgpAdvertisement, node: Node | None = ME, peers: Iterable[str] | None = ("tor1", "tor2"), **fields: Any
) -> Plan:
    return Plan(config=a_config(*ads or (an_ad(),)), node=node, peers=peers, **fields)


def a_use(endpoints: Endpoints | None = None, *, service: Service | None = None, **fields: Any) -> Use:
    return Use(service=service or a_service(**fields), endpoints=endpoints or serving_on("other"))


def judged(plan: Plan, vip: IP = VIP, use: Use | None = None) -> Plan:
    plan.judge(vip, [use or a_use()])
    return plan


# --- whether ----------------------------------------------------------------------------------------------------------


def test_any_host_advertises_what_any_host_serves() -> None:
    assert judged(a_plan()).prefixes == {PREFIX: a_class()}


@pytest.mark.parametrize(
    ("plan", "use", "why"),
    [
        (a_plan(an_ad("x", "tenant")), a_use(), WhyNot.NO_ADVERTISEMENT),
        (a_plan(an_ad(service_selectors=(label_is("app", "x"),))), a_use(), WhyNot.NO_ADVERTISEMENT),
        (a_plan(an_ad(node_selectors=(label_is("rack", "b"),))), a_use(), WhyNot.NODE_SELECTOR),
        (a_plan(an_ad(grant=a_grant("tor9"))), a_use(), WhyNot.NO_PEER),
        (a_plan(peers=()), a_use(), WhyNot.NO_PEER),
        (a_plan(), a_use(Endpoints()), WhyNot.NO_ENDPOINT),
        (a_plan(), a_use(traffic_policy=TrafficPolicy.LOCAL), WhyNot.NO_LOCAL_ENDPOINT),
        (a_plan(node=None), a_use(), WhyNot.NO_NODE),
        (a_plan(node=a_node("me", network_unavailable=True)), a_use(), WhyNot.NETWORK_UNAVAILABLE),
        (a_plan(node=a_node("me", labels={EXCLUDE_LABEL: ""})), a_use(), WhyNot.EXCLUDED),
        (a_plan(leaving=Leaving.GONE), a_use(), WhyNot.DRAINING),
    ],
)
def test_what_is_not_advertised_has_a_reason(plan: Plan, use: Use, why: WhyNot) -> None:
    plan.judge(VIP, [use])

    assert (plan.prefixes, plan.excluded) == ({}, {VIP: why})


def test_an_address_outside_all_pools_is_not_advertised() -> None:
    plan = judged(a_plan(), ip_address("192.0.2.9"))

    assert plan.excluded == {ip_address("192.0.2.9"): WhyNot.NO_POOL}


def test_a_local_service_is_advertised_where_it_is_served() -> None:
    plan = judged(a_plan(), use=a_use(serving_on("me", "other"), traffic_policy=TrafficPolicy.LOCAL))

    assert set(plan.prefixes) == {PREFIX}


def test_a_service_that_goes_is_withdrawn() -> None:
    plan = judged(a_plan())

    plan.judge(VIP, [])

    assert (plan.prefixes, plan.heard_by, plan.excluded) == ({}, {}, {})


def test_of_a_shared_address_one_service_is_enough() -> None:
    plan = a_plan()

    plan.judge(VIP, [a_use(Endpoints(), name="a"), a_use(name="b")])

    assert set(plan.prefixes) == {PREFIX}
    assert set(plan.heard_by) == {a_key("b")}


def test_another_daemon_is_given_prefixes_whoever_its_peers_are() -> None:
    plan = judged(a_plan(an_ad(grant=a_grant("somebody")), peers=None))

    assert set(plan.prefixes) == {PREFIX}


# --- what -------------------------------------------------------------------------------------------------------------


def test_an_aggregate_stands_as_long_as_one_service_in_it_does() -> None:
    plan = a_plan(an_ad(aggregation_length=24))
    other = ip_address("198.51.100.2")
    plan.judge(VIP, [a_use(name="a")])
    plan.judge(other, [a_use(name="b")])

    plan.judge(VIP, [])
    still = dict(plan.prefixes)
    plan.judge(other, [])

    assert set(still) == {ip_network("198.51.100.0/24")}
    assert plan.prefixes == {}


def test_each_family_has_its_own_length() -> None:
    plan = judged(judged(a_plan(an_ad(aggregation_length=28, aggregation_length_v6=64))), VIP6)

    assert set(plan.prefixes) == {ip_network("198.51.100.0/28"), ip_network("2001:db8::/64")}


def test_communities_of_several_advertisements_add_up() -> None:
    plan = judged(
        a_plan(
            an_ad("a", grant=a_grant(communities=("65001:1",))),
            an_ad("b", grant=a_grant("tor1", communities=("65001:2",), large_communities=("65001:1:1",))),
        )
    )

    of = plan.prefixes[PREFIX]
    assert of.toward("tor1") == a_grant("tor1", communities=("65001:1", "65001:2"), large_communities=("65001:1:1",))
    assert of.toward("tor2") == a_grant("tor2", communities=("65001:1",))


def test_a_peer_that_no_advertisement_names_hears_nothing() -> None:
    plan = judged(a_plan(an_ad(grant=a_grant("tor1"))))

    assert plan.prefixes[PREFIX].toward("tor2") is None
    assert plan.heard_by == {a_key("web"): ("tor1",)}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (Grant(local_pref=1), Grant(local_pref=2)),
        (Grant(med=1), Grant(med=2)),
        (Grant(prepend=1), Grant()),
    ],
)
def test_what_contradicts_is_set_aside_with_its_reason(one: Grant, two: Grant) -> None:
    first, second = an_ad("a", grant=one), an_ad("b", grant=two)

    plan = judged(a_plan(second, first))

    assert plan.prefixes == {PREFIX: a_class(first.grant)}
    assert [(each.advertisement, each.prefix) for each in plan.set_aside] == [("b", PREFIX)]
    (fault,) = plan.contradictions
    assert (fault.kind, fault.name) == ("BGPAdvertisement", "b")
    plan.judge(next(iter(plan.vips_of(PREFIX))), ())
    assert plan.contradictions == ()


def test_who_hears_only_of_what_is_set_aside_does_not_hear() -> None:
    """Also what is told of the Service says so; what others hear stays."""
    first = an_ad("a", grant=a_grant("tor1", local_pref=1))
    second = an_ad("b", grant=a_grant(local_pref=2))

    plan = judged(a_plan(first, second))

    assert plan.prefixes[PREFIX].toward("tor2") is None
    assert plan.heard_by == {a_key("web"): ("tor1",)}


def test_different_peers_may_hear_different_things() -> None:
    plan = judged(
        a_plan(an_ad("a", grant=a_grant("tor1", local_pref=1)), an_ad("b", grant=a_grant("tor2", local_pref=2)))
    )

    assert plan.set_aside == []
    assert [plan.prefixes[PREFIX].toward(peer) for peer in ("tor1", "tor2")] == [
        a_grant("tor1", local_pref=1),
        a_grant("tor2", local_pref=2),
    ]


def test_who_leaves_says_so_unless_told_not_to() -> None:
    plan = judged(
        a_plan(
            an_ad("a", grant=a_grant("tor1", communities=("65001:1",))),
            an_ad("b", grant=a_grant("tor2"), graceful_shutdown=False),
            leaving=Leaving.ANNOUNCED,
        )
    )

    of = plan.prefixes[PREFIX]
    assert of.toward("tor1") == a_grant("tor1", communities=("65001:1", GRACEFUL_SHUTDOWN))
    assert of.toward("tor2") == a_grant("tor2")


def test_a_service_finds_its_class_there_already() -> None:
    """So that its coming changes no configuration of FRR."""
    gold = an_ad("gold", grant=a_grant(communities=("65001:1",)), service_selectors=(label_is("tier", "gold"),))
    plan = a_plan(an_ad("all"), gold)
    standing = plan.standing

    plan.judge(VIP, [a_use(labels={"tier": "gold"})])

    assert plan.prefixes[PREFIX] in standing


def test_a_new_peer_changes_no_class() -> None:
    before, after = judged(a_plan(peers=("tor1",))), judged(a_plan(peers=("tor1", "tor2")))

    assert before.prefixes == after.prefixes


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["none", "serves", "gold", "idle"])), max_size=30))
def test_the_same_facts_give_the_same_prefixes_whatever_was_before(changes: list[tuple[int, str]]) -> None:
    uses = {
        "none": [],
        "serves": [a_use()],
        "gold": [a_use(labels={"tier": "gold"})],
        "idle": [a_use(Endpoints())],
    }
    ads = (
        an_ad("wide", aggregation_length=30, grant=a_grant(local_pref=7)),
        an_ad("gold", grant=a_grant(communities=("65001:1",)), service_selectors=(label_is("tier", "gold"),)),
    )
    grown, last = a_plan(*ads), dict(changes)
    for number, what in changes:
        grown.judge(VIP + number, uses[what])
    fresh = a_plan(*ads)
    for number, what in sorted(last.items(), reverse=True):
        fresh.judge(VIP + number, uses[what])

    assert grown.prefixes == fresh.prefixes
    assert grown.excluded == fresh.excluded


# --- peers ------------------------------------------------------------------------------------------------------------


def test_a_host_has_the_peers_that_select_it() -> None:
    peers = (
        a_peer("mine", node_selectors=(label_is("rack", "a"),)),
        a_peer("theirs", "192.0.2.3", node_selectors=(label_is("rack", "b"),)),
        a_peer("all", "192.0.2.4"),
    )

    found, faults = peers_here(BgpConfig(peers=peers), ME, running=())

    assert ([peer.name for peer in found], faults) == (["all", "mine"], [])


@pytest.mark.parametrize(("running", "stays"), [((), "a"), (("b",), "b")])
def test_of_peers_that_clash_here_the_one_that_runs_stays(running: tuple[str, ...], stays: str) -> None:
    rack = (label_is("rack", "a"),)
    peers = (a_peer("a", node_selectors=rack), a_peer("b", node_selectors=rack))

    found, faults = peers_here(BgpConfig(peers=peers), ME, running=running)

    assert [peer.name for peer in found] == [stays]
    assert [fault.field for fault in faults] == ["spec.peerAddress"]


def test_a_node_that_is_made_anew_costs_no_session() -> None:
    found, _ = peers_here(BgpConfig(peers=(a_peer("a"), a_peer("b", "192.0.2.3"))), None, running=("a",))

    assert [peer.name for peer in found] == ["a"]


def test_classes_sort_and_compare_by_what_they_say() -> None:
    assert AttributeClass((Grant(),)) == a_class()
