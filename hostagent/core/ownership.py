"""The ownership state machine of one host: what it saw goes in, acts come out; no clock, no API, no kernel.

It keeps what must be remembered between two moments (claims, sessions, what a probe found, what is under way) and
asks `judge` about each VIP that something happened to or whose time has come. Nothing else in the program decides
about a VIP. The same object runs in the agent and in the simulator of tests/simulation.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from hostagent.core.candidates import Ranking
from hostagent.core.judge import Probed, Standing, Verdict, View, judge
from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName
from hostagent.model.ownership import (
    Act,
    Claim,
    DeleteClaim,
    Probe,
    RemoveAddress,
    ReportConflict,
    Session,
    Write,
    WriteClaim,
)

RETRY_S = 1.0
"""Pause before an act that failed is asked for again."""
STALL_S = 5.0
"""A pause between two turns that others may have used, at most: see `stall_s`."""
CATCH_UP_S = 10.0
"""For so long after a stall, what arrives may have been said before it; nothing is added on the strength of it."""
GAP_OF_RENEW = 1.5
"""A silence of the lease stream longer than this many renewal intervals is an outage: nobody's age counts through it.

Shorter ones leave the holder time to renew before it expires: 1.5 renewals of silence, one interval before and a
back-off of a second stay under a duration of three intervals.
"""


@dataclass(slots=True)
class _Vip:
    """What is remembered about one VIP."""

    ranking: Ranking | None = None
    """None: no Service uses it."""
    claim: Claim | None = None
    newest: str = ""
    """The newest resource version seen, also of a claim that was deleted since."""
    held_on: InterfaceName | None = None
    lapsed: bool = False
    let_go: bool = False
    writing: bool = False
    probing: bool = False
    probed: Probed | None = None
    probe_at: Instant | None = None
    """When the last probe was asked for."""
    wrote_at: Instant | None = None
    """When the last claim write was asked for: what is heard from then on may be the successor already."""
    won_at: Instant | None = None
    """When the last write that was won was asked for."""
    heard_at: Instant | None = None
    due_at: Instant | None = None
    """The earliest entry in the queue of wake-ups; later ones need no entry, as each judgement asks anew."""
    open_since: Instant | None = None
    conflict: Mac | None = None
    not_before: Instant | None = None
    verdict: Verdict | None = None

    @property
    def forgettable(self) -> bool:
        return self.ranking is None and self.claim is None and self.held_on is None and not self.writing


@dataclass(slots=True)
class Ownership:
    """One host's part in the ownership protocol. All methods are cheap; `turn` decides."""

    me: NodeName
    duration_s: float
    renew_s: float
    stopping: bool = False
    sessions: dict[NodeName, Session] = field(default_factory=dict)
    _vips: dict[IP, _Vip] = field(default_factory=dict)
    _dirty: set[IP] = field(default_factory=set)
    _due: list[tuple[Instant, str, IP]] = field(default_factory=list)
    _stream_at: Instant | None = None
    _fresh_since: Instant | None = None
    _turned_at: Instant | None = None
    _doubt_until: Instant | None = None
    _sweeps: bool = False

    @property
    def sweeps(self) -> bool:
        """This host is the allocator and clears claims away that nobody needs."""
        return self._sweeps

    @sweeps.setter
    def sweeps(self, yes: bool) -> None:
        if yes and not self._sweeps:
            self._dirty.update(vip for vip, known in self._vips.items() if known.ranking is None)
        self._sweeps = yes

    # What was seen

    def lease_stream_alive(self, now: Instant) -> None:
        """Something arrived on the lease watch. After an outage everybody gets a full duration to be heard again.

        This is promise P6: when the API was away nobody could renew, so nobody's silence means anything.
        """
        if self._stream_at is None or now - self._stream_at > GAP_OF_RENEW * self.renew_s:
            self._fresh_since = now
            self._dirty.update(self._vips)  # who had counted as expired is alive again, this host among them
        self._stream_at = now

    def session_seen(self, node: NodeName, session: Session | None, now: Instant) -> None:
        """A session Lease appeared, changed or went (None)."""
        self.lease_stream_alive(now)
        before = self.sessions.get(node)
        if session is None:
            self.sessions.pop(node, None)
        else:
            self.sessions[node] = session
        if before is None or session is None or before.ended != session.ended or not self._alive(before, now):
            self._dirty.update(self._vips)

    def claim_seen(self, vip: IP, claim: Claim | None, now: Instant) -> None:
        """A claim Lease appeared, changed or went (None), on the watch or in the reply to our own write."""
        self.lease_stream_alive(now)
        known = self._vip(vip)
        if claim is not None:
            if _older(claim.resource_version, known.newest):
                return  # the watch is behind the reply to our own write, perhaps even a deletion behind
            if known.claim is not None and claim.resource_version == known.claim.resource_version:
                return  # an echo: its first sight counts
            known.newest = claim.resource_version
        if _holder(known.claim) != _holder(claim):
            known.probed = known.open_since = known.conflict = None
            known.lapsed = known.let_go = False
        known.claim = claim
        self._dirty.add(vip)

    def ranking_is(self, vip: IP, ranking: Ranking | None) -> None:
        """Who may answer for the VIP now; None when no Service uses it any more."""
        known = self._vip(vip)
        if known.ranking != ranking:
            known.ranking = ranking
            self._dirty.add(vip)

    def held_is(self, vip: IP, interface: InterfaceName | None) -> None:
        """On which interface of this host the address is (None: on none), as the kernel says."""
        known = self._vip(vip)
        if known.held_on != interface:
            known.held_on = interface
            self._dirty.add(vip)

    def lapsed(self, vip: IP) -> None:
        """The kernel ended the address by its lifetime: this agent, or the one before it, had stopped turning."""
        known = self._vip(vip)
        known.held_on, known.lapsed = None, True
        self._dirty.add(vip)

    def wrote(self, vip: IP, outcome: Write, now: Instant) -> None:
        """A claim write or deletion has ended. What it left in the API is told by `claim_seen`, before this."""
        known = self._vip(vip)
        known.writing = False
        if outcome is Write.WON:
            # What is known of the claim is as fresh as the question; a reply may have waited for an agent that hung.
            known.won_at = known.wrote_at
            if known.wrote_at is not None and now - known.wrote_at <= self.stall_s:
                known.lapsed = known.let_go = False
        else:
            known.probed = None  # whoever was quicker may answer by now
        self._dirty.add(vip)
        if outcome is Write.UNKNOWN:
            self._again(vip, known, Instant(now + RETRY_S))

    def probed(self, vip: IP, by: Mac | None, now: Instant) -> None:
        """A probe has ended: answered by this MAC, or by nobody.

        It counts from when it was asked for: a host that hung meanwhile heard nothing of what came later.
        """
        known = self._vip(vip)
        known.probing = False
        known.probed = Probed(at=now if known.probe_at is None else known.probe_at, by=by)
        self._dirty.add(vip)

    def probe_failed(self, vip: IP, now: Instant) -> None:
        """The probe could not be sent: it says nothing, so it is asked for again."""
        known = self._vip(vip)
        known.probing = False
        self._again(vip, known, Instant(now + RETRY_S))

    def heard(self, vip: IP, now: Instant) -> None:
        """Another host announced or answered for the VIP."""
        known = self._vips.get(vip)
        if known is not None:
            known.heard_at = now
            if known.held_on is not None:
                self._dirty.add(vip)

    def ask_again(self, vip: IP, at: Instant) -> None:
        """An act could not be done yet, or failed: judge the VIP once more then."""
        self._wake(vip, self._vip(vip), at)

    def stop(self) -> None:
        """Hand over everything from now on, and take nothing."""
        self.stopping = True
        self._dirty.update(self._vips)

    # What follows

    def turn(self, now: Instant) -> list[Act]:
        """Judge every VIP that something happened to or whose time has come, and say what to do.

        An act that is under way is not asked for again until its outcome was told. Work is proportional to what
        changed, not to the number of VIPs.
        """
        if self._turned_at is not None and now - self._turned_at > self.stall_s:
            self._doubt_until = Instant(now + CATCH_UP_S)
        self._turned_at = now
        while self._due and self._due[0][0] <= now:
            due_at, _, vip = heapq.heappop(self._due)
            if vip in self._vips:
                self._dirty.add(vip)
                if self._vips[vip].due_at == due_at:
                    self._vips[vip].due_at = None
        acts: list[Act] = []
        for vip in sorted(self._dirty, key=lambda ip: (ip.version, int(ip))):
            known = self._vips[vip]
            if known.forgettable:
                del self._vips[vip]
                continue
            acts += self._judge(vip, known, now)
        self._dirty.clear()
        return acts

    def next_wake(self) -> Instant | None:
        """When `turn` must be called even if nothing happens."""
        return self._due[0][0] if self._due else None

    def alive(self, node: NodeName, now: Instant) -> bool:
        """Whether a host's session says that it lives."""
        session = self.sessions.get(node)
        return session is not None and self._alive(session, now)

    def expires_at(self, node: NodeName) -> Instant | None:
        """When a host's session will count as expired, unless it is heard of before."""
        return self._expires_at(self.sessions.get(node), None)

    @property
    def stall_s(self) -> float:
        """Others may have taken over after this long: they need a session duration, less one renewal, to act."""
        return min(STALL_S, self.duration_s - self.renew_s)

    @property
    def held(self) -> Mapping[IP, InterfaceName]:
        """The addresses that are on this host's interfaces."""
        return {vip: known.held_on for vip, known in self._vips.items() if known.held_on is not None}

    @property
    def claims(self) -> Mapping[IP, Claim]:
        return {vip: known.claim for vip, known in self._vips.items() if known.claim is not None}

    @property
    def stopped(self) -> bool:
        """Nothing is left that names this host or that it holds."""
        return self.stopping and not any(
            known.held_on is not None or known.writing or _holder(known.claim) == self.me
            for known in self._vips.values()
        )

    def ranking(self, vip: IP) -> Ranking | None:
        known = self._vips.get(vip)
        return known.ranking if known else None

    def verdict(self, vip: IP) -> Verdict | None:
        """The last verdict about a VIP, for people."""
        known = self._vips.get(vip)
        return known.verdict if known else None

    # How

    def _judge(self, vip: IP, known: _Vip, now: Instant) -> list[Act]:
        view = self._view(vip, known, now)
        known.open_since = view.open_since
        verdict = known.verdict = judge(view, now)
        if verdict.wake_at is not None:
            self._wake(vip, known, verdict.wake_at)
        waits = known.not_before is not None and now < known.not_before
        acts: list[Act] = []
        for act in verdict.acts:
            match act:
                case WriteClaim() | DeleteClaim() if waits:
                    self._wake(vip, known, known.not_before or now)
                    continue
                case WriteClaim() | DeleteClaim():
                    known.writing, known.wrote_at = True, now
                case Probe():
                    known.probing, known.probe_at = True, now
                case RemoveAddress():
                    known.let_go = _holder(known.claim) == self.me
                case ReportConflict(mac=mac) if known.conflict == mac:
                    continue  # told already
                case ReportConflict(mac=mac):
                    known.conflict = mac
                case _:
                    pass
            acts.append(act)
        return acts

    def _view(self, vip: IP, known: _Vip, now: Instant) -> View:
        claim = known.claim
        holder = _holder(claim)
        session = self.sessions.get(holder) if holder else None
        expires_at = self._expires_at(session, claim)
        if holder is None or claim is None:
            standing = None
        elif session is not None and session.ended:
            standing = Standing.ENDED
        elif expires_at is not None and now >= expires_at:
            standing = Standing.EXPIRED
        else:
            standing = Standing.LIVE
        ranked = [c.node for c in known.ranking.ranked] if known.ranking else []
        live = [node for node in ranked if self.alive(node, now)]
        mine = known.ranking.of(self.me) if known.ranking else None
        open_now = holder is None or standing in (Standing.EXPIRED, Standing.ENDED)
        return View(
            vip=vip,
            me=self.me,
            wanted=known.ranking is not None,
            stopping=self.stopping,
            entitled=mine is not None,
            position=live.index(self.me) if self.me in live else None,
            heir=next((node for node in live if node != self.me), None),
            claim=claim,
            standing=standing,
            last_sign_at=session.seen_at if session else None,
            expires_at=expires_at,
            held=known.held_on is not None,
            lapsed=known.lapsed,
            in_doubt=known.let_go or self._in_doubt(known, now),
            placed=mine is not None and known.held_on == mine.interface,
            writing=known.writing,
            probing=known.probing,
            probed=known.probed,
            heard_successor=self._heard_successor(known),
            open_since=(now if known.open_since is None else known.open_since) if open_now and ranked else None,
            sweeps=self.sweeps,
        )

    def _expires_at(self, session: Session | None, claim: Claim | None) -> Instant | None:
        """A full duration after the last sign of the holder, counted only while signs could be seen."""
        last = session.seen_at if session is not None else (claim.seen_at if claim is not None else None)
        if last is None or self._fresh_since is None:
            return None
        return Instant(max(last, self._fresh_since) + (session.duration_s if session else self.duration_s))

    def _alive(self, session: Session, now: Instant) -> bool:
        expires_at = self._expires_at(session, None)
        return not session.ended and expires_at is not None and now < expires_at

    def _in_doubt(self, known: _Vip, now: Instant) -> bool:
        """Whether this host stalled not long ago, and has not won a write of this claim since."""
        if self._doubt_until is None or now >= self._doubt_until:
            return False
        return known.won_at is None or known.won_at < self._doubt_until - CATCH_UP_S

    def _heard_successor(self, known: _Vip) -> bool:
        """Heard since the hand-over was asked for: the successor's watch may be quicker than the reply to our write."""
        if known.heard_at is None or known.claim is None:
            return False
        since = known.claim.seen_at
        if known.claim.predecessor == self.me and known.wrote_at is not None:
            since = min(since, known.wrote_at)
        return known.heard_at >= since

    def _again(self, vip: IP, known: _Vip, at: Instant) -> None:
        known.not_before = at
        self._wake(vip, known, at)

    def _wake(self, vip: IP, known: _Vip, at: Instant) -> None:
        if known.due_at is None or at < known.due_at:
            known.due_at = at
            heapq.heappush(self._due, (at, str(vip), vip))

    def _vip(self, vip: IP) -> _Vip:
        return self._vips.setdefault(vip, _Vip())


def _holder(claim: Claim | None) -> NodeName | None:
    return claim.holder if claim is not None else None


def _older(version: str, than: str) -> bool:
    """Resource versions of one kind grow, and may be compared as numbers (Kubernetes API conventions since 1.35)."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)
