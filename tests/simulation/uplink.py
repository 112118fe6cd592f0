"""What passes between a host's agent and the API: its watch, its session, and what it asks and writes.

What it hides: in which order the agent learns what, and how late; how it finds out that the API is away, and how its
watch comes back; how a session is renewed over a rival's note, and a write without a reply read back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING

from hostagent.core.candidates import Candidate, Ranking, rendezvous
from hostagent.core.ownership import Ownership
from hostagent.model.names import IP, Instant, InterfaceName, NodeName
from hostagent.model.ownership import Claim, DeleteClaim, Segment, Session, Suspect, Write, WriteClaim
from tests.simulation.api import NOTE_TIMEOUT_S, READ_TIMEOUT_S, WRITE_TIMEOUT_S, Api, Change, Key, Services
from tests.simulation.timeline import Event, Timeline

if TYPE_CHECKING:
    from tests.simulation.host import Host
    from tests.simulation.promises import Promises

DURATION_S, RENEW_S, RENEW_JITTER = 15.0, 5.0, 0.1
RETRY_S = (0.5, 1.0)
REACH_PATIENCE_S = (1.0, 3.0)
"""Until an agent knows that the API does not answer: a request must be under way, and time out."""
FIRST_RECONNECT_S, LONGEST_RECONNECT_S = 0.2, 8.0
"""A broken watch is tried again after pauses that double; as hostagent.edges.kube.informer has it."""
BACKLOG_S = 0.2
"""What an agent may take for each of the changes that waited while it hung."""
ETH0 = InterfaceName("eth0")


class Uplink:
    def __init__(self, host: Host, *, time: Timeline, api: Api, promises: Promises, vips: Sequence[IP]) -> None:
        self.stream = api.stream(host.name, self._receive, self._forget)
        self._host, self._time, self._api, self._promises, self._vips = host, time, api, promises, vips
        subnet = IPv4Interface(f"{host.address}/24")
        self._interface = Segment(interface=ETH0, mac=host.mac, subnets=(subnet,))
        self._services: Services | None = None
        self._inbox: list[Event] = []
        """What the watch keeps while the agent hangs, in order; read one by one, as each may take a while."""
        self._renewal = 0
        self._version = ""
        """Of this host's session, as it last wrote or saw it."""
        self._reach_lost = False
        self._away_since: float | None = None
        self._hold: int | None = None
        self._reconnects = 0

    @property
    def informed(self) -> bool:
        """What the API tells, the agent knows, but for the usual delay."""
        return self._api.reached_by(self._host) and not (self.stream.late or self._inbox)

    # The watch

    def _receive(self, change: Change) -> None:
        """Something came on the watch. An agent that hangs reads it later, in order, one by one."""
        if not self._host.runs:
            return
        if self._host.stands_still or self._inbox:
            self._inbox.append(lambda: self._take(change))
        else:
            self._take(change)
            self._host.turn()

    def _forget(self, listed: Collection[Key]) -> None:
        """A list is the whole truth: what it does not have is gone, though no event ever told of it."""
        for vip in tuple(self._host.agent.claims):
            if vip not in listed:
                self._receive((vip, None))

    def read(self, agent: Ownership) -> None:
        """Go on with what waited on the watch."""
        if self._host.agent is agent and self._host.turning and self._inbox:
            self._inbox.pop(0)()
            self._host.turn()
            self._time.between(0.0, BACKLOG_S if self._inbox else 0.0, lambda: self.read(agent))

    def _take(self, change: Change) -> None:
        key, value = change
        agent = self._host.agent
        self._reached()
        match value:
            case Services():
                self._services = value
                self._rank()
            case Session(node=node):
                before = agent.sessions.get(node)
                if node == self._host.name:
                    self._version = value.resource_version
                agent.session_seen(node, _seen(value, self._host.now), self._host.now)
                if _abilities(before) != _abilities(value):
                    self._rank()
            case _:
                assert not isinstance(key, str)
                agent.claim_seen(key, _claim_seen(value, self._host.now) if value is not None else None, self._host.now)

    def _rank(self) -> None:
        """Who may answer, as this host sees it: entitled, with a session that has the interface."""
        services, agent = self._services, self._host.agent
        if services is None:
            return
        able = tuple(
            (weight, node) for node, weight in services.weights.items() if _abilities(agent.sessions.get(node))
        )
        for vip in self._vips:
            agent.ranking_is(vip, _ranking(vip, able) if vip in services.wanted else None)

    # Whether the API is there

    def changed(self, *, silently: bool = False) -> None:
        """The API, or the way to it, came or went: what is known of that comes after a while.

        `silently`: nobody tells that connections are gone. What was under way is sent again when the way is back.
        """
        if self._api.reached_by(self._host):
            self._come_back()
            return
        if self._away_since is None:
            self._away_since = self._time.now
        if silently and self._hold is None:
            self._hold = self.stream.hold()
        elif not silently:
            self.stream.drop()
        self._time.between(*REACH_PATIENCE_S, self._miss)

    def _come_back(self) -> None:
        hold, self._hold = self._hold, None
        if hold is None or not self.stream.open:
            self.stream.drop()
            self._reconnect()
            return
        away_s = self._time.now - self._away_since if self._away_since is not None else 0.0
        self._away_since = None
        self._time.between(0.0, min(LONGEST_RECONNECT_S, away_s), lambda: self.stream.release(hold))

    def _miss(self) -> None:
        if not self._api.reached_by(self._host) and self._host.acts and not self._reach_lost:
            self._reach_lost = True
            self._time.tell(f"{self._host.name} finds that the API does not answer")
            self._host.agent.api_reach(reachable=False, now=self._host.now)
            self._host.turn()

    def _reached(self) -> None:
        if self._reach_lost:
            self._reach_lost = False
            self._time.tell(f"{self._host.name} finds that the API answers again")
            self._host.agent.api_reach(reachable=True, now=self._host.now)

    def _reconnect(self) -> None:
        """List and watch again, after a pause that grew with the outage."""
        self._reconnects += 1
        attempt = self._reconnects

        def connect() -> None:
            if attempt != self._reconnects or self.stream.open or not self._host.runs:
                return
            if not self._host.turning or not self._api.reached_by(self._host):
                self._time.between(0.2, 1.0, connect)
            elif self._host.synced:
                self.stream.connect()

        away_s = self._time.now - self._away_since if self._away_since is not None else 0.0
        self._away_since = None
        self._time.between(0.0, min(LONGEST_RECONNECT_S, FIRST_RECONNECT_S + away_s), connect)

    def start(self) -> None:
        """A new agent: it knows nothing, and reads the lists first."""
        self.stream.start()

    def stop(self) -> None:
        """The agent is gone, with all its connections."""
        self.stream.drop()
        self._inbox.clear()
        self._services = self._hold = None
        self._reach_lost = False

    def begin(self) -> None:
        """Write this host's session for the first time in the agent's life, and renew it from then on."""
        sent_at = self._host.now
        self._host.agent.renewed(self.write_session().resource_version, sent_at, self._host.now)
        self._promises.renewed(self._host, sent_at)
        self._next_renewal(RENEW_S)

    def lose_watch(self) -> None:
        """The watch breaks; the informer lists anew."""
        if self._host.synced:
            self.stream.drop()
            self._reconnect()

    # The session

    def renew_soon(self) -> None:
        """Renew now instead of at the next interval, even if a renewal is under way, whose reply may never come."""
        self._next_renewal(0.0)

    def _next_renewal(self, pause_s: float) -> None:
        agent = self._host.agent
        self._renewal += 1
        renewal = self._renewal

        def renew() -> None:
            if self._host.agent is agent and renewal == self._renewal and self._host.runs:
                if self._host.acts and not self._host.session_ended:
                    self._renew(agent, renewal, self._session(), self._version)
                else:
                    self._time.between(*RETRY_S, renew)

        self._time.after(pause_s, renew)

    def _renew(self, agent: Ownership, renewal: int, session: Session, expected: str) -> None:
        """Write the session once more; a rival's note that came first is written over, with its version."""
        sent_at = self._host.now

        def done(answer: tuple[Write, Session] | None) -> None:
            pause_s = self._time.random.uniform(*RETRY_S)
            if answer is not None:
                self._reached()
                outcome, stored = answer
                self._version = stored.resource_version
                if outcome is Write.LOST:
                    self._renew(agent, renewal, session, self._version)
                    return
                agent.renewed(stored.resource_version, sent_at, self._host.now)
                self._promises.renewed(self._host, sent_at)
                pause_s = RENEW_S * self._time.random.uniform(1 - RENEW_JITTER, 1 + RENEW_JITTER)
            if renewal == self._renewal:
                self._next_renewal(pause_s)

        self._api.request(
            self._host, lambda: self._api.write_session(session, expected=expected), done, timeout_s=WRITE_TIMEOUT_S
        )

    def _session(self, *, ended: bool = False) -> Session:
        return Session(
            node=self._host.name,
            instance="" if ended else str(self._host.boot),
            resource_version="",
            renewed=f"{self._time.now + self._host.wall_s:.6f}",
            seen_at=Instant(0.0),
            duration_s=DURATION_S,
            segments=(self._interface,) if self._host.carrier else (),
            draining=self._host.draining,
        )

    def write_session(self, *, ended: bool = False) -> Session:
        _, stored = self._api.write_session(self._session(ended=ended))
        self._version = stored.resource_version
        return stored

    # What the agent asks of it

    def write(self, agent: Ownership, act: WriteClaim | DeleteClaim) -> None:
        """Compare and swap; a write without a reply is read back."""
        written: list[str] = []

        def serve() -> tuple[Write, Claim | None]:
            outcome, claim = self._api.commit(act, self._host.name)
            if outcome is Write.WON:
                written.append(claim.resource_version if claim else "")
            return outcome, claim

        def settle(outcome: Write, claim: Claim | None) -> None:
            self._reached()
            agent.claim_seen(act.vip, _claim_seen(claim, self._host.now) if claim else None, self._host.now)
            agent.wrote(act.vip, outcome, self._host.now)

        def read_back(found: tuple[Claim | None] | None) -> None:
            have = (found[0].resource_version if found[0] else "") if found is not None else None
            want = act.expected.resource_version if act.expected else ""
            if found is None or (have == want and have not in written):
                agent.wrote(act.vip, Write.UNKNOWN, self._host.now)
            else:
                settle(Write.WON if have in written else Write.LOST, found[0])

        def done(answer: tuple[Write, Claim | None] | None) -> None:
            if answer is not None:
                settle(*answer)
            else:
                self._api.request(
                    self._host, lambda: (self._api.claims.get(act.vip),), read_back, timeout_s=READ_TIMEOUT_S
                )

        self._api.request(self._host, serve, done, timeout_s=WRITE_TIMEOUT_S)

    def suspect(self, agent: Ownership, act: Suspect) -> None:
        self._time.tell(f"{self._host.name} suspects {act.node}")

        def done(answer: tuple[Write, Session | None] | None) -> None:
            outcome, session = answer if answer is not None else (Write.UNKNOWN, None)
            if session is not None:
                self._reached()
                agent.session_seen(act.node, _seen(session, self._host.now), self._host.now)
            agent.suspected(act.node, outcome, self._host.now)

        self._api.request(self._host, lambda: self._api.note(act, self._host.name), done, timeout_s=NOTE_TIMEOUT_S)

    def read_session(self, agent: Ownership, node: NodeName) -> None:
        asked_at = self._host.now

        def done(answer: tuple[Session | None] | None) -> None:
            if answer is None:
                agent.session_read_failed(node, self._host.now)
                return
            self._reached()
            session = _seen(answer[0], self._host.now) if answer[0] else None
            agent.session_read(node, session, asked_at, self._host.now)

        self._api.request(self._host, lambda: (self._api.sessions.get(node),), done, timeout_s=READ_TIMEOUT_S)

    def read_claim(self, agent: Ownership, vip: IP) -> None:
        def done(answer: tuple[Claim | None] | None) -> None:
            if answer is not None:
                self._reached()
                claim = answer[0]
                agent.claim_seen(vip, _claim_seen(claim, self._host.now) if claim else None, self._host.now)
            agent.claim_read(vip, ok=answer is not None, now=self._host.now)

        self._get_claim(vip, done)

    def _get_claim(self, vip: IP, done: Callable[[tuple[Claim | None] | None], None]) -> None:
        self._api.request(self._host, lambda: (self._api.claims.get(vip),), done, timeout_s=READ_TIMEOUT_S)


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
