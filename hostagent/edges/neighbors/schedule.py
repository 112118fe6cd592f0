"""When each VIP is announced next: a burst when it is taken, then at intervals. Pure: the clock is an argument."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from hostagent.model.names import IP

BURST_S = (0.0, 0.05, 0.2, 1.0, 2.0, 5.0)
"""After taking a VIP: at once, and again for whoever lost it. Switch ports may take seconds until they forward."""
REFRESH_S = 60.0
"""Afterwards: for clients that missed all of the burst, and switches that forget MACs (300 s is usual)."""
JITTER = 0.25
"""Refreshes come this fraction of REFRESH_S earlier or later, so that VIPs taken together do not stay together."""
REFRESHES_PER_S = 1000.0
"""No more than this, whatever the number of VIPs: 10 000 need 170."""


@dataclass(slots=True, eq=False)
class _Announced:
    vip: IP
    started_at: float
    step: int = 0


_Heap = list[tuple[float, int, _Announced]]


class Schedule:
    """One heap for bursts, which are urgent, and one for refreshes, which are rationed."""

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` returns a number from 0 to 1, as `random.random` does."""
        self._random = random
        self._announced: dict[IP, _Announced] = {}
        self._bursts: _Heap = []
        self._refreshes: _Heap = []
        self._next_refresh_at = 0.0
        self._tie = itertools.count()

    def __len__(self) -> int:
        return len(self._announced)

    def __contains__(self, vip: IP) -> bool:
        return vip in self._announced

    def start(self, vip: IP, now: float) -> None:
        """Announce from now on; a VIP that is announced already begins its burst anew."""
        entry = self._announced[vip] = _Announced(vip, now)
        self._push(self._bursts, now, entry)

    def stop(self, vip: IP) -> None:
        """Announce no more; stopping what was not started is fine."""
        self._announced.pop(vip, None)  # its entry in a heap is dropped when it comes up

    def due(self, now: float, limit: int) -> list[IP]:
        """Take up to `limit` VIPs whose turn it is; the next turn of each is planned."""
        taken: list[IP] = []
        while len(taken) < limit and (entry := self._pop(now)):
            taken.append(entry.vip)
            self._plan(entry, now)
        return taken

    def next_at(self) -> float | None:
        """When `due` is worth asking again; None while nothing is announced."""
        times = []
        if (burst := self._head(self._bursts)) is not None:
            times.append(burst)
        if (refresh := self._head(self._refreshes)) is not None:
            times.append(max(refresh, self._next_refresh_at))
        return min(times, default=None)

    def _pop(self, now: float) -> _Announced | None:
        burst = self._head(self._bursts)
        if burst is not None and burst <= now:
            return heapq.heappop(self._bursts)[2]
        refresh = self._head(self._refreshes)
        if refresh is None or max(refresh, self._next_refresh_at) > now:
            return None
        # Up to 10 ms of the ration may be used at once, so that a timer per frame is not needed.
        self._next_refresh_at = max(self._next_refresh_at, now - 0.01) + 1 / REFRESHES_PER_S
        return heapq.heappop(self._refreshes)[2]

    def _plan(self, entry: _Announced, now: float) -> None:
        while entry.step < len(BURST_S) and entry.started_at + BURST_S[entry.step] <= now:
            entry.step += 1  # after a stall one announcement makes up for all that were missed
        if entry.step < len(BURST_S):
            self._push(self._bursts, entry.started_at + BURST_S[entry.step], entry)
        else:
            self._push(self._refreshes, now + REFRESH_S * (1 + JITTER * (2 * self._random() - 1)), entry)

    def _head(self, heap: _Heap) -> float | None:
        while heap and self._announced.get(heap[0][2].vip) is not heap[0][2]:
            heapq.heappop(heap)  # stopped, or started anew
        return heap[0][0] if heap else None

    def _push(self, heap: _Heap, at: float, entry: _Announced) -> None:
        heapq.heappush(heap, (at, next(self._tie), entry))
