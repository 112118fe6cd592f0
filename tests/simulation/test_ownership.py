"""The ownership rules under faults, in virtual time: the promises hold after every event of every schedule."""

from __future__ import annotations

import multiprocessing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostagent.core.arbitrate import PROBE_AGAIN_S
from hostagent.core.judge import HAND_OVER_S
from hostagent.model.names import IP
from tests.simulation.host import LIFETIME_S, Host
from tests.simulation.promises import P2_S
from tests.simulation.schedules import FAULTS, FINALES, HOSTS, LONGEST_PAUSE_S, MOST_STEPS, Schedule, hard, perform
from tests.simulation.soak import soak
from tests.simulation.uplink import DURATION_S, RENEW_JITTER, RENEW_S
from tests.simulation.world import World

SCHEDULES = 20_000
FIRST_SEED = 1_000_000


def schedules() -> st.SearchStrategy[Schedule]:
    step = st.tuples(st.floats(0.01, LONGEST_PAUSE_S), st.sampled_from(tuple(FAULTS)), st.integers(1, HOSTS))
    return st.builds(
        Schedule,
        steps=st.lists(step, min_size=1, max_size=MOST_STEPS).map(tuple),
        seed=st.integers(0, 2**16),
        lost_reply_chance=st.sampled_from((0.0, 0.3)),
        spike_chance=st.sampled_from((0.0, 0.05)),
        lost=st.integers(0, HOSTS),
        fence=st.booleans(),
        finale=st.none() | st.tuples(st.sampled_from(tuple(FINALES)), st.integers(1, HOSTS)),
    )


def settled(*, hosts: int = 3, seed: int = 1) -> tuple[World, IP, Host]:
    """A world at rest, one of its VIPs, and the host that answers for it."""
    world = World(hosts=hosts, vips=2, seed=seed)
    world.run(40)
    assert all(len(world.holders(vip)) == 1 for vip in world.vips), "\n".join(world.story)
    [holder] = world.holders(world.vips[0])
    return world, world.vips[0], world.hosts[holder]


@pytest.mark.timeout(1200)
def test_drawn_schedules_keep_the_promises() -> None:
    """P1 to P8 after every event; `python -m tests.simulation.soak --seed N --schedules 1` plays one of them again."""
    played, broken = soak(first=FIRST_SEED, schedules=SCHEDULES, minutes=19, jobs=multiprocessing.cpu_count())
    assert not broken, "\n".join(broken)
    assert played == SCHEDULES


@given(schedule=schedules())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_schedules_made_to_be_shrunk_keep_the_promises(schedule: Schedule) -> None:
    perform(schedule)


@pytest.mark.parametrize("schedule", tuple(hard()))
def test_schedules_that_once_broke_a_promise_no_longer_do(schedule: Schedule) -> None:
    perform(schedule)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("fault", ["power_off", "unplug"])
def test_a_dead_host_is_replaced_within_a_second(fault: str, seed: int) -> None:
    world, vip, host = settled(seed=seed)
    gap = world.promises.longest_gap[vip]
    getattr(world, fault)(host)
    world.run(world.now + 3)
    assert world.holders(vip) not in ([], [host.name])
    assert world.promises.longest_gap[vip] <= max(gap, P2_S)


def test_a_host_without_a_cable_does_not_answer_when_the_cable_is_back() -> None:
    world, vip, host = settled()
    world.unplug(host)
    world.run(world.now + 5)
    [successor] = world.holders(vip)
    world.plug(host)
    world.run(world.now + 30)
    assert successor != host.name
    assert world.holders(vip) == [successor]


def test_a_hung_agent_loses_the_address_within_its_lifetime_and_another_takes_over() -> None:
    world, vip, host = settled()
    world.pause(host)
    world.run(world.now + LIFETIME_S + 0.01)
    assert world.holders(vip) == []
    world.run(world.now + PROBE_AGAIN_S + P2_S)  # a probe that the kernel still answered may just have ended
    assert world.holders(vip) not in ([], [host.name])


def test_an_agent_that_wakes_from_a_hang_never_answers_for_what_has_moved() -> None:
    """Its view is as old as its hang: only a fresh compare-and-swap may bring an address back."""
    world, vip, host = settled()
    world.pause(host)
    world.run(world.now + 2 * DURATION_S)
    [successor] = world.holders(vip)
    world.resume(host)
    for _ in range(100):
        world.run(world.now + 0.02)
        assert world.holders(vip) == [successor]


def test_a_machine_that_stood_still_lets_go_soon_after() -> None:
    world, vip, host = settled()
    world.freeze(host)
    world.run(world.now + 5)
    world.thaw(host)
    world.run(world.now + 1)
    assert world.holders(vip) not in ([], [host.name])
    assert len(world.holders(vip)) == 1


def test_a_restarted_agent_moves_nothing_and_loses_nothing() -> None:
    world, *_ = settled()
    moves, gaps = world.api.moves, dict(world.promises.longest_gap)
    for host in world.hosts.values():
        world.restart_agent(host)
        world.run(world.now + 5)
    world.run(world.now + 30)
    assert world.api.moves == moves
    assert world.promises.longest_gap == gaps


@pytest.mark.parametrize("leave", ["stop_agent", "drain", "entitle"])
def test_a_host_that_leaves_in_order_hands_over_without_a_gap(leave: str) -> None:
    world, vip, host = settled()
    gap = world.promises.longest_gap[vip]
    match leave:
        case "stop_agent":
            world.stop_agent(host)
        case "drain":
            world.drain(host, yes=True)
        case _:
            world.entitle(host, yes=False)
    world.run(world.now + HAND_OVER_S + 0.3)
    assert world.holders(vip) not in ([], [host.name])
    assert world.promises.longest_gap[vip] == gap
    assert host.session_ended == (leave == "stop_agent")


def test_an_isolated_holder_that_reaches_the_api_keeps_what_it_has() -> None:
    """Whoever finds it silent is told that it lives. Nothing would be won by a move: its clients are there, too."""
    world, vip, host = settled()
    moves = world.api.moves
    world.isolate(host)
    world.run(world.now + 300)
    assert world.holders(vip) == [host.name]
    assert world.api.moves == moves


def test_an_api_outage_moves_nothing_however_long_it_lasts() -> None:
    world, *_ = settled()
    moves, gaps = world.api.moves, dict(world.promises.longest_gap)
    world.api_is(up=False)
    world.run(world.now + 3600)
    world.api_is(up=True)
    world.run(world.now + 60)
    assert world.api.moves == moves
    assert world.promises.longest_gap == gaps


def test_a_host_that_dies_while_the_api_is_away_is_replaced_and_the_claims_follow() -> None:
    world, vip, host = settled()
    world.api_is(up=False)
    world.run(world.now + 60)
    world.power_off(host)
    world.run(world.now + 10)
    [successor] = world.holders(vip)
    assert successor != host.name
    world.api_is(up=True)
    world.run(world.now + 30)
    assert world.holders(vip) == [successor]
    assert world.api.claims[vip].holder == successor


def test_a_stranger_takes_nothing_from_a_holder() -> None:
    world, vip, host = settled()
    world.strange(vip)
    world.run(world.now + 30)
    assert world.holders(vip) == [host.name]


def test_a_deleted_service_leaves_neither_address_nor_claim() -> None:
    world, vip, _ = settled()
    world.delete_service(vip)
    world.run(world.now + 1)
    assert world.holders(vip) == []
    assert vip not in world.api.claims


def test_the_load_on_the_api_is_a_renewal_per_host_and_interval() -> None:
    """P7: at rest nothing else is written, however many VIPs there are."""
    world = World(hosts=3, vips=40, seed=1)
    world.run(40)
    claims, sessions = world.api.claim_writes, world.api.session_writes
    world.run(world.now + 600)
    assert world.api.claim_writes == claims
    assert world.api.session_writes - sessions <= 3 * 600 / (RENEW_S * (1 - RENEW_JITTER)) + 3
