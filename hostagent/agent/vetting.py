"""Holds back what was decided until the segment was asked whether the addresses are in use already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.agent.survey import ASK_AGAIN_S, Finding, SetAside, Survey
from hostagent.core.allocate import Decision, Ledger
from hostagent.edges.kube.events import Events, about_resource
from hostagent.model.cluster import Service
from hostagent.model.names import IP, Instant, ServiceKey
from hostagent.telemetry.journal import say, warn

LEFTOVER_RETRY_S = 0.5
ASKED_AT_ONCE = 1000
"""Services per question: bounds how long the first of a great many waits for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proposal:
    """A decision that is not written before the segment was asked."""

    service: Service
    decision: Decision
    fresh: tuple[IP, ...]
    """Addresses that no Service has yet."""


class Vetting:
    """One term's: made with the ledger when this host takes the seat, ended with it.

    One question at a time, about all addresses that wait for one: a hundred new Services cost as much as one.
    """

    def __init__(
        self,
        ledger: Ledger,
        survey: Survey,
        *,
        cluster: Cluster,
        events: Events,
        write: Callable[[Service, Decision], None],
        postpone: Callable[[ServiceKey, str, Instant], None],
        room: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        """`write` carries a decision out, `postpone` has it made anew later, `room` tells that an address is free."""
        self.ledger = ledger
        self.survey = survey
        self._cluster = cluster
        self._events = events
        self._write = write
        self._postpone = postpone
        self._room = room
        self._wake = wake
        self._proposals: dict[ServiceKey, _Proposal] = {}
        self._doubted: set[IP] = set()
        """Set aside, and to be asked about with the next question."""
        self._asking: asyncio.Task[None] | None = None

    def end(self) -> None:
        """The seat is another's: nothing that is held back will be written."""
        self._proposals.clear()
        if self._asking is not None:
            self._asking.cancel()

    def has(self, key: ServiceKey) -> bool:
        """Whether a decision about this Service is held back."""
        return key in self._proposals

    def drop(self, key: ServiceKey) -> None:
        """The Service is gone."""
        self._proposals.pop(key, None)

    def propose(self, service: Service, decision: Decision) -> None:
        """Write what was decided: at once, or when the segment was asked about addresses that no Service has yet."""
        fresh = tuple(ip for ip in decision.addresses if not self._in_use(ip))
        if fresh:
            self._proposals[service.key] = _Proposal(service=service, decision=decision, fresh=fresh)
        else:
            self._write(service, decision)

    def wait_for(self, ips: Iterable[IP], at: Instant) -> Instant:
        """A Service asks for just these addresses, which are set aside. Returns when it should be looked at again."""
        again_at = self.survey.ask_again_at(ips)
        if again_at > at:
            return again_at
        self._doubted |= set(ips)
        return Instant(at + ASK_AGAIN_S)

    def try_again(self, at: Instant) -> None:
        """Addresses that were set aside long ago, or are in no pool any more, are as any other again."""
        aside = self.survey.set_aside
        gone = [ip for ip in aside if self._cluster.config.pool_of(ip) is None]
        for ip in {*gone, *self.survey.lapsed(at)}:
            del aside[ip]
            self._put_back(ip)

    def begin(self) -> None:
        """Ask about everything that waits for it, unless a question is under way: its end wakes the loop."""
        if self._asking is None and (self._proposals or self._doubted):
            batch = tuple(islice(self._proposals.values(), ASKED_AT_ONCE))
            self._asking = asyncio.create_task(self._ask(batch, frozenset(self._doubted)))
            self._doubted.clear()

    async def _ask(self, batch: tuple[_Proposal, ...], doubted: frozenset[IP]) -> None:
        try:
            findings = await self.survey.ask(doubted.union(*(each.fresh for each in batch)))
            self._learn(findings)
            for each in batch:
                if self._proposals.get(each.service.key) is each:  # else deleted meanwhile, and perhaps made anew
                    self._settle(each, {findings[ip] for ip in each.fresh})
        finally:
            self._asking = None
            self._wake()

    def _settle(self, proposal: _Proposal, found: set[Finding]) -> None:
        """Write it if nobody objects; else it is decided anew, knowing what is set aside."""
        key = proposal.service.key
        del self._proposals[key]
        if Finding.TAKEN in found or self._cluster.services.items.get(key) != proposal.service:
            self._cluster.changed_services.add(key)
        elif Finding.LEFTOVER in found:
            addresses = ", ".join(map(str, proposal.fresh))
            why = f"{addresses}: a host still answers for the Service that had it before"
            self._postpone(key, why, Instant(now() + LEFTOVER_RETRY_S))
        else:
            self._write(proposal.service, proposal.decision)

    def _in_use(self, ip: IP) -> bool:
        """Whether a Service has the address, as the watch says: then a host answers for it, and should."""
        items = self._cluster.services.items
        return any(ip in items[key].addresses for key in self.ledger.tenants(ip) if key in items)

    def _learn(self, findings: Mapping[IP, Finding]) -> None:
        for ip, finding in findings.items():
            known = self.ledger.why_set_aside(ip)
            if finding is Finding.TAKEN:
                entry = self.survey.set_aside[ip]
                self.ledger.set_aside(ip, entry.user)
                if entry.user != known:
                    self._tell(ip, entry)
            elif finding is Finding.FREE and known:
                say("pool.address-free", f"{ip} is free: no machine answers for it any more", vip=ip)
                self._put_back(ip)

    def _put_back(self, ip: IP) -> None:
        self.ledger.put_back(ip)
        self._room()

    def _tell(self, ip: IP, entry: SetAside) -> None:
        pool = self._cluster.config.pool_of(ip)
        name = pool.name if pool else ""
        cure = "take it off that machine, or out of the pool"
        message = f"{ip} of pool {name} is set aside: {entry.user} answers for it; {cure}"
        warn("pool.address-taken", message, vip=ip, mac=entry.mac, pool=name)
        for resource in self._cluster.resources["ipaddresspools"].items.values():
            if resource.name == name:
                self._events.emit(about_resource(resource), reason="AddressInUse", message=message, warning=True)
