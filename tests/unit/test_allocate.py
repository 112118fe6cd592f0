"""Which address a Service gets, keeps or loses, rule by rule."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address

import pytest

from hostagent.core.allocate import Ledger, Outcome
from hostagent.model.cluster import FamilyPolicy, Pool, Port, Service, ServiceAllocation, TrafficPolicy
from hostagent.model.names import ServiceKey
from tests.unit.builders import (
    DUAL,
    HTTP,
    HTTPS,
    PREFER,
    REQUIRE,
    V4,
    V6,
    a_config,
    a_key,
    a_ledger,
    a_pool,
    a_service,
    label_is,
    texts,
)

ASSIGN, KEEP, CLEAR, PENDING, LEAVE = Outcome.ASSIGN, Outcome.KEEP, Outcome.CLEAR, Outcome.PENDING, Outcome.LEAVE
FOUR = a_pool("four", "198.51.100.64/30")
SIX = a_pool("six", "2001:db8::64/126")
BOTH = a_pool("both", "198.51.100.64/30", "2001:db8::64/126")
A, B, C = "198.51.100.64", "198.51.100.65", "198.51.100.66"
A6 = "2001:db8::64"
LOCAL = TrafficPolicy.LOCAL


def row(
    name: str,
    service: Service,
    pools: tuple[Pool, ...],
    outcome: Outcome,
    *addresses: str,
    others: tuple[Service, ...] = (),
    says: str = "",
    set_aside: bool = False,
) -> object:
    return pytest.param(service, pools, others, set_aside, outcome, addresses, says, id=name.replace(" ", "-"))


def decided(ledger: Ledger, service: Service) -> tuple[Outcome, tuple[str, ...]]:
    decision = ledger.decide(service)
    return decision.outcome, texts(decision.addresses)


def asks(ips: str, **fields: object) -> Service:
    return a_service(annotations={"loadBalancerIPs": ips}, **fields)  # type: ignore[arg-type]


def shares(name: str, key: str = "k", **fields: object) -> Service:
    return a_service(name, annotations={"allow-shared-ip": key}, **fields)  # type: ignore[arg-type]


FAMILIES = [
    row("v4 gets v4", a_service(), (BOTH,), ASSIGN, A),
    row("v6 gets v6", a_service(families=V6), (BOTH,), ASSIGN, A6),
    row("dual gets both from one pool", a_service(families=DUAL, policy=REQUIRE), (FOUR, SIX, BOTH), ASSIGN, A, A6),
    row("dual in the order of cluster IPs", a_service(families=(*V6, *V4), policy=PREFER), (BOTH,), ASSIGN, A6, A),
    row("require dual never from two pools", a_service(families=DUAL, policy=REQUIRE), (FOUR, SIX), PENDING),
    row("require dual with one cluster IP", a_service(policy=REQUIRE), (BOTH,), PENDING, says="two cluster IPs"),
    row("prefer dual falls back to the first family", a_service(families=DUAL, policy=PREFER), (FOUR, SIX), ASSIGN, A),
    row("prefer dual falls back to the other family", a_service(families=DUAL, policy=PREFER), (SIX,), ASSIGN, A6),
    row(
        "prefer dual gains the second family", a_service(families=DUAL, policy=PREFER, has=[A]), (BOTH,), ASSIGN, A, A6
    ),
    row("prefer dual keeps one", a_service(families=DUAL, policy=PREFER, has=[A]), (FOUR,), KEEP, A),
    row("prefer dual on a single-stack cluster", a_service(policy=PREFER), (BOTH,), ASSIGN, A),
    row("prefer dual on a single-stack cluster stays single", a_service(policy=PREFER, has=[A]), (BOTH,), KEEP, A),
    row("a pair where one family is left", a_service(has=[A, A6]), (BOTH,), ASSIGN, A, says="cluster IPs are IPv4"),
    row("two of one family", a_service(has=[A, B]), (FOUR,), ASSIGN, A, says="two addresses of one family"),
    row("required second family", a_service(families=DUAL, policy=REQUIRE, has=[B]), (BOTH,), ASSIGN, B, A6),
    row(
        "required second family where its own address is the last",
        a_service(families=DUAL, policy=REQUIRE, has=[A]),
        (a_pool("one", "198.51.100.64/32", "2001:db8::64/128"),),
        ASSIGN,
        A,
        A6,
    ),
    row("no cluster IP", a_service(families=(), has=[A]), (FOUR,), CLEAR, says="no cluster IP"),
]

OURS = [
    row("other type", a_service(type="ClusterIP"), (FOUR,), LEAVE),
    row("being deleted", a_service(deleted=True), (FOUR,), LEAVE),
    row("class of another implementation", a_service(load_balancer_class="example.com/lb"), (FOUR,), LEAVE),
]

REQUESTS = [
    row("address by annotation", asks(C), (FOUR,), ASSIGN, C),
    row("address by old prefix", a_service(annotations={"metallb.universe.tf/loadBalancerIPs": C}), (FOUR,), ASSIGN, C),
    row(
        "new prefix wins",
        a_service(annotations={"metallb.universe.tf/loadBalancerIPs": B, "loadBalancerIPs": C}),
        (FOUR,),
        ASSIGN,
        C,
    ),
    row("address by spec", a_service(load_balancer_ip=C), (FOUR,), ASSIGN, C),
    row("pair", asks(f"{A6},{C}", families=DUAL, policy=REQUIRE), (BOTH,), ASSIGN, A6, C),
    row("spaces", asks(f" {C} "), (FOUR,), ASSIGN, C),
    row("both ways", asks(C, load_balancer_ip=C), (FOUR,), PENDING, says="remove one"),
    row("no address", asks("198.51.100"), (FOUR,), PENDING, says='"198.51.100" is not an IP address'),
    row("two of a family", asks(f"{A},{B}"), (FOUR,), PENDING, says="at most one address of each family"),
    row("what works stays when the request is nonsense", asks("nonsense", has=[B]), (FOUR,), KEEP, B, says="nonsense"),
    row("nonsense is no licence", asks("nonsense", has=["192.0.2.1"]), (FOUR,), CLEAR, says="no pool has 192.0.2.1"),
    row("other family", asks(A6), (BOTH,), PENDING, says="families are IPv4"),
    row("one of two", asks(A, families=DUAL, policy=PREFER), (BOTH,), PENDING, says="one of each"),
    row("in no pool", asks("192.0.2.1"), (FOUR,), PENDING, says="no pool has it"),
    row("in two pools", asks(f"{A},{A6}", families=DUAL), (FOUR, SIX), PENDING, says="different pools"),
    row("taken", asks(A), (FOUR,), PENDING, others=(a_service("x", has=[A]),), says="default/x has it"),
    row("moves to what it asks for", asks(C, has=[A]), (FOUR,), ASSIGN, C, says="asks for 198.51.100.66"),
    row("keeps what it asks for", asks(C, has=[C]), (FOUR,), KEEP, C),
    row("keeps when the request is gone", a_service(has=[C]), (FOUR,), KEEP, C),
    row("from a pool without autoAssign", asks(A), (replace(FOUR, auto_assign=False),), ASSIGN, A),
    row("buggy", asks("198.51.100.0"), (a_pool("p", "198.51.100.0/30", avoid_buggy_ips=True),), PENDING, says="Buggy"),
    row(
        "pool by name",
        a_service(annotations={"address-pool": "six"}, families=V6),
        (a_pool("a", "2001:db8:1::/126"), SIX),
        ASSIGN,
        A6,
    ),
    row("pool by old prefix", a_service(annotations={"metallb.universe.tf/address-pool": "four"}), (FOUR,), ASSIGN, A),
    row("pool that is not", a_service(annotations={"address-pool": "gone"}), (FOUR,), PENDING, says="does not exist"),
    row(
        "pool without autoAssign by name",
        a_service(annotations={"address-pool": "four"}),
        (replace(FOUR, auto_assign=False),),
        ASSIGN,
        A,
    ),
    row(
        "full pool by name falls through to none",
        a_service(annotations={"address-pool": "one"}),
        (a_pool("one", A + "/32"), a_pool("two", B + "/32")),
        PENDING,
        others=(a_service("x", has=[A]),),
        says="no free IPv4 address in one",
    ),
    row(
        "moves to the pool it asks for",
        a_service(annotations={"address-pool": "two"}, has=[A]),
        (a_pool("one", A + "/32"), a_pool("two", B + "/32")),
        ASSIGN,
        B,
    ),
    row(
        "address and pool that differ",
        a_service(annotations={"address-pool": "six", "loadBalancerIPs": A}),
        (FOUR, SIX),
        PENDING,
        says="pool six is asked for too",
    ),
]

TEAM = a_pool("team", "192.0.2.0/30", allocation=ServiceAllocation(priority=7, namespaces=frozenset({"team"})))
FIRST = a_pool("zz", "192.0.2.4/30", allocation=ServiceAllocation(priority=3, namespaces=frozenset({"team"})))
GOLD = a_pool("gold", "192.0.2.8/30", allocation=ServiceAllocation(service_selectors=(label_is("tier", "gold"),)))
RED = a_pool("red", "192.0.2.12/30", allocation=ServiceAllocation(namespace_selectors=(label_is("team", "red"),)))

POOLS = [
    row("no pool", a_service(), (), PENDING, says="no pool gives"),
    row("autoAssign off", a_service(), (replace(FOUR, auto_assign=False),), PENDING, says="autoAssign"),
    row("autoAssign turned off keeps", a_service(has=[A]), (replace(FOUR, auto_assign=False),), KEEP, A),
    row(
        "buggy addresses skipped",
        a_service(),
        (a_pool("p", "198.51.100.255-198.51.101.1", avoid_buggy_ips=True),),
        ASSIGN,
        "198.51.101.1",
    ),
    row("buggy addresses given where allowed", a_service(), (a_pool("p", "198.51.100.0/30"),), ASSIGN, "198.51.100.0"),
    row(
        "buggy address taken back",
        a_service(has=["198.51.100.0"]),
        (a_pool("p", "198.51.100.0/30", avoid_buggy_ips=True),),
        ASSIGN,
        "198.51.100.1",
    ),
    row("pool gone", a_service(has=["192.0.2.99"]), (FOUR,), ASSIGN, A, says="no pool has 192.0.2.99"),
    row("all pools gone", a_service(has=[A]), (), CLEAR, says="no pool has"),
    row(
        "pool set aside takes nothing away", a_service(has=["192.0.2.99"]), (FOUR,), KEEP, "192.0.2.99", set_aside=True
    ),
    row(
        "pool set aside permits no doubles",
        a_service("b", has=["192.0.2.99"]),
        (FOUR,),
        ASSIGN,
        A,
        others=(a_service("a", has=["192.0.2.99"]),),
        set_aside=True,
    ),
    row("pool renamed keeps", a_service(has=[B]), (a_pool("other", "198.51.100.0/24"),), KEEP, B),
    row("pinned first, by priority", a_service("team/x"), (FOUR, TEAM, FIRST), ASSIGN, "192.0.2.4"),
    row(
        "priority 0 is last of the pinned",
        a_service("team/x", labels={"tier": "gold"}),
        (FOUR, GOLD, TEAM),
        ASSIGN,
        "192.0.2.0",
    ),
    row("pinned before common", a_service(labels={"tier": "gold"}), (FOUR, GOLD), ASSIGN, "192.0.2.8"),
    row("other namespace", a_service("else/x"), (TEAM,), PENDING),
    row("other labels", a_service(labels={"tier": "tin"}), (GOLD,), PENDING),
    row("namespace labels", a_service("dye/x"), (RED,), ASSIGN, "192.0.2.12"),
    row("selector that matches nothing stays closed", a_service("blue/x"), (RED,), PENDING),
    row("unknown namespace stays out", a_service("unheard/x"), (RED,), PENDING),
    row(
        "asked for by name from elsewhere",
        a_service(annotations={"address-pool": "team"}),
        (TEAM,),
        PENDING,
        says="not for namespace default",
    ),
    row("address asked for from elsewhere", asks("192.0.2.1"), (TEAM,), PENDING, says="not for namespace default"),
    row("label lost", a_service(has=["192.0.2.8"]), (FOUR, GOLD), ASSIGN, A, says="other labels"),
    row(
        "pinned and full falls to the common",
        a_service("team/x"),
        (FOUR, a_pool("t", "192.0.2.0/32", allocation=TEAM.allocation)),
        ASSIGN,
        A,
        others=(a_service("team/y", has=["192.0.2.0"]),),
    ),
]

SHARING = [
    row("same key, other port", shares("b", ports=HTTPS), (FOUR,), ASSIGN, A, others=(shares("a", has=[A]),)),
    row("same key, same port", shares("b"), (FOUR,), ASSIGN, B, others=(shares("a", has=[A]),)),
    row(
        "same number, other protocol",
        shares("b", ports=(Port("udp", 80),)),
        (FOUR,),
        ASSIGN,
        A,
        others=(shares("a", has=[A]),),
    ),
    row("other key", shares("b", "other", ports=HTTPS), (FOUR,), ASSIGN, B, others=(shares("a", has=[A]),)),
    row("no key", a_service("b", ports=HTTPS), (FOUR,), ASSIGN, B, others=(shares("a", has=[A]),)),
    row("neither has a key", a_service("b", ports=HTTPS), (FOUR,), ASSIGN, B, others=(a_service("a", has=[A]),)),
    row(
        "local beside cluster",
        shares("b", ports=HTTPS, traffic_policy=LOCAL),
        (FOUR,),
        ASSIGN,
        B,
        others=(shares("a", has=[A]),),
    ),
    row(
        "local with the same pods",
        shares("b", ports=HTTPS, traffic_policy=LOCAL, selector={"app": "x"}),
        (FOUR,),
        ASSIGN,
        A,
        others=(shares("a", has=[A], traffic_policy=LOCAL, selector={"app": "x"}),),
    ),
    row(
        "local with other pods",
        shares("b", ports=HTTPS, traffic_policy=LOCAL, selector={"app": "y"}),
        (FOUR,),
        ASSIGN,
        B,
        others=(shares("a", has=[A], traffic_policy=LOCAL, selector={"app": "x"}),),
    ),
    row(
        "cluster with other pods",
        shares("b", ports=HTTPS, selector={"app": "y"}),
        (FOUR,),
        ASSIGN,
        A,
        others=(shares("a", has=[A], selector={"app": "x"}),),
    ),
    row(
        "one of two on the address objects",
        shares("c", ports=HTTPS),
        (FOUR,),
        ASSIGN,
        B,
        others=(shares("a", has=[A]), shares("b", has=[A], ports=HTTPS)),
    ),
    row(
        "lowest of free and shared",
        shares("b", ports=HTTPS),
        (FOUR,),
        ASSIGN,
        A,
        others=(shares("a", has=[C]),),
    ),
    row(
        "shared when nothing is free",
        shares("b", ports=HTTPS),
        (a_pool("p", A + "/31"),),
        ASSIGN,
        B,
        others=(a_service("x", has=[A]), shares("a", has=[B])),
    ),
]


@pytest.mark.parametrize(
    ("service", "pools", "others", "set_aside", "outcome", "addresses", "says"),
    [*FAMILIES, *OURS, *REQUESTS, *POOLS, *SHARING],
)
def test_a_decision(  # noqa: PLR0917
    service: Service,
    pools: tuple[Pool, ...],
    others: tuple[Service, ...],
    set_aside: bool,
    outcome: Outcome,
    addresses: tuple[str, ...],
    says: str,
) -> None:
    namespaces = {"dye": {"team": "red"}, "blue": {"team": "blue"}}
    ledger = a_ledger(*pools, services=(*others, service), namespaces=namespaces, set_aside=set_aside)
    decision = ledger.decide(service)
    assert (decision.outcome, texts(decision.addresses)) == (outcome, addresses), decision.message
    assert says in decision.message
    if outcome is not LEAVE:  # what was decided is a fix-point
        again = ledger.decide(replace(service, assigned=addresses))
        assert again.addresses == decision.addresses
        assert again.outcome is (KEEP if addresses else PENDING)


@pytest.mark.parametrize(
    ("service", "event"),
    [
        (a_service(), "IPAllocated"),
        (a_service(families=DUAL, policy=PREFER, has=[A]), "IPAllocated"),
        (a_service(has=["192.0.2.1"], policy=REQUIRE), "AllocationFailed"),
        (asks("nonsense"), "AllocationFailed"),
        (asks("nonsense", has=[A]), "LoadBalancerFailed"),
        (asks("192.0.2.1", has=[A]), "ClearAssignment"),
        (a_service(has=[A]), ""),
    ],
)
def test_the_events_have_metallbs_reasons(service: Service, event: str) -> None:
    assert a_ledger(BOTH, services=[service]).decide(service).event == event


def test_the_pool_is_named_for_the_annotation() -> None:
    assert a_ledger(FOUR, services=[a_service(has=[A])]).decide(a_service(has=[A])).pool == "four"


def test_a_class_serves_its_own_services_only() -> None:
    ledger = a_ledger(FOUR, load_balancer_class="example.com/lb")
    assert decided(ledger, a_service()) == (LEAVE, ())
    assert decided(ledger, a_service(load_balancer_class="example.com/lb")) == (ASSIGN, (A,))


def test_what_another_implementation_gave_is_not_given_again() -> None:
    ledger = a_ledger(FOUR, services=[a_service("x", has=[A], load_balancer_class="example.com/lb")])
    assert decided(ledger, a_service()) == (ASSIGN, (B,))


def test_exhaustion_ends_when_an_address_is_released() -> None:
    ledger = a_ledger(a_pool("one", A + "/32"), services=[a_service("a", has=[A])])
    assert decided(ledger, a_service("b")) == (PENDING, ())
    assert ledger.forget(a_key("a"))
    assert decided(ledger, a_service("b")) == (ASSIGN, (A,))


def test_room_is_told_of_also_on_a_shared_address() -> None:
    """Who waits for the port of the one that leaves can come, though the address is not free."""
    ledger = a_ledger(a_pool("one", A + "/32"), services=[shares("a", has=[A]), shares("b", has=[A], ports=HTTPS)])
    assert decided(ledger, shares("c")) == (PENDING, ())
    assert ledger.forget(a_key("a"))
    assert decided(ledger, shares("c")) == (ASSIGN, (A,))


@pytest.mark.parametrize(
    ("service", "room"),
    [
        pytest.param(shares("a", has=[A]), False, id="unchanged"),
        pytest.param(shares("a", has=[B]), True, id="moved"),
        pytest.param(shares("a"), True, id="cleared"),
        pytest.param(shares("a", has=[A], ports=HTTPS), True, id="other-ports"),
        pytest.param(a_service("a", has=[A], type="ClusterIP"), True, id="other-type"),
    ],
)
def test_a_note_tells_whether_it_may_have_made_room(service: Service, room: bool) -> None:
    assert a_ledger(FOUR, services=[shares("a", has=[A])]).note(service) is room


def test_nobody_makes_room_who_had_nothing() -> None:
    ledger = a_ledger(FOUR)
    assert not ledger.note(a_service(has=[A]))
    assert not ledger.forget(a_key("unheard"))


@pytest.mark.parametrize("status", [["not-an-address"], [A, A], [A, "not-an-address", A]])
def test_a_status_that_others_spoilt_is_read_as_far_as_it_goes(status: list[str]) -> None:
    service = a_service(has=status)
    ledger = a_ledger(FOUR, services=[service])
    assert texts(ledger.decide(service).addresses) == (A,)
    assert ledger.forget(service.key)
    assert not tuple(ledger.tenants(ip_address(A)))


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")])
@pytest.mark.parametrize("noted", [("a", "b", "c"), ("c", "a", "b")])
def test_of_those_with_one_address_after_a_restart_exactly_one_keeps_it(
    order: tuple[str, ...], noted: tuple[str, ...]
) -> None:
    services = {name: a_service(name, has=[B]) for name in order}
    ledger = a_ledger(FOUR, services=[services[name] for name in noted])
    for name in order:
        ledger.decide(services[name])
    assert ledger.holdings()[a_key("a")] == (ip_address(B),)
    assert len(set(ledger.holdings().values())) == 3


@pytest.mark.parametrize("changed", ["a", "b"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ports": (*HTTP, *HTTPS)}, id="port"),
        pytest.param({"annotations": {}}, id="key"),
        pytest.param({"traffic_policy": LOCAL, "selector": {"app": "x"}}, id="backend"),
    ],
)
def test_on_a_shared_address_who_changes_moves(changed: str, change: dict[str, object]) -> None:
    """Whoever was there in order is not moved by somebody else's edit."""
    services = {"a": shares("a", has=[A]), "b": shares("b", has=[A], ports=HTTPS)}
    ledger = a_ledger(FOUR, services=services.values())
    for service in services.values():
        assert decided(ledger, service) == (KEEP, (A,))
    edited = replace(services[changed], **change)  # type: ignore[arg-type]
    ledger.note(edited)
    assert decided(ledger, edited) == (ASSIGN, (B,))


def test_the_only_user_may_change_its_key() -> None:
    ledger = a_ledger(FOUR, services=[shares("a", has=[A])])
    ledger.decide(shares("a", has=[A]))
    ledger.note(shares("a", "new", has=[A]))
    assert decided(ledger, shares("a", "new", has=[A])) == (KEEP, (A,))
    assert decided(ledger, shares("b", "new", ports=HTTPS)) == (ASSIGN, (A,))


def test_a_pool_that_shrinks_moves_who_is_outside_and_nobody_else() -> None:
    services = [a_service("a", has=[A]), a_service("b", has=[C])]
    ledger = a_ledger(FOUR, services=services)
    ledger.config = a_config(a_pool("four", "198.51.100.66/31"))
    assert decided(ledger, services[1]) == (KEEP, (C,))
    assert decided(ledger, services[0]) == (ASSIGN, ("198.51.100.67",))


def test_a_burst_of_ten_thousand_is_linear() -> None:
    """Also where the pool begins with an address that it never gives. Measured: 0.3 s; a quadratic search: minutes."""
    ledger = a_ledger(a_pool("big", "10.0.0.0/16", avoid_buggy_ips=True))
    services = [a_service(f"s{i:05}") for i in range(10_000)]
    began_s = time.process_time()
    for service in services:
        ledger.note(service)
    given = {ip for service in services for ip in ledger.decide(service).addresses}
    assert len(given) == 10_000
    assert time.process_time() - began_s < 5


def test_single_stack_is_the_default_policy() -> None:
    assert a_service().family_policy is FamilyPolicy.SINGLE
    assert a_key("x") == ServiceKey("default", "x")


STRANGER = "02:00:00:00:00:99 (no host of ours)"


def aside(ledger: Ledger, *addresses: str) -> Ledger:
    for ip in addresses:
        ledger.set_aside(ip_address(ip), STRANGER)
    return ledger


def test_an_address_that_is_set_aside_is_passed_over_until_it_is_put_back() -> None:
    ledger = aside(a_ledger(FOUR), A)
    assert decided(ledger, a_service("a")) == (ASSIGN, (B,))
    ledger.put_back(ip_address(A))
    assert decided(ledger, a_service("b")) == (ASSIGN, (A,))


def test_who_has_an_address_keeps_it_when_it_is_set_aside() -> None:
    service = a_service(has=[A])
    ledger = aside(a_ledger(FOUR, services=[service]), A)
    assert decided(ledger, service) == (KEEP, (A,))
    asked = asks(A, has=[A])
    assert decided(ledger, asked) == (KEEP, (A,))


def test_nobody_comes_to_share_an_address_that_is_set_aside() -> None:
    ledger = aside(a_ledger(FOUR, services=[shares("a", has=[A])]), A)
    assert decided(ledger, shares("b", ports=HTTPS)) == (ASSIGN, (B,))


def test_an_address_asked_for_that_is_set_aside_is_waited_for_by_name() -> None:
    ledger = aside(a_ledger(FOUR), C)
    decision = ledger.decide(asks(C))
    assert (decision.outcome, texts(decision.waits_for), decision.event) == (PENDING, (C,), "AllocationFailed")
    assert f"{C} asked for, but {STRANGER} answers for it" in decision.message
    ledger.put_back(ip_address(C))
    assert decided(ledger, asks(C)) == (ASSIGN, (C,))


def test_what_works_stays_while_a_stranger_has_what_is_asked_for() -> None:
    service = asks(C, has=[B])
    decision = aside(a_ledger(FOUR, services=[service]), C).decide(service)
    assert (decision.outcome, texts(decision.addresses), texts(decision.waits_for)) == (KEEP, (B,), (C,))
    assert decision.event == "LoadBalancerFailed"


def test_exhaustion_by_strangers_is_told_as_such() -> None:
    ledger = aside(a_ledger(a_pool("two", A + "/31"), services=[a_service("a", has=[A])]), A, B)
    decision = ledger.decide(a_service("b"))
    assert decision.outcome is PENDING
    assert "no free IPv4 address in two (1 set aside, as other machines answer for them)" in decision.message
