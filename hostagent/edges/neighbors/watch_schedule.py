"""When each watched VIP is asked for next, and when its silence is a finding. Pure: the clock is an argument."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hostagent.model.names import IP
from hostagent.model.ownership import Watched

INTERVAL_S = (0.1, 0.2)
"""Between regular questions for one VIP, drawn anew each time so that hosts that watch the same do not stay in step."""
REGULAR_PER_S = 50.0
"""No more regular questions than this, whatever the number of VIPs."""
WAIT_S = 0.050
"""For the answer to a regular question, and to the last one. Owners answer in 0.1 ms, busy ones took 1.5 ms."""
QUICK_GAP_S = (0.030, 0.040)
"""From one quick question to the next."""
QUESTIONS = 3
"""So many unanswered in a row are silence: one lost frame is common, three in a tenth of a second are not."""
REMIND_S = 1.0
"""Lasting silence is told again this often at most."""
STALL_S = 0.050
"""A turn this late says that the process stood still, and that silence may be its own deafness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Ask for this VIP now."""

    vip: IP
    target: Watched
    everybody: bool
    """Ask the whole segment: the last question before the VIP counts as silent."""


@dataclass(slots=True, kw_only=True)
class Turn:
    """What came of asking the schedule once."""

    questions: list[Question] = field(default_factory=list)
    unanswered: int = 0
    """Questions whose time for an answer is over."""
    fell_silent: list[IP] = field(default_factory=list)
    still_silent: list[IP] = field(default_factory=list)
    """Worth telling again."""


@dataclass(slots=True, eq=False)
class _Watch:
    vip: IP
    target: Watched
    entry: int = -1
    """The number of its one valid entry in a heap."""
    waiting: bool = False
    """A question is open."""
    again_at: float = 0.0
    """Its next regular question, if the open one is answered."""
    unanswered: int = 0
    """In a row."""
    silent: bool | None = None
    """None: not known yet."""
    told_at: float = 0.0


_Heap = list[tuple[float, int, _Watch]]


class WatchSchedule:
    """One heap for the next regular questions, which are rationed, and one for the ends of waiting, which are not.

    Up to five VIPs are asked for every 100 to 200 ms each. Regular questions are 20 ms apart at least, whoever they are
    for, so with more VIPs the intervals stretch: those that have waited longest go first, and each of n is asked for
    about every n/50 s. A VIP that falls silent is found 0.14 s after its next regular question at the latest.

    Quick questions are not rationed, as they tell a dead host from a lost frame. They are two at most for each regular
    one, within 90 ms, and none while silence lasts: 110 in a second if everything is dead at once.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` returns a number from 0 to 1, as `random.random` does."""
        self._random = random
        self._watches: dict[IP, _Watch] = {}
        self._regular: _Heap = []
        self._waits: _Heap = []
        self._regular_from = 0.0
        self._entries = itertools.count()

    def __len__(self) -> int:
        return len(self._watches)

    def __getitem__(self, vip: IP) -> Watched:
        """Raises KeyError: not watched."""
        return self._watches[vip].target

    def __contains__(self, vip: IP) -> bool:
        return vip in self._watches

    @property
    def waiting(self) -> bool:
        """Whether any question is open."""
        return self._head(self._waits) is not None

    def replace(self, targets: Mapping[IP, Watched], now: float) -> None:
        """Watch these and no others. What stays as it was keeps its state; the rest starts anew, unknown."""
        for vip in self._watches.keys() - targets.keys():
            self._watches.pop(vip).entry = -1
        for vip, target in targets.items():
            known = self._watches.get(vip)
            if known is None or known.target != target:
                if known:
                    known.entry = -1
                fresh = self._watches[vip] = _Watch(vip, target)
                self._push(self._regular, now + self._random() * INTERVAL_S[0], fresh)

    def heard(self, vip: IP) -> bool:
        """Somebody answered for the VIP, or announced it; True if that ends a silence or is the first news of it."""
        watch = self._watches[vip]
        news, watch.silent = watch.silent is not False, False
        self._settle(watch)
        return news

    def unasked(self, vip: IP) -> None:
        """A question that `turn` gave could not be sent: it says nothing, and the next is a regular one."""
        if vip in self._watches:
            self._settle(self._watches[vip])

    def turn(self, now: float) -> Turn:
        """Judge the questions whose waiting is over, and give those to ask now; call it at `next_at`.

        Tell what was heard before. Called too late (`STALL_S`), it judges nothing: all open questions are asked anew,
        from the first of three. So a process that stands still all the time accuses nobody.
        """
        turn = Turn()
        due = self.next_at()
        if due is not None and now - due > STALL_S:
            for watch in self._watches.values():
                if watch.waiting:
                    watch.again_at = now
                    self._settle(watch)
        while unanswered := self._pop(self._waits, now):
            self._judge(unanswered, turn, now)
        if self._regular_from <= now and (first := self._pop(self._regular, now)):
            self._regular_from = now + 1 / REGULAR_PER_S
            self._ask(first, turn, now)
        return turn

    def next_at(self) -> float | None:
        """When `turn` is worth calling again; None while nothing is watched."""
        times = []
        if (wait := self._head(self._waits)) is not None:
            times.append(wait)
        if (regular := self._head(self._regular)) is not None:
            times.append(max(regular, self._regular_from))
        return min(times, default=None)

    def _judge(self, watch: _Watch, turn: Turn, now: float) -> None:
        turn.unanswered += 1
        watch.unanswered += 1
        if watch.silent:
            if now - watch.told_at >= REMIND_S:
                watch.told_at = now
                turn.still_silent.append(watch.vip)
            self._settle(watch)
        elif watch.unanswered < QUESTIONS:
            self._ask(watch, turn, now)
        else:
            watch.silent, watch.told_at = True, now
            turn.fell_silent.append(watch.vip)
            self._settle(watch)

    def _ask(self, watch: _Watch, turn: Turn, now: float) -> None:
        nth = watch.unanswered + 1
        turn.questions.append(Question(vip=watch.vip, target=watch.target, everybody=nth == QUESTIONS))
        watch.waiting = True
        watch.again_at = now + self._between(INTERVAL_S)
        quick = 1 < nth < QUESTIONS
        self._push(self._waits, now + (self._between(QUICK_GAP_S) if quick else WAIT_S), watch)

    def _settle(self, watch: _Watch) -> None:
        """Nothing is open, and nothing unanswered: on with the regular questions."""
        watch.unanswered = 0
        if watch.waiting:
            watch.waiting = False
            self._push(self._regular, watch.again_at, watch)

    def _between(self, bounds: tuple[float, float]) -> float:
        low, high = bounds
        return low + (high - low) * self._random()

    def _pop(self, heap: _Heap, now: float) -> _Watch | None:
        head = self._head(heap)
        return heapq.heappop(heap)[2] if head is not None and head <= now else None

    def _head(self, heap: _Heap) -> float | None:
        while heap and heap[0][1] != heap[0][2].entry:
            heapq.heappop(heap)  # answered, no longer watched, or started anew
        return heap[0][0] if heap else None

    def _push(self, heap: _Heap, at: float, watch: _Watch) -> None:
        watch.entry = next(self._entries)
        heapq.heappush(heap, (at, watch.entry, watch))
