"""The ownership rules under faults, in virtual time: the promises hold after every event of every schedule."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostagent.core.judge import HAND_OVER_S
from tests.simulation.schedules import FAULTS, HOSTS, LONGEST_PAUSE_S, MOST_STEPS, Schedule, hard, perform, play
from tests.simulation.world import DURATION_S, LIFETIME_S, World


def schedules() -> st.SearchStrategy[Schedule]:
    step = st.tuples(st.floats(0.01, LONGEST_PAUSE_S), st.sampled_from(FAULTS), st.integers(1, HOSTS))
    return st.builds(
        Schedule,
        steps=st.lists(step, min_size=1, max_size=MOST_STEPS).map(tuple),
        seed=st.integers(0, 2**16),
        lost_reply_chance=st.sampled_from((0.0, 0.3)),
        lost=st.integers(0, HOSTS),
    )


def settled(**kwargs: int) -> World:
    world = World(hosts=3, vips=2, seed=kwargs.get("seed", 1))
    world.run(20)
    assert all(len(world.holders(vip)) == 1 for vip in world.vips), "\n".join(world.story)
    return world


@given(schedule=schedules())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_never_two_answer_and_all_are_served_again_once_the_faults_are_over(schedule: Schedule) -> None:
    """P1 after every event of any schedule; and when everything works again, every VIP is answered by its holder."""
    perform(schedule)


@pytest.mark.parametrize("schedule", tuple(hard()))
def test_schedules_that_once_broke_a_promise_no_longer_do(schedule: Schedule) -> None:
    perform(schedule)


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_drawn_schedules_keep_the_promises(first: int) -> None:
    """The same with schedules that a seed gives again anywhere: `python -m tests.simulation.soak --seed N`."""
    for seed in range(first, first + 100):
        play(seed)


def test_a_dead_host_is_replaced_after_its_session_expired() -> None:
    world = settled()
    vip = world.vips[0]
    [holder] = world.holders(vip)
    world.power_off(world.hosts[holder])
    world.run(world.now + DURATION_S + 1)
    [successor] = world.holders(vip)
    assert successor != holder
    assert world.longest_gap[vip] < DURATION_S + 0.5


def test_a_hung_agent_loses_the_address_within_its_lifetime_and_another_takes_over() -> None:
    world = settled()
    vip = world.vips[0]
    [holder] = world.holders(vip)
    world.pause(world.hosts[holder])
    world.run(world.now + LIFETIME_S + 0.01)
    assert world.holders(vip) == []
    world.run(world.now + DURATION_S)
    assert world.holders(vip) not in ([], [holder])


def test_an_agent_that_wakes_from_a_hang_never_answers_for_what_has_moved() -> None:
    """Its view is as old as its hang: only a fresh compare-and-swap may bring an address back."""
    world = settled()
    vip = world.vips[0]
    [holder] = world.holders(vip)
    world.pause(world.hosts[holder])
    world.run(world.now + 2 * DURATION_S)
    [successor] = world.holders(vip)
    for _ in range(100):
        world.resume(world.hosts[holder])
        world.run(world.now + 0.02)
        assert world.holders(vip) == [successor]


def test_a_restarted_agent_moves_nothing_and_loses_nothing() -> None:
    world = settled()
    moves, gaps = world.moves, dict(world.longest_gap)
    for host in world.hosts.values():
        world.restart_agent(host)
        world.run(world.now + 5)
    world.run(world.now + 30)
    assert world.moves == moves
    assert world.longest_gap == gaps


def test_a_planned_stop_hands_over_without_a_gap() -> None:
    world = settled()
    vip = world.vips[0]
    [holder] = world.holders(vip)
    gap = world.longest_gap[vip]
    world.stop_agent(world.hosts[holder])
    world.run(world.now + HAND_OVER_S + 0.2)
    assert world.holders(vip) not in ([], [holder])
    assert world.longest_gap[vip] == gap
    assert world.hosts[holder].session_ended


def test_an_api_outage_moves_nothing_however_long_it_lasts() -> None:
    world = settled()
    moves, gaps = world.moves, dict(world.longest_gap)
    world.api(up=False)
    world.run(world.now + 3600)
    world.api(up=True)
    world.run(world.now + 60)
    assert world.moves == moves
    assert world.longest_gap == gaps


def test_a_host_that_may_no_longer_answer_hands_over() -> None:
    world = settled()
    vip = world.vips[0]
    [holder] = world.holders(vip)
    gap = world.longest_gap[vip]
    world.entitle(world.hosts[holder], yes=False)
    world.run(world.now + 1)
    assert world.holders(vip) not in ([], [holder])
    assert world.longest_gap[vip] == gap


def test_a_deleted_service_leaves_neither_address_nor_claim() -> None:
    world = settled()
    vip = world.vips[0]
    world.delete_service(vip)
    world.run(world.now + 1)
    assert world.holders(vip) == []
    assert vip not in world.claims
