"""One run of one fault: done to a scene, under a client that pings and a listener that asks; what they saw."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.fabric.admin import wait_for
from tests.fabric.client import PingResult
from tests.fabric.listener import Answer, Listener, duplicate_ms, relapses
from tests.fault.faults import P1_MS, Fault, Promise
from tests.fault.scene import Scene, claim_name, wait_settled

ASK_EVERY_MS = 20.0
_PING_EVERY_MS = 10.0
_PINGS_PER_S = 2000  # of all VIPs together; more would keep a core busy, and that is what agents need
_ASKED_AT_MOST = 8  # VIPs; each question reaches every host
_OVER_WITHIN_S = 60.0
# A host that answers again so soon after another one did: two hold the address.
_RELAPSE_MS = 200.0
_AFTERWARDS_S = 0.5  # for pings to show that the end is the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was seen of one run. Of several VIPs, the worst."""

    fault: str
    vips: int
    holder: str
    phase_s: float
    """From the moment that everything was settled until the fault began."""
    outage_ms: float
    """The longest time in which pings to one VIP were lost, from the fault's begin until all was settled again."""
    lost: int
    """Pings of all VIPs."""
    ended_ms: float
    """From the fault's begin to the end of the last loss; 0 if there was none."""
    duplicate_ms: float
    """For how long two hosts spoke for one VIP: see listener.duplicate_ms."""
    relapses: int
    moves: tuple[int, ...]
    """Of each VIP: how often its claim changed hands. The first for the first VIP, the rest in their order."""
    settled_ms: float
    """From the cure until all was settled again."""
    took_s: float
    """From the fault's begin until all was settled again."""
    watched_s: float
    """The same, and some time more, in which pings and writes were counted on."""
    steady_writes: int
    """To the API, by all agents, in the phase before."""
    writes: int
    """The same, of `watched_s`."""
    writes_of: dict[str, int]
    """The latter by verb and resource."""


def try_out(scene: Scene, fault: Fault, *, phase_s: float = 0.3, at_least_s: float = 0.0, short: bool = False) -> Trial:
    """Do it, undo it, wait until all is settled. With `at_least_s`, watch for so long from the fault's begin: in a
    shorter time there is no rate of writes.

    Raises TimeoutError if the fault has not its effect, or if things do not settle after it, and AssertionError if the
    VIPs were elsewhere before it began. The cure is done in any case once the fault has begun.
    """
    lasts_s = fault.lasts_s if fault.short_s is None or not short else fault.short_s
    fault.prepare(scene)
    wait_settled(scene)
    transitions = _transitions(scene)
    placed = scene.placed()
    assert all(hosts == [scene.holder.name] for hosts in placed.values()), f"moved before the fault began: {placed}"
    asked = scene.vips[:: -(-len(scene.vips) // _ASKED_AT_MOST)]
    every_ms = max(_PING_EVERY_MS, len(scene.vips) * 1000 / _PINGS_PER_S)
    with (
        scene.undo,
        scene.lab.listening(ask=asked, ask_every_ms=ASK_EVERY_MS) as listener,
        scene.lab.client.pinging(*scene.vips, interval_ms=every_ms) as pings,
    ):
        steady_at = time.time()
        time.sleep(phase_s)
        began_at, began_s = time.time(), time.monotonic()
        try:
            fault.begin(scene)
            time.sleep(max(0.0, began_s + lasts_s - time.monotonic()))
            wait_for(lambda: fault.over(scene), _OVER_WITHIN_S, lambda: f"the fault has its effect: {scene.placed()}")
            cured_s = time.monotonic()
        finally:
            fault.cure(scene)
        wait_settled(scene)
        settled_s = time.monotonic()
        time.sleep(max(_AFTERWARDS_S, began_s + at_least_s - settled_s))
        watched_at = time.time()
    seen = _Seen.of(pings.results.values(), began_s)
    twice = _twice(listener, asked, scene.holder.name if fault.unheard else "", began_s, cured_s)
    writes = scene.plane.agent_writes(began_at, watched_at)
    return Trial(
        fault=fault.name,
        vips=len(scene.vips),
        holder=scene.holder.name,
        phase_s=round(began_at - steady_at, 3),
        outage_ms=seen.outage_ms,
        lost=seen.lost,
        ended_ms=seen.ended_ms,
        duplicate_ms=round(max(each[0] for each in twice), 1),
        relapses=sum(each[1] for each in twice),
        moves=tuple(now - before for before, now in zip(transitions, _transitions(scene), strict=True)),
        settled_ms=round((settled_s - cured_s) * 1000),
        took_s=round(settled_s - began_s, 2),
        watched_s=round(watched_at - began_at, 2),
        steady_writes=len(scene.plane.agent_writes(steady_at, began_at)),
        writes=len(writes),
        writes_of=dict(Counter(f"{each.verb} {each.resource}" for each in writes)),
    )


def broken(trial: Trial, promise: Promise) -> list[str]:
    """The promises that this run broke, in words."""
    least, most = promise.moves
    found = []
    if promise.outage_ms == 0 and trial.lost:
        found.append(f"{trial.lost} pings lost, none may be")
    if trial.outage_ms > promise.outage_ms:
        found.append(f"away for {trial.outage_ms:.0f} ms, at most {promise.outage_ms:.0f}")
    if promise.ends_ms is not None and trial.ended_ms > promise.ends_ms:
        found.append(f"away until {trial.ended_ms:.0f} ms after the begin, at most {promise.ends_ms:.0f}")
    if not all(least <= each <= most for each in trial.moves):
        found.append(f"VIPs moved {sorted(set(trial.moves))} times, {least} to {most} promised")
    if trial.duplicate_ms > promise.duplicate_ms:
        found.append(f"two hosts answered for {trial.duplicate_ms:.1f} ms, at most {promise.duplicate_ms:.0f}")
    if trial.relapses and promise.duplicate_ms < P1_MS:
        found.append(f"{trial.relapses} times a host answered again just after its successor")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    outage_ms: float
    lost: int
    ended_ms: float

    @classmethod
    def of(cls, results: Collection[PingResult], began_s: float) -> _Seen:
        windows = [window for result in results for window in result.windows if window.until_s >= began_s]
        return cls(
            outage_ms=round(max((window.duration_ms for window in windows), default=0.0), 1),
            lost=sum(window.lost for window in windows),
            ended_ms=round(max((window.until_s - began_s for window in windows), default=0.0) * 1000, 1),
        )


def _twice(
    listener: Listener, vips: Sequence[str], unheard: str, began_s: float, cured_s: float
) -> list[tuple[float, int]]:
    """For each VIP: milliseconds of duplicate answers, and relapses. Hosts only: a stranger is no broken promise."""

    def counts(answer: Answer) -> bool:
        return answer.host != "?" and not (answer.host == unheard and began_s <= answer.at_s <= cured_s)

    said = {vip: [each for each in listener.answers(vip) if counts(each)] for vip in vips}
    return [(duplicate_ms(each), len(relapses(each, _RELAPSE_MS))) for each in said.values()]


def _transitions(scene: Scene) -> list[int]:
    by_name = scene.cluster.transitions()
    return [by_name.get(claim_name(vip), 0) for vip in scene.vips]
