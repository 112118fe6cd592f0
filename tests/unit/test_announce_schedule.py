from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest

from hostagent.edges.neighbors.schedule import BURST_S, JITTER, REFRESH_S, REFRESHES_PER_S, Schedule
from hostagent.model.names import IP

VIP = ip_address("192.0.2.1")


def play(schedule: Schedule, until: float, now: float = 0.0) -> list[tuple[float, IP]]:
    """Ask whenever the schedule wants to be asked; what was due, and when."""
    seen: list[tuple[float, IP]] = []
    while (at := schedule.next_at()) is not None and (now := max(at, now)) <= until:
        seen += [(now, vip) for vip in schedule.due(now, limit=100)]
    return seen


def test_a_burst_and_then_a_refresh_a_minute() -> None:
    schedule = Schedule(random=lambda: 0.5)
    schedule.start(VIP, 10.0)
    times = [at for at, _ in play(schedule, until=200.0)]
    assert times == pytest.approx([10 + s for s in BURST_S] + [75.0, 135.0, 195.0])


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_refreshes_keep_within_their_jitter(chance: float) -> None:
    schedule = Schedule(random=lambda: chance)
    schedule.start(VIP, 0.0)
    times = [at for at, _ in play(schedule, until=200.0)][len(BURST_S) - 1 :]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([REFRESH_S * (1 + JITTER * (2 * chance - 1))] * len(gaps))


def test_silence_is_at_once_and_for_good() -> None:
    schedule = Schedule(random=lambda: 0.5)
    schedule.start(VIP, 0.0)
    schedule.due(0.0, 100)
    schedule.stop(VIP)
    schedule.stop(VIP)
    assert schedule.next_at() is None
    assert len(schedule) == 0


def test_starting_again_begins_one_new_burst() -> None:
    schedule = Schedule(random=lambda: 0.5)
    schedule.start(VIP, 0.0)
    play(schedule, until=0.1)
    schedule.start(VIP, 0.5)
    assert [at for at, _ in play(schedule, until=10.0, now=0.5)] == pytest.approx([0.5 + s for s in BURST_S])


def test_after_a_stall_one_announcement_makes_up_for_all() -> None:
    schedule = Schedule(random=lambda: 0.5)
    schedule.start(VIP, 0.0)
    assert schedule.due(30.0, 100) == [VIP]
    assert schedule.next_at() == pytest.approx(30.0 + REFRESH_S)


def test_a_batch_has_its_limit_and_the_rest_is_due_at_once() -> None:
    schedule = Schedule(random=lambda: 0.5)
    vips = [VIP + n for n in range(250)]
    for vip in vips:
        schedule.start(vip, 0.0)
    batches = [schedule.due(0.0, 100) for _ in range(4)]
    assert [len(batch) for batch in batches] == [100, 100, 50, 0]
    assert {vip for batch in batches for vip in batch} == set(vips)


def test_refreshes_are_rationed_and_bursts_are_not_kept_waiting() -> None:
    schedule = Schedule(random=lambda: 0.5)  # no jitter: all refreshes are due in the same instant
    for n in range(3000):
        schedule.start(VIP + n, 0.0)
    play(schedule, until=30.0)
    newcomer = ip_address("203.0.113.1")
    schedule.start(newcomer, 66.0)
    seen = play(schedule, until=69.0, now=65.0)
    assert [at for at, vip in seen if vip == newcomer] == pytest.approx([66.0, 66.05, 66.2, 67.0, 68.0], abs=0.002)
    refreshes = [at for at, vip in seen if vip != newcomer]
    assert len(refreshes) == 3000
    assert max(refreshes) - min(refreshes) == pytest.approx(3000 / REFRESHES_PER_S, abs=0.05)
