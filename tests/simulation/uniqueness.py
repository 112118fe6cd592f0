"""Promise P1: two hosts never both answer for a VIP. Here is for how long they may, and each excuse with its reason.

An excuse moves the moment from which the time is counted; the excuses are those of docs/ownership.md, limits, and no
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from hostagent.core.judge import HAND_OVER_S
from hostagent.model.names import IP, NodeName
from tests.simulation.timeline import Timeline

if TYPE_CHECKING:
    from tests.simulation.api import Api
    from tests.simulation.host import Host
    from tests.simulation.segment import Segment

P1_S = 0.1
LOSSY_S = HAND_OVER_S + 0.1
"""Where frames are lost: the predecessor may not hear its successor, and lets go after a while all the same."""
WOKEN_S = 0.5
"""For a machine that stood still: until it is told what it missed."""
HEALED_S = 0.6
"""For two who were each right in their part of the segment: until one hears the other."""
ROUNDING_S = 0.005
"""Hosts' clocks drift, their timers fire a millisecond late, and frames take a moment."""


@dataclass(slots=True)
class _Twice:
    """Two hosts answer for one VIP, heard by the same clients."""

    since: float
    counted_from: float
    limit_s: float
    excused: bool = False
    """For as long as nothing happens: the world stands still between two looks at it, and so does the excuse."""


class Uniqueness:
    def __init__(self, time: Timeline, api: Api, segment: Segment, *, lifetime_s: float) -> None:
        self._time, self._api, self._segment, self._lifetime_s = time, api, segment, lifetime_s
        self._twice: dict[IP, _Twice] = {}
        self._heard_at: dict[tuple[NodeName, IP, NodeName], float] = {}

    @property
    def suspense(self) -> tuple[IP, ...]:
        """The VIPs for which two answer now: time alone may break the promise."""
        return tuple(self._twice)

    def heard(self, host: Host, vip: IP, by: NodeName) -> None:
        """A host has heard another announce, or answer for, a VIP."""
        self._heard_at[host.name, vip, by] = self._time.now

    def check(self, vip: IP, answering: Sequence[Host]) -> str:
        """What is broken, if these answer for the VIP now; empty when nothing is.

        Clients in different parts of a split segment never hear both.
        """
        pairs = [pair for pair in combinations(answering, 2) if pair[0].part == pair[1].part]
        if not pairs:
            self._twice.pop(vip, None)
            return ""
        now = self._time.now
        twice = self._twice.setdefault(vip, _Twice(since=now, counted_from=now, limit_s=P1_S))
        if twice.excused:
            twice.counted_from, twice.excused = now, False
        for one, other in pairs:
            for host, rival in ((one, other), (other, one)):
                self._excuse(twice, vip, host, rival)
        hung = any(host.paused and now - host.paused_at > self._lifetime_s for host in answering)
        if hung or now - twice.counted_from > twice.limit_s + ROUNDING_S:
            names = " and ".join(host.name for host in answering)
            return f"{names} both answer for {vip} since {twice.since:.3f}, {twice.limit_s} s are allowed"
        return ""

    def _excuse(self, twice: _Twice, vip: IP, host: Host, rival: Host) -> None:
        """Why `host` may still answer though `rival` does."""
        segment, now = self._segment, self._time.now
        if not host.acts:
            # Its agent hangs, until the lifetime ends its addresses; or it was restarted, and waits for the API.
            twice.counted_from, twice.excused = now, True
            return
        if host.thawed_at is not None:
            # Its machine stood still, and it does not know that.
            twice.counted_from = max(twice.counted_from, host.thawed_at + WOKEN_S - P1_S)
        if segment.blocked or now < max(segment.lossy_until, segment.healed_at) + LOSSY_S:
            twice.limit_s = max(twice.limit_s, LOSSY_S)
        if host.uplink.informed:
            return
        # The API cannot tell it, as it is cut off, or tells it late; and ...
        told_at = self._heard_at.get((host.name, vip, rival.name), 0.0)
        if told_at < twice.since:
            told_at = now
            if segment.converse(host, rival) and not self._lossy(twice) and not segment.strangers:
                told_at = self._expected_at(vip, host, rival)
        # ... the segment does not, or did so only now.
        twice.excused = twice.excused or told_at == now
        twice.counted_from = max(twice.counted_from, told_at)
        twice.limit_s = max(twice.limit_s, HEALED_S)

    def _expected_at(self, vip: IP, host: Host, rival: Host) -> float:
        """From when on a host that has not heard of its rival should have, though chance delays no frame.

        Whoever took a VIP from a silent host looks out for it, and whoever took one without the API looks out for its
        holder. Nobody looks out for a host whose claim was deleted or passed on otherwise while it was cut off: it
        knows when its watch is back, as long after the outage as the outage was, 8 s at most.
        """
        claim = self._api.claims.get(vip)
        guarded = claim is not None and claim.holder == rival.name and claim.replaced == host.name and rival.acts
        if guarded or not self._api.reached_by(host):
            return self._segment.healed_at
        return self._time.now

    def _lossy(self, twice: _Twice) -> bool:
        return twice.since < self._segment.lossy_until + LOSSY_S
