"""Which VIPs this host watches on the wire, and when their silence makes a host suspect: pure, no clock.

Each holder is watched by `WATCHERS` hosts on each segment, by one of its VIPs there. They are chosen by rendezvous
hash, so that the work spreads evenly: with any number of hosts each watches about `WATCHERS` others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from hostagent.core.candidates import Ranking, rendezvous
from hostagent.core.hosts import RETRY_S, Hosts
from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName
from hostagent.model.ownership import Segment, Suspect, Watched, Write

WATCHERS = 2
"""One may be dying with the holder, or hang; more only cost frames."""
GUARD_S, GUARDS = 600.0, 3
"""For so long a host that was replaced is watched for, by so many of its VIPs: it may not have had all of them."""
NOTES, NOTES_S = 5, 30.0
"""No more notes about one host in so long a time: on a segment that loses frames silence comes and goes."""
CALM_S = (5.0, 10.0, 20.0, 40.0)
"""After a refutation the same host is not suspected again for so long: it lives, and something else is wrong."""

RankingOf = Callable[[IP], Ranking | None]


@dataclass(slots=True)
class _Seen:
    """What the wire says about one holder."""

    silent_since: Instant | None = None
    """Since when its sampled VIP has not been answered; None while it is."""
    asking: bool = False
    """The note is being written."""
    noted: bool = False
    """A note of this host was written, or may have been, and is not yet refuted as far as it knows."""
    asked_of: str = ""
    """Which renewal of the session the last note was meant for."""
    notes: deque[Instant] = field(default_factory=lambda: deque(maxlen=NOTES))
    """When the last ones were asked for."""
    refuted: int = 0
    """How often in a row."""
    not_before: Instant | None = None
    avoid: IP | None = None
    """A VIP that stayed silent though its holder lives: another one tells more about the holder."""

    @property
    def next_at(self) -> Instant:
        """When it may be suspected next."""
        spent_until = self.notes[0] + NOTES_S if len(self.notes) == NOTES else 0.0
        return Instant(max(self.not_before or 0.0, spent_until))


@dataclass(slots=True)
class Watching:
    """Watches other hosts' VIPs on behalf of one host."""

    me: NodeName
    hosts: Hosts
    targets: dict[IP, Watched] = field(default_factory=dict)
    guards: dict[IP, Watched] = field(default_factory=dict)
    """VIPs that this host took from silent hosts, a few of each: should such a host come back and still answer, it must
    be told. It may not know that it was gone, like a virtual machine that was paused."""
    _seen: dict[NodeName, _Seen] = field(default_factory=dict)

    def choose(
        self,
        held: Mapping[NodeName, Collection[IP]],
        ranking_of: RankingOf,
        *,
        taken: Mapping[NodeName, Mapping[IP, Instant]],
        alone: bool,
        now: Instant,
    ) -> None:
        """Choose anew whom to watch: by who holds what, and who may answer for it; `taken`: from whom this host took
        what, and when.

        `alone`: the API is away and nobody can tell others what he sees, so every standby watches for itself.
        """
        before = {(watched.holder, watched.interface): vip for vip, watched in self.targets.items()}
        targets: dict[IP, Watched] = {}
        for holder, vips in held.items():
            session = self.hosts.sessions.get(holder)
            if holder == self.me or session is None or session.ended:
                continue
            mine = {segment.interface for segment in self._segments_of(self.me)}
            for vip, watched in self._samples(holder, vips, ranking_of, before):
                if watched.interface in mine and (alone or self.me in self._watchers(holder, ranking_of(vip), now)):
                    targets[vip] = watched
                mine.discard(watched.interface)
                if not mine:
                    break
        for holder, seen in self._seen.items():
            if not any(
                watched.holder == holder and before.get((holder, watched.interface)) == vip
                for vip, watched in targets.items()
            ):
                seen.silent_since = None  # no longer watched, or by another VIP, of which nothing is known yet
        self.targets = targets
        self.guards = dict(self._guards(taken, ranking_of, now))

    def _samples(
        self,
        holder: NodeName,
        vips: Collection[IP],
        ranking_of: RankingOf,
        before: Mapping[tuple[NodeName, InterfaceName], IP],
    ) -> Iterator[tuple[IP, Watched]]:
        """VIPs of the holder that tell about it on this host's segments, those watched so far first."""
        avoid = self._seen[holder].avoid if holder in self._seen else None
        kept = [vip for (node, _), vip in before.items() if node == holder and vip in vips and vip != avoid]
        others = (vip for vip in vips if vip != avoid)
        last = (avoid,) if avoid in vips else ()
        for vip in (*kept, *others, *last):
            ranking = ranking_of(vip) if vip is not None else None
            mine = ranking.of(self.me) if ranking else None
            theirs = ranking.of(holder) if ranking else None
            mac = self._mac_of(holder, theirs.interface) if theirs else None
            if vip is not None and mine is not None and mac is not None:
                yield vip, Watched(holder=holder, interface=mine.interface, mac=mac)

    def _guards(
        self, taken: Mapping[NodeName, Mapping[IP, Instant]], ranking_of: RankingOf, now: Instant
    ) -> Iterator[tuple[IP, Watched]]:
        for node, vips in taken.items():
            guards = 0
            for vip, taken_at in vips.items():
                ranking = ranking_of(vip)
                mine = ranking.of(self.me) if ranking else None
                segments = self._segments_of(node)
                mac = next((s.mac for s in segments for own in s.subnets if mine and vip in own.network), None)
                if mine is not None and mac is not None and now < taken_at + GUARD_S:
                    yield vip, Watched(holder=node, interface=mine.interface, mac=mac)
                    guards += 1
                if guards == GUARDS:
                    break

    def _watchers(self, holder: NodeName, ranking: Ranking | None, now: Instant) -> list[NodeName]:
        ranked = ranking.ranked if ranking else ()
        able = [c.node for c in ranked if c.node != holder and self.hosts.sound(c.node, now)]
        return sorted(able, key=lambda node: rendezvous(node, f"watches {holder}"))[:WATCHERS]

    def found(self, vip: IP, *, silent: bool, now: Instant) -> NodeName | None:
        """The wire says that a watched VIP fell silent, or is answered again. The holder, if it is still watched."""
        watched = self.targets.get(vip)
        if watched is None:
            return None
        seen = self._seen.setdefault(watched.holder, _Seen())
        if silent:
            seen.silent_since = seen.silent_since if seen.silent_since is not None else now
        else:
            seen.silent_since = None
            seen.refuted, seen.not_before, seen.avoid = 0, None, None
        return watched.holder

    def silent_since(self, node: NodeName) -> Instant | None:
        """Since when the host's sampled VIP has not been answered; None: it is, or nobody looks."""
        return self._seen[node].silent_since if node in self._seen else None

    def refuted(self, node: NodeName, now: Instant) -> None:
        """A note of this host was taken off: the suspected host lives, whatever its VIP does."""
        seen = self._seen.get(node)
        if seen is None or not seen.noted:
            return
        seen.noted = False
        if seen.silent_since is not None:
            seen.not_before = Instant(now + CALM_S[min(seen.refuted, len(CALM_S) - 1)])
            seen.refuted += 1
            seen.avoid = next((vip for vip, watched in self.targets.items() if watched.holder == node), None)

    def wrote(self, node: NodeName, outcome: Write, now: Instant) -> None:
        """The note was written, or somebody was quicker, or nobody knows."""
        seen = self._seen.setdefault(node, _Seen())
        seen.asking = False
        seen.noted = seen.noted or outcome is not Write.LOST
        seen.not_before = Instant(now + RETRY_S)  # one that was written is seen on the watch by then
        session = self.hosts.sessions.get(node)
        if session is not None and session.renewed != seen.asked_of and session.suspected_by is None:
            self.refuted(node, now)  # before this host knew that it had written

    def turn(self, now: Instant) -> list[Suspect]:
        """Whom to suspect now."""
        acts = []
        for node, seen in self._seen.items():
            session = self.hosts.sessions.get(node)
            due = now >= seen.next_at
            if (
                seen.silent_since is not None
                and due
                and not seen.asking
                and session is not None
                and self.hosts.sound(node, now)
            ):
                seen.asking = True
                seen.asked_of = session.renewed
                seen.notes.append(now)
                acts.append(Suspect(node=node, expected=session))
        return acts

    def next_at(self, now: Instant) -> Instant | None:
        """When `turn` has something to say even if nothing happens."""
        waiting = (seen.next_at for seen in self._seen.values() if seen.silent_since is not None and not seen.asking)
        return min((at for at in waiting if at > now), default=None)

    def _segments_of(self, node: NodeName) -> tuple[Segment, ...]:
        session = self.hosts.sessions.get(node)
        return session.segments if session else ()

    def _mac_of(self, node: NodeName, interface: InterfaceName) -> Mac | None:
        session = self.hosts.sessions.get(node)
        segment = session.on(interface) if session else None
        return segment.mac if segment else None
