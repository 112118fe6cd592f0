"""Virtual time: events one after the other, all chance from one seed, and the story of what happened."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from hostagent.model.names import Instant

Event = Callable[[], object]


class Timeline:
    """What happens when. Two runs with the same seed and the same calls are the same to the last bit."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.story: list[str] = [f"seed {seed}"]
        self._queue: list[tuple[float, int, Event]] = []
        self._order = 0

    def at(self, instant_s: float, event: Event) -> None:
        """Let something happen at an instant; events of one instant happen in the order in which they were asked."""
        self._order += 1
        heapq.heappush(self._queue, (max(instant_s, self.now), self._order, event))

    def after(self, delay_s: float, event: Event) -> None:
        self.at(self.now + delay_s, event)

    def between(self, shortest_s: float, longest_s: float, event: Event) -> None:
        """Let something happen after a delay that chance decides."""
        self.at(self.now + self.random.uniform(shortest_s, longest_s), event)

    def run(self, until_s: float, *, after_each: Event) -> None:
        """Let everything happen that is due until then, looking at the world before it and after each event."""
        queue = self._queue
        after_each()
        while queue and queue[0][0] <= until_s:
            self.now, _, event = heapq.heappop(queue)
            event()
            after_each()
        self.now = max(self.now, until_s)
        after_each()

    def tell(self, text: str) -> None:
        self.story.append(f"{self.now:9.3f} {text}")


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
