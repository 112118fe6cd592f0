"""Schedules of faults: what goes wrong when, drawn from a seed; and how a world is played through one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hostagent.model.names import IP, NodeName
from tests.simulation.host import STOP_S, Host
from tests.simulation.promises import PromiseBrokenError
from tests.simulation.world import WELL_S, World

HOSTS, VIPS = 3, 2
LONGEST_PAUSE_S = 25.0
MOST_STEPS = 12
CURED_S = 0.5
SETTLING_S, LONGEST_SETTLING_S = 5.0, 60.0
"""How often it is looked whether the world is at rest, and when it must be: by then all sessions would have expired."""
FINALE_S = 8.0

Happening = Callable[[World, Host, IP], object]
"""What happens, to which host or VIP."""


def _next(world: World, host: Host) -> Host:
    names = list(world.hosts)
    return world.hosts[names[(names.index(host.name) + 1) % len(names)]]


FAULTS: Mapping[str, Happening] = {
    "power_off": lambda w, h, _: w.power_off(h),
    "power_on": lambda w, h, _: w.power_on(h),
    "pause": lambda w, h, _: w.pause(h),
    "resume": lambda w, h, _: w.resume(h),
    "freeze": lambda w, h, _: w.freeze(h),
    "thaw": lambda w, h, _: w.thaw(h),
    "restart_agent": lambda w, h, _: w.restart_agent(h),
    "stop_agent": lambda w, h, _: w.stop_agent(h),
    "start_stopped": lambda w, h, _: w.start_stopped(h),
    "drain": lambda w, h, _: w.drain(h, yes=True),
    "undrain": lambda w, h, _: w.drain(h, yes=False),
    "step_clock": lambda w, h, _: w.step_clock(h),
    "cut": lambda w, h, _: w.cut(h, off=True),
    "uncut": lambda w, h, _: w.cut(h, off=False),
    "stall_watch": lambda w, h, _: w.stall_watch(h),
    "lose_watch": lambda w, h, _: w.lose_watch(h),
    "isolate": lambda w, h, _: w.isolate(h),
    "mute": lambda w, h, _: w.isolate(h, deaf=False),
    "deafen": lambda w, h, _: w.isolate(h, mute=False),
    "block": lambda w, h, _: w.block(h, _next(w, h)),
    "split": lambda w, h, _: w.split(h),
    "join": lambda w, h, _: w.join(h),
    "unplug": lambda w, h, _: w.unplug(h),
    "lose_card": lambda w, h, _: w.unplug(h, card=True),
    "plug": lambda w, h, _: w.plug(h),
    "disentitle": lambda w, h, _: w.entitle(h, yes=False),
    "entitle": lambda w, h, _: w.entitle(h, yes=True),
    "prefer": lambda w, h, _: w.prefer(h),
    "api_down": lambda w, _, __: w.api_is(up=False),
    "api_up": lambda w, _, __: w.api_is(up=True),
    "api_slow": lambda w, _, __: w.slow(yes=True),
    "api_quick": lambda w, _, __: w.slow(yes=False),
    "throttle": lambda w, _, __: w.throttle(yes=True),
    "unthrottle": lambda w, _, __: w.throttle(yes=False),
    "lossy": lambda w, h, _: w.lossy(0.1 if h.name == "h1" else 0.3),
    "lossless": lambda w, _, __: w.lossy(0.0),
    "stranger": lambda w, _, vip: w.strange(vip),
    "delete_service": lambda w, _, vip: w.delete_service(vip),
    "create_service": lambda w, _, vip: w.create_service(vip),
    "delete_claim": lambda w, _, vip: w.delete_claim(vip),
    "take_off": lambda w, h, vip: w.take_off(h, vip),
}
CURES_OF_ALL = ("api_up", "api_quick", "unthrottle", "lossless")
CURES_OF_THE_LOST = ("thaw", "uncut", "plug", "join")
"""For the one host that stays as the faults left it: it may be dead, hung, stopped or no candidate, but not alone."""
CURES = ("thaw", "power_on", "resume", "start_stopped", "undrain", "uncut", "plug", "join", "entitle")
FINALES: Mapping[str, tuple[tuple[float, str], ...]] = {
    "it loses power": ((0.0, "power_off"),),
    "its cable is pulled": ((0.0, "unplug"),),
    "it is stopped": ((0.0, "stop_agent"),),
    "it drains": ((0.0, "drain"),),
    "its agent is restarted": ((0.0, "restart_agent"),),
    "it is no candidate": ((0.0, "disentitle"),),
    "it dies in an outage": ((0.0, "api_down"), (30.0, "power_off")),
}
"""What happens to a host when all is well again: most promises are about that."""

Step = tuple[float, str, int]
"""Pause before it in seconds, what happens, to which host (from 1)."""


class UnsettledError(AssertionError):
    """The faults are over, everybody had time, and a VIP is not where its claim says; the text is the story."""


BROKEN = (PromiseBrokenError, UnsettledError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Everything that decides how a run of the world goes."""

    steps: tuple[Step, ...]
    seed: int
    lost_reply_chance: float = 0.0
    spike_chance: float = 0.0
    lost: int = 0
    """The host that nobody repairs in the end; 0: all are repaired."""
    fence: bool = False
    """Hosts let go rather than answer without the API."""
    finale: tuple[str, int] | None = None
    """What happens to which host when all is well again."""


def drawn(seed: int) -> Schedule:
    """The schedule of this seed. Short pauses are as likely as long ones: races live there."""
    rng = random.Random(seed)
    faults = tuple(FAULTS)
    steps = tuple(
        (
            rng.uniform(0.01, LONGEST_PAUSE_S) if rng.random() < 0.5 else rng.uniform(0.01, 0.6),
            rng.choice(faults),
            rng.randint(1, HOSTS),
        )
        for _ in range(rng.randint(1, MOST_STEPS))
    )
    return Schedule(
        steps=steps,
        seed=seed,
        lost_reply_chance=rng.choice((0.0, 0.3)),
        spike_chance=rng.choice((0.0, 0.0, 0.05)),
        lost=rng.randint(0, HOSTS),
        fence=rng.random() < 0.15,
        finale=(rng.choice(tuple(FINALES)), rng.randint(1, HOSTS)) if rng.random() < 0.5 else None,
    )


def hard() -> Iterator[Schedule]:
    """Schedules that need a rule which few drawn ones need: each was once a bug, or is a mutant that hid well.

    Host 0 stands for each host in turn: any of them may be the one that holds the VIPs.
    """
    yield from FOUND_BY_SOAK
    for number in range(1, HOSTS + 1):
        for seed, (story, finale) in enumerate(STORIES):
            steps = tuple((pause_s, fault, at or number) for pause_s, fault, at in story)
            other = number % HOSTS + 1
            for lossy in (False, True):
                yield Schedule(
                    steps=steps,
                    seed=seed,
                    lost_reply_chance=0.3 if lossy else 0.0,
                    spike_chance=0.05 if lossy else 0.0,
                    lost=number,
                    finale=(finale, other) if finale else None,
                )


STORIES: tuple[tuple[tuple[Step, ...], str], ...] = (
    # An outage of the API in which a holder could not be heard on the segment either: silence of both kinds.
    (((40.0, "isolate", 0), (1.0, "api_down", 0), (40.0, "api_up", 0), (60.0, "join", 0)), ""),
    # A host dies while the API is away: nothing announces the end of its time.
    (((5.0, "api_down", 0), (1.0, "power_off", 0), (40.0, "api_up", 0)), ""),
    # A Service goes, then its host before it could clear up.
    (((5.0, "pause", 0), (0.1, "delete_service", 0), (0.1, "delete_service", 1), (1.0, "power_off", 0)), ""),
    # A hang in the middle of a write, the claim deleted meanwhile: the reply waits, the backlog is long.
    (((0.469, "pause", 0), (0.3, "delete_claim", 0), (30.0, "resume", 0)), ""),
    # A hang in the middle of a probe, and a holder that cannot hear that its claim was deleted.
    (((0.2, "pause", 0), (3.0, "cut", 1), (0.1, "cut", 2), (0.1, "delete_claim", 0), (20.0, "resume", 0)), ""),
    # A hang long enough for others to move on, and back on old knowledge.
    (((20.0, "pause", 0), (40.0, "resume", 0), (0.2, "take_off", 0)), ""),
    # Off by force, handed over, and back as a candidate, all within the delays of the watch.
    (((5.0, "disentitle", 0), (0.02, "entitle", 0), (0.02, "disentitle", 0)), ""),
    # All sessions expired in an outage: who watches whom must be decided anew when they are renewed.
    (((5.0, "api_down", 0), (30.0, "api_up", 0)), "it loses power"),
    # A host that drains ranks before the one that could take over.
    (((5.0, "drain", 0),), "it loses power"),
    # Yielded in an outage, and nobody took it up again.
    (((5.0, "api_down", 0), (25.0, "stranger", 1), (5.0, "stranger", 2), (30.0, "api_up", 0)), ""),
    # Taken from one that could neither be heard nor reached, and which comes back as it went: with all it had.
    (((15.0, "isolate", 1), (0.01, "cut", 0), (20.0, "uncut", 0), (0.01, "join", 1)), ""),
    (((0.5, "cut", 0), (40.0, "mute", 2), (25.0, "uncut", 0), (0.01, "join", 2)), ""),
    (((5.0, "freeze", 0), (0.01, "cut", 0), (9.5, "thaw", 0), (0.01, "uncut", 0)), ""),
    # Frames are lost for a while: every finding of the watch is suspect, and each note costs two writes.
    (((0.01, "lossy", 2), (30.0, "lossless", 0)), "its cable is pulled"),
    # Suspected again and again by a host that hears nothing, by way of a slow API.
    (((0.01, "deafen", 0), (0.01, "api_slow", 0), (30.0, "api_quick", 0)), ""),
    # A claim deleted while its holder's watch was broken, before the watch had told of it.
    (((0.46, "cut", 0), (0.01, "delete_claim", 0), (0.01, "delete_claim", 1), (0.5, "uncut", 0)), ""),
    # One alone is cut off from the API and finds the holder silent, which is only mute.
    (((6.0, "mute", 0), (16.0, "cut", 1), (0.2, "stall_watch", 0), (20.0, "join", 0), (1.0, "uncut", 1)), ""),
    # Settled on the segment in an outage, in the smaller part of it as well.
    (((5.0, "api_down", 0), (20.0, "split", 0), (15.0, "split", 0), (5.0, "api_up", 0)), ""),
    (((5.0, "api_down", 0), (20.0, "power_off", 0), (20.0, "api_up", 0)), ""),
    (((5.0, "api_down", 0), (20.0, "isolate", 1), (15.0, "join", 1), (15.0, "api_up", 0)), ""),
    # A preferred host that is handed everything dies at once.
    (((5.0, "prefer", 0), (30.05, "unplug", 0), (5.0, "plug", 0)), ""),
    # The interface is gone for longer than others wait, and there again a moment before its agent hears of that.
    (((20.0, "lose_card", 0), (1.22, "plug", 0)), ""),
    # Restarted while it is handed what another drains.
    (((10.0, "restart_agent", 1), (0.3, "drain", 0)), ""),
)
"""What happened, and how it ended when all was well again."""

FOUND_BY_SOAK: tuple[Schedule, ...] = (
    # It comes back with all it had, to a host that is just leaving: that one is still right, and must say so.
    Schedule(
        steps=(
            (0.79, "plug", 2),
            (0.01, "throttle", 2),
            (3.84, "isolate", 3),
            (0.01, "cut", 3),
            (4.959886423826415, "stop_agent", 2),
        ),
        seed=5029536,
    ),
    Schedule(
        steps=(
            (0.4966361866543898, "take_off", 2),
            (0.7874887478488374, "mute", 2),
            (16.084229946586813, "throttle", 1),
            (5.214179501317587, "mute", 2),
            (15.13158554887079, "cut", 3),
            (0.5938413577378033, "stop_agent", 2),
            (0.5097225055128916, "api_up", 2),
            (0.14, "pause", 1),
        ),
        seed=5037422,
        lost_reply_chance=0.3,
    ),
    # Expired before an outage, answering all the while; the API answers one that was deaf before its watch flows.
    Schedule(
        steps=(
            (0.01, "stall_watch", 3),
            (0.580056974230652, "cut", 3),
            (23.506761650978454, "api_down", 1),
            (0.12847161089758602, "create_service", 2),
            (14.618081417077223, "create_service", 2),
            (12.119892777715377, "isolate", 1),
            (0.445688068940896, "disentitle", 3),
        ),
        seed=5038065,
    ),
    # The holder learns first that the API is back, and announces itself while another is still asking who answers.
    Schedule(
        steps=(
            (0.17820299631373934, "lossless", 3),
            (1.9286202184334138, "api_down", 3),
            (9.362140582063624, "mute", 3),
            (24.191761187194984, "entitle", 3),
            (8.828879213576002, "throttle", 1),
        ),
        seed=5044689,
    ),
    # The reply to its first claim comes when it has let go meanwhile: that claim is no news of who has the VIP.
    Schedule(
        steps=((0.25, "uncut", 1), (0.25960589756565844, "unplug", 3), (0.299858436389279, "unplug", 3)),
        seed=1019304,
        lost_reply_chance=0.3,
        spike_chance=0.05,
    ),
    # Settled on the segment by one that cannot hear the holder, which is back at the API while that one still writes.
    Schedule(
        steps=(
            (4.83, "block", 3),
            (0.5565321013086493, "api_down", 1),
            (24.995268287528845, "api_slow", 3),
            (2.285698482586652, "api_up", 1),
            (4.297203532298917, "block", 1),
        ),
        seed=7006844,
        spike_chance=0.05,
    ),
)
"""As `soak` made them smaller: the moments matter."""


def play(seed: int) -> None:
    """Play the schedule of this seed. Raises PromiseBrokenError or UnsettledError with the story."""
    perform(drawn(seed))


def perform(schedule: Schedule) -> World:
    """Play a schedule, then end all faults: every VIP must end where its claim says, and nothing be left of others."""
    world = World(hosts=HOSTS, vips=VIPS, seed=schedule.seed, on_api_loss="fence" if schedule.fence else "hold")
    world.api.lost_reply_chance = schedule.lost_reply_chance
    world.api.spike_chance = schedule.spike_chance
    for pause_s, fault, number in schedule.steps:
        world.run(world.now + pause_s)
        happen(world, fault, number)
    world.end_of_chance()
    for fault in CURES_OF_ALL:
        happen(world, fault, 1)
    for _ in range(2):  # an agent that is still stopping can be started only when it has stopped
        for number in range(1, HOSTS + 1):
            for cure in CURES if number != schedule.lost else CURES_OF_THE_LOST:
                happen(world, cure, number)
        world.run(world.now + (STOP_S if any(host.agent.stopping for host in world.hosts.values()) else CURED_S))
    settle(world)
    if schedule.finale is not None:
        world.run(world.promises.quiet_since + WELL_S + CURED_S)
        settle(world)
        name, number = schedule.finale
        for pause_s, fault in FINALES[name]:
            world.run(world.now + pause_s)
            happen(world, fault, number)
        world.run(world.now + FINALE_S)
        happen(world, "api_up", number)
        settle(world)
    return world


def settle(world: World) -> None:
    """Let the world come to rest; raises UnsettledError when it does not in time."""
    until_s = world.now + LONGEST_SETTLING_S
    world.run(world.now + SETTLING_S)
    while (trouble := _unsettled(world)) and world.now < until_s:
        world.run(world.now + SETTLING_S)
    if trouble:
        raise UnsettledError("\n".join([*world.story, f"{world.now:9.3f} UNSETTLED {trouble}"]))


def _unsettled(world: World) -> str:
    """Why the world is not at rest: a VIP is not where its claim says, or there is a claim that nobody needs."""
    for vip in world.vips:
        claim, wanted = world.api.claims.get(vip), world.api.services.wanted
        holder = claim.holder if claim is not None else None
        expected = [holder] if holder is not None else []
        served = (claim is not None) == (vip in wanted) and world.holders(vip) == expected
        if not served or (holder is not None and holder not in world.api.services.weights):
            return f"{vip}: the claim is {claim}, {world.holders(vip)} answer"
        host = world.hosts.get(holder) if holder is not None else None
        if host is not None and host.draining and world.promises.may_follow(vip, host):
            return f"{vip}: {holder} drains, and another could take it"
    return ""


def happen(world: World, fault: str, number: int) -> None:
    """Let one thing go wrong, or right, with host `number` or with a VIP chosen by it."""
    FAULTS[fault](world, world.hosts[NodeName(f"h{number}")], world.vips[number % len(world.vips)])
