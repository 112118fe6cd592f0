"""What holds of address allocation whatever Services and pools there are, and in whatever order they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from itertools import combinations, permutations, product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.core.allocate import Ledger, Outcome
from hostagent.core.occupancy import Occupancy, Tenancy
from hostagent.core.reserved import Use
from hostagent.model.cluster import (
    OVERLAPS,
    FamilyPolicy,
    Pool,
    Port,
    Service,
    ServiceAllocation,
    TrafficPolicy,
    family_of,
)
from hostagent.model.names import IP, Instant, ServiceKey
from tests.unit.builders import DUAL, V4, V6, a_config, a_key, a_pool, a_range, a_service, label_is

NAMES = ("a", "b", "c", "d", "red/e")
PORTS = (Port("tcp", 80), Port("tcp", 443), Port("udp", 80))
RANGES = ("198.51.100.0/31", "198.51.100.254-198.51.101.0", "192.0.2.4/32", "2001:db8::/127", "2001:db8::8/128")
ADDRESSES = ("198.51.100.0", "198.51.100.1", "192.0.2.4", "2001:db8::", "203.0.113.9")

Cluster = dict[ServiceKey, Service]


FAMILIES = (
    (V4, FamilyPolicy.SINGLE),
    (V6, FamilyPolicy.SINGLE),
    (V4, FamilyPolicy.PREFER_DUAL),
    (DUAL, FamilyPolicy.PREFER_DUAL),
    (DUAL, FamilyPolicy.REQUIRE_DUAL),
)
REQUESTS: tuple[dict[str, str], ...] = (
    {},
    {"allow-shared-ip": "k"},
    {"loadBalancerIPs": "198.51.100.1"},
    {"loadBalancerIPs": "198.51.100.1", "allow-shared-ip": "k"},
    {"loadBalancerIPs": "nonsense", "allow-shared-ip": "k"},
    {"address-pool": "p1"},
)
STATUSES = ((), *((one,) for one in ADDRESSES), *permutations(ADDRESSES, 2))
ALLOCATIONS = (
    None,
    ServiceAllocation(priority=1, namespaces=frozenset({"red"})),
    ServiceAllocation(service_selectors=(label_is("tier", "gold"),)),
)
# All combinations, worked out once: one draw each is what makes ten thousand examples a matter of seconds.
VARIANTS = [
    a_service(
        families=families,
        policy=policy,
        annotations=annotations,
        labels=labels,
        ports=ports,
        traffic_policy=traffic,
        selector=selector,
    )
    for (families, policy), annotations, labels, ports, (traffic, selector) in product(
        FAMILIES,
        REQUESTS,
        ({}, {"tier": "gold"}),
        ((PORTS[0],), (PORTS[1],), (PORTS[2],), (PORTS[0], PORTS[2])),
        tuple(product(TrafficPolicy, ({}, {"app": "x"}))),
    )
]
OWNERS = list(product(range(4), repeat=len(RANGES)))
"""Which pool each range is in; 0: in none."""
TERMS = [
    {
        "auto_assign": auto,
        "avoid_buggy_ips": buggy,
        "allocation": allocation,
        "exclusive": exclusive,
        "sharing_within_namespace": within,
        "partner": partner,
        "quarantine_s": quarantine_s,
    }
    for auto, buggy, allocation, exclusive, within, partner, quarantine_s in product(
        (True, True, False), (True, False), ALLOCATIONS, (False, True), (False, True), ("", "p1", "p2"), (0.0, 30.0)
    )
]


def _pools(owners: tuple[int, ...], *terms: dict[str, Any]) -> tuple[Pool, ...]:
    ranges = [[text for text, owner in zip(RANGES, owners, strict=True) if owner == n] for n in (1, 2, 3)]
    return tuple(a_pool(f"p{n + 1}", *ranges[n], **terms[n]) for n in range(3) if ranges[n])


def pools() -> st.SearchStrategy[tuple[Pool, ...]]:
    """Up to three pools that do not overlap, as validation has it."""
    return st.builds(_pools, st.sampled_from(OWNERS), *(3 * [st.sampled_from(TERMS)]))


def services() -> st.SearchStrategy[Service]:
    return st.builds(
        lambda variant, name: replace(variant, key=a_key(name)), st.sampled_from(VARIANTS), st.sampled_from(NAMES)
    )


def clusters() -> st.SearchStrategy[Cluster]:
    """Services with any status, as a crash, an older version or a hand may have left it."""
    members = st.tuples(st.sampled_from(NAMES), st.sampled_from(VARIANTS), st.sampled_from(STATUSES))
    return st.lists(members, max_size=len(NAMES), unique_by=lambda member: member[0]).map(
        lambda chosen: {a_key(name): replace(variant, key=a_key(name), assigned=has) for name, variant, has in chosen}
    )


def nobody_waits_in_vain(ledger: Ledger, config: tuple[Pool, ...], cluster: Cluster, why: str) -> None:
    """At rest, nothing is free for who waits: a ledger that begins anew finds nothing for them either."""
    settle(ledger, cluster)
    check(config, cluster)
    waiting = [service for service in cluster.values() if not service.assigned]
    fresh = Ledger(config=ledger.config)
    for service in cluster.values():
        fresh.note(service)
    for service in waiting:
        assert fresh.decide(service).outcome is Outcome.PENDING, why


def settle(ledger: Ledger, cluster: Cluster, order: Iterable[ServiceKey] | None = None) -> None:
    """What the allocator does after anything happened: those with addresses first; until nothing changes."""
    for _ in range(4):
        before = dict(cluster)
        keys = list(order) if order is not None else sorted(cluster)
        for key in sorted(keys, key=lambda key: not cluster[key].assigned):
            decision = ledger.decide(cluster[key])
            cluster[key] = replace(cluster[key], assigned=tuple(map(str, decision.addresses)))
        if cluster == before:
            return
    raise AssertionError(f"never at rest: {before} -> {cluster}")


def started(config: tuple[Pool, ...], cluster: Cluster, order: Iterable[ServiceKey] | None = None) -> Ledger:
    """An allocator that begins: it takes down everything before it decides anything."""
    ledger = Ledger(config=a_config(*config))
    for key in order if order is not None else cluster:
        ledger.note(cluster[key])
    settle(ledger, cluster, order)
    return ledger


def check(config: tuple[Pool, ...], cluster: Cluster) -> None:
    for one, two in combinations(cluster.values(), 2):
        if set(one.assigned) & set(two.assigned):
            assert may_share(one, two), f"{one.key} and {two.key} share {one.assigned}"
            for ip in map(ip_address, {*one.assigned} & {*two.assigned}):
                scoped = any(pool.covers(ip) and pool.sharing_within_namespace for pool in config)
                assert not scoped or one.key.namespace == two.key.namespace
    for service in cluster.values():
        ips = [ip_address(text) for text in service.assigned]
        assert all(any(pool.covers(ip) for pool in config) for ip in ips)
        wanted = [family_of(ip) for ip in service.cluster_ips]
        assert len({family_of(ip) for ip in ips}) == len(ips)
        assert {family_of(ip) for ip in ips} <= set(wanted)
        if service.family_policy is FamilyPolicy.REQUIRE_DUAL:
            assert len(ips) in (0, 2)


def may_share(one: Service, two: Service) -> bool:
    """The sharing rule once more, written down from MetalLB's documentation."""
    keys = [service.annotations.get("metallb.io/allow-shared-ip") for service in (one, two)]
    local = [service.traffic_policy is TrafficPolicy.LOCAL for service in (one, two)]
    pods = one.selector == two.selector if any(local) else True
    return (
        keys[0] is not None and keys[0] == keys[1] and local[0] == local[1] and pods and not {*one.ports} & {*two.ports}
    )


@given(config=pools(), cluster=clusters(), order=st.permutations([a_key(name) for name in NAMES]))
@settings(max_examples=5000, deadline=None)
def test_from_any_state_it_comes_to_rest_in_order_and_stays(
    config: tuple[Pool, ...], cluster: Cluster, order: list[ServiceKey]
) -> None:
    """No address outside the pools, none twice unless shared by the rules; what is decided stays decided, also after
    a restart that hears of the Services in any other order."""
    ledger = started(config, cluster)
    check(config, cluster)
    for service in cluster.values():
        decision = ledger.decide(service)
        assert decision.outcome in (Outcome.KEEP, Outcome.PENDING)
        assert tuple(map(str, decision.addresses)) == service.assigned
    again = dict(cluster)
    started(config, again, [key for key in order if key in cluster])
    assert again == cluster


CHANGES = st.lists(
    st.one_of(
        services(),
        st.sampled_from(NAMES).map(a_key),
        pools(),
        st.sampled_from((1.0, 29.0, 31.0)),
    ),
    min_size=1,
    max_size=8,
)


@given(config=pools(), changes=CHANGES)
@settings(max_examples=2500, deadline=None)
def test_through_any_life_of_a_cluster(
    config: tuple[Pool, ...], changes: list[Service | ServiceKey | tuple[Pool, ...] | float]
) -> None:
    """Services come, change and go, pools change, time passes: after each event all is in order, and nobody waits for
    an address that a newcomer in the same state of things would get."""
    cluster: Cluster = {}
    ledger = Ledger(config=a_config(*config))
    for change in changes:
        match change:
            case Service():
                old = cluster.get(change.key)
                cluster[change.key] = replace(change, assigned=old.assigned if old else ())
                ledger.note(cluster[change.key])
            case ServiceKey():
                if cluster.pop(change, None) is not None:
                    ledger.forget(change)
            case float():
                ledger.now = Instant(ledger.now + change)
            case _:
                config = change
                ledger.config = a_config(*config)
        nobody_waits_in_vain(ledger, config, cluster, "an address is free for it")


ALL_ADDRESSES = tuple(sorted({each.first + n for each in map(a_range, RANGES) for n in range(2)}, key=str))


@given(config=pools(), cluster=clusters(), data=st.data())
@settings(max_examples=1000, deadline=None)
def test_what_is_set_aside_is_given_to_nobody_and_kept_by_who_has_it(
    config: tuple[Pool, ...], cluster: Cluster, data: st.DataObject
) -> None:
    ledger = started(config, cluster)
    before = dict(cluster)
    aside = data.draw(st.sets(st.sampled_from(ALL_ADDRESSES)))
    for ip in aside:
        ledger.set_aside(ip, "a stranger")
    settle(ledger, cluster)
    assert cluster == before, "who is in order stays, whatever is set aside"
    for service in data.draw(st.lists(services(), max_size=3)):
        cluster[service.key] = replace(service, assigned=())
        ledger.note(cluster[service.key])
        given = set(ledger.decide(cluster[service.key]).addresses)
        assert not given & aside
        cluster[service.key] = replace(service, assigned=tuple(map(str, given)))
    for ip in aside:
        ledger.put_back(ip)
    nobody_waits_in_vain(ledger, config, cluster, "what was put back is found again")


USES = (
    Use("nodes", a_range("198.51.100.1/32"), "Node h1"),
    Use("pods", a_range("2001:db8::/120"), "the Pod network of Node h1"),
    Use("services", a_range("192.0.2.0/24"), "the Service network"),
)


@given(config=pools(), allowed=st.sets(st.sampled_from(OVERLAPS)), cluster=clusters(), data=st.data())
@settings(max_examples=1000, deadline=None)
def test_what_the_cluster_uses_is_given_to_nobody_and_kept_by_who_has_it(
    config: tuple[Pool, ...], allowed: set[str], cluster: Cluster, data: st.DataObject
) -> None:
    config = tuple(replace(pool, allow_overlap=frozenset(allowed)) for pool in config)
    ledger = started(config, cluster)
    before = dict(cluster)
    ledger.reserved = USES
    settle(ledger, cluster)
    assert cluster == before, "who is in order stays, whatever the cluster uses"
    for service in data.draw(st.lists(services(), max_size=3)):
        cluster[service.key] = replace(service, assigned=())
        ledger.note(cluster[service.key])
        given = ledger.decide(cluster[service.key]).addresses
        assert not [ip for ip in given for use in USES if ip in use.addresses and use.kind not in allowed]
        cluster[service.key] = replace(service, assigned=tuple(map(str, given)))
    ledger.reserved = ()
    nobody_waits_in_vain(ledger, config, cluster, "what the cluster no longer uses is found again")


POOL = a_pool("p", "198.51.100.254-198.51.101.3", "192.0.2.0/30", avoid_buggy_ips=True)
PLAIN = replace(POOL, avoid_buggy_ips=False)
ALL = [each.first + i for each in POOL.ranges for i in range(int(each.last) - int(each.first) + 1)]
ACTS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([None, *ALL]), st.booleans()), max_size=30)


@given(acts=ACTS)
@settings(max_examples=2500, deadline=None)
def test_the_cursor_never_passes_over_a_free_address(acts: list[tuple[int, IP | None, bool]]) -> None:
    """The search that remembers where it was finds what one from the beginning finds."""
    occupancy, alone = Occupancy(), Tenancy(sharing_key="", backend="", ports=frozenset())
    newcomer = a_key("newcomer")
    for number, ip, buggy in acts:
        key = a_key(f"s{number}")
        if ip is None:
            occupancy.vacate(key)
        else:
            occupancy.occupy(key, (ip,), alone)
        for pool in (POOL, PLAIN) if buggy else (PLAIN,):
            for each in pool.ranges:
                inside = [ip for ip in ALL if ip in each and pool.covers(ip) and not tuple(occupancy.tenants(ip))]
                assert occupancy.first_free(each, pool, newcomer, alone) == min(inside, key=int, default=None)


def test_the_ranges_of_these_tests_do_not_overlap() -> None:
    for one, two in combinations(map(a_range, RANGES), 2):
        assert one.first not in two
        assert two.first not in one
