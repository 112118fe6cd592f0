"""Ask for the watched VIPs again and again, and tell which have fallen silent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

from hostagent.edges.neighbors import frames
from hostagent.edges.neighbors.counters import Counters
from hostagent.edges.neighbors.socket import PacketSockets
from hostagent.edges.neighbors.watch_schedule import Question, WatchSchedule
from hostagent.model.host import Heard
from hostagent.model.names import IP, InterfaceName, Mac
from hostagent.model.ownership import Watched


class Watching:
    """The questions and their one timer; `WatchSchedule` says when, and what silence means.

    The first questions go to the holder's MAC alone and cost nobody else anything. The last before the VIP counts as
    silent goes to the whole segment, as the full probe does: it finds a holder that changed its MAC and a machine that
    took the VIP over, and is answered even where a unicast one is not (an IPv6 holder needs a neighbour entry to answer
    that, and its table may be full). One broadcast per lost VIP is a price that a segment can pay.
    """

    def __init__(
        self,
        *,
        interfaces: Mapping[InterfaceName, PacketSockets],
        is_own: Callable[[Mac], bool],
        counters: Counters,
        watched: Callable[[IP, bool], None],
    ) -> None:
        """`interfaces` and `is_own` are looked at anew for each question; `watched` is told of silences and answers."""
        self._interfaces = interfaces
        self._is_own = is_own
        self._counters = counters
        self._watched = watched
        self._targets: dict[IP, Watched] = {}
        self._schedule = WatchSchedule(random.random)
        self._timer: asyncio.TimerHandle | None = None

    def replace(self, targets: Mapping[IP, Watched]) -> None:
        """Watch these and no others."""
        if targets != self._targets:
            self._targets = dict(targets)
            self._schedule.replace(targets, _now())
            self._rearm()

    def stop(self) -> None:
        self.replace({})

    def heard(self, heard: Heard) -> None:
        """Another machine answered or announced. Whichever it is: somebody answers."""
        vip = heard.ip
        if vip not in self._schedule or self._schedule[vip].interface != heard.interface:
            return
        # The timer stays: too early is harmless, and cheaper than moving it for each answer.
        if self._schedule.heard(vip):
            self._watched(vip, False)

    def _turn(self) -> None:
        self._timer = None
        if self._schedule.waiting:  # an answer may have come while the loop was at something else, this very turn
            for sockets in tuple(self._interfaces.values()):
                sockets.read_all()
        turn = self._schedule.turn(_now())
        for question in turn.questions:
            self._ask(question)
        self._counters.watch_unanswered += turn.unanswered
        self._counters.watch_silences += len(turn.fell_silent)
        self._rearm()
        for vip in (*turn.fell_silent, *turn.still_silent):
            self._watched(vip, True)

    def _ask(self, question: Question) -> None:
        holder = question.target.mac
        sockets = self._interfaces.get(question.target.interface)
        if sockets is None or self._is_own(holder) or not frames.is_mac(holder):
            self._counters.watch_skipped += 1
            self._schedule.unasked(question.vip)
            return
        try:
            sockets.send(_frame(question, sockets))
        except OSError:
            self._counters.failed += 1
            self._schedule.unasked(question.vip)
        else:
            self._counters.watch_questions += 1

    def _rearm(self) -> None:
        at = self._schedule.next_at()
        if self._timer and (at is None or self._timer.when() > at):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._turn)


def _frame(question: Question, sockets: PacketSockets) -> bytes:
    vip = question.vip
    if question.everybody:
        return frames.probe(vip, sockets.mac)
    source = sockets.link_local() if vip.version == 6 else None
    return frames.question(vip, sockets.mac, question.target.mac, source)


def _now() -> float:
    return asyncio.get_running_loop().time()
