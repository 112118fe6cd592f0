"""Which VIPs are to be judged now, and which when."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from hostagent.model.names import IP, Instant


@dataclass(slots=True)
class Agenda:
    """Work proportional to what happened, whatever the number of VIPs."""

    _now: set[IP] = field(default_factory=set)
    _later: list[tuple[Instant, str, IP]] = field(default_factory=list)
    _at: dict[IP, Instant] = field(default_factory=dict)
    """The earliest entry of each VIP: later ones need none, as each judgement asks anew."""

    def touch(self, vips: Iterable[IP]) -> None:
        """Something happened to these: judge them at the next turn."""
        self._now.update(vips)

    def wake(self, vip: IP, at: Instant) -> None:
        """Judge the VIP then even if nothing happens."""
        if vip not in self._at or at < self._at[vip]:
            self._at[vip] = at
            heapq.heappush(self._later, (at, str(vip), vip))

    def take(self, now: Instant) -> list[IP]:
        """The VIPs to judge, in order of their addresses; they are taken off."""
        while self._later and self._later[0][0] <= now:
            at, _, vip = heapq.heappop(self._later)
            self._now.add(vip)
            if self._at.get(vip) == at:
                del self._at[vip]
        taken = sorted(self._now, key=lambda ip: (ip.version, int(ip)))
        self._now.clear()
        return taken

    def next_at(self) -> Instant | None:
        """When `take` has something even if nothing happens."""
        return self._later[0][0] if self._later else None
