"""What one host knows of the others' lives, and of the freshness of its own view: pure, no clock.

A host counts as gone when it ended its session, when the session expired, or when it was suspected and did not refute.
All ages are counted on this host's own clock, and only while signs of life could be seen at all (promises P6, P8).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import Act, ReadSession, Refute, Session

REFUTE_S = 0.3
"""For so long a suspected host may refute: its watch and one write take some 20 ms."""
RETRY_S = 1.0
"""Pause before something that failed is asked for again."""
GAP_OF_RENEW = 1.5
"""A silence of the lease stream longer than this many renewal intervals is an outage: nobody's age counts through it.

Shorter ones leave the holder time to renew before it expires: 1.5 renewals of silence, one interval before and a
back-off of a second stay under a duration of three intervals.
"""
STALE_S = 3.0
"""An own renewal that has not come back on the watch after this long: the watch is behind, and so is all it told."""


@dataclass(slots=True)
class _Doubt:
    """A rival's note in a session."""

    since: Instant
    """When this host saw it first."""
    renewed: str
    """Of the session at that time: the next renewal refutes it."""
    reading: bool = False
    """The API is being asked."""
    not_before: Instant | None = None
    confirmed: bool = False
    """The API says: not refuted. The host counts as gone."""
    refuted: bool = False
    """The API says: refuted. The watch will tell so too."""


@dataclass(slots=True)
class Hosts:
    """The sessions as seen by `me`."""

    me: NodeName
    duration_s: float
    renew_s: float
    sessions: dict[NodeName, Session] = field(default_factory=dict)
    fresh_since: Instant | None = None
    """Since when the stream of Leases has had no gap: nobody's silence counts from before."""
    outage_ended_at: Instant | None = None
    """When the last gap in the stream ended that this host lived through."""
    stream_at: Instant | None = None
    _doubts: dict[NodeName, _Doubt] = field(default_factory=dict)
    _refute: NodeName | None = None
    _echoes_awaited: tuple[str, Instant] | None = None

    # What was seen

    def stream_alive(self, now: Instant) -> bool:
        """Something arrived on the lease watch. True after a gap: then everybody gets a full duration to be heard."""
        gap = not self.stream_flows(now)
        if gap:
            self.outage_ended_at = None if self.stream_at is None else now
            self.fresh_since = now
        self.stream_at = now
        return gap

    def seen(self, node: NodeName, session: Session | None, now: Instant) -> bool:
        """A session Lease appeared, changed or went (None). True if that changes who is alive."""
        before = self.sessions.get(node)
        was_sound = before is not None and self.sound(node, now)
        if session is None:
            self.sessions.pop(node, None)
            self._doubts.pop(node, None)
            return True
        if before is not None and session.renewed and _life_of(session) == _life_of(before):
            session = replace(session, seen_at=before.seen_at)  # somebody noted something in it: no sign of life
        self.sessions[node] = session
        if node == self.me:
            self._see_own(session)
        else:
            self._weigh(session, now)
        changed = before is None or (before.ended, before.draining) != (session.ended, session.draining)
        return changed or was_sound != self.sound(node, now)

    def _see_own(self, session: Session) -> None:
        self._refute = session.suspected_by
        if self._echoes_awaited is not None and not older(session.resource_version, self._echoes_awaited[0]):
            self._echoes_awaited = None

    def _weigh(self, session: Session, now: Instant) -> None:
        doubt = self._doubts.get(session.node)
        if session.suspected_by is None:
            self._doubts.pop(session.node, None)
        elif doubt is None or doubt.renewed != session.renewed:
            self._doubts[session.node] = _Doubt(since=now, renewed=session.renewed)

    def renewed(self, version: str, now: Instant) -> None:
        """This host's session was written: that version must come back on the watch."""
        seen = self.sessions.get(self.me)
        if seen is None or older(seen.resource_version, version):
            self._echoes_awaited = (version, now)

    def read(self, node: NodeName, session: Session | None) -> bool:
        """The reading of a suspected host's session has ended. True if the host counts as gone from now on."""
        doubt = self._doubts.get(node)
        if doubt is None:
            return False
        doubt.reading = False
        doubt.confirmed = session is not None and session.suspected_by is not None and session.renewed == doubt.renewed
        doubt.refuted = not doubt.confirmed
        return doubt.confirmed

    def read_failed(self, node: NodeName, now: Instant) -> None:
        """The API did not answer: it is asked again."""
        doubt = self._doubts.get(node)
        if doubt is not None:
            doubt.reading, doubt.not_before = False, Instant(now + RETRY_S)

    # What follows

    def turn(self, now: Instant) -> list[Act]:
        """What is to be asked about suspected hosts, and answered to whoever suspects this one."""
        acts: list[Act] = []
        if self._refute is not None:
            acts.append(Refute(suspected_by=self._refute))
            self._refute = None
        for node, doubt in self._doubts.items():
            if self._open(doubt) and now >= self._ripe_at(doubt):
                doubt.reading = True
                acts.append(ReadSession(node=node))
        return acts

    def next_at(self) -> Instant | None:
        """When `turn` has something to say even if nothing happens."""
        return min((self._ripe_at(doubt) for doubt in self._doubts.values() if self._open(doubt)), default=None)

    def _open(self, doubt: _Doubt) -> bool:
        return not (doubt.confirmed or doubt.refuted or doubt.reading)

    def _ripe_at(self, doubt: _Doubt) -> Instant:
        """When the time to refute is over. After an outage the suspected must first find its way back to the API."""
        back_at = 0.0 if self.outage_ended_at is None else self.outage_ended_at + self.renew_s
        return Instant(max(doubt.since + REFUTE_S, back_at, doubt.not_before or 0.0))

    def expires_at(self, node: NodeName) -> Instant | None:
        """When a session will count as expired: a duration after its last sign, counted only while signs could come."""
        session = self.sessions.get(node)
        if session is None or self.fresh_since is None:
            return None
        return Instant(max(session.seen_at, self.fresh_since) + session.duration_s)

    def stream_flows(self, now: Instant) -> bool:
        """The stream of Leases tells of others. The API may answer a request before its watch speaks again."""
        return self.stream_at is not None and now - self.stream_at <= GAP_OF_RENEW * self.renew_s

    def passed(self, expires_at: Instant | None, now: Instant) -> bool:
        """Whether a time to expire is over. While the stream is silent nobody's time runs: nobody could be heard."""
        if expires_at is None or self.stream_at is None:
            return True
        return min(now, self.stream_at + GAP_OF_RENEW * self.renew_s) >= expires_at

    def alive(self, node: NodeName, now: Instant) -> bool:
        """Its session neither ended nor expired."""
        session = self.sessions.get(node)
        return session is not None and not session.ended and not self.passed(self.expires_at(node), now)

    def sound(self, node: NodeName, now: Instant) -> bool:
        """Alive, and nobody has cause to suspect it."""
        return not self.suspected(node) and self.alive(node, now)

    def fit(self, node: NodeName, now: Instant) -> bool:
        """Sound, and willing to take VIPs."""
        return self.sound(node, now) and not self.sessions[node].draining

    def suspected(self, node: NodeName) -> bool:
        """Somebody noted that its VIPs are silent, and it has not refuted as far as this host knows."""
        doubt = self._doubts.get(node)
        return doubt is not None and not doubt.refuted

    def dead(self, node: NodeName) -> bool:
        """It was suspected, had its time, and the API says that it did not refute."""
        doubt = self._doubts.get(node)
        return doubt is not None and doubt.confirmed

    def stale(self, now: Instant) -> bool:
        """The watch is behind: what this host knows is older than it looks."""
        return self._echoes_awaited is not None and now - self._echoes_awaited[1] > STALE_S


def older(version: str, than: str) -> bool:
    """Resource versions of one kind grow, and may be compared as numbers (Kubernetes API conventions since 1.35)."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


def _life_of(session: Session) -> tuple[str, str]:
    return session.instance, session.renewed
