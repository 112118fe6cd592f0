"""Schedules of faults: what goes wrong when, drawn from a seed; and how a world is played through one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from hostagent.model.names import NodeName
from tests.simulation.world import DURATION_S, STOP_S, World

HOST_FAULTS = (
    "power_off", "power_on", "pause", "resume", "restart_agent", "stop_agent", "start_stopped",
    "cut", "uncut", "disentitle", "entitle", "isolate", "join",
)  # fmt: skip
API_FAULTS = ("api_down", "api_up")
VIP_FAULTS = ("delete_service", "create_service", "delete_claim", "take_off")
FAULTS = HOST_FAULTS + API_FAULTS + VIP_FAULTS
CURES = ("power_on", "resume", "start_stopped", "uncut", "entitle", "join")
CURES_OF_THE_LOST = ("uncut", "join")
"""For the one host that stays as the faults left it: it may be dead, hung, stopped or no candidate, but not alone."""
HOSTS, VIPS = 3, 2
LONGEST_PAUSE_S = 25.0
MOST_STEPS = 12

ONCE_BROKEN = (910, 211433, 213833, 214694)
"""Seeds that found bugs: replies and probes that waited out a hang, claims by the expired, a late deletion."""

Step = tuple[float, str, int]
"""Pause before it in seconds, what happens, to which host (from 1)."""


class UnsettledError(AssertionError):
    """The faults are over, everybody had time, and a VIP is not where its claim says; the text is the story."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Everything that decides how a run of the world goes."""

    steps: tuple[Step, ...]
    seed: int
    lost_reply_chance: float = 0.0
    lost: int = 0
    """The host that nobody repairs in the end; 0: all are repaired."""


def drawn(seed: int) -> Schedule:
    """The schedule of this seed. Short pauses are as likely as long ones: races live there."""
    rng = random.Random(seed)
    steps = tuple(
        (
            rng.uniform(0.01, LONGEST_PAUSE_S) if rng.random() < 0.5 else rng.uniform(0.01, 0.6),
            rng.choice(FAULTS),
            rng.randint(1, HOSTS),
        )
        for _ in range(rng.randint(1, MOST_STEPS))
    )
    return Schedule(steps=steps, seed=seed, lost_reply_chance=rng.choice((0.0, 0.3)), lost=rng.randint(0, HOSTS))


def hard() -> Iterator[Schedule]:
    """Schedules that need a rule which few drawn ones need: each was once a bug, or is a mutant that hid well."""
    yield from map(drawn, ONCE_BROKEN)
    stories: tuple[tuple[Step, ...], ...] = (
        # An outage of the API in which a holder could not be heard on the segment either: silence of both kinds.
        ((40.0, "isolate", 0), (1.0, "api_down", 0), (40.0, "api_up", 0), (60.0, "join", 0)),
        # A host dies while the API is away: nothing announces the end of its time.
        ((5.0, "api_down", 0), (1.0, "power_off", 0), (40.0, "api_up", 0)),
        # A Service goes, then its host before it could clear up.
        ((5.0, "pause", 0), (0.1, "delete_service", 0), (0.1, "delete_service", 1), (1.0, "power_off", 0)),
        # A hang in the middle of a write, the claim deleted meanwhile: the reply waits, the backlog is long.
        ((0.469, "pause", 0), (0.3, "delete_claim", 0), (30.0, "resume", 0)),
        # A hang in the middle of a probe, and a holder that cannot hear that its claim was deleted.
        ((0.2, "pause", 0), (3.0, "cut", 1), (0.1, "cut", 2), (0.1, "delete_claim", 0), (20.0, "resume", 0)),
        # A hang long enough for others to move on, and back on old knowledge.
        ((20.0, "pause", 0), (40.0, "resume", 0), (0.2, "take_off", 0)),
        # Off by force, handed over, and back as a candidate, all within the delays of the watch.
        ((5.0, "disentitle", 0), (0.02, "entitle", 0), (0.02, "disentitle", 0)),
    )
    for number in range(1, HOSTS + 1):
        for seed, story in enumerate(stories):
            steps = tuple((pause_s, fault, at or number) for pause_s, fault, at in story)
            yield Schedule(steps=steps, seed=seed, lost=number)


def play(seed: int) -> None:
    """Play the schedule of this seed. Raises PromiseBrokenError or UnsettledError with the story."""
    perform(drawn(seed))


def perform(schedule: Schedule) -> World:
    """Play a schedule, then end all faults: every VIP must end where its claim says, and nothing be left of others."""
    world = World(hosts=HOSTS, vips=VIPS, seed=schedule.seed)
    world.lost_reply_chance = schedule.lost_reply_chance
    for pause_s, fault, number in schedule.steps:
        world.run(world.now + pause_s)
        happen(world, fault, number)
    world.lost_reply_chance = 0.0
    world.api(up=True)
    for _ in range(2):  # an agent that is still stopping can be started only when it has stopped
        for number in range(1, HOSTS + 1):
            for cure in CURES if number != schedule.lost else CURES_OF_THE_LOST:
                happen(world, cure, number)
        world.run(world.now + STOP_S)
    world.run(world.now + 4 * DURATION_S)
    for vip in world.vips:
        claim = world.claims.get(vip)
        expected = [claim.holder] if claim is not None else []
        served = (claim is not None) == (vip in world.wanted) and world.holders(vip) == expected
        if not served or not world.not_entitled.isdisjoint(world.holders(vip)):
            end = f"{vip}: the claim is {claim}, {world.holders(vip)} answer"
            raise UnsettledError("\n".join([*world.story, end]))
    return world


def happen(world: World, fault: str, number: int) -> None:
    """Let one thing go wrong, or right, with host `number` or with a VIP chosen by it."""
    host = world.hosts[NodeName(f"h{number}")]
    vip = world.vips[number % len(world.vips)]
    match fault:
        case "api_down" | "api_up":
            world.api(up=fault == "api_up")
        case "cut" | "uncut":
            world.cut(host, off=fault == "cut")
        case "disentitle" | "entitle":
            world.entitle(host, yes=fault == "entitle")
        case "delete_service" | "create_service" | "delete_claim":
            getattr(world, fault)(vip)
        case "take_off":
            world.take_off(host, vip)
        case _:
            getattr(world, fault)(host)
