"""Makes a schedule that breaks a promise smaller, so that its story can be read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from tests.simulation.schedules import BROKEN, Schedule, perform

SHORTEST_S = 0.01


def failure(schedule: Schedule) -> str:
    """The story of what this schedule breaks; empty when it breaks nothing."""
    try:
        perform(schedule)
    except BROKEN as broken:
        return str(broken)
    return ""


def shrunk(schedule: Schedule, *, within_s: float) -> tuple[Schedule, str]:
    """The smallest schedule found in that time that still breaks a promise, and its story.

    It may be another promise than the first one's, as long as it is one.
    """
    until_s = time.monotonic() + within_s
    story = failure(schedule)
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(schedule):
            if time.monotonic() > until_s:
                return schedule, story
            if found := failure(candidate):
                schedule, story, smaller = candidate, found, True
                break
    return schedule, story


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Simpler schedules, the most daring first: fewer steps, less chance, shorter pauses."""
    steps = schedule.steps
    size = len(steps) // 2
    while size:
        for start in range(0, len(steps), size):
            yield replace(schedule, steps=steps[:start] + steps[start + size :])
        size //= 2
    if schedule.finale is not None and steps:
        yield replace(schedule, finale=None)
    if schedule.lost_reply_chance:
        yield replace(schedule, lost_reply_chance=0.0)
    if schedule.spike_chance:
        yield replace(schedule, spike_chance=0.0)
    if schedule.fence:
        yield replace(schedule, fence=False)
    if schedule.lost:
        yield replace(schedule, lost=0)
    for at, (pause_s, fault, number) in enumerate(steps):
        for shorter_s in (SHORTEST_S, round(pause_s / 2, 2), float(round(pause_s))):
            if SHORTEST_S <= shorter_s < pause_s * 0.9:
                yield replace(schedule, steps=(*steps[:at], (shorter_s, fault, number), *steps[at + 1 :]))
