"""Gives addresses to Services, on the one host that is allocator.

The core decides (`core.allocate`, `core.election`); here is what it takes to carry that out: the seat, the question
whether an address is in use already, the writes, the events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.agent.pool_news import PoolNews
from hostagent.agent.reports import AllocatorReports
from hostagent.agent.standing import Standing
from hostagent.agent.survey import Ask, SetAside, Survey
from hostagent.agent.vetting import Vetting
from hostagent.agent.writes import Writes
from hostagent.core.allocate import Decision, Ledger, Outcome
from hostagent.core.election import Ballot, Seat, elect
from hostagent.core.requests import deprecation
from hostagent.edges.kube.events import Events, about_service
from hostagent.edges.kube.leases import Leases
from hostagent.edges.kube.status import ServiceStatus
from hostagent.model.cluster import Service
from hostagent.model.errors import EdgeError, InvariantError
from hostagent.model.names import IP, Instant, Mac, NodeName, ServiceKey
from hostagent.model.ownership import Claim, Write
from hostagent.telemetry.journal import say, warn

FENCE_MARGIN_S = 4.0
"""Before its session could expire the holder stops writing: a write's timeout, its read-back, and a second."""
REPORT_S = 0.5
ECHO_S = 10.0
"""A write that was won shows on the watch within this time, or the Service is looked at as the watch has it."""


class Allocator:
    """This host's part in allocation: stands by, or has the seat and decides."""

    def __init__(
        self,
        *,
        me: NodeName,
        cluster: Cluster,
        leases: Leases,
        status: ServiceStatus,
        events: Events,
        load_balancer_class: str | None,
        wake: Callable[[], None],
        ask: Ask,
        node_of: Callable[[Mac], NodeName | None],
        reports: Callable[[], AllocatorReports],
    ) -> None:
        """`ask` tells who answers for addresses on this host's segments, `node_of` which host of ours has a MAC,
        `reports` makes what a new term tells the cluster.
        """
        self._me = me
        self._cluster = cluster
        self._leases = leases
        self._events = events
        self._class = load_balancer_class
        self._wake = wake
        self._ask = ask
        self._node_of = node_of
        self._make_reports = reports
        self._term: Vetting | None = None
        """With its ledger; only while this host has the seat, and new each time."""
        self._fence_at = Instant(0)
        """When this host's session gets too old for writing as allocator, as of the last turn."""
        self._claim: Claim | None = None
        self._open_since: Instant | None = None
        self._newly = False
        """This host asked for the seat: before it uses it, it reads what the one before wrote."""
        self._reading: int | None = None
        self._standing = Standing(me, status, events)
        self._seat_write: asyncio.Task[None] | None = None
        self._writes = Writes(status, won=self._won, refused=self._standing.status_refused, over=self._write_over)
        self._echoes: dict[ServiceKey, tuple[tuple[str, ...], Instant]] = {}
        """What was written and has not come back on the watch yet."""
        self._again: dict[ServiceKey, Instant] = {}
        self._reports: AllocatorReports | None = None
        self._reporting: asyncio.Task[None] | None = None
        self._untold_since: Instant | None = None
        """Since when something has changed that the counters do not say."""
        self.pending: dict[ServiceKey, str] = {}
        """Services without an address, and why."""
        self._incomplete: set[ServiceKey] = set()
        """Services that would like an address of the other family, too."""
        self._news = PoolNews(cluster, events)

    @property
    def leads(self) -> bool:
        return self._term is not None

    @property
    def holder(self) -> NodeName | None:
        return self._claim.holder if self._claim else None

    @property
    def troubles(self) -> tuple[str, ...]:
        """What people should know; empty when all is well, and on a host that neither allocates nor was refused it."""
        return (*self._standing.troubles, *(self._reports.troubles if self._reports is not None else ()))

    @property
    def set_aside(self) -> Mapping[IP, SetAside]:
        """Addresses that are not given, as machines answer for them that should not; known to the allocator only."""
        return self._term.survey.set_aside if self._term is not None else {}

    def claim_seen(self, claim: Claim | None) -> None:
        """The allocator's Lease changed, on the watch or in the reply to our own write."""
        if (self._claim.holder if self._claim else None) != (claim.holder if claim else None):
            self._open_since = None
        self._claim = claim

    def turn(
        self,
        *,
        at: Instant,
        alive: Mapping[NodeName, bool],
        expires_at: Instant | None,
        gone: bool,
        renewed_at: Instant | None,
        duration_s: float,
        stopping: bool,
    ) -> Instant | None:
        """Do what there is to do about the seat and, if this host has it, about Services. Returns when to look again.

        `alive` are the hosts whose session says that they live, True for those that may allocate. `gone` and
        `expires_at` tell about the holder; `renewed_at` and `duration_s` about our own session: writes stop early
        enough that no other host can have the seat before they are over.
        """
        claim = self._claim
        if self._open_since is None and (claim is None or claim.holder is None or gone):
            self._open_since = at
        ballot = elect(
            me=self._me,
            claim=claim,
            holder_gone=gone,
            holder_expires_at=expires_at,
            alive=[node for node, may in alive.items() if may],
            stopping=stopping,
            open_since=self._open_since if self._open_since is not None else at,
            barred_until=self._standing.barred_until,
            now=at,
        )
        self._fence_at = Instant(0 if renewed_at is None else renewed_at + duration_s - FENCE_MARGIN_S)
        fenced = at > self._fence_at
        wake_at = ballot.wake_at
        if ballot.seat is Seat.LEAD and not fenced:
            if self._term is None and self._knows_all():
                self._term = self._lead()
            if self._term is not None:
                wake_at = self._allocate(self._term, at)
        elif self._term is not None:
            barred = at < self._standing.barred_until and not fenced
            why = "its session could not be renewed in time" if fenced else "another host takes over"
            self._step_down("it may not write Services' status" if barred else why)
        may_write = self._seat_write is None and not fenced
        if ballot.seat is Seat.GIVE and self._writes:
            may_write = False  # the next one must find them done
        if ballot.seat in (Seat.TAKE, Seat.GIVE) and may_write:
            self._newly, self._reading = ballot.seat is Seat.TAKE, None
            self._seat_write = asyncio.create_task(self._write_seat(ballot))
        return wake_at

    def seat_is_busy(self) -> bool:
        """Whether this host is still named, or is just giving the seat away: a stop waits for that."""
        return self._seat_write is not None or self.holder == self._me or bool(self._writes)

    # The seat

    async def _write_seat(self, ballot: Ballot) -> None:
        try:
            outcome, claim = await self._leases.write_allocator(ballot.name, expected=self._claim)
            if outcome is not Write.UNKNOWN:
                self.claim_seen(claim)
            if outcome is Write.WON and ballot.seat is Seat.GIVE:
                say("allocator.given", f"allocation handed over to {ballot.name or 'whoever comes'}")
        except EdgeError as error:
            warn("allocator.seat-failed", f"the allocator's Lease could not be written: {error}")
            if ballot.seat is not Seat.TAKE or not self._standing.seat_refused(error):
                await asyncio.sleep(1)
        finally:
            self._seat_write = None
            self._wake()

    def _knows_all(self) -> bool:
        """Whether everything that an allocator before this one wrote is known here: a watch may lag behind it.

        So all Services are read once more after the seat was won: whoever had it before has stopped writing by its own
        clock. What of its writes comes later all the same is seen on the watch, and repaired.
        """
        if not self._newly:
            return True
        services = self._cluster.services
        if self._reading is None:
            self._reading = services.relist()
        if services.answered < self._reading:
            return False
        self._newly, self._reading = False, None
        return True

    def _lead(self) -> Vetting:
        say("allocator.begun", f"{self._me} allocates addresses from now on")
        ledger = Ledger(load_balancer_class=self._class, now=now())
        self._take_config(ledger)
        services = self._cluster.services.items
        for service in services.values():
            ledger.note(service)  # who has an address keeps it: all of them first
        self._cluster.changed_services = set(services)
        reports = self._make_reports()
        self._reports = reports
        self._reporting = asyncio.create_task(reports.run())
        self._untold_since = now()
        return Vetting(
            ledger,
            Survey(self._ask, self._node_of),
            cluster=self._cluster,
            events=self._events,
            write=self._write,
            postpone=self._postpone,
            room=self._room,
            wake=self._wake,
        )

    def _step_down(self, why: str) -> None:
        warn("allocator.ended", f"{self._me} no longer allocates addresses: {why}")
        if self._term is not None:
            self._term.end()
        if self._reporting is not None:
            self._reporting.cancel()
        self._reports, self._reporting = None, None
        self._term = None
        self.pending.clear()
        self._incomplete.clear()
        self._news.forget()
        self._echoes.clear()
        self._again.clear()

    # Addresses

    def _allocate(self, term: Vetting, at: Instant) -> Instant | None:
        ledger = term.ledger
        ledger.now = at
        term.try_again(at)
        keys = self._cluster.changed_services
        self._cluster.changed_services = set()
        keys |= {key for key, due in self._again.items() if due <= at}
        keys |= {key for key, (_, sent_at) in self._echoes.items() if at > sent_at + ECHO_S}
        configured = self._take_config(ledger)
        if configured:
            keys |= self._cluster.services.items.keys()
            self._news.tell(ledger)
        freed = False
        for key in sorted(keys):
            freed |= self._take_note(term, key, at)
        if freed:
            keys |= self._waiting()
        for key in self._order(keys):
            service = self._cluster.services.items.get(key)
            if service is not None and not self._under_way(term, key) and key not in self._echoes:
                self._carry_out(term, service, ledger.decide(service), at)
        term.begin()
        if self._reporting is not None and self._reporting.done():
            raise InvariantError(f"the allocator's reports ended: {self._reporting.exception()!r}")
        told_at = self._report(ledger, at, changed=configured or bool(keys))
        return min([*self._again.values(), *([told_at] if told_at is not None else [])], default=None)

    def _report(self, ledger: Ledger, at: Instant, *, changed: bool) -> Instant | None:
        """Tell the pools' counters some time after a change: a burst of Services is one. Returns when."""
        if self._untold_since is None and changed:
            self._untold_since = at
        if self._untold_since is None or self._reports is None:
            return None
        if at < self._untold_since + REPORT_S:
            return Instant(self._untold_since + REPORT_S)
        self._untold_since = None
        self._reports.tell(ledger.config, ledger.in_use())
        return None

    def _take_config(self, ledger: Ledger) -> bool:
        namespaces, reserved = self._cluster.namespaces.items, self._cluster.reserved
        same = ledger.config is self._cluster.config and ledger.reserved == reserved
        if same and ledger.namespaces == namespaces:
            return False
        ledger.config, ledger.namespaces, ledger.reserved = self._cluster.config, dict(namespaces), reserved
        return True

    def _take_note(self, term: Vetting, key: ServiceKey, at: Instant) -> bool:
        """Take in what the watch says of a Service; True if that freed an address."""
        service = self._cluster.services.items.get(key)
        self._again.pop(key, None)
        if service is None or service.type != "LoadBalancer" or service.deleted:
            self._echoes.pop(key, None)
            self.pending.pop(key, None)
            self._incomplete.discard(key)
            term.drop(key)
            return term.ledger.forget(key)
        if self._under_way(term, key):
            return False
        written, sent_at = self._echoes.get(key, ((), at))
        if key in self._echoes and service.assigned != written and at <= sent_at + ECHO_S:
            return False  # older than our own write
        self._echoes.pop(key, None)
        return term.ledger.note(service)

    def _under_way(self, term: Vetting, key: ServiceKey) -> bool:
        """What was decided is being asked about or written: the Service is looked at again when that is over."""
        return key in self._writes or term.has(key)

    def _postpone(self, key: ServiceKey, why: str, until: Instant) -> None:
        """Decide about the Service anew then."""
        self._again[key] = until
        if not self._cluster.services.items[key].assigned:
            self.pending[key] = why

    def _room(self) -> None:
        """An address that was set aside is free: it may be what somebody waits for."""
        self._cluster.changed_services |= self._waiting() | self._again.keys()

    def _waiting(self) -> set[ServiceKey]:
        """Services that may get what others free."""
        return self.pending.keys() | self._incomplete

    def _order(self, keys: Iterable[ServiceKey]) -> list[ServiceKey]:
        """Those that have addresses first: they keep them before anybody gets one."""
        items = self._cluster.services.items
        return sorted(keys, key=lambda key: (not (key in items and items[key].assigned), key))

    def _carry_out(self, term: Vetting, service: Service, decision: Decision, at: Instant) -> None:
        key = service.key
        self._incomplete.discard(key)
        if decision.incomplete:
            self._incomplete.add(key)
        if decision.waits_for:
            self._again[key] = term.wait_for(decision.waits_for, at)
        match decision.outcome:
            case Outcome.LEAVE:
                self.pending.pop(key, None)
            case Outcome.PENDING:
                if self.pending.get(key) != decision.message:
                    warn("service.pending", f"{key} has no address: {decision.message}", service=key)
                self.pending[key] = decision.message
                self._event(service, decision)
            case Outcome.KEEP:
                self.pending.pop(key, None)
                if decision.event:
                    self._event(service, decision)
                if not decision.is_written_in(service):
                    self._write(service, decision)
            case Outcome.CLEAR:
                self._write(service, decision)
            case Outcome.ASSIGN:
                term.propose(service, decision)

    def _write(self, service: Service, decision: Decision) -> None:
        term = self._term

        def may() -> bool:  # the seat may have gone while it waited for its turn
            return term is not None and term is self._term and now() <= self._fence_at

        self._writes.put(service, decision, may=may)

    def _won(self, service: Service, decision: Decision, found: Service) -> None:
        self._echoes[service.key] = (found.assigned, now())
        self._told(service, decision)

    def _write_over(self, key: ServiceKey, retry_s: float | None) -> None:
        if retry_s is None:
            self._cluster.changed_services.add(key)  # what the watch said meanwhile was not taken in
        else:
            self._again[key] = Instant(now() + retry_s)
        self._wake()

    def _told(self, service: Service, decision: Decision) -> None:
        key = service.key
        if set(service.assigned) - {str(ip) for ip in decision.addresses}:  # what it had is free now
            self._cluster.changed_services |= self._waiting()
        if decision.addresses or service.type != "LoadBalancer":
            self.pending.pop(key, None)
        else:
            self.pending[key] = decision.message
        if message := deprecation(service):
            self._events.emit(about_service(service), reason="deprecatedAnnotation", message=message, warning=True)
        if decision.event and decision.outcome is not Outcome.KEEP:
            vips = " ".join(map(str, decision.addresses))
            say("service.assigned", f"{key}: {decision.message}", service=key, vip=vips, pool=decision.pool)
            self._event(service, decision)

    def _event(self, service: Service, decision: Decision) -> None:
        missed = decision.outcome in (Outcome.PENDING, Outcome.CLEAR) and service.type == "LoadBalancer"
        self._events.emit(
            about_service(service),
            reason=decision.event,
            message=decision.message,
            warning=missed or decision.event == "LoadBalancerFailed",
        )
