"""Plays schedule after schedule for a while: `python -m tests.simulation.soak --minutes 10`.

A schedule that breaks a promise is made smaller, then printed with its story; `--seed N --schedules 1` plays it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from itertools import count, islice

from tests.simulation.schedules import BROKEN, drawn, play
from tests.simulation.shrink import shrunk

CHUNK = 50
"""Schedules per piece of work: a second or so, so that progress is seen and the end is kept."""
PROGRESS_S = 5.0
SHRINK_S = 20.0
"""For making one failure smaller."""
MOST_FAILURES = 5
"""After so many, what is wrong is known well enough."""
FAILED, KEPT = 1, 0


def broken_in(seeds: range) -> list[str]:
    """The stories of the seeds among these whose schedule breaks a promise."""
    broken = []
    for seed in seeds:
        try:
            play(seed)
        except BROKEN as first:
            schedule, story = shrunk(drawn(seed), within_s=SHRINK_S)
            broken.append(f"--- seed {seed}: {str(first).splitlines()[-1].strip()}\nsmaller: {schedule}\n{story}\n")
        except Exception as error:
            error.add_note(f"in the schedule of seed {seed}")
            raise
    return broken


def chunks(first: int, schedules: int | None) -> Iterator[range]:
    """Ranges of seeds from `first` on: so many schedules, or without end."""
    if schedules is None:
        return (range(start, start + CHUNK) for start in count(first, CHUNK))
    end = first + schedules
    return (range(start, min(start + CHUNK, end)) for start in range(first, end, CHUNK))


def soak(*, first: int, schedules: int | None, minutes: float, jobs: int) -> tuple[int, list[str]]:
    """Play until the time is over, all schedules are played, or enough is broken, on `jobs` cores.

    Returns how many were played, and the stories of those that broke a promise.
    """
    started_at = time.monotonic()
    told_at, played = started_at, 0
    broken: list[str] = []
    pieces = chunks(first, schedules)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        # A few pieces at a time: a pool would otherwise take in the endless list before it plays the first.
        while (batch := list(islice(pieces, 4 * jobs))) and time.monotonic() < started_at + 60 * minutes:
            for seeds, found in zip(batch, pool.imap(broken_in, batch), strict=True):
                played += len(seeds)
                broken += found
                for story in found:
                    print(f"\n{story}", flush=True)
            if len(broken) >= MOST_FAILURES:
                break
            if time.monotonic() > told_at + PROGRESS_S:
                told_at = time.monotonic()
                rate = played / (told_at - started_at)
                line = f"{played} schedules, {len(broken)} broke a promise, {rate:.0f}/s, next seed {first + played}"
                print(line, flush=True)
    took_s = time.monotonic() - started_at
    print(f"{played} schedules from seed {first} in {took_s:.0f} s: {len(broken)} broke a promise", flush=True)
    return played, broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="stop after so long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule (default: %(default)s)")
    parser.add_argument("--schedules", type=int, help="stop after so many, even if there is time left")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes (default: all cores)")
    asked = parser.parse_args()
    _, broken = soak(first=asked.seed, schedules=asked.schedules, minutes=asked.minutes, jobs=asked.jobs)
    return FAILED if broken else KEPT


if __name__ == "__main__":
    sys.exit(main())
