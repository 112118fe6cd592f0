"""The allocator at work: nothing is written before the segment was asked, and what strangers have is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, cast

import pytest

from hostagent.agent import allocator, survey
from hostagent.agent.allocator import Allocator
from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.agent.reports import AllocatorReports
from hostagent.agent.standing import BARRED_S
from hostagent.agent.survey import ASK_AGAIN_S, LEFTOVER_S, SET_ASIDE_S, ask_segments
from hostagent.edges.kube.events import Events, Subject
from hostagent.edges.kube.leases import Leases
from hostagent.edges.kube.status import ServiceStatus
from hostagent.edges.kube.transport import Api
from hostagent.edges.neighbors import Neighbors
from hostagent.model.cluster import POOL_ANNOTATION, ConfigSet, Pool, Resource, Service
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, Instant, Mac, NodeName
from hostagent.model.ownership import Claim, Write
from tests.unit.builders import (
    DUAL,
    HTTPS,
    PREFER,
    V6,
    a_claim,
    a_config,
    a_key,
    a_node,
    a_pool,
    a_segment,
    a_service,
    texts,
)

ME = NodeName("h1")
STRANGER, OURS = Mac("02:00:00:00:00:99"), Mac("02:00:00:00:00:02")
A, B, C = "198.51.100.64", "198.51.100.65", "198.51.100.66"
FOUR = a_pool("four", "198.51.100.64/30")
FORBIDDEN = EdgeError("service.status", "default/a", 'cannot patch resource "services/status"', status=403)


class Desk:
    """An allocator that has the seat, with an API and a segment in memory."""

    def __init__(self, *pools: Pool) -> None:
        self.cluster = Cluster(
            cast("Api", None), namespace="metallb-system", load_balancer_class=None, last_good=ConfigSet(),
            wake=lambda: None,
        )  # fmt: skip
        self.cluster.config = a_config(*pools)
        for pool in pools:
            resource = Resource(
                api_version="metallb.io/v1beta1", kind="IPAddressPool", namespace="metallb-system", name=pool.name
            )
            self.cluster.resources["ipaddresspools"].items["metallb-system", pool.name] = resource
        self.answers: dict[IP, Mac] = {}
        self.questions: list[tuple[str, ...]] = []
        self.written: list[tuple[str, tuple[str, ...]]] = []
        self.events: list[tuple[str, str, str]] = []
        self.trouble: EdgeError | None = None
        self.counted: frozenset[IP] = frozenset()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.before_write: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)
        self.refused: dict[str, EdgeError] = {}
        self.tried: list[str] = []
        self.may_write_any = True
        self.seats = Seats()
        self.allocator = self.another(self.seats)
        self.allocator.claim_seen(a_claim(ME))

    def another(self, seats: Seats) -> Allocator:
        """An allocator that does not have the seat."""
        return Allocator(
            me=ME,
            cluster=self.cluster,
            leases=cast("Leases", seats),
            status=cast("ServiceStatus", self),
            events=cast("Events", self),
            load_balancer_class=None,
            wake=lambda: None,
            ask=self.ask,
            node_of=lambda mac: NodeName("h2") if mac == OURS else None,
            reports=lambda: cast("AllocatorReports", self),
        )

    def apply(self, *services: Service) -> None:
        for service in services:
            self.cluster.services.items[service.key] = service
            self.cluster._service(service.key, service)

    def delete(self, name: str) -> None:
        del self.cluster.services.items[a_key(name)]
        self.cluster._service(a_key(name), None)

    def answered_by(self, mac: Mac | None, *addresses: str) -> None:
        for ip in map(ip_address, addresses):
            self.answers.pop(ip, None)
            if mac is not None:
                self.answers[ip] = mac

    def given(self, name: str) -> tuple[str, ...]:
        return self.cluster.services.items[a_key(name)].assigned

    def why_pending(self, name: str) -> str:
        return self.allocator.pending.get(a_key(name), "")

    def turn(
        self, *, at: Instant | None = None, after_s: float = 0.0, stale: bool = False, stopping: bool = False
    ) -> None:
        at = Instant(now() + after_s) if at is None else at
        self.allocator.turn(
            at=at, alive={ME: True}, expires_at=None, gone=False, renewed_at=None if stale else at, duration_s=15.0,
            stopping=stopping,
        )  # fmt: skip

    async def rest(self, *, at: Instant | None = None, after_s: float = 0.0) -> None:
        """Turn until all that was begun is over."""
        for _ in range(30):
            self.turn(at=at, after_s=after_s)
            await asyncio.sleep(0)

    # The edges, as the allocator calls them

    async def run(self) -> None:
        await asyncio.Event().wait()

    def tell(self, _: ConfigSet, in_use: Iterable[IP]) -> None:
        self.counted = frozenset(in_use)

    async def ask(self, ips: Sequence[IP]) -> Mapping[IP, Mac | None]:
        self.questions.append(texts(ips))
        await self.may_answer.wait()
        if self.trouble is not None:
            raise self.trouble
        return {ip: self.answers.get(ip) for ip in ips if ip.version == 4}

    async def write(
        self, service: Service, addresses: Sequence[IP], *, pool: str | None
    ) -> tuple[Write, Service | None]:
        assert pool is None or addresses
        await self.before_write()
        if service.key.name in self.refused:
            self.tried.append(service.key.name)
            raise self.refused[service.key.name]
        current = self.cluster.services.items.get(service.key)
        if current is None or current.resource_version != service.resource_version:
            return Write.LOST, current
        given = texts(addresses)
        self.written.append((str(service.key), given))
        stored = replace(
            current,
            assigned=given,
            annotations={
                **{name: value for name, value in current.annotations.items() if name != POOL_ANNOTATION},
                **({POOL_ANNOTATION: pool} if pool else {}),
            },
            ip_modes=("VIP",) * len(given),
            resource_version=str(int(current.resource_version) + 1),
        )
        self.apply(stored)
        return Write.WON, stored

    async def may_write(self) -> bool:
        return self.may_write_any

    def emit(self, subject: Subject, *, reason: str, message: str, warning: bool) -> None:
        self.events.append((f"{subject.kind}/{subject.name}", reason, message))
        assert warning is (reason not in {"IPAllocated", "AdditionalAssignFailed"})


def run(scenario: Any) -> None:
    asyncio.run(scenario())


def test_a_hundred_new_services_cost_one_question_and_get_their_addresses_in_order() -> None:
    async def scenario() -> None:
        desk = Desk(a_pool("wide", "198.51.100.0/24"))
        names = [f"s{n:03}" for n in range(100)]
        desk.apply(*map(a_service, reversed(names)))
        await desk.rest()
        expected = [f"198.51.100.{n}" for n in range(100)]
        assert [desk.given(name) for name in names] == [(ip,) for ip in expected]
        assert desk.questions == [tuple(expected)]
        assert [name for name, _ in desk.written] == [f"default/{name}" for name in names]

    run(scenario)


def test_nothing_is_written_while_the_segment_is_asked_and_newcomers_share_the_next_question() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.may_answer.clear()
        desk.apply(a_service("a"))
        await desk.rest()
        desk.apply(a_service("b"), a_service("c"))
        await desk.rest()
        assert (desk.written, desk.questions) == ([], [(A,)])
        desk.may_answer.set()
        await desk.rest()
        assert desk.questions == [(A,), (B, C)]
        assert desk.written == [("default/a", (A,)), ("default/b", (B,)), ("default/c", (C,))]

    run(scenario)


def test_what_services_have_already_is_not_asked_about() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        shared = {"allow-shared-ip": "k"}
        desk.apply(a_service("a", has=[A], annotations=shared), a_service("b", annotations=shared, ports=HTTPS))
        await desk.rest()
        assert desk.given("b") == (A,)
        assert desk.questions == []

    run(scenario)


def test_a_strangers_address_is_set_aside_with_a_warning_on_the_pool_and_the_next_one_is_given() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.answered_by(STRANGER, A, B)
        desk.apply(a_service("a"))
        await desk.rest()
        assert desk.given("a") == (C,)
        entry = desk.allocator.set_aside[ip_address(A)]
        assert (entry.mac, entry.node) == (STRANGER, None)
        told = [event for event in desk.events if event[0] == "IPAddressPool/four"]
        assert [(reason, A in message or B in message) for _, reason, message in told] == [("AddressInUse", True)] * 2
        assert str(STRANGER) in told[0][2]

    run(scenario)


def test_an_address_set_aside_is_tried_again_after_ten_minutes() -> None:
    async def scenario() -> None:
        desk = Desk(a_pool("one", f"{A}/32"))
        desk.answered_by(STRANGER, A)
        desk.apply(a_service("a"))
        await desk.rest()
        assert "1 set aside" in desk.why_pending("a")
        desk.answered_by(None, A)
        await desk.rest(after_s=SET_ASIDE_S - 5)
        assert desk.given("a") == ()
        await desk.rest(after_s=SET_ASIDE_S + 1)
        assert desk.given("a") == (A,)
        assert desk.allocator.set_aside == {}

    run(scenario)


def test_a_strangers_address_that_is_asked_for_is_waited_for() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.answered_by(STRANGER, B)
        desk.apply(a_service("a", annotations={"loadBalancerIPs": B}))
        await desk.rest()
        assert f"{B} asked for, but {STRANGER} (no host of ours) answers for it" in desk.why_pending("a")
        since = desk.allocator.set_aside[ip_address(B)].since
        await desk.rest(after_s=ASK_AGAIN_S + 1)
        assert desk.questions == [(B,), (B,)]
        assert desk.allocator.set_aside[ip_address(B)].since == since
        assert len([event for event in desk.events if event[1] == "AddressInUse"]) == 1
        desk.answered_by(None, B)
        await desk.rest(after_s=2 * ASK_AGAIN_S + 3)
        assert desk.given("a") == (B,)
        assert desk.allocator.set_aside == {}

    run(scenario)


def test_what_one_of_our_hosts_still_answers_for_is_waited_for_and_not_set_aside() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.answered_by(OURS, A)
        desk.apply(a_service("a"))
        await desk.rest()
        assert desk.given("a") == ()
        assert "still answers" in desk.why_pending("a")
        assert desk.allocator.set_aside == {}
        desk.answered_by(None, A)
        await desk.rest(after_s=1)
        assert (desk.given("a"), desk.why_pending("a")) == ((A,), "")

    run(scenario)


def test_what_one_of_our_hosts_does_not_let_go_of_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        began = now()
        desk = Desk(FOUR)
        desk.answered_by(OURS, A)
        desk.apply(a_service("a"))
        for after_s in (0, 2, 4, LEFTOVER_S):
            monkeypatch.setattr(survey, "now", lambda after_s=after_s: Instant(began + after_s))
            await desk.rest(after_s=after_s + 1)
        assert desk.given("a") == (B,)
        assert desk.allocator.set_aside[ip_address(A)].node == "h2"

    run(scenario)


@pytest.mark.parametrize("trouble", [None, EdgeError("neighbors.probe", "eth0", "the interface went down")])
def test_where_nobody_can_be_asked_addresses_are_given_all_the_same(trouble: EdgeError | None) -> None:
    async def scenario() -> None:
        address = "2001:db8::1"  # of a segment that this host is not on
        desk = Desk(a_pool("six", f"{address}/128"))
        desk.trouble = trouble
        desk.apply(replace(a_service("a"), cluster_ips=(ip_address("fd00::1"),)))
        await desk.rest()
        assert desk.given("a") == (address,)

    run(scenario)


def test_a_service_deleted_while_its_address_is_asked_about_leaves_it_to_the_next() -> None:
    async def scenario() -> None:
        desk = Desk(a_pool("one", f"{A}/32"))
        desk.may_answer.clear()
        desk.apply(a_service("a"))
        await desk.rest()
        desk.delete("a")
        await desk.rest()
        desk.may_answer.set()
        desk.apply(a_service("b"))
        await desk.rest()
        assert desk.written == [("default/b", (A,))]

    run(scenario)


def test_a_service_that_changes_while_its_address_is_asked_about_is_decided_anew() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.may_answer.clear()
        desk.apply(a_service("a"))
        await desk.rest()
        desk.apply(replace(a_service("a", annotations={"loadBalancerIPs": C}), resource_version="2"))
        desk.may_answer.set()
        await desk.rest()
        assert desk.written == [("default/a", (C,))]

    run(scenario)


def test_a_late_write_of_the_allocator_before_gives_way_to_who_was_given_the_address_in_order() -> None:
    """Not to who is first by name, as would be after a restart: whose address it was keeps it."""

    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.apply(a_service("b"))
        await desk.rest()
        assert desk.given("b") == (A,)
        desk.apply(a_service("a", has=[A]))
        await desk.rest()
        assert (desk.given("a"), desk.given("b")) == ((B,), (A,))
        [told] = [message for subject, _, message in desk.events if subject == "Service/a"]
        assert f"in place of {A}: default/b uses {A} too" in told

    run(scenario)


def test_a_seat_that_is_lost_while_the_segment_is_asked_writes_nothing() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.may_answer.clear()
        desk.apply(a_service("a"))
        await desk.rest()
        desk.turn(stale=True)
        assert not desk.allocator.leads
        desk.may_answer.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert desk.written == []
        await desk.rest()  # and back, with everything looked at anew
        assert desk.written == [("default/a", (A,))]

    run(scenario)


def test_a_host_that_hung_while_the_segment_was_asked_writes_nothing_before_it_knows_that_it_may() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.may_answer.clear()
        desk.apply(a_service("a"))
        desk.turn(after_s=-60)  # as if that had been a minute ago
        await asyncio.sleep(0)
        desk.may_answer.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert desk.written == []

    run(scenario)


def test_a_pool_that_is_gone_takes_what_was_set_aside_with_it() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.answered_by(STRANGER, A)
        desk.apply(a_service("a"))
        await desk.rest()
        desk.cluster.config = a_config(a_pool("other", "192.0.2.0/30"))
        await desk.rest()
        assert desk.allocator.set_aside == {}

    run(scenario)


def test_the_annotation_follows_when_a_pool_is_renamed_and_the_address_stays() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.apply(a_service("a"))
        await desk.rest()
        desk.cluster.config = a_config(replace(FOUR, name="renamed"))
        await desk.rest()
        service = desk.cluster.services.items[a_key("a")]
        assert (service.assigned, service.annotations[POOL_ANNOTATION]) == ((A,), "renamed")

    run(scenario)


def test_a_service_that_is_no_load_balancer_any_more_is_tidied_up_once_and_frees_its_address() -> None:
    async def scenario() -> None:
        desk = Desk(a_pool("one", f"{A}/32"))
        desk.apply(a_service("a"))
        desk.apply(a_service("b"))
        await desk.rest()
        assert (desk.given("a"), desk.given("b")) == ((A,), ())
        changed = replace(desk.cluster.services.items[a_key("a")], type="ClusterIP", assigned=(), ip_modes=())
        desk.apply(changed)
        await desk.rest()
        assert POOL_ANNOTATION not in desk.cluster.services.items[a_key("a")].annotations
        assert desk.given("b") == (A,)
        assert desk.why_pending("a") == ""
        assert [name for name, _ in desk.written].count("default/a") == 2

    run(scenario)


def test_the_old_prefix_works_and_a_warning_names_the_annotations_that_have_it() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.apply(a_service("a", annotations={"metallb.universe.tf/address-pool": "four"}))
        await desk.rest()
        assert desk.given("a") == (A,)
        [message] = [message for _, reason, message in desk.events if reason == "deprecatedAnnotation"]
        assert "metallb.universe.tf/address-pool" in message

    run(scenario)


def test_a_second_family_that_was_not_free_is_added_when_it_is() -> None:
    async def scenario() -> None:
        desk = Desk(a_pool("both", f"{A}/32", "2001:db8::64/128"))
        desk.apply(a_service("six", families=V6))
        await desk.rest()
        desk.apply(a_service("web", families=DUAL, policy=PREFER))
        await desk.rest()
        assert desk.given("web") == (A,)
        assert "AdditionalAssignFailed" in [reason for _, reason, _ in desk.events]
        desk.delete("six")
        await desk.rest()
        assert desk.given("web") == (A, "2001:db8::64")

    run(scenario)


def test_a_pool_that_holds_what_the_cluster_uses_is_told_once_by_event_and_journal() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.cluster.nodes.items[NodeName("h1")] = a_node("h1", addresses=(ip_address(A),))
        desk.cluster._node(NodeName("h1"), None)
        desk.apply(a_service("a"))
        await desk.rest()
        assert desk.given("a") == (B,)
        desk.cluster.config = replace(desk.cluster.config)  # read anew, nothing different
        await desk.rest()
        [(_, _, message)] = [event for event in desk.events if event[1] == "AddressOverlap"]
        assert "Node h1" in message
        assert "hostagent.io/allow-overlap" in message

    run(scenario)


class Seats:
    """The allocator's Lease, in memory: whoever writes it, has it."""

    def __init__(self) -> None:
        self.written: list[str | None] = []
        self.refuses: EdgeError | None = None
        self.tried = 0

    async def write_allocator(self, holder: NodeName | None, *, expected: Claim | None) -> tuple[Write, Claim | None]:
        version = int(expected.resource_version) + 1 if expected else 1
        if self.refuses is not None:
            self.tried += 1
            raise self.refuses
        self.written.append(holder)
        return Write.WON, a_claim(holder, version=version)


def test_a_new_allocator_reads_all_services_once_more_before_it_decides_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its watch may lag behind the last writes of the one before it."""

    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.allocator = desk.another(Seats())
        desk.apply(a_service("new"))
        asked: list[int] = []

        def relist() -> int:
            asked.append(len(asked) + 1)
            return asked[-1]

        monkeypatch.setattr(desk.cluster.services, "relist", relist)
        await desk.rest()
        assert asked == [1]
        assert not desk.allocator.leads
        desk.apply(replace(a_service("old", has=[A]), ip_modes=("VIP",)))  # what the list brings
        desk.cluster.services.answered = 1
        await desk.rest()
        assert desk.given("new") == (B,)
        assert asked == [1]

    run(scenario)


def test_the_seat_is_not_handed_over_while_a_write_is_under_way() -> None:
    async def scenario() -> None:
        seats = Seats()
        desk = Desk(FOUR)
        desk.allocator = desk.another(seats)
        desk.allocator.claim_seen(a_claim(ME))
        may_store = asyncio.Event()
        desk.before_write = may_store.wait
        desk.apply(a_service("a"))
        await desk.rest()
        for _ in range(5):
            desk.turn(stopping=True)
            await asyncio.sleep(0)
        assert seats.written == []
        may_store.set()
        for _ in range(10):
            desk.turn(stopping=True)
            await asyncio.sleep(0)
        assert (desk.given("a"), seats.written[:1]) == ((A,), [None])

    run(scenario)


def test_an_allocator_that_may_write_no_service_gives_the_seat_up_and_says_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its certificate lacks the group: another host can do it, if it gets the seat."""

    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.refused = dict.fromkeys("ab", FORBIDDEN)
        desk.may_write_any = False
        desk.apply(a_service("a"), a_service("b"))
        await desk.rest()
        assert desk.seats.written == [None]  # to nobody by name: who takes it shows that it may
        assert not desk.allocator.leads
        [line] = [record.message for record in caplog.records if "gives the allocator's seat up" in record.message]
        assert "hostagent:allocators" in line
        assert "playbooks/site.yml" in line
        [(about, message)] = [(about, text) for about, reason, text in desk.events if reason == "AllocationFailed"]
        assert about == "Service/a"
        assert "playbooks/site.yml" in message
        assert desk.allocator.troubles == (line,)
        await desk.rest(after_s=BARRED_S - 5)
        assert desk.seats.written == [None]
        desk.refused.clear()  # it was given a new certificate
        await desk.rest(after_s=BARRED_S + 1)
        assert desk.seats.written == [None, ME]

    run(scenario)


def test_a_refusal_that_is_about_one_service_alone_keeps_the_seat() -> None:
    """A webhook of somebody's, say: the others shall not wait, nor the seat go round."""

    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.refused["a"] = FORBIDDEN
        desk.apply(a_service("a"), a_service("b"))
        await desk.rest()
        assert (desk.given("a"), desk.given("b")) == ((), (B,))
        assert desk.allocator.leads
        assert desk.seats.written == []

    run(scenario)


def test_a_refused_address_is_asked_for_again_after_two_seconds_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        began = now()

        async def rest(after_s: float) -> None:
            at = Instant(began + after_s)
            monkeypatch.setattr(allocator, "now", lambda: at)
            await desk.rest(at=at)

        desk.refused["a"] = EdgeError("service.status", "default/a", "admission webhook says no", status=400)
        desk.apply(a_service("a"))
        await rest(0.0)
        assert desk.tried == ["a"]
        await rest(1.9)
        assert desk.tried == ["a"]
        await rest(2.0)
        assert desk.tried == ["a", "a"]
        del desk.refused["a"]
        await rest(4.0)
        assert desk.given("a") == (A,)

    run(scenario)


def test_a_host_that_is_refused_the_seat_stands_aside_for_a_while() -> None:
    async def scenario() -> None:
        desk = Desk(FOUR)
        desk.allocator.claim_seen(a_claim(None))
        desk.seats.refuses = EdgeError("api.put", "allocator", "h1 may not allocate", status=422)
        await desk.rest()
        await desk.rest(after_s=BARRED_S - 5)
        assert desk.seats.tried == 1
        assert "h1 may not allocate" in desk.allocator.troubles[0]
        desk.seats.refuses = None
        await desk.rest(after_s=BARRED_S + 1)
        assert desk.seats.written == [ME]

    run(scenario)


def test_each_address_is_asked_about_on_the_interface_of_its_subnet() -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    class Segments:
        async def probe(self, vips: Sequence[IP], interface: str) -> dict[IP, Mac | None]:
            asked.append((interface, texts(vips)))
            return dict.fromkeys(vips)

    here = (a_segment("eth0", "198.51.100.2/24", "2001:db8::2/64"), a_segment("eth1", "192.0.2.2/24"))
    ips = list(map(ip_address, (A, "192.0.2.9", "203.0.113.1", "2001:db8::9")))
    found = asyncio.run(ask_segments(ips, neighbors=cast("Neighbors", Segments()), segments=here))
    assert asked == [("eth0", (A, "2001:db8::9")), ("eth1", ("192.0.2.9",))]
    assert texts(found) == (A, "2001:db8::9", "192.0.2.9")
