"""How one host stands at one moment, and what that makes of each VIP: the view that the rules judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hostagent.core.candidates import Candidate
from hostagent.core.hosts import Hosts
from hostagent.core.view import GONE, Standing, View
from hostagent.core.vip import DAMPED_MOVES, DAMPED_S, Vip
from hostagent.core.watching import Watching
from hostagent.model.names import IP, Instant, InterfaceName, NodeName
from hostagent.model.ownership import Claim, Why

CATCH_UP_S = 10.0
"""For so long after a stall, what arrives may have been said before it; nothing is added on the strength of it."""
CARRIER_S = 0.25
"""Without carrier for so long, a host lets go. Others can take over 0.4 s after it at the earliest: three unanswered
questions, and the time to refute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What all VIPs have in common."""

    now: Instant
    me: NodeName
    hosts: Hosts
    fit: frozenset[NodeName]
    """The hosts that could take a VIP now: asked once for all VIPs, as a hundred hosts may be candidates of each."""
    watching: Watching
    stopping: bool
    draining: bool
    sweeps: bool
    preempt_delay_s: float
    doubt_until: Instant | None
    """Until when what arrives may be as old as a stall of this agent."""
    api_lost: bool
    alone_at: Instant | None
    """Since when the hosts of a segment settle things among themselves; None: they do not."""
    fenced: bool
    down_since: Mapping[InterfaceName, Instant]
    gateways: Mapping[InterfaceName, IP]

    def view(self, vip: IP, known: Vip) -> View:
        """What the rules need to know about one VIP."""
        now, claim, holder = self.now, known.claim, known.holder
        ranked = known.ranking.ranked if known.ranking else ()
        fit = [c for c in ranked if c.node in self.fit]
        mine = known.ranking.of(self.me) if known.ranking else None
        position = next((at for at, c in enumerate(fit) if c.node == self.me), None)
        plugged = mine is not None and mine.interface not in self.down_since
        informed = not self.hosts.stale(now) and self.hosts.stream_flows(now)
        may_claim = plugged and not self.draining and informed
        standing = self._standing(known)
        open_now = holder is None or standing in GONE or self.alone_at is not None
        session = self.hosts.sessions.get(holder) if holder else None
        target, target_why, target_at = self._target(known, mine, fit)
        unplugged_at = self.unplugged_at(known)
        return View(
            vip=vip,
            me=self.me,
            wanted=known.ranking is not None,
            stopping=self.stopping,
            draining=self.draining,
            entitled=mine is not None,
            position=position if may_claim else None,
            heir=next((c.node for c in fit if c.node != self.me), None),
            target=target,
            target_why=target_why,
            target_at=target_at,
            claim=claim,
            standing=standing,
            last_sign_at=session.seen_at if session else None,
            expires_at=self._expires_at(claim),
            barred_at=self._barred_at(known),
            held=known.held_on is not None,
            placed=mine is not None and known.held_on == mine.interface,
            unplugged=unplugged_at is not None and now >= unplugged_at,
            arbitrated=known.arbitrated,
            lapsed=known.lapsed,
            in_doubt=self._in_doubt(known, mine),
            api_lost=self.api_lost,
            alone_at=self.alone_at,
            fenced=self.fenced,
            order=self._order(ranked, holder),
            silent_since=self.watching.silent_since(holder) if holder is not None else None,
            writing=known.writing,
            probing=known.probing,
            probed=known.probed,
            rival=known.rival,
            reading=known.reading,
            defended_at=known.defended_at,
            heard_successor=known.heard_successor(self.me),
            open_since=(now if known.open_since is None else known.open_since) if open_now and ranked else None,
            sweeps=self.sweeps,
        )

    def unplugged_at(self, known: Vip) -> Instant | None:
        """When the interface that has the address will have been without carrier for too long; None: it has one."""
        return self._deaf_at(known.held_on) if known.held_on else None

    def _deaf_at(self, interface: InterfaceName) -> Instant | None:
        """From when on others may have taken over what was on an interface; None: it has a carrier."""
        down_since = self.down_since.get(interface)
        return None if down_since is None else Instant(down_since + CARRIER_S)

    def witnesses(self, known: Vip) -> tuple[tuple[IP, ...], int]:
        """Machines on the VIP's segment that should answer this host, and how many of them must.

        The hosts other than the holder, of which a majority must answer; where there is none, the gateway.
        """
        mine, session = known.ranking.of(self.me) if known.ranking else None, self.hosts.sessions.get(self.me)
        own = session.on(mine.interface) if mine and session else None
        if mine is None or own is None:
            return (), 0
        networks = {subnet.network for subnet in own.subnets}
        peers = []
        for node, session in sorted(self.hosts.sessions.items()):
            if node not in (self.me, known.holder) and not session.ended:
                shared = (s.ip for segment in session.segments for s in segment.subnets if s.network in networks)
                peers.append(next(shared, None))
        found = tuple(ip for ip in peers if ip is not None)
        if found:
            return found, len(found) // 2 + 1
        gateway = self.gateways.get(mine.interface)
        return ((gateway,), 1) if gateway is not None else ((), 0)

    def _standing(self, known: Vip) -> Standing | None:
        holder, now = known.holder, self.now
        if holder is None:
            return None
        session = self.hosts.sessions.get(holder)
        expires_at = self._expires_at(known.claim)
        if session is not None and session.ended:
            return Standing.ENDED
        if expires_at is not None and self.hosts.passed(expires_at, now):
            return Standing.EXPIRED
        if self.hosts.dead(holder):
            return Standing.DEAD
        return Standing.SUSPECTED if self.hosts.suspected(holder) else Standing.LIVE

    def _expires_at(self, claim: Claim | None) -> Instant | None:
        """When the holder will count as expired; one without a session, a duration after its claim was seen."""
        if claim is None or claim.holder is None or self.hosts.fresh_since is None:
            return None
        if claim.holder in self.hosts.sessions:
            return self.hosts.expires_at(claim.holder)
        return Instant(max(claim.seen_at, self.hosts.fresh_since) + self.hosts.duration_s)

    def _barred_at(self, known: Vip) -> Instant | None:
        holder = known.holder
        if holder is None or known.ranking is None or known.ranking.of(holder) is not None:
            known.barred_since = None
            return None
        if known.barred_since is None:
            known.barred_since = self.now
        return Instant(known.barred_since + self.hosts.duration_s)

    def _target(
        self, known: Vip, mine: Candidate | None, fit: list[Candidate]
    ) -> tuple[NodeName | None, Why, Instant | None]:
        """To whom a VIP that this host holds shall go, why, and when that will be so."""
        if known.asked is not None:
            if any(c.node == known.asked for c in fit):
                return known.asked, Why.ASKED, None
            known.asked = None
        best = fit[0] if fit else None
        if mine is None or best is None or known.holder != self.me or best.weight <= mine.weight:
            known.preferred = None
            return None, Why.PREFERRED, None
        if known.preferred is None or known.preferred[0] != best.node:
            known.preferred = (best.node, self.now)
        at = known.preferred[1] + self.preempt_delay_s
        if len(known.moved_at) == DAMPED_MOVES:
            at = max(at, known.moved_at[0] + DAMPED_S)
        return (best.node, Why.PREFERRED, None) if self.now >= at else (None, Why.PREFERRED, Instant(at))

    def _order(self, ranked: tuple[Candidate, ...], holder: NodeName | None) -> int | None:
        """Place among all candidates, but behind nobody for what a claim gives to this host."""
        if holder == self.me:
            return 0
        others = (c.node for c in ranked if c.node != holder)
        return next((at for at, node in enumerate(others) if node == self.me), None)

    def _in_doubt(self, known: Vip, mine: Candidate | None) -> bool:
        """Whether what is known of the claim may be old."""
        deaf_at = self._deaf_at(mine.interface) if mine else None
        if known.let_go_at is not None or self.hosts.stale(self.now) or (deaf_at is not None and self.now >= deaf_at):
            return True
        if self.doubt_until is None or self.now >= self.doubt_until:
            return False
        return known.won_at is None or known.won_at < self.doubt_until - CATCH_UP_S
