"""One host: a kernel that outlives its agent, a clock of its own, and an agent that runs, hangs, stops or is started.

What it hides: how the agent's acts are carried out, in which order it learns what, and what a hang, a restart, a power
cut or a pause of the whole machine does to all of this.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Interface, ip_address

from hostagent.core.candidates import Candidate, Ranking, rendezvous
from hostagent.core.ownership import Ownership
from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName
from hostagent.model.ownership import (
    Act,
    AddAddress,
    Announce,
    Claim,
    DeleteClaim,
    OnApiLoss,
    Probe,
    ReadClaim,
    ReadSession,
    Refute,
    RemoveAddress,
    ReportConflict,
    Segment,
    Session,
    Suspect,
    Watched,
    Write,
    WriteClaim,
)
from tests.simulation.api import NOTE_TIMEOUT_S, READ_TIMEOUT_S, WRITE_TIMEOUT_S, Api, Change, Key, Services
from tests.simulation.promises import Promises
from tests.simulation.segment import GATEWAY, PROBE_GAP_S, PROBE_WAIT_S, PROBES
from tests.simulation.segment import Segment as Wire
from tests.simulation.timeline import Event, Timeline

DURATION_S, RENEW_S, RENEW_JITTER, LIFETIME_S, STOP_S = 15.0, 5.0, 0.1, 10.0, 8.0
EXTEND_S = LIFETIME_S / 4
RETRY_S = (0.5, 1.0)
PREEMPT_S = 30.0
REACH_PATIENCE_S = (1.0, 3.0)
"""Until an agent knows that the API does not answer: a request must be under way, and time out."""
RESTART_S = 1.0
FIRST_RECONNECT_S, LONGEST_RECONNECT_S = 0.2, 8.0
"""A broken watch is tried again after pauses that double; as hostagent.edges.kube.informer has it."""
BACKLOG_S = 0.2
"""What an agent may take for each of the changes that waited while it hung."""
BURST_S, REFRESH_S = (0.0, 0.05, 0.2, 1.0, 2.0, 5.0), 60.0
"""When a VIP is announced, as hostagent.edges.neighbors.schedule has it."""
LONGEST_RETRANSMISSION_S = 0.3
"""Until what waited for a machine that stood still is sent again."""
MOST_DRIFT = 200e-6
WAKE_SLACK_S = 0.001
MOST_TURNS = 20
"""In a row, without anything happening: an act that leaves no trace would be asked for again for ever."""
ETH0 = InterfaceName("eth0")


@dataclass(slots=True)
class Clock:
    """A host's CLOCK_BOOTTIME: begins anywhere, drifts, and stands still while its machine is paused."""

    offset_s: float
    rate: float
    stood_still_s: float = 0.0

    def read(self, now: float) -> Instant:
        return Instant(self.offset_s + self.rate * (now - self.stood_still_s))

    def when(self, instant: Instant) -> float:
        """In the world's time, if the machine is not paused until then."""
        return (instant - self.offset_s) / self.rate + self.stood_still_s


class Host:
    def __init__(
        self, number: int, *, time: Timeline, api: Api, wire: Wire, promises: Promises, vips: Sequence[IP]
    ) -> None:
        self.name = NodeName(f"h{number}")
        self.mac = Mac(f"02:00:00:00:00:{number:02x}")
        self.address: IP = ip_address(f"198.51.100.{10 + number}")
        self.boot = 0
        self.powered = self.running = True
        self.paused = False
        self.frozen = False
        """The whole machine stands still, its kernel's timers included."""
        self.synced = False
        """The agent has seen the API's lists and its own kernel; before that it decides nothing."""
        self.session_ended = False
        self.reaches_api = True
        self.carrier = True
        self.mute = self.deaf = False
        self.part = 0
        """Of the segment, when it is split."""
        self.draining = False
        self.on_api_loss: OnApiLoss = "hold"
        self.wall_s = 1.7e9
        """By how much its wall clock is ahead of the world's time."""
        self.frozen_at = 0.0
        self._frozen_hold = 0
        self.thawed_at: float | None = None
        self.kernel: dict[IP, float] = {}
        """Until when the kernel keeps each VIP."""
        self._time, self._api, self._wire, self._promises, self._vips = time, api, wire, promises, vips
        draw = time.random
        self.clock = Clock(offset_s=draw.uniform(10, 1e6), rate=1 + draw.uniform(-MOST_DRIFT, MOST_DRIFT))
        self.stream = api.stream(self.name, self._receive, self.forget)
        self._services: Services | None = None
        self._inbox: list[Event] = []
        """What its watch keeps while the agent hangs, in order; read one by one, as each may take a while."""
        self._replies: list[Event] = []
        """What other sockets keep meanwhile, each its own: replies, frames, timers that have run out."""
        self._wake_at: float | None = None
        self._renewal = 0
        self._version = ""
        """Of this host's session, as it last wrote or saw it."""
        self._reach_lost = False
        self._away_since: float | None = None
        self._reconnects = 0
        self._bursts: dict[IP, int] = {}
        self._watched: Mapping[IP, Watched] = {}
        self.start_agent()

    @property
    def now(self) -> Instant:
        """What this host's own clock says: nothing else ever reaches its agent."""
        return self.clock.read(self._time.now)

    @property
    def watched(self) -> Mapping[IP, Watched]:
        """What its agent asks for on the wire, as of its last turn."""
        return self._watched if self.synced and self.turning else {}

    @property
    def turning(self) -> bool:
        return self.powered and self.running and not (self.paused or self.frozen)

    @property
    def acts(self) -> bool:
        """Its agent takes part: it can claim, let go and announce."""
        return self.turning and self.synced

    @property
    def wired(self) -> bool:
        """Its kernel takes part in the segment."""
        return self.powered and self.carrier and not self.frozen

    @property
    def informed(self) -> bool:
        """What the API tells, its agent knows, but for the usual delay."""
        return self._api.reached_by(self) and not (self.stream.late or self._inbox)

    def has(self, vip: IP) -> bool:
        """A hung or dead agent's kernel still answers, until the lifetime ends."""
        return self.kernel.get(vip, 0.0) > self._time.now

    # The agent's life

    def start_agent(self) -> None:
        """A new life of the agent, that knows nothing yet. What the kernel has is kept alive meanwhile."""
        self.agent = Ownership(
            me=self.name,
            duration_s=DURATION_S,
            renew_s=RENEW_S,
            on_api_loss=self.on_api_loss,
            preempt_delay_s=PREEMPT_S,
            gateways={ETH0: GATEWAY},
        )
        self.agent.draining = self.draining
        self.running, self.paused, self.synced, self.session_ended = True, False, False, False
        self._services = None
        self._watched = {}
        self._inbox.clear()
        self._replies.clear()
        self._bursts.clear()
        self._wake_at = None
        self._reach_lost = False
        self.stream.drop()
        self._changed()
        for vip in self.kernel:
            self._expect_expiry(vip)

    def boot_agent(self) -> None:
        """Wait for the API, then take part."""
        agent = self.agent
        self._extend(agent)

        def begin() -> None:
            if self.agent is not agent or not (self.powered and self.running):
                return
            if not self.turning or not self._api.reached_by(self):
                self._time.after(0.5, begin)
                return
            before = self._api.sessions.get(self.name)
            same_boot = before is not None and before.instance == str(self.boot)
            self._expire()
            self.stream.start()
            for vip in self.kernel:
                agent.held_is(vip, ETH0)
                self._start_announcing(vip)
            for vip, claim in agent.claims.items():
                if same_boot and claim.holder == self.name and vip not in self.kernel:
                    agent.lapsed(vip)
            if not self.carrier:
                agent.carrier_is(ETH0, up=False, now=self.now)
            sent_at = self.now
            agent.renewed(self._write_session().resource_version, sent_at, self.now)
            self.synced = True
            self._next_renewal(RENEW_S)
            self.turn()

        self._time.between(0.0, 0.5, begin)

    def die(self, *, power: bool) -> None:
        """The agent is gone; without power, so is all that the kernel had."""
        self.running = self.paused = False
        if power:
            self.powered = self.frozen = False
            self.kernel.clear()
        self.stream.drop()
        self._changed()

    def pause(self) -> None:
        self.paused = True
        self._changed()

    def resume(self) -> None:
        """It acts on what it knows before it has read all that came meanwhile."""
        self.paused = False
        self._changed()
        if self.synced:
            self.turn()
        self._read(self.agent)
        for reply in self._replies:
            self._time.between(0.0, 0.02, reply)
        self._replies.clear()
        if self.synced and self._time.random.random() < 0.5:  # questions that nobody was there to hear answered
            for vip in tuple(self.watched):
                self.finds(vip, silent=True)

    def freeze(self) -> None:
        self.frozen, self.frozen_at = True, self._time.now
        self._frozen_hold = self.stream.hold()
        self._changed()

    def thaw(self) -> None:
        """The machine runs on where it stood; it does not know that it stood still."""
        slept_s = self._time.now - self.frozen_at
        self.frozen, self.thawed_at = False, self._time.now
        self.clock.stood_still_s += slept_s
        self.kernel = {vip: until + slept_s for vip, until in self.kernel.items()}
        for vip in self.kernel:
            self._expect_expiry(vip)
        self._changed()
        hold = self._frozen_hold
        self._time.between(0.0, min(slept_s, LONGEST_RETRANSMISSION_S), lambda: self.stream.release(hold))
        self._read(self.agent)
        for reply in self._replies:
            self._time.between(0.0, 0.02, reply)
        self._replies.clear()
        self._wake_at = None
        self._sleep()

    def stop(self) -> None:
        """`systemctl stop`: hand over, end the session; what is left after a while is let go all the same."""
        agent = self.agent
        agent.stop()
        if self.synced:
            self.turn()

        def give_up() -> None:
            if self.agent is agent and self.powered and self.running:
                self._time.tell(f"the agent of {self.name} gives up stopping in order")
                self.kernel.clear()
                self.die(power=False)

        self._time.after(STOP_S, give_up)

    def drain(self, *, yes: bool) -> None:
        self.draining = self.agent.draining = yes
        if self.synced:
            self.renew_soon()
            if self.turning:
                self.turn()

    # What the agent is told

    def later(self, delay_s: float, event: Event) -> None:
        """Let something reach this host's agent: a reply, a frame, a timer. It waits for an agent that hangs."""
        agent = self.agent

        def arrive() -> None:
            if self.agent is not agent or not (self.powered and self.running):
                return
            if self.paused or self.frozen:
                self._replies.append(arrive)
                return
            event()
            self.turn()

        self._time.after(delay_s, arrive)

    def hears(self, vip: IP, mac: Mac, by: NodeName | None, delay_s: float) -> None:
        def heard() -> None:
            self._promises.heard(self, vip, by)
            self.agent.heard(vip, mac, by, self.now)

        self.later(delay_s, heard)

    def finds(self, vip: IP, *, silent: bool) -> None:
        self.agent.watch_found(vip, silent=silent, now=self.now)
        self.turn()

    def _receive(self, change: Change) -> None:
        """Something came on the watch. An agent that hangs reads it later, in order, one by one."""
        if not (self.powered and self.running):
            return
        if self.paused or self.frozen or self._inbox:
            self._inbox.append(lambda: self._take(change))
        else:
            self._take(change)
            self.turn()

    def forget(self, listed: Collection[Key]) -> None:
        """A list is the whole truth: what it does not have is gone, though no event ever told of it."""
        for vip in self.agent.claims:
            if vip not in listed:
                self._receive((vip, None))

    def _read(self, agent: Ownership) -> None:
        if self.agent is agent and self.turning and self._inbox:
            self._inbox.pop(0)()
            self.turn()
            self._time.between(0.0, BACKLOG_S if self._inbox else 0.0, lambda: self._read(agent))

    def _take(self, change: Change) -> None:
        key, value = change
        agent = self.agent
        self._reached()
        match value:
            case Services():
                self._services = value
                self._rank()
            case Session(node=node):
                before = agent.sessions.get(node)
                if node == self.name:
                    self._version = value.resource_version
                agent.session_seen(node, _seen(value, self.now), self.now)
                if _abilities(before) != _abilities(value):
                    self._rank()
            case _:
                assert not isinstance(key, str)
                agent.claim_seen(key, _claim_seen(value, self.now) if value is not None else None, self.now)

    def _rank(self) -> None:
        """Who may answer, as this host sees it: entitled, with a session that has the interface."""
        services, agent = self._services, self.agent
        if services is None:
            return
        able = tuple(
            (weight, node) for node, weight in services.weights.items() if _abilities(agent.sessions.get(node))
        )
        for vip in self._vips:
            agent.ranking_is(vip, _ranking(vip, able) if vip in services.wanted else None)

    # The API

    def api_changed(self) -> None:
        """The API, or the way to it, came or went: what is known of that comes after a while."""
        if self._api.reached_by(self):
            self._reconnect()
        else:
            if self._away_since is None:
                self._away_since = self._time.now
            self.stream.drop()
            self._time.between(*REACH_PATIENCE_S, self._miss)

    def _miss(self) -> None:
        if not self._api.reached_by(self) and self.turning and self.synced and not self._reach_lost:
            self._reach_lost = True
            self._time.tell(f"{self.name} finds that the API does not answer")
            self.agent.api_reach(reachable=False, now=self.now)
            self.turn()

    def _reached(self) -> None:
        if self._reach_lost:
            self._reach_lost = False
            self._time.tell(f"{self.name} finds that the API answers again")
            self.agent.api_reach(reachable=True, now=self.now)

    def _reconnect(self) -> None:
        """List and watch again, after a pause that grew with the outage."""
        self._reconnects += 1
        attempt = self._reconnects

        def connect() -> None:
            if attempt != self._reconnects or self.stream.open or not (self.powered and self.running):
                return
            if not self.turning or not self._api.reached_by(self):
                self._time.between(0.2, 1.0, connect)
            elif self.synced:
                self.stream.connect()

        away_s = self._time.now - self._away_since if self._away_since is not None else 0.0
        self._away_since = None
        self._time.between(0.0, min(LONGEST_RECONNECT_S, FIRST_RECONNECT_S + away_s), connect)

    def lose_watch(self) -> None:
        """The watch breaks; the informer lists anew."""
        if self.synced:
            self.stream.drop()
            self._reconnect()

    def renew_soon(self) -> None:
        """Renew now instead of at the next interval, even if a renewal is under way, whose reply may never come."""
        self._next_renewal(0.0)

    def _next_renewal(self, pause_s: float) -> None:
        agent = self.agent
        self._renewal += 1
        renewal = self._renewal

        def renew() -> None:
            if self.agent is agent and renewal == self._renewal and self.powered and self.running:
                if self.turning and self.synced and not self.session_ended:
                    self._renew(agent, renewal, self._session(), self._version)
                else:
                    self._time.between(*RETRY_S, renew)

        self._time.after(pause_s, renew)

    def _renew(self, agent: Ownership, renewal: int, session: Session, expected: str) -> None:
        """Write the session once more; a rival's note that came first is written over, with its version."""
        sent_at = self.now

        def done(answer: tuple[Write, Session] | None) -> None:
            pause_s = self._time.random.uniform(*RETRY_S)
            if answer is not None:
                self._reached()
                outcome, stored = answer
                self._version = stored.resource_version
                if outcome is Write.LOST:
                    self._renew(agent, renewal, session, self._version)
                    return
                agent.renewed(stored.resource_version, sent_at, self.now)
                pause_s = RENEW_S * self._time.random.uniform(1 - RENEW_JITTER, 1 + RENEW_JITTER)
            if renewal == self._renewal:
                self._next_renewal(pause_s)

        self._api.request(
            self, lambda: self._api.write_session(session, expected=expected), done, timeout_s=WRITE_TIMEOUT_S
        )

    def _session(self, *, ended: bool = False) -> Session:
        interface = Segment(interface=ETH0, mac=self.mac, subnets=(IPv4Interface(f"{self.address}/24"),))
        return Session(
            node=self.name,
            instance="" if ended else str(self.boot),
            resource_version="",
            renewed=f"{self._time.now + self.wall_s:.6f}",
            seen_at=Instant(0.0),
            duration_s=DURATION_S,
            segments=(interface,) if self.carrier else (),
            draining=self.draining,
        )

    def _write_session(self, *, ended: bool = False) -> Session:
        _, stored = self._api.write_session(self._session(ended=ended))
        self._version = stored.resource_version
        return stored

    # The kernel

    def extend(self) -> None:
        for vip in self.kernel:
            self.kernel[vip] = self._time.now + LIFETIME_S

    def _extend(self, agent: Ownership) -> None:
        """The loop that keeps the kernel's addresses alive: it runs only while the agent turns."""
        if self.agent is not agent or not self.running or not self.powered:
            return
        if self.turning:
            self._expire()
            ends_at = agent.lifetime_ends_at
            longest = self._time.now + LIFETIME_S
            for vip in self.kernel:
                self.kernel[vip] = longest if ends_at is None else min(longest, self.clock.when(ends_at))
            if self.synced:
                living = sorted(node for node in agent.sessions if agent.hosts.alive(node, self.now))
                agent.sweeps = living[:1] == [self.name]
                self.turn()
        self._time.after(EXTEND_S, lambda: self._extend(agent))

    def _expire(self) -> None:
        """What the kernel did by itself, as the agent learns of it on its next turn."""
        for vip in [v for v, until in self.kernel.items() if until <= self._time.now]:
            del self.kernel[vip]
            self._bursts.pop(vip, None)
            self.agent.lapsed(vip)
            self._changed()

    def _expect_expiry(self, vip: IP) -> None:
        """Others notice when the kernel ends an address, not when its agent does."""
        until = self.kernel[vip]
        if until > self._time.now:
            self._time.at(until, self._stirred)

    def _stirred(self) -> None:
        """What this host answers for may have changed."""
        self._wire.changed = True

    def _changed(self) -> None:
        self._stirred()
        if not self.turning:
            for vip in self.kernel:
                self._expect_expiry(vip)

    def take_off(self, vip: IP) -> bool:
        """`ip address del`, by hand or by a network manager."""
        if self.kernel.pop(vip, None) is None:
            return False
        self._changed()
        self.later(0.001, lambda: self._told_off(vip))
        return True

    def _told_off(self, vip: IP) -> None:
        if vip not in self.kernel:
            self.agent.held_is(vip, None)

    def plug(self, *, plugged: bool) -> None:
        """A cable comes or goes: the kernel tells at once, and others are told of what can be reached where."""
        self.carrier = plugged
        self._changed()
        if self.synced:

            def told() -> None:
                self.agent.carrier_is(ETH0, up=self.carrier, now=self.now)
                self.renew_soon()

            self.later(0.005, told)

    # Turning, and acting

    def turn(self) -> None:
        """Let the agent decide, and do what it decided, until it has nothing more to do."""
        if not (self.turning and self.synced):
            return
        agent = self.agent
        self._expire()
        turns = 0
        while acts := agent.turn(self.now):
            for act in acts:
                self._apply(agent, act)
            turns += 1
            if turns > MOST_TURNS:
                self._promises.broken(f"{self.name} does not come to rest: {acts}")
        watched = agent.watched
        if watched is not self._watched:
            self._wire.changed |= watched != self._watched
            self._watched = watched
        if agent.stopped and not self.session_ended and self._api.reached_by(self):
            self.session_ended = True
            self._write_session(ended=True)
            self.die(power=False)
            return
        self._sleep()

    def _sleep(self) -> None:
        wake = self.agent.next_wake(self.now)
        if wake is None:
            return
        at = max(self.clock.when(wake), self._time.now) + WAKE_SLACK_S
        if self._wake_at is None or at < self._wake_at or self._wake_at <= self._time.now:
            self._wake_at = at
            self.later(at - self._time.now, lambda: self._woken(at))

    def _woken(self, at: float) -> None:
        if self._wake_at == at:
            self._wake_at = None

    def _apply(self, agent: Ownership, act: Act) -> None:
        match act:
            case AddAddress(vip=vip, why=why):
                self._time.tell(f"{self.name} adds {vip} ({why})")
                self._promises.check_add(self.name, act, agent)
                self.kernel[vip] = self._time.now + LIFETIME_S
                self._changed()
                agent.held_is(vip, ETH0)
                self._start_announcing(vip)
            case RemoveAddress(vip=vip, why=why):
                self._time.tell(f"{self.name} removes {vip} ({why})")
                self.kernel.pop(vip, None)
                self._bursts.pop(vip, None)
                self._changed()
                agent.held_is(vip, None)
            case Probe():
                self._probe(agent, act)
            case WriteClaim() | DeleteClaim():
                self._write(agent, act)
            case ReportConflict(vip=vip, mac=mac):
                self._time.tell(f"{self.name} reports that {mac} answers for {vip}")
            case Announce(vip=vip):
                self._wire.announce(self, vip)
            case Suspect():
                self._suspect(agent, act)
            case Refute():
                self.renew_soon()
            case ReadSession(node=node):
                self._read_session(agent, node)
            case ReadClaim(vip=vip):
                self._read_claim(agent, vip)

    def _start_announcing(self, vip: IP) -> None:
        """A burst, then once a minute, for as long as the address is here and the agent turns."""
        burst = self._bursts[vip] = self._bursts.get(vip, 0) + 1
        agent, began_at = self.agent, self._time.now

        def announce(step: int) -> None:
            if self.agent is not agent or self._bursts.get(vip) != burst or vip not in self.kernel:
                return
            if self.turning:
                self._wire.announce(self, vip)
            at = began_at + BURST_S[step + 1] if step + 1 < len(BURST_S) else self._time.now + REFRESH_S
            self._time.at(max(at, self._time.now), lambda: announce(min(step + 1, len(BURST_S))))

        announce(0)

    def _probe(self, agent: Ownership, act: Probe) -> None:
        found: list[Mac] = []
        present: set[IP] = set()

        def ask() -> None:
            if self.frozen:
                return
            for mac in self._wire.ask(self, act.vip):
                found.append(mac)
                self.hears(act.vip, mac, self._wire.node_of(mac), 0.0)
            if act.witnesses:
                present.update(self._wire.witnesses(self, act.witnesses))

        def conclude() -> None:
            agent.probed(act.vip, found[0] if found else None, self.now, len(present))

        delay_s = 0.0
        for _ in range(PROBES):
            self._time.after(delay_s, ask)
            delay_s += self._time.random.uniform(*PROBE_GAP_S)
        self.later(delay_s + PROBE_WAIT_S, conclude)

    # Requests

    def _write(self, agent: Ownership, act: WriteClaim | DeleteClaim) -> None:
        """Compare and swap; a write without a reply is read back."""
        written: list[str] = []

        def serve() -> tuple[Write, Claim | None]:
            outcome, claim = self._api.commit(act, self.name)
            if outcome is Write.WON:
                written.append(claim.resource_version if claim else "")
            return outcome, claim

        def settle(outcome: Write, claim: Claim | None) -> None:
            self._reached()
            agent.claim_seen(act.vip, _claim_seen(claim, self.now) if claim else None, self.now)
            agent.wrote(act.vip, outcome, self.now)

        def read_back(found: tuple[Claim | None] | None) -> None:
            have = (found[0].resource_version if found[0] else "") if found is not None else None
            want = act.expected.resource_version if act.expected else ""
            if found is None or (have == want and have not in written):
                agent.wrote(act.vip, Write.UNKNOWN, self.now)
            else:
                settle(Write.WON if have in written else Write.LOST, found[0])

        def done(answer: tuple[Write, Claim | None] | None) -> None:
            if answer is not None:
                settle(*answer)
            else:
                self._api.request(self, lambda: (self._api.claims.get(act.vip),), read_back, timeout_s=READ_TIMEOUT_S)

        self._api.request(self, serve, done, timeout_s=WRITE_TIMEOUT_S)

    def _suspect(self, agent: Ownership, act: Suspect) -> None:
        self._time.tell(f"{self.name} suspects {act.node}")

        def done(answer: tuple[Write, Session | None] | None) -> None:
            outcome, session = answer if answer is not None else (Write.UNKNOWN, None)
            if session is not None:
                self._reached()
                agent.session_seen(act.node, _seen(session, self.now), self.now)
            agent.suspected(act.node, outcome, self.now)

        self._api.request(self, lambda: self._api.note(act, self.name), done, timeout_s=NOTE_TIMEOUT_S)

    def _read_session(self, agent: Ownership, node: NodeName) -> None:
        asked_at = self.now

        def done(answer: tuple[Session | None] | None) -> None:
            if answer is None:
                agent.session_read_failed(node, self.now)
                return
            self._reached()
            session = _seen(answer[0], self.now) if answer[0] else None
            agent.session_read(node, session, asked_at, self.now)

        self._api.request(self, lambda: (self._api.sessions.get(node),), done, timeout_s=READ_TIMEOUT_S)

    def _read_claim(self, agent: Ownership, vip: IP) -> None:
        def done(answer: tuple[Claim | None] | None) -> None:
            if answer is not None:
                self._reached()
                claim = answer[0]
                agent.claim_seen(vip, _claim_seen(claim, self.now) if claim else None, self.now)
            agent.claim_read(vip, ok=answer is not None, now=self.now)

        self._api.request(self, lambda: (self._api.claims.get(vip),), done, timeout_s=READ_TIMEOUT_S)


def _seen(session: Session, now: Instant) -> Session:
    """As this host sees it: the only clock that counts is its own."""
    return replace(session, seen_at=now)


def _claim_seen(claim: Claim, now: Instant) -> Claim:
    return replace(claim, seen_at=now)


def _abilities(session: Session | None) -> tuple[Segment, ...]:
    """What of a session decides whether its host is a candidate."""
    return () if session is None or session.ended else session.segments


@lru_cache(maxsize=1 << 12)
def _ranking(vip: IP, able: tuple[tuple[int, NodeName], ...]) -> Ranking:
    best_first = sorted(able, key=lambda each: (-each[0], rendezvous(each[1], str(vip))))
    ranked = tuple(Candidate(node=node, weight=weight, interface=ETH0) for weight, node in best_first)
    return Ranking(ranked=ranked, excluded={})
