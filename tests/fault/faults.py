"""The faults of the campaign, as data: what is done, when it has had its effect, how it is undone, what is promised.

Tests (one run each, short) and the bench (many runs at random moments) use the same.
Bounds are those of the protocol, never of this machine's speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.fabric.admin import wait_for
from tests.fabric.hosts import Host
from tests.fabric.segment import Direction, Loss
from tests.fault.scene import (
    Scene,
    prepare_clock,
    remove_drop_in,
    restart_agent,
    restore_clock,
    set_drop_in,
    signal_agent,
    start_agent,
    step_clock,
)

Act = Callable[[Scene], object]
Question = Callable[[Scene], bool]

HANG_S = 10  # hang_timeout_s: address lifetime and watchdog alike
KERNEL_LATE_S = 2  # lifetimes end up to 1.3 s late
# Noticed within 0.4 s, 0.3 s to refute, a probe: under 1 s, and room for a busy machine. Expiry would take 10 s.
SUSPICION_MS = 3_000.0
ONE_PING_MS = 20.0  # 10 ms apart, and jitter
AT_ONCE_MS = 1_000.0  # an event of the kernel or a frame on the wire, acted on when it comes
P1_MS = 100.0  # two hosts never both answer for longer
HEALED_MS = 500.0  # unless they could not hear each other: then from when they can
_SAID_WITHIN_S = 300.0
LONGER_THAN_A_SESSION_S = 17.0  # 15 s; so that a session expires that is not renewed


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What clients may see of a fault."""

    outage_ms: float
    """The longest time in which pings to a VIP were lost. 0: not one is lost."""
    moves: tuple[int, int] = (0, 0)
    """How often each VIP changes hands, at least and at most."""
    duplicate_ms: float = 0.0
    """For how long two hosts may answer for one VIP."""
    ends_ms: float | None = None
    """The last lost ping is so long after the fault's begin, at most."""


NOTHING_HAPPENS = Promise(outage_ms=0)
PLANNED = Promise(outage_ms=ONE_PING_MS, moves=(1, 1), duplicate_ms=P1_MS)
REPLACED = Promise(outage_ms=SUSPICION_MS, moves=(1, 1))
PARTED = Promise(outage_ms=SUSPICION_MS, moves=(1, 1), duplicate_ms=HEALED_MS)


def nothing(_: Scene) -> None:
    """Nothing to do."""


def at_once(_: Scene) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong, or that an operator does."""

    name: str
    what: str
    promise: Promise
    begin: Act
    prepare: Act = nothing
    """Before the clock runs: what only makes the fault possible."""
    over: Question = at_once
    """It has had all its effect, so it may be undone."""
    cure: Act = nothing
    """Everything is as before, or comes back by itself."""
    lasts_s: float = 0.0
    """It is kept up for so long at least,"""
    short_s: float | None = None
    """and in the campaign's short form for this."""
    vips: int = 2
    """How many the holder has: two are one dual-stack Service's."""
    unheard: bool = False
    """What the holder says reaches nobody while the fault lasts, so it does not count as an answer."""
    runs_at_most: int | None = None
    """In the bench, for what has no random phase."""


# --- the agent


def _stop_agent(scene: Scene) -> None:
    scene.holder.run(["systemctl", "stop", "hostagent"])


def _stopped_without_trace(scene: Scene) -> bool:
    """The VIPs are elsewhere, and of the agent's nftables table nothing is left."""
    guard = scene.holder.run(["nft", "list", "table", "inet", "hostagent"], check=False)
    return scene.moved() and guard.returncode != 0


def _never_start_again(scene: Scene) -> None:
    set_drop_in(scene.holder, "[Service]\nRestart=no\n")


def _start_again(scene: Scene) -> None:
    remove_drop_in(scene.holder)
    start_agent(scene.holder)


def _restart_one_after_another(scene: Scene) -> None:
    for host in scene.lab.hosts.values():
        restart_agent(host)


def _hung_agent_ended(scene: Scene) -> bool:
    """By its watchdog; and somebody answers again."""
    return scene.agent_replaced() and scene.placed_once()


AGENT = (
    Fault(
        name="agents-restarted",
        what="all agents restarted one after another, as an upgrade does",
        promise=NOTHING_HAPPENS,
        begin=_restart_one_after_another,
    ),
    Fault(
        name="agent-killed",
        what="SIGKILL to the holder's agent; systemd starts it again",
        promise=NOTHING_HAPPENS,
        begin=lambda scene: signal_agent(scene.holder, "KILL"),
        over=Scene.agent_replaced,
    ),
    Fault(
        name="agent-killed-for-good",
        what="SIGKILL to the holder's agent; systemd may not start it again",
        promise=REPLACED,
        prepare=_never_start_again,
        begin=lambda scene: signal_agent(scene.holder, "KILL"),
        over=Scene.moved,
        cure=_start_again,
    ),
    Fault(
        name="agent-hung",
        what="SIGSTOP to the holder's agent",
        promise=Promise(
            outage_ms=SUSPICION_MS, moves=(0, 1), duplicate_ms=P1_MS, ends_ms=(HANG_S + KERNEL_LATE_S + 1) * 1000
        ),
        begin=lambda scene: signal_agent(scene.holder, "STOP"),
        over=_hung_agent_ended,
    ),
    Fault(
        name="agent-stopped",
        what="`systemctl stop hostagent` on the holder",
        promise=PLANNED,
        begin=_stop_agent,
        over=_stopped_without_trace,
        cure=lambda scene: start_agent(scene.holder),
    ),
    Fault(
        name="host-drained",
        what="`hostagent drain --wait` on the holder",
        promise=PLANNED,
        begin=lambda scene: scene.holder.run(["hostagent", "drain", "--wait", "--timeout", "20"]),
        over=Scene.moved,
        cure=lambda scene: scene.holder.run(["hostagent", "undrain"]),
    ),
    Fault(
        name="vip-moved",
        what="`hostagent move VIP NODE`",
        promise=PLANNED,
        begin=lambda scene: [scene.holder.run(["hostagent", "move", vip, scene.others[0].name]) for vip in scene.vips],
        over=Scene.moved,
    ),
)


# --- the host


def _heal(scene: Scene) -> None:
    scene.lab.segment.set_faults()


def _lose(direction: Direction) -> Act:
    return lambda scene: scene.lab.segment.set_faults(Loss(host=scene.holder.name, direction=direction))


def _step(host: Callable[[Scene], Host], by_s: int) -> tuple[Act, Act, Act]:
    """Prepare, begin, cure."""
    return (
        lambda scene: prepare_clock(host(scene)),
        lambda scene: step_clock(host(scene), by_s),
        lambda scene: restore_clock(host(scene)),
    )


def _clock_fault(name: str, what: str, host: Callable[[Scene], Host], by_s: int) -> Fault:
    prepare, begin, cure = _step(host, by_s)
    return Fault(
        name=name,
        what=what,
        promise=NOTHING_HAPPENS,
        prepare=prepare,
        begin=begin,
        cure=cure,
        lasts_s=LONGER_THAN_A_SESSION_S,
        short_s=6.0,  # at least one renewal by the wrong clock
    )


HOST = (
    Fault(
        name="power-off",
        what="the holder loses power",
        promise=REPLACED,
        begin=lambda scene: scene.holder.power_off(),
        over=Scene.moved,
        cure=lambda scene: scene.holder.boot(),
    ),
    Fault(
        name="reboot",
        what="`systemctl reboot` of the holder",
        promise=PLANNED,
        begin=lambda scene: scene.holder.reboot(),
        over=Scene.moved,
    ),
    Fault(
        name="host-hung",
        what="all processes of the holder stand still, its kernel goes on answering",
        promise=Promise(
            outage_ms=SUSPICION_MS, moves=(1, 1), duplicate_ms=P1_MS, ends_ms=(HANG_S + KERNEL_LATE_S + 1) * 1000
        ),
        begin=lambda scene: scene.holder.hang(),
        over=Scene.moved,
        cure=lambda scene: scene.holder.thaw(),
    ),
    Fault(
        name="cable-pulled",
        what="the holder's cable is pulled, and plugged in again when another host has taken over",
        promise=REPLACED,
        begin=lambda scene: scene.holder.cable_pull(),
        over=Scene.moved,
        cure=lambda scene: scene.holder.cable_plug(),
    ),
    Fault(
        name="holder-mute",
        what="nothing that the holder sends arrives anywhere",
        promise=PARTED,
        begin=_lose(Direction.SENDS),
        over=Scene.taken_over,
        cure=_heal,
        unheard=True,
    ),
    Fault(
        name="holder-deaf",
        what="nothing that is sent to the holder arrives",
        promise=PARTED,
        begin=_lose(Direction.HEARS),
        over=Scene.taken_over,
        cure=_heal,
    ),
    _clock_fault(
        "clock-behind", "the clock of the holder's agent jumps back by one hour", lambda scene: scene.holder, -3600
    ),
    _clock_fault(
        "clock-ahead", "the clock of a standby's agent jumps ahead by one hour", lambda scene: scene.others[0], 3600
    ),
)


# --- the API


def _cut_off(host: Host, scene: Scene) -> None:
    for address in host.addresses:
        scene.plane.cut_off(address)


def _power_off_when_nobody_reaches_the_api(scene: Scene) -> None:
    """Hosts settle things among themselves only when the API has been away for a session's duration."""
    scene.plane.stop_api_server()
    wait_for(lambda: not any(_reaches_api(scene, host) for host in scene.lab.hosts.values()), 30.0, "agents notice")
    time.sleep(LONGER_THAN_A_SESSION_S)
    scene.holder.power_off()


def _reaches_api(scene: Scene, host: Host) -> bool:
    status = scene.cluster.status(host)
    return not status or bool(status["api"]["reachable"])


def _api_then_power(scene: Scene) -> None:
    scene.plane.start()
    scene.holder.boot()


def _restore_all(scene: Scene) -> None:
    for host in scene.lab.hosts.values():
        for address in host.addresses:
            scene.plane.restore(address)


def _cut_off_the_others(scene: Scene) -> None:
    for host in scene.others:
        _cut_off(host, scene)


API = (
    Fault(
        name="api-stopped",
        what="the API server is stopped for 60 s",
        promise=NOTHING_HAPPENS,
        begin=lambda scene: scene.plane.stop_api_server(),
        cure=lambda scene: scene.plane.start(),
        lasts_s=60.0,
        short_s=LONGER_THAN_A_SESSION_S,
    ),
    Fault(
        name="power-off-without-api",
        what="the API server is stopped, and 17 s later the holder loses power",
        promise=REPLACED,
        begin=_power_off_when_nobody_reaches_the_api,
        over=Scene.moved,
        cure=_api_then_power,
        runs_at_most=3,  # a minute each
    ),
    Fault(
        name="api-hung",
        what="the API server takes connections and answers nothing for 25 s",
        promise=NOTHING_HAPPENS,
        begin=lambda scene: scene.plane.pause(),
        cure=lambda scene: scene.plane.resume(),
        lasts_s=25.0,
        short_s=LONGER_THAN_A_SESSION_S,
    ),
    Fault(
        name="api-cut-off-from-holder",
        what="the holder alone does not reach the API server for 20 s",
        promise=NOTHING_HAPPENS,
        begin=lambda scene: _cut_off(scene.holder, scene),
        cure=_restore_all,
        lasts_s=20.0,
        short_s=LONGER_THAN_A_SESSION_S,
    ),
    Fault(
        name="api-cut-off-from-others",
        what="nobody but the holder reaches the API server for 20 s",
        promise=NOTHING_HAPPENS,
        begin=_cut_off_the_others,
        cure=_restore_all,
        lasts_s=20.0,
        short_s=LONGER_THAN_A_SESSION_S,
    ),
    Fault(
        name="etcd-restarted",
        what="etcd goes and comes back; the API server needs 4 to 8 s to find it again",
        promise=NOTHING_HAPPENS,
        begin=lambda scene: scene.plane.restart_etcd(),
    ),
    Fault(
        name="api-slow",
        what="all answers of the API server are 2 s late, for 20 s",
        promise=NOTHING_HAPPENS,
        begin=lambda scene: scene.plane.slow(2.0),
        cure=lambda scene: scene.plane.unslow(),
        lasts_s=20.0,
        short_s=10.0,
    ),
    Fault(
        name="api-throttled",
        what="the API server answers 429 to every request, for 20 s",
        promise=NOTHING_HAPPENS,
        begin=lambda scene: scene.plane.throttle(),
        cure=lambda scene: scene.plane.unthrottle(),
        lasts_s=20.0,
        short_s=10.0,
    ),
)


# --- the segment and the interface


def _a_stranger_comes(scene: Scene) -> None:
    scene.undo.enter_context(scene.lab.segment.stranger(f"{scene.vip}/32"))


def _remove_addresses(scene: Scene) -> None:
    for vip in scene.vips:
        scene.holder.run(["ip", "address", "delete", f"{vip}/{128 if ':' in vip else 32}", "dev", "eth0"])


# A kernel takes IPv6 addresses off an interface that goes down, and routes of both families.
_RENAME = """
set -e
sysctl -qw net.ipv6.conf.$0.keep_addr_on_down=1
ip link set $0 down
ip link set $0 name $1
ip link set $1 up
ip route replace default via 198.51.100.1
"""


def _rename(scene: Scene, old: str, new: str) -> None:
    scene.holder.run(["sh", "-c", _RENAME, old, new])


WIRE = (
    Fault(
        name="stranger-on-vip",
        what="a foreign machine announces the IPv4 VIP and answers for it, for 3 s",
        promise=Promise(outage_ms=AT_ONCE_MS),
        begin=_a_stranger_comes,
        cure=lambda scene: scene.undo.close(),
        lasts_s=3.0,
    ),
    Fault(
        name="address-removed",
        what="somebody takes the VIPs off the holder's interface",
        promise=Promise(outage_ms=AT_ONCE_MS),
        begin=_remove_addresses,
        over=Scene.placed_once,
    ),
    Fault(
        name="interface-renamed",
        what="the holder's interface gets another name, and 3 s later its old one again",
        promise=Promise(outage_ms=SUSPICION_MS, moves=(0, 2), duplicate_ms=P1_MS),
        begin=lambda scene: _rename(scene, "eth0", "lan0"),
        over=Scene.placed_once,
        cure=lambda scene: _rename(scene, "lan0", "eth0"),
        lasts_s=3.0,
    ),
    Fault(
        name="interface-recreated",
        what="the holder's interface is gone, and made anew when another host has taken over",
        promise=REPLACED,
        begin=lambda scene: scene.holder.card_remove(),
        over=Scene.moved,
        cure=lambda scene: scene.holder.card_insert(),
    ),
)

CROWD = (
    Fault(
        name="power-off-200-vips",
        what="a host that holds 200 VIPs loses power; the slowest of them",
        promise=REPLACED,
        begin=lambda scene: scene.holder.power_off(),
        over=Scene.moved,
        cure=lambda scene: scene.holder.boot(),
        vips=200,
    ),
)


def _all_said(scene: Scene) -> None:
    """Events of many addresses, just given out, take their time: agents write only so many per second."""

    def quiet() -> bool:
        now = time.time()
        return not [each for each in scene.plane.agent_writes(now - 5.0, now) if each.resource != "leases"]

    wait_for(quiet, _SAID_WITHIN_S, "agents have written all events", every_s=1.0)


# Not faults: what the agents write when nothing happens, in the bench.
CALM = tuple(
    Fault(
        name=f"calm-{count}-vip{'s' if count > 1 else ''}",
        what=f"nothing happens for 60 s, with {count} VIP{'s' if count > 1 else ''}",
        promise=NOTHING_HAPPENS,
        prepare=_all_said,
        begin=nothing,
        lasts_s=60.0,
        vips=count,
        runs_at_most=1,
    )
    for count in (1, 100, 1000)
)

FAULTS = (*AGENT, *HOST, *API, *WIRE, *CROWD)
BY_NAME = {fault.name: fault for fault in (*FAULTS, *CALM)}
