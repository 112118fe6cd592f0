"""What hostagent can do with pools and MetalLB cannot; and that nothing of it happens without being asked for."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from hostagent.core.allocate import Ledger, Outcome
from hostagent.core.reserved import reserved_by
from hostagent.model.cluster import POOL_ANNOTATION, QUARANTINE_S, Pool, Service, ServiceAllocation
from hostagent.model.names import Instant
from tests.unit.builders import DUAL, HTTPS, PREFER, REQUIRE, V6, a_key, a_ledger, a_node, a_pool, a_service, texts

ASSIGN, KEEP, CLEAR, PENDING, LEAVE = Outcome.ASSIGN, Outcome.KEEP, Outcome.CLEAR, Outcome.PENDING, Outcome.LEAVE
FOUR = a_pool("four", "198.51.100.64/30")
SIX = a_pool("six", "2001:db8::64/126")
PAIRED = replace(FOUR, partner="six")
A, B, C, D = (f"198.51.100.{n}" for n in (64, 65, 66, 67))
A6 = "2001:db8::64"
FOR_TEAM = ServiceAllocation(namespaces=frozenset({"team"}))


def decided(ledger: Ledger, service: Service) -> tuple[Outcome, tuple[str, ...]]:
    decision = ledger.decide(service)
    return decision.outcome, texts(decision.addresses)


def dual(name: str = "web", **fields: object) -> Service:
    return a_service(name, families=DUAL, policy=REQUIRE, **fields)  # type: ignore[arg-type]


class TestExclusivePools:
    def ledger(self, **switches: bool) -> Ledger:
        team = a_pool("team", "192.0.2.0/32", allocation=FOR_TEAM, **switches)
        return a_ledger(FOUR, team, services=[a_service("team/first", has=["192.0.2.0"])])

    def test_a_service_waits_rather_than_fall_through_to_a_common_pool(self) -> None:
        decision = self.ledger(exclusive=True).decide(a_service("team/second"))
        assert decision.outcome is PENDING
        assert "no free IPv4 address in team" in decision.message

    def test_without_the_switch_it_falls_through_as_with_metallb(self) -> None:
        assert decided(self.ledger(), a_service("team/second")) == (ASSIGN, (A,))

    def test_services_of_others_get_addresses_of_common_pools_as_ever(self) -> None:
        assert decided(self.ledger(exclusive=True), a_service("else/web")) == (ASSIGN, (A,))

    def test_a_common_pool_can_still_be_asked_for_by_name(self) -> None:
        asks = a_service("team/second", annotations={"address-pool": "four"})
        assert decided(self.ledger(exclusive=True), asks) == (ASSIGN, (A,))

    def test_turning_it_on_takes_nothing_away(self) -> None:
        service = a_service("team/second", has=[A])
        ledger = self.ledger(exclusive=True)
        ledger.note(service)
        assert decided(ledger, service) == (KEEP, (A,))


class TestSharingWithinANamespace:
    def ledger(self, *, within: bool) -> Ledger:
        pool = replace(FOUR, sharing_within_namespace=within)
        return a_ledger(pool, services=[a_service("one/a", has=[A], annotations={"allow-shared-ip": "k"})])

    def newcomer(self, namespace: str, **fields: object) -> Service:
        return a_service(f"{namespace}/b", annotations={"allow-shared-ip": "k"}, ports=HTTPS, **fields)  # type: ignore[arg-type]

    def test_the_same_key_in_another_namespace_does_not_count(self) -> None:
        assert decided(self.ledger(within=True), self.newcomer("two")) == (ASSIGN, (B,))

    def test_the_same_key_in_the_same_namespace_does(self) -> None:
        assert decided(self.ledger(within=True), self.newcomer("one")) == (ASSIGN, (A,))

    def test_without_the_switch_a_key_counts_everywhere_as_with_metallb(self) -> None:
        assert decided(self.ledger(within=False), self.newcomer("two")) == (ASSIGN, (A,))

    def test_an_address_asked_for_is_refused_too(self) -> None:
        asks = replace(
            self.newcomer("two"), annotations={"metallb.io/allow-shared-ip": "k", "metallb.io/loadBalancerIPs": A}
        )
        decision = self.ledger(within=True).decide(asks)
        assert decision.outcome is PENDING
        assert "one/a has it" in decision.message

    def test_turning_it_on_parts_those_who_share_and_leaves_the_first_where_it_is(self) -> None:
        ledger = self.ledger(within=True)
        second = self.newcomer("two", has=[A])
        ledger.note(second)
        ledger.decide(a_service("one/a", has=[A], annotations={"allow-shared-ip": "k"}))
        assert decided(ledger, second) == (ASSIGN, (B,))


class TestDualStackFromTwoPools:
    @pytest.mark.parametrize("pools", [(PAIRED, SIX), (FOUR, replace(SIX, partner="four"))], ids=["v4", "v6"])
    def test_a_pair_is_given_whichever_pool_names_the_other(self, pools: tuple[Pool, ...]) -> None:
        decision = a_ledger(*pools).decide(dual())
        assert (decision.outcome, texts(decision.addresses), decision.pool) == (ASSIGN, (A, A6), "four,six")

    def test_pools_that_do_not_name_each_other_are_no_pair(self) -> None:
        assert a_ledger(FOUR, SIX).decide(dual()).outcome is PENDING

    def test_a_service_that_prefers_two_families_gains_the_second(self) -> None:
        service = a_service(families=DUAL, policy=PREFER, has=[A])
        assert decided(a_ledger(PAIRED, SIX, services=[service]), service) == (ASSIGN, (A, A6))

    def test_without_the_switch_it_keeps_one_as_with_metallb(self) -> None:
        service = a_service(families=DUAL, policy=PREFER, has=[A])
        assert decided(a_ledger(FOUR, SIX, services=[service]), service) == (KEEP, (A,))

    def test_a_pool_asked_for_by_name_brings_its_partner_even_without_auto_assign(self) -> None:
        service = dual(annotations={"address-pool": "four"})
        assert decided(a_ledger(PAIRED, replace(SIX, auto_assign=False)), service) == (ASSIGN, (A, A6))

    def test_by_itself_nobody_gets_addresses_of_a_partner_without_auto_assign(self) -> None:
        assert a_ledger(PAIRED, replace(SIX, auto_assign=False)).decide(dual()).outcome is PENDING

    def test_a_pair_may_be_asked_for_by_address(self) -> None:
        service = dual(annotations={"loadBalancerIPs": f"{B},{A6}"})
        assert decided(a_ledger(PAIRED, SIX), service) == (ASSIGN, (B, A6))

    def test_a_partner_is_no_way_around_a_pools_own_family(self) -> None:
        """The partner lends what this pool does not have, not what is used up here."""
        both = a_pool("both", "198.51.100.64/32", "2001:db8::1/128", partner="more")
        more = a_pool("more", "198.51.100.65/32", auto_assign=False)
        ledger = a_ledger(both, more, services=[a_service("x", has=[A])])
        assert ledger.decide(dual(annotations={"address-pool": "both"})).outcome is PENDING

    def test_a_partner_that_is_not_for_the_service_lends_nothing(self) -> None:
        assert a_ledger(PAIRED, replace(SIX, allocation=FOR_TEAM)).decide(dual()).outcome is PENDING

    def test_a_single_stack_service_gets_nothing_of_the_partner(self) -> None:
        asks = a_service(families=V6, annotations={"address-pool": "four"})
        assert a_ledger(PAIRED, SIX).decide(asks).outcome is PENDING


class TestQuarantine:
    def ledger(self, pool: Pool = FOUR) -> Ledger:
        service = a_service("first", has=[A])
        ledger = a_ledger(pool, services=[service])
        ledger.decide(service)
        return ledger

    def test_a_freed_address_is_not_the_next_one_given(self) -> None:
        ledger = self.ledger()
        ledger.forget(a_key("first"))
        assert decided(ledger, a_service("second")) == (ASSIGN, (B,))

    def test_it_is_given_again_when_its_rest_is_over(self) -> None:
        ledger = self.ledger()
        ledger.forget(a_key("first"))
        ledger.now = Instant(QUARANTINE_S)
        assert decided(ledger, a_service("second")) == (ASSIGN, (A,))

    def test_where_nothing_else_is_free_nobody_waits_for_it(self) -> None:
        ledger = self.ledger(a_pool("one", f"{A}/32"))
        ledger.forget(a_key("first"))
        assert decided(ledger, a_service("second")) == (ASSIGN, (A,))

    def test_of_those_that_rest_the_one_freed_first_is_given_first(self) -> None:
        services = [a_service("a", has=[A]), a_service("b", has=[B])]
        ledger = a_ledger(a_pool("two", f"{A}/31"), services=services)
        ledger.forget(a_key("b"))
        ledger.now = Instant(1)
        ledger.forget(a_key("a"))
        assert decided(ledger, a_service("c")) == (ASSIGN, (B,))

    def test_a_service_that_comes_back_gets_its_address_again(self) -> None:
        service = a_service("first", has=[C])
        ledger = a_ledger(FOUR, services=[service])
        ledger.forget(service.key)
        assert decided(ledger, a_service("first")) == (ASSIGN, (C,))

    def test_who_asks_for_it_gets_it_at_once(self) -> None:
        ledger = self.ledger()
        ledger.forget(a_key("first"))
        assert decided(ledger, a_service("second", annotations={"loadBalancerIPs": A})) == (ASSIGN, (A,))

    def test_a_pool_may_do_without(self) -> None:
        ledger = self.ledger(replace(FOUR, quarantine_s=0.0))
        ledger.forget(a_key("first"))
        assert decided(ledger, a_service("second")) == (ASSIGN, (A,))

    def test_an_address_that_is_taken_again_in_between_rests_anew(self) -> None:
        ledger = self.ledger()
        ledger.forget(a_key("first"))
        ledger.decide(a_service("second", annotations={"loadBalancerIPs": A}))
        ledger.now = Instant(20)
        ledger.forget(a_key("second"))
        ledger.now = Instant(QUARANTINE_S + 5)
        assert decided(ledger, a_service("third")) == (ASSIGN, (B,))


class TestWhatTheClusterUses:
    RESERVED = reserved_by(
        [a_node("h1", addresses=(ip_address(A),), pod_networks=(ip_network("198.51.100.65/32"),))],
        [ip_network("198.51.100.66/32")],
    )

    def test_addresses_of_nodes_pods_and_services_are_passed_over(self) -> None:
        assert decided(a_ledger(FOUR, reserved=self.RESERVED), a_service()) == (ASSIGN, (D,))

    @pytest.mark.parametrize(("kind", "first"), [("nodes", A), ("pods", B), ("services", C)])
    def test_a_pool_may_allow_each_of_them(self, kind: str, first: str) -> None:
        pool = replace(FOUR, allow_overlap=frozenset({kind}))
        assert decided(a_ledger(pool, reserved=self.RESERVED), a_service()) == (ASSIGN, (first,))

    @pytest.mark.parametrize(
        ("ip", "user"),
        [
            (A, "Node h1"),
            (B, "the Pod network 198.51.100.65/32 of Node h1"),
            (C, "the Service network 198.51.100.66/32"),
        ],
    )
    def test_who_asks_for_one_is_told_who_has_it(self, ip: str, user: str) -> None:
        asks = a_service(annotations={"loadBalancerIPs": ip})
        decision = a_ledger(FOUR, reserved=self.RESERVED).decide(asks)
        assert decision.outcome is PENDING
        assert f"{ip} asked for, but {user} has it" in decision.message

    def test_who_has_one_keeps_it(self) -> None:
        service = a_service(has=[A])
        assert decided(a_ledger(FOUR, services=[service], reserved=self.RESERVED), service) == (KEEP, (A,))

    def test_exhaustion_says_what_is_left_out(self) -> None:
        ledger = a_ledger(a_pool("one", f"{A}/32"), reserved=self.RESERVED)
        assert "what nodes, Pods and Services of the cluster use is left out" in ledger.decide(a_service()).message

    def test_a_network_larger_than_can_be_counted_is_stepped_over_at_once(self) -> None:
        reserved = reserved_by([], [ip_network("2001:db8::/64")])
        ledger = a_ledger(a_pool("wide", "2001:db8::/48"), reserved=reserved)
        assert decided(ledger, a_service(families=V6)) == (ASSIGN, ("2001:db8:0:1::",))

    def test_the_pools_concerned_are_named_with_the_users(self) -> None:
        ledger = a_ledger(FOUR, SIX, reserved=self.RESERVED)
        assert list(ledger.overlaps()) == ["four"]
        assert ledger.overlaps()["four"][0] == "Node h1"


class TestWhatIsLeftBehind:
    def test_a_service_that_is_no_load_balancer_any_more_loses_the_pools_name(self) -> None:
        service = a_service(type="ClusterIP", annotations={POOL_ANNOTATION: "four"})
        assert decided(a_ledger(FOUR, services=[service]), service) == (CLEAR, ())

    def test_one_that_never_was_is_left_alone(self) -> None:
        assert decided(a_ledger(FOUR), a_service(type="ClusterIP")) == (LEAVE, ())

    def test_who_loses_one_of_two_addresses_keeps_the_other(self) -> None:
        """A dual pool becomes single: MetalLB takes both back, and gives the lowest that is free."""
        service = a_service(families=DUAL, policy=PREFER, has=[C, A6])
        assert decided(a_ledger(FOUR, services=[service]), service) == (ASSIGN, (C,))

    def test_who_waits_for_a_second_family_is_told_and_asked_again_when_something_is_freed(self) -> None:
        pool = a_pool("both", "198.51.100.64/30", "2001:db8::64/128")
        service = a_service(families=DUAL, policy=PREFER, has=[A])
        ledger = a_ledger(pool, services=[service, a_service("x", families=V6, has=[A6])])
        decision = ledger.decide(service)
        assert (decision.outcome, decision.event, decision.incomplete) == (KEEP, "AdditionalAssignFailed", True)
        ledger.forget(a_key("x"))
        assert decided(ledger, service) == (ASSIGN, (A, A6))
