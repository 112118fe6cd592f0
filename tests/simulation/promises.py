"""What must hold whatever goes wrong: the promises of docs/ownership.md, and exactly where each of them ends.

Checked after each event that may have changed something, and while it matters that time passes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from hostagent.core.ownership import Ownership
from hostagent.model.names import IP, Instant, NodeName
from hostagent.model.ownership import AddAddress, DeleteClaim, Why, WriteClaim
from tests.simulation.timeline import Timeline
from tests.simulation.uniqueness import ROUNDING_S, Uniqueness

if TYPE_CHECKING:
    from tests.simulation.api import Api
    from tests.simulation.host import Host
    from tests.simulation.segment import Segment

P2_S = 1.0
DEGRADED_AFTER_S, DEGRADED_S = 25.0, 5.0
"""While the API is away the segment decides: after an outage of a session's duration, and the best-ranked first."""
ALONE_S = 2.0
"""A probe may be older than the fault that cut its host off."""
MOST_NOTES, NOTES_S = 10, 30.0
"""Faults that come and go make for new suspicions; one that stays for ever fewer."""


class PromiseBrokenError(AssertionError):
    """One of the promises of the ownership protocol does not hold; the text is the story that led there."""


class Promises:
    def __init__(self, time: Timeline, vips: Sequence[IP], *, lifetime_s: float, duration_s: float) -> None:
        self.longest_gap: dict[IP, float] = dict.fromkeys(vips, 0.0)
        self.quiet_since = 0.0
        """When the last fault happened, or was mended."""
        self.wire_well_since = 0.0
        self.api_back_at = 0.0
        self.api_gone_at = 0.0
        self._time = time
        self._vips = vips
        self._lifetime_s = lifetime_s
        self._duration_s = duration_s
        self._settled_s = 2 * duration_s
        self._unserved_since: dict[IP, float | None] = dict.fromkeys(vips, 0.0)
        self._unbroken: dict[IP, tuple[float, str]] = {}
        """VIPs that must not go unanswered until then, and why."""
        self._still: dict[IP, tuple[float, str]] = {}
        """VIPs whose claim must not be written until then, and why."""
        self._faults = 0

    def watch(self, hosts: Iterable[Host], api: Api, segment: Segment) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._api, self._segment = api, segment
        self._uniqueness = Uniqueness(self._time, api, segment, lifetime_s=self._lifetime_s)
        api.inspect, api.inspect_note = self.check_write, self.check_note
        self._renewed_at: dict[NodeName, Instant] = {}
        self._notes: dict[tuple[NodeName, NodeName], deque[float]] = {}
        self._api_well_since: dict[NodeName, float] = dict.fromkeys(self._hosts, 0.0)
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

    def api_fault(self, host: Host | None = None) -> None:
        """Of one host's way to the API, or of the API itself."""
        for name in (host.name,) if host is not None else self._hosts:
            self._api_well_since[name] = self._time.now

    # What is promised for a world in which nothing else is wrong

    def all_well(self) -> bool:
        """Nothing has happened for a while, and nothing is left of it; a host that is long gone is nothing."""
        return self._api.up and self._all_well()

    def _all_well(self, but: Host | None = None) -> bool:
        quiet_s = self._settled_s if self._api.up else DEGRADED_AFTER_S
        if self._time.now - self.quiet_since < quiet_s or self._api_troubled() or self._segment.troubled():
            return False
        return all(host is but or self._well(host) or self._gone(host) for host in self._hosts.values())

    def _well(self, host: Host) -> bool:
        return (
            host.turning and host.synced and host.reaches_api and self._segment.served(host) and not host.agent.stopping
            and not host.uplink.stream.held
        )  # fmt: skip

    def _gone(self, host: Host) -> bool:
        return not host.powered or (not host.running and not host.kernel)

    def _api_troubled(self) -> bool:
        api = self._api
        return api.slow or api.throttled or api.lost_reply_chance > 0 or api.spike_chance > 0

    def may_follow(self, vip: IP, host: Host) -> bool:
        """Whether another host is there to answer for what this one answers for."""
        entitled = self._api.services.weights
        return vip in self._api.services.wanted and any(
            other is not host and self._well(other) and name in entitled and not other.draining
            for name, other in self._hosts.items()
        )

    def dies(self, host: Host) -> None:
        """P2: what this host answers for is answered again in time, if all is well but this. Told before it dies."""
        if not host.acts or host.name not in self._api.services.weights or not self._all_well(but=host):
            return
        if self._api.up:
            within_s = P2_S
        elif (
            host.on_api_loss == "hold"
            and self._time.now - self.api_gone_at > DEGRADED_AFTER_S
            and self._know_of_the_outage(host)
        ):
            within_s = DEGRADED_S
        else:
            return
        faults = self._faults + 1
        for vip in [vip for vip in self._vips if host.has(vip) and self.may_follow(vip, host)]:

            def look(vip: IP = vip) -> None:
                if self._faults == faults and not self._segment.answering(vip):
                    self.broken(f"P2: nobody answers for {vip} {within_s} s after {host.name} died")

            self._time.after(within_s, look)

    def _know_of_the_outage(self, but: Host) -> bool:
        """All other hosts are there to agree on who answers, and have no API to ask."""
        return all(each is but or (self._well(each) and not each.draining) for each in self._hosts.values())

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
        else:
            for vip in self._uniqueness.suspense:
                self._check_vip(vip)

    def _check_vip(self, vip: IP) -> None:
        answering = self._segment.answering(vip)
        since_of = self._answers_since.setdefault(vip, {})
        self._answers_since[vip] = {host.name: since_of.get(host.name, self._time.now) for host in answering}
        if broken := self._uniqueness.check(vip, answering):
            self.broken(f"P1: {broken}")
        since = self._unserved_since[vip]
        if answering and since is not None:
            self.longest_gap[vip] = max(self.longest_gap[vip], self._time.now - since)
            self._unserved_since[vip] = None
        elif not answering and since is None:
            self._unserved_since[vip] = self._time.now
            until_s, why = self._unbroken.get(vip, (0.0, ""))
            if self._time.now < until_s and vip in self._api.services.wanted:
                self.broken(f"{why}, and nobody answers for {vip}")

    def renewed(self, host: Host, sent_at: Instant) -> None:
        """A host's session was written. One that fences does not outlive it: others may take over then."""
        if host.on_api_loss == "fence":
            self._renewed_at[host.name] = sent_at
            self._expect_fence(host, sent_at)

    def _expect_fence(self, host: Host, sent_at: Instant) -> None:
        ends_at = Instant(sent_at + self._duration_s)

        def look() -> None:
            if self._renewed_at[host.name] != sent_at or not host.powered or host.frozen:
                return
            if host.now < ends_at:  # its machine stood still, and its clock with it
                self._expect_fence(host, sent_at)
                return
            held = [vip for vip in self._vips if host.has(vip) and vip in self._api.services.wanted]
            if held:
                self.broken(f"P1: {host.name} fences, and has {held[0]} though its session was not renewed")

        self._time.at(host.clock.when(ends_at) + ROUNDING_S, look)

    def heard(self, host: Host, vip: IP, by: NodeName | None) -> None:
        """A host hears another announce, or answer for, a VIP."""
        if by is not None:
            self._uniqueness.heard(host, vip, by)

    def check_add(self, node: NodeName, act: AddAddress, agent: Ownership) -> None:
        """P1: an address is added under a claim, or, when nobody reaches the API, by agreement on the segment."""
        claim = agent.claims.get(act.vip)
        if (claim is None or claim.holder != node) and act.why is not Why.ARBITRATED:
            self.broken(f"P1: {node} adds {act.vip} and knows of no claim that names it")
        host, segment = self._hosts[node], self._segment
        news_since = host.now if host.long_deaf else host.back_at
        if (
            claim is not None
            and news_since is not None
            and claim.seen_at < news_since
            and act.why is not Why.ARBITRATED
        ):
            self.broken(f"P1: {node} adds {act.vip} on what it knew before its interface was away")
        if act.why is Why.ARBITRATED and self._time.now - self.wire_well_since > ALONE_S:
            others = [each for each in self._hosts.values() if each is not host and segment.converse(host, each)]
            if not others and host.part:
                self.broken(f"P1: {node} takes {act.vip} by agreement with nobody")
            if not segment.served(host):
                self.broken(f"P1: {node} takes {act.vip} where nobody hears it")

    def check_note(self, by: NodeName, about: NodeName) -> None:
        """P7: a host that lives is not made to say so again and again."""
        notes = self._notes.setdefault((by, about), deque(maxlen=MOST_NOTES))
        notes.append(self._time.now)
        if len(notes) == MOST_NOTES and notes[-1] - notes[0] < NOTES_S and notes[0] > self._segment.lossy_until:
            self.broken(f"P7: {by} suspects {about} {MOST_NOTES} times within {notes[-1] - notes[0]:.1f} s")

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
        holder = self._hosts.get(current.holder)
        why = act.why if isinstance(act, WriteClaim) else Why.NOT_WANTED
        if why is Why.ARBITRATED and holder is not None and not self._segment.served(holder):
            return  # it answered nobody, and another does
        long = self.api_back_at - self.api_gone_at > self._duration_s
        just_back = self._time.now - self.api_back_at < self._duration_s - ROUNDING_S
        if why is Why.EXPIRED and long and just_back and holder is not None and holder.acts:
            self.broken(
                f"P6: {node} takes {act.vip} from {current.holder}, which could not renew while the API was away"
            )
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
        api_works = self._api.up and not self._api_troubled() and host.reaches_api and not host.uplink.stream.held
        if api_works and now - self._api_well_since[node] > settled_s:
            return True
        if host.on_api_loss == "fence":
            return False
        heard_since = max(self._answers_since.get(vip, {}).get(node, now), self.wire_well_since)
        return not self._segment.troubled() and now - heard_since > settled_s
