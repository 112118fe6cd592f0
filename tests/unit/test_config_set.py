"""Each object by itself: the faulty one is set aside with its reason, and what works stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.cli.manifests import read_resources
from hostagent.core.config_set import KEPT, build
from hostagent.model.cluster import ConfigSet, Fault, Pool, Resource
from tests.samples import BAD, GOOD, NAMESPACE, Bad


def a_pool(name: str, *addresses: str, labels: dict[str, str] | None = None, **spec: Any) -> Resource:
    return Resource(
        api_version="metallb.io/v1beta1",
        kind="IPAddressPool",
        namespace=NAMESPACE,
        name=name,
        labels=labels or {},
        spec={"addresses": list(addresses), **spec},
    )


def an_advertisement(name: str = "all", **spec: Any) -> Resource:
    return Resource(api_version="metallb.io/v1beta1", kind="L2Advertisement", namespace=NAMESPACE, name=name, spec=spec)


ALL = an_advertisement()


def built(*resources: Resource, previous: ConfigSet | None = None) -> ConfigSet:
    return build(resources, namespace=NAMESPACE, previous=previous)


def errors(config: ConfigSet) -> list[Fault]:
    return [fault for fault in config.faults if not fault.warning]


def warnings(config: ConfigSet) -> list[Fault]:
    return [fault for fault in config.faults if fault.warning]


def ranges(config: ConfigSet) -> dict[str, list[str]]:
    return {pool.name: [str(r) for r in pool.ranges] for pool in config.pools}


def as_resource(manifest: dict[str, Any]) -> Resource:
    return Resource(
        api_version=manifest["apiVersion"],
        kind=manifest["kind"],
        namespace=manifest["metadata"]["namespace"],
        name=manifest["metadata"]["name"],
        spec=manifest["spec"],
    )


# --- one object -------------------------------------------------------------------------------------------------------


def test_good_manifests_have_nothing_to_say() -> None:
    config = build(read_resources(GOOD, source="good", namespace=NAMESPACE), namespace=NAMESPACE)

    assert config.faults == ()
    assert [pool.name for pool in config.pools] == ["production", "tenant"]
    assert {ad.name: sorted(ad.pools) for ad in config.l2_advertisements} == {
        "everything": ["production", "tenant"],
        "narrow": ["production", "tenant"],  # one by name, the other by `tier NotIn (silver)`
    }
    assert len(config.good) == 10


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_faulty_object_is_set_aside_with_place_value_and_remedy(bad: Bad) -> None:
    beside = a_pool("beside", "198.18.0.0/24")

    config = built(as_resource(bad.manifest), beside, ALL)

    faults = [fault for fault in errors(config) if fault.field == bad.field and bad.says in fault.message]
    assert len(faults) == 1, [str(fault) for fault in config.faults]
    assert (faults[0].kind, faults[0].namespace, faults[0].name) == (bad.kind, NAMESPACE, "faulty")
    assert [resource.name for resource in config.good] == ["beside", "all"]


def test_all_faults_of_an_object_are_told_at_once() -> None:
    config = built(a_pool("p", "192.0.2.1", "198.51.100.9-198.51.100.1", "2001:db8::/129"), ALL)

    assert [fault.field for fault in errors(config)] == [f"spec.addresses[{n}]" for n in range(3)]


def test_null_is_absent_as_for_the_api_server() -> None:
    config = built(a_pool("p", "192.0.2.0/24", autoAssign=None, serviceAllocation=None), ALL)

    assert config.faults == ()
    assert config.pools[0].auto_assign


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("10.0.0.10/24", "10.0.0.0", "10.0.0.255"),
        ("10.0.0.1/32", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1-10.0.0.9", "10.0.0.1", "10.0.0.9"),
        ("10.0.0.1  -  10.0.0.9", "10.0.0.1", "10.0.0.9"),
        ("10.0.0.1-10.0.0.1", "10.0.0.1", "10.0.0.1"),
        ("2001:DB8::1/126", "2001:db8::", "2001:db8::3"),
        ("2001:db8::9-2001:db8:0:0:0:0:0:a", "2001:db8::9", "2001:db8::a"),
    ],
)
def test_addresses_mean(text: str, first: str, last: str) -> None:
    (pool,) = built(a_pool("p", text), ALL).pools

    assert (pool.ranges[0].first, pool.ranges[0].last) == (ip_address(first), ip_address(last))


@pytest.mark.parametrize("text", ["224.0.0.0/24", "127.0.0.1/32", "0.0.0.0/0", "fe80::/64", "ff02::1/128", "::/0"])
def test_addresses_that_no_client_reaches_are_warned_of(text: str) -> None:
    config = built(a_pool("p", text), ALL)

    assert [(fault.field, fault.warning) for fault in config.faults] == [("spec.addresses[0]", True)]
    assert config.pools


def test_what_a_pool_says_is_kept() -> None:
    (pool,) = built(
        a_pool(
            "p",
            "192.0.2.0/24",
            labels={"a": "b"},
            autoAssign=False,
            avoidBuggyIPs=True,
            serviceAllocation={
                "priority": -3,
                "namespaces": ["x"],
                "namespaceSelectors": [{"matchLabels": {"n": "1"}}],
            },
        ),
        ALL,
    ).pools

    assert (pool.labels, pool.auto_assign, pool.avoid_buggy_ips) == ({"a": "b"}, False, True)
    assert pool.allocation is not None
    assert (pool.allocation.priority, pool.allocation.namespaces) == (-3, frozenset({"x"}))
    assert pool.allocation.namespace_selectors[0].matches({"n": "1"})
    assert not pool.covers(IPv4Address("192.0.2.255"))


@pytest.mark.parametrize("name", ["a-name-longer-than-15", "", "eth0/1", "eth 0", "eth*"])
def test_an_interface_that_cannot_match_is_warned_of(name: str) -> None:
    config = built(a_pool("p", "192.0.2.0/24"), an_advertisement(interfaces=["eth0", name]))

    assert [(fault.field, fault.warning) for fault in config.faults] == [("spec.interfaces[1]", True)]


@pytest.mark.parametrize(
    ("api_version", "kind", "field"),
    [
        ("metallb.io/v1beta2", "IPAddressPool", "apiVersion"),
        ("metallb.io/v1alpha1", "BGPPeer", "apiVersion"),
        ("metallb.io/v1beta1", "AddressPool", "kind"),
    ],
)
def test_a_version_or_kind_that_is_not_served_is_an_error(api_version: str, kind: str, field: str) -> None:
    resource = replace(a_pool("p", "192.0.2.0/24"), api_version=api_version, kind=kind)

    assert [fault.field for fault in errors(built(resource))] == [field]


def test_elsewhere_is_ignored_with_a_warning() -> None:
    config = built(replace(a_pool("p", "192.0.2.0/24"), namespace="default"))

    assert config.pools == ()
    assert [(fault.field, fault.warning) for fault in config.faults] == [("metadata.namespace", True)]
    assert NAMESPACE in config.faults[0].message


# --- an edit that is wrong changes nothing that works -----------------------------------------------------------------


def test_the_version_before_a_faulty_edit_stays_in_force() -> None:
    before = built(a_pool("p", "192.0.2.0/24"), ALL)

    after = built(a_pool("p", "192.0.2.0"), ALL, previous=before)

    assert (after.pools, after.l2_advertisements, after.good) == (
        before.pools,
        before.l2_advertisements,
        before.good,
    )
    assert errors(after)[0].message.endswith(KEPT)


def test_a_faulty_edit_on_top_of_a_faulty_edit_still_keeps_the_good_one() -> None:
    good = built(a_pool("p", "192.0.2.0/24"), ALL)
    once = built(a_pool("p", "192.0.2.0"), ALL, previous=good)

    twice = built(a_pool("p", "192.0.2"), ALL, previous=once)

    assert twice.pools == good.pools


def test_a_deleted_object_does_not_linger() -> None:
    assert built(ALL, previous=built(a_pool("p", "192.0.2.0/24"), ALL)).pools == ()


def test_a_corrected_object_applies() -> None:
    before = built(a_pool("p", "192.0.2.0/24"), ALL)
    faulty = built(a_pool("p", "192.0.2.0"), ALL, previous=before)

    assert ranges(built(a_pool("p", "192.0.2.0/25"), ALL, previous=faulty)) == {"p": ["192.0.2.0-192.0.2.127"]}


# --- pools against each other -----------------------------------------------------------------------------------------


def test_of_two_new_pools_the_first_by_name_wins() -> None:
    config = built(a_pool("b", "10.0.0.128-10.0.0.200"), a_pool("a", "192.0.2.0/24", "10.0.0.0/24"), ALL)

    assert [pool.name for pool in config.pools] == ["a"]
    (fault,) = errors(config)
    assert (fault.name, fault.field) == ("b", "spec.addresses[0]")
    assert '"10.0.0.128-10.0.0.200" overlaps "10.0.0.0/24" of IPAddressPool a' in fault.message
    assert KEPT not in fault.message


def test_the_pool_that_was_there_before_wins_whatever_its_name() -> None:
    before = built(a_pool("z", "10.0.0.0/24"), ALL)

    config = built(a_pool("a", "10.0.0.0/25"), a_pool("z", "10.0.0.0/24"), ALL, previous=before)

    assert [pool.name for pool in config.pools] == ["z"]
    assert [fault.name for fault in errors(config)] == ["a"]


def test_an_edit_into_another_pool_keeps_both_as_they_were() -> None:
    a, b = a_pool("a", "10.0.0.0/24"), a_pool("b", "10.0.1.0/24")
    before = built(a, b, ALL)

    config = built(a_pool("a", "10.0.0.0/23"), b, ALL, previous=before)

    assert config.pools == before.pools
    assert errors(config)[0].message.endswith(KEPT)


def test_a_new_pool_does_not_take_what_a_failed_edit_would_have_freed() -> None:
    """The edit of z fails, so z keeps its addresses, so the new pool that counted on them has to wait."""
    y, z = a_pool("y", "10.0.1.0/24"), a_pool("z", "10.0.0.0/24")
    before = built(y, z, ALL)

    config = built(a_pool("a", "10.0.0.0/25"), y, a_pool("z", "10.0.1.0/25"), ALL, previous=before)

    assert config.pools == before.pools
    assert {fault.name for fault in errors(config)} == {"a", "z"}


@pytest.mark.parametrize("step", ["both at once", "first the giver", "first the taker"])
def test_addresses_move_from_pool_to_pool(step: str) -> None:
    before = built(a_pool("a", "10.0.0.0/24"), a_pool("b", "10.0.1.0/24"), ALL)
    giver, taker = a_pool("b", "10.0.1.0/25"), a_pool("a", "10.0.0.0/24", "10.0.1.128/25")
    if step == "first the giver":
        before = built(a_pool("a", "10.0.0.0/24"), giver, ALL, previous=before)
    if step == "first the taker":
        before = built(taker, a_pool("b", "10.0.1.0/24"), ALL, previous=before)
        assert errors(before)

    config = built(taker, giver, ALL, previous=before)

    assert errors(config) == []
    assert ranges(config)["a"][1] == "10.0.1.128-10.0.1.255"


def test_two_pools_may_swap_addresses() -> None:
    before = built(a_pool("a", "10.0.0.0/24"), a_pool("b", "10.0.1.0/24"), ALL)

    config = built(a_pool("a", "10.0.1.0/24"), a_pool("b", "10.0.0.0/24"), ALL, previous=before)

    assert errors(config) == []
    assert ranges(config)["a"] == ["10.0.1.0-10.0.1.255"]


# --- advertisements against pools -------------------------------------------------------------------------------------

THREE = (
    a_pool("p1", "192.0.2.0/24", labels={"tier": "gold"}),
    a_pool("p2", "198.51.100.0/24", labels={"tier": "silver"}),
    a_pool("p3", "203.0.113.0/24"),
)
GOLD = {"matchLabels": {"tier": "gold"}}


@pytest.mark.parametrize(
    ("spec", "pools"),
    [
        ({}, {"p1", "p2", "p3"}),
        ({"ipAddressPools": [], "ipAddressPoolSelectors": []}, {"p1", "p2", "p3"}),
        ({"ipAddressPools": ["p3"]}, {"p3"}),
        ({"ipAddressPoolSelectors": [GOLD]}, {"p1"}),
        ({"ipAddressPools": ["p3"], "ipAddressPoolSelectors": [GOLD]}, {"p1", "p3"}),
        ({"ipAddressPoolSelectors": [GOLD, {"matchLabels": {"tier": "silver"}}]}, {"p1", "p2"}),
        ({"ipAddressPoolSelectors": [{}]}, {"p1", "p2", "p3"}),
        ({"ipAddressPools": ["p1", "gone"]}, {"p1"}),
    ],
    ids=["neither", "both empty", "named", "selected", "union", "or", "selects all", "one missing"],
)
def test_an_advertisement_means(spec: dict[str, Any], pools: set[str]) -> None:
    (advertisement,) = built(*THREE, an_advertisement(**spec)).l2_advertisements

    assert advertisement.pools == pools


def test_a_missing_pool_beside_others_is_a_warning_and_heals_by_itself() -> None:
    config = built(*THREE[:2], ALL, an_advertisement("a", ipAddressPools=["p1", "p3"]))

    (fault,) = config.faults
    assert (fault.name, fault.field, fault.warning) == ("a", "spec.ipAddressPools[1]", True)
    assert 'there is no IPAddressPool "p3" in metallb-system; correct the name or create the pool' in fault.message
    assert built(*THREE, ALL, an_advertisement("a", ipAddressPools=["p1", "p3"]), previous=config).faults == ()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"ipAddressPools": ["gone"]}, "spec.ipAddressPools[0]"),
        ({"ipAddressPoolSelectors": [{"matchLabels": {"tier": "tin"}}]}, "spec.ipAddressPoolSelectors"),
    ],
    ids=["named", "selected"],
)
def test_an_advertisement_of_nothing_is_an_error_and_the_one_before_stays(spec: dict[str, Any], field: str) -> None:
    before = built(*THREE, an_advertisement("a"))

    config = built(*THREE, an_advertisement("a", **spec), previous=before)

    assert config.l2_advertisements == before.l2_advertisements
    assert [(fault.field, fault.warning) for fault in config.faults] == [(field, False)]
    assert config.faults[0].message.endswith(KEPT)
    assert built(*THREE, an_advertisement("a", **spec)).l2_advertisements == ()


def test_an_advertisement_is_not_blamed_for_its_pools_fault() -> None:
    config = built(a_pool("p", "192.0.2.0"), an_advertisement(ipAddressPools=["p"]))

    assert [fault.kind for fault in config.faults] == ["IPAddressPool"]
    assert config.l2_advertisements[0].pools == frozenset()


def test_an_advertisement_means_a_pool_by_the_version_in_force() -> None:
    before = built(*THREE, an_advertisement(ipAddressPoolSelectors=[GOLD]))

    config = built(a_pool("p1", "x"), *THREE[1:], an_advertisement(ipAddressPoolSelectors=[GOLD]), previous=before)

    assert config.l2_advertisements[0].pools == {"p1"}


def test_a_pool_that_nobody_advertises_is_warned_of() -> None:
    (fault,) = built(*THREE[:1]).faults

    assert (fault.name, fault.warning) == ("p1", True)
    assert "no L2Advertisement or BGPAdvertisement includes this pool" in fault.message


# --- whatever comes ---------------------------------------------------------------------------------------------------

_ENTRIES = st.one_of(
    st.builds(lambda a, b: f"10.0.0.{min(a, b)}-10.0.0.{max(a, b)}", st.integers(0, 40), st.integers(0, 40)),
    st.builds(lambda a, bits: f"10.0.0.{a}/{bits}", st.integers(0, 40), st.integers(28, 32)),
    st.builds(lambda a: f"2001:db8::{a:x}/126", st.integers(0, 15)),
    st.just("10.0.0.1"),  # faulty
)
_POOLS = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(_ENTRIES, min_size=1, max_size=3).map(tuple), max_size=6
).map(lambda pools: [a_pool(name, *entries) for name, entries in pools.items()])


def _overlap(a: Pool, b: Pool) -> bool:
    return any(x.first in y or y.first in x for x in a.ranges for y in b.ranges)


def _apart(pools: Iterable[Pool]) -> bool:
    return not any(_overlap(a, b) for a, b in combinations(pools, 2))


@settings(deadline=None)  # machines are busy, and no promise is about speed
@given(history=st.lists(_POOLS, min_size=1, max_size=4), order=st.randoms(use_true_random=False))
def test_order_never_matters_and_building_again_changes_nothing(history: list[list[Resource]], order: Any) -> None:
    previous: ConfigSet | None = None
    for pools in history:
        resources = [*pools, ALL]
        config = built(*resources, previous=previous)
        order.shuffle(resources)

        assert built(*resources, previous=previous) == config
        assert built(*resources, previous=config) == config
        previous = config


@settings(deadline=None)  # machines are busy, and no promise is about speed
@given(history=st.lists(_POOLS, min_size=1, max_size=4))
def test_no_address_is_ever_in_two_pools_and_each_pool_is_in_force_or_explained(history: list[list[Resource]]) -> None:
    previous: ConfigSet | None = None
    for pools in history:
        config = built(*pools, ALL, previous=previous)

        assert _apart(config.pools)
        at_fault = {fault.name for fault in errors(config)}
        applied = {resource.name for resource in config.good if resource in pools}
        assert at_fault | applied == {pool.name for pool in pools}
        assert not at_fault & applied
        had = {pool.name for pool in previous.pools} if previous else set()
        assert {pool.name for pool in config.pools} >= had & {pool.name for pool in pools}  # nobody loses for another
        previous = config


@settings(deadline=None)  # machines are busy, and no promise is about speed
@given(pools=_POOLS, before=_POOLS)
def test_what_is_good_by_itself_and_with_the_others_applies_whatever_was_before(
    pools: list[Resource], before: list[Resource]
) -> None:
    fresh = built(*pools, ALL)
    if not errors(fresh):
        assert built(*pools, ALL, previous=built(*before, ALL)).pools == fresh.pools
