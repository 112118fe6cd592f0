"""The ownership state machine of one host: what it saw goes in, acts come out; no clock, no API, no kernel.

It keeps what must be remembered between two moments (claims, what a probe found, what is under way) and asks `judge`
about each VIP that something happened to or whose time has come. `Hosts` knows who lives, `Watching` whom to watch.
Nothing else in the program decides about a VIP. The same object runs in the agent and in tests/simulation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hostagent.core.agenda import Agenda
from hostagent.core.candidates import Ranking
from hostagent.core.hosts import RETRY_S, Hosts
from hostagent.core.judge import judge
from hostagent.core.moves import plan, refusal
from hostagent.core.reach import Reach
from hostagent.core.situation import CARRIER_S, CATCH_UP_S, Situation
from hostagent.core.view import Probed, Verdict
from hostagent.core.vip import RECONFIRM_S, Vip
from hostagent.core.vips import Vips
from hostagent.core.watching import Watching
from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName
from hostagent.model.ownership import (
    Act,
    Announce,
    Claim,
    DeleteClaim,
    Move,
    OnApiLoss,
    Probe,
    ReadClaim,
    RemoveAddress,
    ReportConflict,
    Session,
    Watched,
    Why,
    Write,
    WriteClaim,
)

STALL_S = 5.0
"""A pause between two turns that others may have used, at most: see `stall_s`."""


@dataclass(slots=True)
class Ownership:
    """One host's part in the ownership protocol. All methods are cheap; `turn` decides."""

    me: NodeName
    duration_s: float
    renew_s: float
    on_api_loss: OnApiLoss = "hold"
    preempt_delay_s: float = 30.0
    stopping: bool = False
    gateways: dict[InterfaceName, IP] = field(default_factory=dict)
    """The next hop on each interface: witnesses of the segment where no other host of ours is."""
    hosts: Hosts = field(init=False)
    _watching: Watching = field(init=False)
    _reach: Reach = field(init=False)
    _vips: Vips = field(init=False)
    _agenda: Agenda = field(default_factory=Agenda)
    _turned_at: Instant | None = None
    _doubt_until: Instant | None = None
    _sweeps: bool = False
    _draining: bool = False
    _watch_anew: bool = True
    _sound: frozenset[NodeName] = frozenset()
    """The hosts that were sound at the last turn."""
    _down_since: dict[InterfaceName, Instant] = field(default_factory=dict)
    _told_alone: bool = False
    _told_stale: bool = False

    def __post_init__(self) -> None:
        self.hosts = Hosts(me=self.me, duration_s=self.duration_s, renew_s=self.renew_s)
        self._vips = Vips(me=self.me)
        self._watching = Watching(me=self.me, hosts=self.hosts)
        self._reach = Reach(policy=self.on_api_loss, duration_s=self.duration_s)

    @property
    def sweeps(self) -> bool:
        """This host is the allocator and clears claims away that nobody needs."""
        return self._sweeps

    @sweeps.setter
    def sweeps(self, yes: bool) -> None:
        if yes and not self._sweeps:
            self._agenda.touch(vip for vip, known in self._vips.items() if known.ranking is None)
        self._sweeps = yes

    @property
    def draining(self) -> bool:
        """This host hands over what it holds, as far as another host can take it, and takes nothing."""
        return self._draining

    @draining.setter
    def draining(self, yes: bool) -> None:
        if yes != self._draining:
            self._draining = yes
            self._agenda.touch(self._vips)

    # What was seen at the API

    def lease_stream_alive(self, now: Instant) -> None:
        """Something arrived on the lease watch. After an outage everybody gets a full duration to be heard again.

        This is promise P6: when the API was away nobody could renew, so nobody's silence means anything.
        """
        if self.hosts.stream_alive(now):
            self._agenda.touch(self._vips)  # who had counted as expired is alive again, this host among them

    def session_seen(self, node: NodeName, session: Session | None, now: Instant) -> None:
        """A session Lease appeared, changed or went (None)."""
        self.lease_stream_alive(now)
        was_suspected = self.hosts.suspected(node)
        if self.hosts.seen(node, session, now):
            self._agenda.touch(self._vips)
            self._watch_anew = True
        if self.hosts.suspected(node) != was_suspected:
            self._agenda.touch(self._vips.claimed.get(node, ()))
            self._watch_anew = True
            if was_suspected:
                self._watching.refuted(node, now)

    def suspected(self, node: NodeName, outcome: Write, now: Instant) -> None:
        """The note that this host wanted in another's session was written, or not."""
        self._watching.wrote(node, outcome, now)

    def session_read(self, node: NodeName, session: Session | None, asked_at: Instant, now: Instant) -> None:
        """What the API says about a suspected host. A reply that waited for an agent that hung says nothing."""
        if now - asked_at > self.stall_s:
            self.session_read_failed(node, now)
            return
        if self.hosts.read(node, session):
            self._watch_anew = True
        else:
            self._watching.refuted(node, now)
        self._agenda.touch(self._vips.claimed.get(node, ()))

    def session_read_failed(self, node: NodeName, now: Instant) -> None:
        """The API did not say whether a suspected host has refuted."""
        self.hosts.read_failed(node, now)

    def renewed(self, version: str, sent_at: Instant, now: Instant) -> None:
        """This host's session was written; others count from later than when it was sent."""
        self._reach.renewed_at = sent_at
        self.hosts.renewed(version, now)

    def api_reach(self, *, reachable: bool, now: Instant) -> None:
        """Whether the API answers this host."""
        if reachable == (self._reach.lost_at is None):
            return
        self._reach.lost_at = None if reachable else now
        self._told_alone = False
        self._watch_anew = True
        self._agenda.touch(self._vips)

    def claim_seen(self, vip: IP, claim: Claim | None, now: Instant) -> None:
        """A claim Lease appeared, changed or went (None), on the watch or in the reply to our own write."""
        self.lease_stream_alive(now)
        known = self._vips.of(vip)
        before = known.holder
        if self._vips.claim_is(vip, claim, now):
            self._watch_anew |= known.holder != before
            self._agenda.touch((vip,))

    def claim_read(self, vip: IP, *, ok: bool, now: Instant) -> None:
        """The API was asked who holds the VIP; what it said came by `claim_seen` before this."""
        known = self._vips.of(vip)
        known.reading = False
        if ok and known.holder == self.me:
            known.confirmed()
        elif not ok:
            self._agenda.wake(vip, Instant(now + RETRY_S))
        self._agenda.touch((vip,))

    def ranking_is(self, vip: IP, ranking: Ranking | None) -> None:
        """Who may answer for the VIP now; None when no Service uses it any more."""
        known = self._vips.of(vip)
        if known.ranking != ranking:
            known.ranking = ranking
            self._agenda.touch((vip,))
            self._watch_anew = True

    # What was seen on this host and its segments

    def held_is(self, vip: IP, interface: InterfaceName | None) -> None:
        """On which interface of this host the address is (None: on none), as the kernel says."""
        if self._vips.held_is(vip, interface):
            self._agenda.touch((vip,))

    def lapsed(self, vip: IP) -> None:
        """The kernel ended the address by its lifetime: this agent, or the one before it, had stopped turning."""
        self._vips.lapsed(vip)
        self._agenda.touch((vip,))

    def carrier_is(self, interface: InterfaceName, *, up: bool, now: Instant) -> None:
        """Whether the interface is there and has a carrier.

        What is on one that has had none for `CARRIER_S` is taken off it, and comes back after a write only.
        """
        if up == (interface not in self._down_since):
            return
        if not up:
            self._down_since[interface] = now
        elif now - self._down_since.pop(interface) >= CARRIER_S:
            for known in self._vips.records():  # others may have taken what went with the interface
                if known.holder == self.me and known.held_on is None:
                    known.let_go_at = now
        self._agenda.touch(self._vips)

    def heard(self, vip: IP, mac: Mac, by: NodeName | None, now: Instant) -> None:
        """Another machine announced or answered for the VIP: the host `by`, or a stranger (None)."""
        known = self._vips.get(vip)
        if known is None:
            return
        known.heard(mac, by, me=self.me, now=now)
        if known.held_on is not None:
            self._agenda.touch((vip,))
        guard = self._watching.guards.get(vip)
        if guard is not None and guard.holder == by and known.holder == self.me:  # it is back, with all that it had
            for each in self._vips.replaced.get(guard.holder, ()):
                self._vips.of(each).rival_is(mac, by, me=self.me, now=now)
                self._agenda.touch((each,))

    def watch_found(self, vip: IP, *, silent: bool, now: Instant) -> None:
        """The wire says that a watched VIP fell silent, or is answered again."""
        watched = self._watching.targets.get(vip)
        if silent and watched is not None and watched.interface in self._down_since:
            return  # this host cannot hear it
        holder = self._watching.found(vip, silent=silent, now=now)
        if holder is not None and self._reach.alone(now):
            self._agenda.touch(self._vips.claimed.get(holder, ()))

    def probed(self, vip: IP, by: Mac | None, now: Instant, witnesses: int = 0) -> None:
        """A probe has ended: answered by this MAC, or by nobody; so many of the witnesses answered.

        It counts from when it was asked for: a host that hung meanwhile heard nothing of what came later.
        """
        known = self._vips.of(vip)
        known.probing = False
        known.probed = Probed(
            at=now if known.probe_at is None else known.probe_at,
            by=by,
            witnessed=0 < known.witnesses <= witnesses,
        )
        self._agenda.touch((vip,))

    def probe_failed(self, vip: IP, now: Instant) -> None:
        """The probe could not be sent: it says nothing, so it is asked for again."""
        known = self._vips.of(vip)
        known.probing = False
        self._again(vip, known, Instant(now + RETRY_S))

    # What was done, and what people ask for

    def wrote(self, vip: IP, outcome: Write, now: Instant) -> None:
        """A claim write or deletion has ended. What it left in the API is told by `claim_seen`, before this."""
        known = self._vips.of(vip)
        known.writing = False
        if outcome is Write.WON:
            # What is known of the claim is as fresh as the question; a reply may have waited for an agent that hung.
            known.won_at = known.wrote_at
            if known.wrote_at is not None and now - known.wrote_at <= self.stall_s:
                known.won(known.wrote_at)
        else:
            known.probed = None  # whoever was quicker may answer by now
        self._agenda.touch((vip,))
        if outcome is Write.UNKNOWN:
            self._again(vip, known, Instant(now + RETRY_S))

    def ask_again(self, vip: IP, at: Instant) -> None:
        """An act could not be done yet, or failed: judge the VIP once more then."""
        self._agenda.wake(vip, at)

    def ask_move(self, vip: IP, node: NodeName, now: Instant) -> str:
        """Hand the VIP over to this node. Returns why that cannot be, or an empty string."""
        known = self._vips.get(vip)
        why_not = refusal(vip, known, node, me=self.me, hosts=self.hosts, now=now)
        if known is not None and not why_not:
            known.asked = node
            self._agenda.touch((vip,))
        return why_not

    def plan(self, now: Instant) -> tuple[Move, ...]:
        """The moves after which each VIP is on its best-ranked living candidate."""
        return plan(self._vips.items(), hosts=self.hosts, now=now)

    def rebalance(self, now: Instant) -> tuple[Move, ...]:
        """Hand over those of this host's VIPs that are better placed elsewhere. Returns these moves."""
        mine = tuple(move for move in self.plan(now) if move.holder == self.me)
        for move in mine:
            self._vips.of(move.vip).asked = move.to
            self._agenda.touch((move.vip,))
        return mine

    def stop(self) -> None:
        """Hand over everything from now on, and take nothing."""
        self.stopping = True
        self._agenda.touch(self._vips)

    # What follows

    def turn(self, now: Instant) -> list[Act]:
        """Judge every VIP that something happened to or whose time has come, and say what to do.

        An act that is under way is not asked for again until its outcome was told. Work is proportional to what
        changed, not to the number of VIPs.
        """
        if self._turned_at is not None and now - self._turned_at > self.stall_s:
            self._doubt_until = Instant(now + CATCH_UP_S)
        self._turned_at = now
        self._look_around(now)
        situation = self._situation(now)
        acts: list[Act] = self.hosts.turn(now)
        if self._trusts_itself(now):
            acts += self._watching.turn(now)
        for vip in self._agenda.take(now):
            known = self._vips.get(vip)
            if known is None or known.forgettable:
                self._vips.forget(vip)
                continue
            judged = self._judge(vip, known, situation)
            acts += judged
            if any(isinstance(act, RemoveAddress) and act.why is Why.CHALLENGED for act in judged):
                acts += self._announce_others(vip, now)
        return acts

    def next_wake(self, now: Instant) -> Instant | None:
        """When `turn` must be called even if nothing happens."""
        wakes = [
            self._agenda.next_at(),
            self.hosts.next_at(),
            self._watching.next_at(now),
            self._reach.next_at(now),
        ]
        return min((at for at in wakes if at is not None), default=None)

    @property
    def sessions(self) -> Mapping[NodeName, Session]:
        return self.hosts.sessions

    @property
    def watched(self) -> Mapping[IP, Watched]:
        """The VIPs of other hosts that this host watches, and where they were, as of the last turn."""
        return self._watching.guards | self._watching.targets

    def silent(self, node: NodeName) -> bool:
        """A watched host does not answer for its VIPs, as the wire says."""
        return self._watching.silent_since(node) is not None

    @property
    def lifetime_ends_at(self) -> Instant | None:
        """No address may outlive this moment in the kernel; None: as long as the agent turns."""
        return self._reach.fence_at()

    @property
    def may_extend(self) -> bool:
        """Whether the lifetimes of addresses may be extended at all yet."""
        return self._reach.may_extend

    @property
    def stall_s(self) -> float:
        """Others may have taken over after this long: they need a session duration, less one renewal, to act."""
        return min(STALL_S, self.duration_s - self.renew_s)

    @property
    def held(self) -> Mapping[IP, InterfaceName]:
        """The addresses that are on this host's interfaces: now, and not as they were when it was asked."""
        return self._vips.held

    @property
    def claims(self) -> Mapping[IP, Claim]:
        """All claims there are now."""
        return self._vips.claims

    @property
    def stopped(self) -> bool:
        """Nothing is left that names this host or that it holds."""
        return self.stopping and not any(
            known.held_on is not None or known.writing or known.holder == self.me for known in self._vips.records()
        )

    def ranking(self, vip: IP) -> Ranking | None:
        known = self._vips.get(vip)
        return known.ranking if known else None

    def verdict(self, vip: IP) -> Verdict | None:
        """The last verdict about a VIP, for people."""
        known = self._vips.get(vip)
        return known.verdict if known else None

    # How

    def _look_around(self, now: Instant) -> None:
        """What does not belong to one VIP: whom to watch, and whether this host is on its own."""
        sound = frozenset(node for node in self.hosts.sessions if self.hosts.sound(node, now))
        if sound != self._sound:
            self._sound, self._watch_anew = sound, True
        stale = self.hosts.stale(now)
        if stale != self._told_stale:
            self._told_stale = stale
            self._agenda.touch(self._vips)
        alone = self._reach.alone(now)
        if alone and not self._told_alone:
            self._told_alone = self._watch_anew = True
            self._agenda.touch(self._vips)
        if self._reach.fenced(now):
            self._agenda.touch(vip for vip, known in self._vips.items() if known.held_on is not None)
        if self._watch_anew:
            self._watch_anew = False
            self._watching.choose(self._vips.claimed, self.ranking, taken=self._vips.replaced, alone=alone, now=now)

    def _situation(self, now: Instant) -> Situation:
        return Situation(
            now=now,
            me=self.me,
            hosts=self.hosts,
            fit=frozenset(node for node in self.hosts.sessions if self.hosts.fit(node, now)),
            watching=self._watching,
            stopping=self.stopping,
            draining=self.draining,
            sweeps=self.sweeps,
            preempt_delay_s=self.preempt_delay_s,
            doubt_until=self._doubt_until,
            api_lost=self._reach.lost_at is not None,
            alone_at=self._reach.alone_at() if self._reach.alone(now) else None,
            fenced=self._reach.fenced(now),
            down_since=self._down_since,
            gateways=self.gateways,
        )

    def _judge(self, vip: IP, known: Vip, situation: Situation) -> list[Act]:
        now, view = situation.now, situation.view(vip, known)
        known.open_since = view.open_since
        verdict = known.verdict = judge(view, now)
        for wake_at in (verdict.wake_at, situation.unplugged_at(known)):
            if wake_at is not None and wake_at > now:
                self._agenda.wake(vip, wake_at)
        waits = known.not_before is not None and now < known.not_before
        acts: list[Act] = []
        for act in verdict.acts:
            match act:
                case WriteClaim() | DeleteClaim() | ReadClaim() if waits:
                    self._agenda.wake(vip, known.not_before or now)
                    continue
                case ReportConflict(mac=mac) if known.conflict == mac:
                    continue  # told already
                case Probe() if view.alone_at is not None:
                    witnesses, known.witnesses = situation.witnesses(known)
                    acts.append(replace(act, witnesses=witnesses))
                case _:
                    acts.append(act)
            known.note(act, me=self.me, now=now)
        return acts

    def _announce_others(self, vip: IP, now: Instant) -> list[Act]:
        """Yielded to one of our hosts: whoever took this VIP may have taken the others, and is to hear of them."""
        acts: list[Act] = []
        for other, known in self._vips.items():
            if other != vip and known.held_on is not None and now - (known.defended_at or 0.0) > RECONFIRM_S:
                acts.append(Announce(vip=other))
                known.note(acts[-1], me=self.me, now=now)
        return acts

    def _trusts_itself(self, now: Instant) -> bool:
        """Whether what this host sees is good enough to speak ill of others."""
        doubts = self._doubt_until is not None and now < self._doubt_until
        return self._reach.lost_at is None and not doubts and not self.stopping and not self.hosts.stale(now)

    def _again(self, vip: IP, known: Vip, at: Instant) -> None:
        known.not_before = at
        self._agenda.wake(vip, at)
