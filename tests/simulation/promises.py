"""What must hold whatever goes wrong: the promises of docs/ownership.md, and exactly where each of them ends.

Checked after each event that may have changed something, and while it matters that time passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NoReturn

from hostagent.core.judge import HAND_OVER_S
from hostagent.core.ownership import Ownership
from hostagent.model.names import IP, NodeName
from hostagent.model.ownership import AddAddress, DeleteClaim, Why, WriteClaim
from tests.simulation.timeline import Timeline

if TYPE_CHECKING:
    from tests.simulation.api import Api
    from tests.simulation.host import Host
    from tests.simulation.segment import Segment

P1_S = 0.1
LOSSY_P1_S = HAND_OVER_S + 0.1
WOKEN_S = 0.5
HEALED_S = 0.6
"""How long two may answer after a segment that was split has healed while the API is away."""
P2_S = 1.0
ROUNDING_S = 0.005
"""The world's clocks drift, its timers fire a millisecond late, and frames take a moment."""
OUTAGE_S = 3600.0


class PromiseBrokenError(AssertionError):
    """One of the promises of the ownership protocol does not hold; the text is the story that led there."""


@dataclass(slots=True)
class _Twice:
    """Two hosts answer for one VIP, heard by the same clients."""

    since: float
    counted_from: float
    """Since when nothing excuses it."""
    limit_s: float


class Promises:
    def __init__(self, time: Timeline, vips: Sequence[IP], *, lifetime_s: float, settled_s: float) -> None:
        self.longest_gap: dict[IP, float] = dict.fromkeys(vips, 0.0)
        self.quiet_since = 0.0
        """When the last fault happened, or was mended."""
        self.api_well_since = self.wire_well_since = 0.0
        self._time = time
        self._vips = vips
        self._lifetime_s = lifetime_s
        self._settled_s = settled_s
        self._unserved_since: dict[IP, float | None] = dict.fromkeys(vips, 0.0)
        self._twice: dict[IP, _Twice] = {}
        self._unbroken: dict[IP, tuple[float, str]] = {}
        """VIPs that must not go unanswered until then, and why."""
        self._still: dict[IP, tuple[float, str]] = {}
        """VIPs whose claim must not be written until then, and why."""
        self._faults = 0

    def watch(self, hosts: Iterable[Host], api: Api, segment: Segment) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._api, self._segment = api, segment
        api.inspect = self.check_write
        self._agent_well_since: dict[NodeName, float] = dict.fromkeys(self._hosts, 0.0)
        self._answers_since: dict[IP, dict[NodeName, float]] = {}

    def broken(self, promise: str) -> NoReturn:
        raise PromiseBrokenError("\n".join([*self._time.story, f"{self._time.now:9.3f} BROKEN {promise}"]))

    # What goes wrong

    def fault(self) -> None:
        """Something happens to somebody: what was promised for a quiet world holds no longer."""
        self._faults += 1
        self.quiet_since = self._time.now
        self._unbroken.clear()
        self._still.clear()

    def agent_fault(self, host: Host) -> None:
        self._agent_well_since[host.name] = self._time.now

    def wire_fault(self) -> None:
        self.wire_well_since = self._time.now

    def api_fault(self) -> None:
        self.api_well_since = self._time.now

    # What is promised for a world in which nothing else is wrong

    def all_well(self, but: Host | None = None) -> bool:
        """Nothing has happened for a while, and nothing is left of it; a host that is long gone is nothing."""
        if self._time.now - self.quiet_since < self._settled_s or self._api_troubled() or self._segment.troubled():
            return False
        return all(host is but or self._well(host) or self._gone(host) for host in self._hosts.values())

    def _well(self, host: Host) -> bool:
        return (
            host.turning and host.synced and host.reaches_api and self._segment.served(host) and not host.agent.stopping
            and not host.stream.held
        )  # fmt: skip

    def _gone(self, host: Host) -> bool:
        return not host.powered or (not host.running and not host.kernel)

    def _api_troubled(self) -> bool:
        api = self._api
        return not api.up or api.slow or api.throttled or api.lost_reply_chance > 0 or api.spike_chance > 0

    def may_follow(self, vip: IP, host: Host) -> bool:
        """Whether another host is there to answer for what this one answers for."""
        entitled = self._api.services.weights
        return vip in self._api.services.wanted and any(
            other is not host and self._well(other) and name in entitled and not other.draining
            for name, other in self._hosts.items()
        )

    def dies(self, host: Host) -> None:
        """P2: what this host answers for is answered again in time, if all is well but this. Told before it dies."""
        if not self._well(host) or host.name not in self._api.services.weights or not self.all_well(but=host):
            return
        faults = self._faults + 1
        for vip in [vip for vip in self._vips if host.has(vip) and self.may_follow(vip, host)]:

            def look(vip: IP = vip) -> None:
                if self._faults == faults and not self._segment.answering(vip):
                    self.broken(f"P2: nobody answers for {vip} {P2_S} s after {host.name} died")

            self._time.after(P2_S, look)

    def leaves(self, host: Host, for_s: float) -> None:
        """P3: nothing goes unanswered when a host stops, drains or loses its candidacy. Told after `fault`."""
        for vip in self._vips:
            if host.has(vip) and self.may_follow(vip, host):
                self._unbroken[vip] = (self._time.now + for_s, f"P3: {host.name} leaves in order")

    def stays(self, host: Host, for_s: float, why: str) -> None:
        """P4: nothing moves, nothing goes unanswered. Told after `fault`."""
        for vip in self._vips:
            if host.has(vip):
                self._unbroken[vip] = self._still[vip] = (self._time.now + for_s, f"P4: {why}")

    # What is promised always

    def check(self) -> None:
        """After every event: P1, and how long each VIP has gone unanswered."""
        if self._segment.changed:
            self._segment.look()
            for vip in self._vips:
                self._check_vip(vip)
        elif self._twice:
            for vip in tuple(self._twice):
                self._check_vip(vip)

    def _check_vip(self, vip: IP) -> None:
        answering = self._segment.answering(vip)
        since_of = self._answers_since.setdefault(vip, {})
        self._answers_since[vip] = {host.name: since_of.get(host.name, self._time.now) for host in answering}
        if len(answering) > 1:
            self._check_twice(vip, answering)
        else:
            self._twice.pop(vip, None)
        since = self._unserved_since[vip]
        if answering and since is not None:
            self.longest_gap[vip] = max(self.longest_gap[vip], self._time.now - since)
            self._unserved_since[vip] = None
        elif not answering and since is None:
            self._unserved_since[vip] = self._time.now
            until_s, why = self._unbroken.get(vip, (0.0, ""))
            if self._time.now < until_s and vip in self._api.services.wanted:
                self.broken(f"{why}, and nobody answers for {vip}")

    def _check_twice(self, vip: IP, answering: Sequence[Host]) -> None:
        """P1. Clients in different parts of a segment never hear both."""
        pairs = [pair for pair in combinations(answering, 2) if pair[0].part == pair[1].part]
        if not pairs:
            self._twice.pop(vip, None)
            return
        now = self._time.now
        twice = self._twice.setdefault(vip, _Twice(since=now, counted_from=now, limit_s=P1_S))
        for one, other in pairs:
            from_s, limit_s = self._excuse(vip, one, other)
            twice.counted_from = max(twice.counted_from, from_s)
            twice.limit_s = max(twice.limit_s, limit_s)
        # Whatever excuses it: an agent that turns hears of it in the end, one that does not loses its addresses.
        overdue = now - twice.since > self._lifetime_s and not all(host.acts for host in answering)
        if overdue or now - twice.counted_from > twice.limit_s + ROUNDING_S:
            names = [host.name for host in answering]
            self.broken(f"P1: {names} both answer for {vip} since {twice.since:.3f}, allowed {twice.limit_s} s")

    def _excuse(self, vip: IP, one: Host, other: Host) -> tuple[float, float]:
        """From when on two may not both answer, and for how long they may from then. docs/ownership.md, limits."""
        segment, now = self._segment, self._time.now
        counted_from, limit_s = 0.0, P1_S
        for host, rival in ((one, other), (other, one)):
            if not host.acts:
                # Its agent hangs, or is being started anew: it cannot let go, nor say what it has.
                counted_from = now
            if host.thawed_at is not None:
                # It does not know that it stood still.
                counted_from = max(counted_from, host.thawed_at + WOKEN_S - P1_S)
            if not host.informed and not segment.converse(host, rival):
                # It cannot know by the API nor by the segment, while clients hear both.
                counted_from = now
        if now < segment.lossy_until + LOSSY_P1_S or segment.blocked:
            # The successor's announcement may have been lost: the predecessor waits for it.
            limit_s = max(limit_s, LOSSY_P1_S)
        if not (one.informed and other.informed):
            # Each was right in its part of the segment, and they hear of each other only now.
            counted_from = max(counted_from, segment.healed_at)
            limit_s = max(limit_s, HEALED_S)
            if vip in segment.strangers:
                # Who defends against a stranger has no announcement left for the other (RFC 5227: once in 10 s).
                counted_from = now
        return counted_from, limit_s

    def check_add(self, node: NodeName, act: AddAddress, agent: Ownership) -> None:
        """P1: an address is added under a claim, or, when nobody reaches the API, by agreement on the segment."""
        claim = agent.claims.get(act.vip)
        if (claim is None or claim.holder != node) and act.why is not Why.ARBITRATED:
            self.broken(f"P1: {node} adds {act.vip} and knows of no claim that names it")

    def check_write(self, node: NodeName, act: WriteClaim | DeleteClaim) -> None:
        """P6: silence that has other causes than the holder takes nothing from it. P7: no needless writes."""
        current = self._api.claims.get(act.vip)
        if current is None:
            return
        if act.vip in self._still and self._time.now < self._still[act.vip][0]:
            self.broken(f"{self._still[act.vip][1]}, and {node} writes the claim of {act.vip} ({act})")
        if current.holder is None or act.vip not in self._api.services.wanted:
            return
        if isinstance(act, WriteClaim) and act.holder == current.holder and act.why not in (Why.RETURNS, Why.LAPSED):
            self.broken(f"P7: {node} writes {act.vip} for {act.holder}, which has it already ({act.why})")
        if current.holder != node and self._keeps(current.holder, act.vip):
            self.broken(f"P6: {node} takes {act.vip} from {current.holder}, which did nothing to lose it")

    def _keeps(self, node: NodeName, vip: IP) -> bool:
        """Whether a host must be able to keep what it holds: its agent lives, and the API works, or it is heard."""
        now, settled_s = self._time.now, self._settled_s
        host = self._hosts[node]
        if not (host.turning and host.synced and now - self._agent_well_since[node] > settled_s):
            return False
        if node not in self._api.services.weights:
            return False
        api_works = not self._api_troubled() and host.reaches_api and not host.stream.held
        if api_works and now - self.api_well_since > settled_s:
            return True
        heard_since = max(self._answers_since.get(vip, {}).get(node, now), self.wire_well_since)
        return not self._segment.troubled() and now - heard_since > settled_s
