"""A simulated API server: claims and sessions behind compare-and-swap, a watch per host, and all that can go wrong.

What it hides: requests that take long, are throttled, or happen without anybody hearing of it; watches that are late,
stall, or break and are listed anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from hostagent.model.names import IP, Instant, NodeName
from hostagent.model.ownership import Claim, DeleteClaim, Session, Suspect, Write, WriteClaim
from tests.simulation.timeline import Event, Timeline

if TYPE_CHECKING:
    from tests.simulation.host import Host

T = TypeVar("T")

WRITE_TIMEOUT_S, READ_TIMEOUT_S, NOTE_TIMEOUT_S = 2.0, 1.0, 1.0
"""As hostagent.edges.kube has them."""
LATENCY_S = (0.001, 0.01)
WATCH_S = (0.001, 0.05)
SPIKE_S = (0.2, 2.0)
"""How late the watch is once in a while, where chance has it."""
SLOW_S = (1.0, 2.2)
"""One way, of a slow API: some requests are given up and happen all the same."""
THROTTLED_S = (1.0, 2.0)
"""What `Retry-After` of a 429 makes a request wait."""
SERVICES = "services"


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What decides who may answer for which VIP, as one object: Services, Nodes and configuration."""

    wanted: frozenset[IP]
    weights: Mapping[NodeName, int]
    """Of the hosts that are entitled."""


Key = IP | str
"""A claim's VIP, a session's node, or SERVICES."""
Value = Claim | Session | Services | None
Change = tuple[Key, Value]


class Stream:
    """One host's watch. What it carries comes in order, however late; what it loses is made up for by a new list."""

    def __init__(
        self, api: Api, time: Timeline, take: Callable[[Change], None], listed: Callable[[Collection[Key]], None]
    ) -> None:
        self.open = False
        self._api = api
        self._time = time
        self._take, self._listed = take, listed
        self._known: dict[Key, Value] = {}
        """What its reader has taken in: a new list is compared with it."""
        self._queue: deque[tuple[float, float, Event]] = deque()
        self._last_at = 0.0
        self._holds: set[int] = set()
        self._hold = 0

    def push(self, key: Key, value: Value) -> None:
        if not self.open:
            return
        delay_s = self._time.random.uniform(*WATCH_S)
        if self._api.spike_chance and self._time.random.random() < self._api.spike_chance:
            delay_s = self._time.random.uniform(*SPIKE_S)
        self._send(delay_s, lambda: self._change(key, value))

    def connect(self) -> None:
        """List everything, tell the difference, and follow from there."""
        self.open = True
        snapshot = self._api.snapshot()
        self._send(self._time.random.uniform(*LATENCY_S), lambda: self._list(snapshot))

    def start(self) -> None:
        """A new reader, which knows nothing: it waits for the list."""
        self.drop()
        self._known = {}
        self.open = True
        self._list(self._api.snapshot())

    def drop(self) -> None:
        """The connection is gone, with all that was under way."""
        self.open = False
        self._holds.clear()
        self._queue.clear()

    def hold(self) -> int:
        """Nothing arrives any more, nothing is lost: packets are dropped, TCP sends them again. Until `release`."""
        self._hold += 1
        self._holds.add(self._hold)
        return self._hold

    def release(self, hold: int) -> None:
        self._holds.discard(hold)
        if not self._holds and self._queue:
            self._last_at = self._time.now
            self._queue = deque((min(at, self._time.now), sent_at, event) for at, sent_at, event in self._queue)
            self._pump()

    @property
    def held(self) -> bool:
        return bool(self._holds)

    @property
    def late(self) -> bool:
        """Something is under way for longer than usual, or cannot come at all."""
        overdue = bool(self._queue) and self._time.now - self._queue[0][1] > WATCH_S[1]
        return overdue or not self.open

    def _send(self, delay_s: float, event: Event) -> None:
        self._last_at = max(self._last_at, self._time.now + delay_s)
        self._queue.append((self._last_at, self._time.now, event))
        self._time.at(self._last_at, self._pump)

    def _pump(self) -> None:
        while self._queue and not self._holds and self._queue[0][0] <= self._time.now:
            self._queue.popleft()[2]()

    def _change(self, key: Key, value: Value) -> None:
        self._known[key] = value
        self._take((key, value))

    def _list(self, snapshot: Mapping[Key, Value]) -> None:
        gone = [key for key in self._known if key not in snapshot]
        changed = [key for key, value in snapshot.items() if self._known.get(key) is not value]
        for key in gone:
            del self._known[key]
            self._take((key, None))
        for key in changed:
            self._change(key, snapshot[key])
        self._listed(snapshot)


class Api:
    def __init__(self, time: Timeline, services: Services) -> None:
        self.up = True
        self.slow = self.throttled = False
        self.lost_reply_chance = 0.0
        self.spike_chance = 0.0
        self.claims: dict[IP, Claim] = {}
        self.sessions: dict[NodeName, Session] = {}
        self.services = services
        self.inspect: Callable[[NodeName, WriteClaim | DeleteClaim], object] = lambda *_: None
        """Sees each write of a claim that is about to succeed, and by whom."""
        self.inspect_note: Callable[[NodeName, NodeName], object] = lambda *_: None
        """Sees each note in a session: by whom, and about whom."""
        self.moves = 0
        self.claim_writes = 0
        self.session_writes = 0
        self._time = time
        self._streams: dict[NodeName, Stream] = {}
        self._version = 0

    def stream(
        self, node: NodeName, take: Callable[[Change], None], listed: Callable[[Collection[Key]], None]
    ) -> Stream:
        """A host's watch: `take` is told each change, `listed` what there is after each complete list."""
        stream = self._streams[node] = Stream(self, self._time, take, listed)
        return stream

    def snapshot(self) -> Mapping[Key, Value]:
        sessions: dict[Key, Value] = {node: session for node, session in self.sessions.items()}  # noqa: C416
        claims: dict[Key, Value] = {vip: claim for vip, claim in self.claims.items()}  # noqa: C416
        return {SERVICES: self.services, **sessions, **claims}

    def publish(self, key: Key, value: Value) -> None:
        for stream in self._streams.values():
            stream.push(key, value)

    def request(
        self, host: Host, serve: Callable[[], T], done: Callable[[T | None], object], *, timeout_s: float
    ) -> None:
        """Serve a host's request; `done` is told the answer, or None when none came in time: it may yet happen."""
        time, draw = self._time, self._time.random
        delay_s = draw.uniform(*LATENCY_S)
        if self.throttled and draw.random() < 0.7:
            delay_s += draw.uniform(*THROTTLED_S)
        sent_at = time.now + (delay_s if self.throttled else 0.0)
        if self.slow:
            delay_s += draw.uniform(*SLOW_S)

        def arrive() -> None:
            gives_up_at = max(time.now, sent_at + timeout_s)
            if not self.reached_by(host):
                host.later(gives_up_at - time.now, lambda: done(None))
                return
            answer = serve()
            back_s = draw.uniform(*LATENCY_S)
            if draw.random() < self.lost_reply_chance or time.now + back_s > gives_up_at:
                host.later(gives_up_at - time.now, lambda: done(None))
                return
            host.later(back_s, lambda: done(answer))

        time.after(delay_s, arrive)

    def reached_by(self, host: Host) -> bool:
        return self.up and host.reaches_api

    # What is stored

    def write_session(self, session: Session, *, expected: str | None = None) -> tuple[Write, Session]:
        """A renewal, or the end. `expected` is the version that is to be replaced; None: whatever is there."""
        current = self.sessions.get(session.node)
        if expected is not None and current is not None and current.resource_version != expected:
            return Write.LOST, current
        stored = replace(session, resource_version=self._next_version())
        self.session_writes += 1
        self.sessions[session.node] = stored
        self.publish(session.node, stored)
        return Write.WON, stored

    def note(self, act: Suspect, by: NodeName) -> tuple[Write, Session | None]:
        """Somebody suspects a host: a note in its session that leaves everything else as it is."""
        current = self.sessions.get(act.node)
        if current is None or current.resource_version != act.expected.resource_version:
            return Write.LOST, current
        self.inspect_note(by, act.node)
        stored = replace(current, resource_version=self._next_version(), suspected_by=by)
        self.session_writes += 1
        self.sessions[act.node] = stored
        self.publish(act.node, stored)
        self._time.tell(f"{by} notes in the session of {act.node} that it is silent")
        return Write.WON, stored

    def commit(self, act: WriteClaim | DeleteClaim, by: NodeName) -> tuple[Write, Claim | None]:
        """Compare and swap a claim."""
        current = self.claims.get(act.vip)
        have = current.resource_version if current else ""
        want = act.expected.resource_version if act.expected else ""
        if have != want:
            return Write.LOST, current
        self.inspect(by, act)
        self.claim_writes += 1
        if isinstance(act, DeleteClaim):
            self._time.tell(f"{by} deletes the claim of {act.vip}")
            self.delete_claim(act.vip)
            return Write.WON, None
        before = current.holder if current else None
        claim = Claim(
            holder=act.holder,
            predecessor=act.predecessor,
            replaced=act.replaced,
            resource_version=self._next_version(),
            transitions=(current.transitions if current else 0) + (act.holder not in (None, before)),
            seen_at=Instant(0.0),
        )
        if act.holder not in (None, before):
            self.moves += 1
        self._time.tell(f"{by} writes {act.vip} -> {act.holder} ({act.why}: {act.detail})")
        self.claims[act.vip] = claim
        self.publish(act.vip, claim)
        return Write.WON, claim

    def delete_claim(self, vip: IP) -> bool:
        if self.claims.pop(vip, None) is None:
            return False
        self.publish(vip, None)
        return True

    def services_are(self, services: Services) -> None:
        self.services = services
        self.publish(SERVICES, services)

    def _next_version(self) -> str:
        self._version += 1
        return str(self._version)
