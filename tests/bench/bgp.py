"""`make bench-bgp`: how long a prefix takes to the router's kernel table, and away from it when its host is lost.

All ways on one lab: whole agents, our edges alone, and what MetalLB's FRR mode does (the whole frr.conf written anew,
then frr-reload). The clock runs from the act to the netlink message of the router's kernel. Every time is on disk as
soon as it is known (build/bench/bgp.runs.jsonl); what is there of the same program is not measured again, so that a
bench that was interrupted, or had `--minutes` only, goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import click

from hostagent.model.bgp import BfdProfile
from tests.bench.bgp_rows import DOCUMENT, RUNS, Rows, write_document
from tests.bench.bgp_ways import TIMEOUT_S, Ours, Reload, Way, Whole
from tests.bgp.routers import (
    TOR,
    FrrRouterHost,
    Neighbour,
    RouteLog,
    enable_frr,
    frr_text,
    load,
    until,
    watching_routes,
)
from tests.bgp.speaker import Speaker
from tests.bgp.test_sessions import a_peer
from tests.fabric.base import FRR, TRIXIE, Disk
from tests.fabric.command import FabricError
from tests.fabric.deploy import deploy
from tests.fabric.lab import Lab

PRESENT = (1, 100, 1000, 10_000)
RELOAD_AT_MOST = 1000
"""frr-reload took longer than ten minutes to load ten thousand prefixes."""
WHOLE_AT = (1, 1000, 10_000)
PARTS = ("edges", "reload", "losses", "agent")
BFD, NO_BFD, KILLED = "silent loss, BFD 3 x 100 ms", "silent loss, no BFD, hold time 9 s", "bgpd killed"
_FIRST = "10.64.0.0"
_SETTLED_S = 1.0
"""Between two changes: what an agent does after the first is no part of the second."""


@dataclass(slots=True)
class Bench:
    lab: Lab
    runs: int
    ends_at: float
    rows: Rows = field(default_factory=Rows)

    @property
    def tor(self) -> FrrRouterHost:
        return FrrRouterHost(host=self.lab.host(TOR))

    def over(self) -> bool:
        return time.monotonic() > self.ends_at

    def changes(self, way: Way, present: int, runs: int) -> None:
        """One prefix that comes and goes, while `present` others are there."""
        missing = max(self.rows.missing(way, present, event, runs) for event in way.events)
        if not missing or self.over():
            return
        way.fill(present)
        until(lambda: self.tor.count(way.host.addresses[0]) == present, f"{present} prefixes of {way.name}", TIMEOUT_S)
        for run in range(missing):
            for number, event in enumerate(way.events):
                time.sleep(_SETTLED_S)
                with watching_routes(self.tor.host) as log:
                    began = way.act(event, run)
                    at = _wait(log, way.prefix(run), came=number % 2 == 0)
                self.rows.add(way, present, event, (at - began) * 1000)
            if self.over():
                return

    def burst(self, way: Ours, count: int, runs: int) -> None:
        """All at once: until the last of them is there."""
        event = "all added at once"
        for _ in range(self.rows.missing(way, count, event, runs)):
            if self.over():
                return
            way.fill(0)
            until(lambda: self.tor.count(way.host.addresses[0]) == 0, "none left", TIMEOUT_S)
            with watching_routes(self.tor.host) as log:
                began = time.monotonic()
                way.fill(count)
                until(lambda: len({p for _, came, p in log.events if came}) >= count, f"{count} at once", TIMEOUT_S)
                self.rows.add(way, count, event, (max(at for at, came, _ in log.events if came) - began) * 1000)

    def losses(self, way: Ours, event: str, cause: Callable[[], float], cure: Callable[[], None], runs: int) -> None:
        """One prefix there; its host is lost in some way, until the router's kernel has no route any more."""
        for _ in range(self.rows.missing(way, 1, event, runs)):
            if self.over():
                return
            until(lambda: _FIRST in self.tor.kernel(), f"the route before: {event}", TIMEOUT_S)
            with watching_routes(self.tor.host) as log:
                began = cause()
                at = _wait(log, f"{_FIRST}/32", came=False)
            self.rows.add(way, 1, event, (at - began) * 1000)
            cure()


def _wait(log: RouteLog, network: str, *, came: bool) -> float:
    seen = log.came if came else log.gone
    until(lambda: seen(network), f"{network} to {'come' if came else 'go'}", TIMEOUT_S)
    return seen(network)[0]


@click.command()
@click.option("--runs", default=10, show_default=True, help="Of each event; of the slow ones a third.")
@click.option("--present", default=",".join(map(str, PRESENT)), show_default=True, help="Prefixes that are there.")
@click.option("--parts", default=",".join(PARTS), show_default=True, help="What to measure.")
@click.option("--minutes", default=0.0, help="Stop after so many, once the lab is up; the next run goes on there.")
@click.option("--fresh", is_flag=True, help="Forget earlier runs.")
def bench(*, runs: int, present: str, parts: str, minutes: float, fresh: bool) -> None:
    """Measure on a lab that is made for it."""
    if fresh:
        RUNS.unlink(missing_ok=True)
    counts, chosen = [int(each) for each in present.split(",")], parts.split(",")
    disks = {"h1": Disk(add=FRR)} if "agent" in chosen else {}
    routers = {TOR: Disk(add=FRR)}
    if chosen != ["agent"]:
        routers |= {"frr8": Disk(add=FRR), "frr10": Disk(suite=TRIXIE, add=FRR), "reload8": Disk(add=FRR)}
        routers |= {"reload10": Disk(suite=TRIXIE, add=FRR)}
    name, agents = f"bench-{os.getpid()}-bgp", bool(disks)
    with Lab.up(name, hosts=len(disks), disks=disks, routers=routers, control_plane=agents, kube_proxy=False) as lab:
        announcing = {n: lab.host(n) for n in (*disks, *routers) if n != TOR}
        for host in (lab.host(TOR), *(host for n, host in announcing.items() if n not in disks)):
            enable_frr(host)
        neighbours = {n: Neighbour(v4=h.addresses[0], v6=h.addresses[1]) for n, h in announcing.items()}
        load(lab.host(TOR), frr_text(neighbours))
        if agents:
            deploy(lab, "-e", json.dumps({"hostagent_frr_enabled": True, "hostagent_frr_manage_packages": False}))
        measuring = Bench(lab, runs, time.monotonic() + minutes * 60 if minutes else float("inf"))
        for part in chosen:
            _PART[part](measuring, counts)
    write_document(measuring.rows.summary())
    click.echo(f"{RUNS}; table in {DOCUMENT}{'; not all was measured' if measuring.over() else ''}")


def _edges_of(lab: Lab) -> list[Ours]:
    return [Ours("edges alone, FRR 8.4", lab.host("frr8")), Ours("edges alone, FRR 10.3", lab.host("frr10"))]


def _edges(measuring: Bench, counts: list[int]) -> None:
    for way in _edges_of(measuring.lab):
        _changes(measuring, way, counts, measuring.runs)
        for count in counts[1:]:
            measuring.burst(way, count, _some(measuring.runs))
        way.end()


def _reload(measuring: Bench, counts: list[int]) -> None:
    for version, name in (("8.4", "reload8"), ("10.3", "reload10")):
        way = Reload(f"frr-reload, FRR {version}", measuring.lab.host(name))
        _changes(measuring, way, [each for each in counts if each <= RELOAD_AT_MOST], _some(measuring.runs))
        way.end()


def _agent(measuring: Bench, counts: list[int]) -> None:
    way = Whole(measuring.lab, measuring.lab.host("h1"))
    _changes(measuring, way, [each for each in counts if each in WHOLE_AT], measuring.runs)
    way.end()


def _changes(measuring: Bench, way: Way, counts: list[int], runs: int) -> None:
    way.begin()
    until(lambda: measuring.tor.established(way.host.addresses[0]), f"a session of {way.name}", TIMEOUT_S)
    for count in counts:
        measuring.changes(way, count, runs)


def _losses(measuring: Bench, _counts: list[int]) -> None:
    for way in _edges_of(measuring.lab):
        _lose(measuring, way)


def _lose(measuring: Bench, way: Ours) -> None:
    segment, host = measuring.lab.segment, way.host
    profile = BfdProfile(name="fast", receive_interval_ms=100, transmit_interval_ms=100, detect_multiplier=3)
    with_bfd = a_peer(dual_stack=True, bfd=True, bfd_profile="fast", hold_time_s=9, keepalive_time_s=3)
    without = a_peer(dual_stack=True, hold_time_s=9, keepalive_time_s=3)
    speaker, at, tor = Speaker(host=host), host.addresses[0], measuring.tor

    def up(*, bfd: bool) -> None:
        until(lambda: tor.established(at), "the session", TIMEOUT_S)
        if bfd:
            until(lambda: tor.bfd(at).get("status") == "up", "BFD", TIMEOUT_S)

    def mend(*, bfd: bool) -> None:
        segment.set_deaf_and_mute(host.name, so=False)
        up(bfd=bfd)

    for event, peer in ((BFD, with_bfd), (NO_BFD, without)):
        speaker.clear()
        speaker.peer_with(peer, profiles=(profile,))
        speaker.announce([f"{_FIRST}/32"])
        up(bfd=peer.bfd)
        runs = measuring.runs if peer.bfd else _some(measuring.runs)
        cut = lambda: segment.set_deaf_and_mute(host.name, so=True)  # noqa: E731
        measuring.losses(way, event, cut, lambda bfd=peer.bfd: mend(bfd=bfd), runs)  # type: ignore[misc]

    def kill() -> float:
        began = time.monotonic()
        host.run(["sh", "-c", "kill -KILL $(cat /run/frr/bgpd.pid)"])
        return began

    def tell_again() -> None:
        """watchfrr starts it again, and the agent tells it what it forgot."""
        is_up = ["vtysh", "-d", "bgpd", "-c", "show version"]
        until(lambda: host.run(is_up, check=False).returncode == 0, "bgpd to be back", TIMEOUT_S)
        speaker.peer_with(without)

    measuring.losses(way, KILLED, kill, tell_again, _some(measuring.runs))
    speaker.clear()


def _some(runs: int) -> int:
    return max(2, runs // 3)


_PART = {"edges": _edges, "reload": _reload, "losses": _losses, "agent": _agent}


if __name__ == "__main__":
    try:
        bench()
    except FabricError as exc:
        click.echo(f"bench: {exc}", err=True)
        sys.exit(1)
