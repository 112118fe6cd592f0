"""`make bench-bgp`: how long a prefix takes to the router's kernel table, and away from it when its host is lost.

All ways on one lab, in one run: our edges, and what MetalLB's FRR mode does (the whole frr.conf written anew, then
frr-reload). The clock runs from the act to the netlink message of the router's kernel. Raw: build/bench/bgp.json.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any, Protocol

import click

from hostagent.model.bgp import BfdProfile, Peer
from tests.bench.report import machine
from tests.bgp.routers import (
    HOSTS_ASN,
    TOR,
    TOR_ASN,
    TOR_V4,
    FrrRouterHost,
    Neighbour,
    RouteLog,
    enable_frr,
    frr_text,
    load,
    until,
    vtysh,
    watching_routes,
)
from tests.bgp.speaker import PLAIN, Edges, Speaker
from tests.bgp.test_sessions import a_peer
from tests.fabric.base import FRR, TRIXIE, Disk
from tests.fabric.command import FabricError
from tests.fabric.deploy import ROOT
from tests.fabric.hosts import Host
from tests.fabric.lab import Lab
from tests.fabric.segment import Direction, Loss

FOLDER = ROOT / "build" / "bench"
RESULT = FOLDER / "bgp.json"
DOCUMENT = ROOT / "docs" / "bgp.md"
_MARKED = re.compile(r"(<!-- bench-bgp:begin -->\n).*?(<!-- bench-bgp:end -->)", re.DOTALL)
PRESENT = (1, 100, 1000, 10_000)
RELOAD_AT_MOST = 1000
"""frr-reload took longer than ten minutes to load ten thousand prefixes."""
_TIMEOUT_S = 300.0
Row = dict[str, Any]


def prefix(number: int) -> str:
    return f"{ip_address('10.64.0.0') + number}/32"


class Way(Protocol):
    """One way of announcing."""

    name: str
    host: Host
    at_most: int
    began: float
    """When the last change began (monotonic, s): what was done to come there does not count."""

    def begin(self) -> None: ...
    def fill(self, count: int) -> None: ...
    def end(self) -> None: ...
    def add(self, number: int) -> None: ...
    def remove(self, number: int) -> None: ...


class Ours:
    """Our edges: kernel routes, picked up by the host's FRR."""

    at_most = PRESENT[-1]

    def __init__(self, name: str, host: Host) -> None:
        self.name, self.host, self.began = name, host, 0.0
        self._speaker = Speaker(host=host)

    def begin(self) -> None:
        self._speaker.peer_with(a_peer(dual_stack=True))

    def fill(self, count: int) -> None:
        self._speaker.announce([prefix(n) for n in range(count)])

    def end(self) -> None:
        self.fill(0)

    def add(self, number: int) -> None:
        self._change(number, added=True)

    def remove(self, number: int) -> None:
        self._change(number, added=False)

    def _change(self, number: int, *, added: bool) -> None:
        network, of = ip_network(prefix(number)), self._speaker.number(PLAIN)

        async def act(edges: Edges) -> None:
            await edges.routes.present()  # an agent has looked before it changes something
            self.began = time.monotonic()
            if added:
                await edges.routes.change(add={network: of}, remove=frozenset())
            else:
                await edges.routes.change(add={}, remove=frozenset({network}))

        self._speaker.run(act)


class Reload:
    """What MetalLB's FRR mode does for each change, without the three seconds that it waits before."""

    at_most = RELOAD_AT_MOST

    def __init__(self, name: str, host: Host) -> None:
        self.name, self.host, self.began = name, host, 0.0
        self._numbers: set[int] = set()

    def begin(self) -> None:
        self.fill(0)

    def fill(self, count: int) -> None:
        self._numbers = set(range(count))
        self._write()
        load(self.host, self._text())

    def end(self) -> None:
        vtysh(self.host, "configure terminal", f"no router bgp {HOSTS_ASN}")

    def add(self, number: int) -> None:
        self._numbers.add(number)
        self._reload()

    def remove(self, number: int) -> None:
        self._numbers.discard(number)
        self._reload()

    def _reload(self) -> None:
        self.began = time.monotonic()
        self._write()
        program, file = "/usr/lib/frr/frr-reload.py", "/etc/frr/frr.conf"
        for options in (["--test"], ["--reload", "--overwrite"]):
            self.host.run(["python3", program, *options, file], timeout_s=_TIMEOUT_S)

    def _write(self) -> None:
        self.host.write_file("/etc/frr/frr.conf", self._text(), mode=0o644)

    def _text(self) -> str:
        """Each prefix in the neighbour's list, in the list of its community, and as a network."""
        lines = ["frr defaults traditional", "service integrated-vtysh-config"]
        for number in sorted(self._numbers):
            lines.append(f"ip prefix-list {TOR_V4}-allowed-ipv4 seq {number + 1} permit {prefix(number)}")
            lines.append(
                f"ip prefix-list {TOR_V4}-65001:1-ipv4-community-prefixes seq {number + 1} permit {prefix(number)}"
            )
        lines += [f"ip prefix-list {TOR_V4}-allowed-ipv4 seq 100000 deny any"]
        lines += [f"route-map {TOR_V4}-in deny 20", "exit", f"route-map {TOR_V4}-out permit 1"]
        lines += [f" match ip address prefix-list {TOR_V4}-65001:1-ipv4-community-prefixes"]
        lines += [" set community 65001:1 additive", " on-match next", "exit", f"route-map {TOR_V4}-out permit 2"]
        lines += [f" match ip address prefix-list {TOR_V4}-allowed-ipv4", "exit"]
        lines += [f"router bgp {HOSTS_ASN}", " no bgp ebgp-requires-policy", " no bgp network import-check"]
        lines += [f" neighbor {TOR_V4} remote-as {TOR_ASN}", f" neighbor {TOR_V4} timers connect 1"]
        lines += [" address-family ipv4 unicast"]
        lines += [f"  network {prefix(number)}" for number in sorted(self._numbers)]
        lines += [f"  neighbor {TOR_V4} route-map {TOR_V4}-in in", f"  neighbor {TOR_V4} route-map {TOR_V4}-out out"]
        return "\n".join([*lines, " exit-address-family", "exit", ""])


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bench:
    lab: Lab
    tor: FrrRouterHost
    runs: int
    rows: list[Row]

    def changes(self, way: Way, present: int, runs: int) -> None:
        """One prefix more, one prefix less, while `present` are there."""
        at = way.host.addresses[0]
        way.fill(present - 1)
        until(lambda: self.tor.count(at) == present - 1, f"{present - 1} prefixes of {way.name}", _TIMEOUT_S)
        added, removed = [], []
        for run in range(runs):
            number = present + run
            with watching_routes(self.tor.host) as log:
                way.add(number)
                added.append(_ms(way, _wait(log, prefix(number), came=True)))
            with watching_routes(self.tor.host) as log:
                way.remove(number)
                removed.append(_ms(way, _wait(log, prefix(number), came=False)))
        self._row(way.name, present, "added", added)
        self._row(way.name, present, "withdrawn", removed)

    def burst(self, way: Way, count: int, runs: int) -> None:
        """All at once: until the last of them is there."""
        took = []
        for _ in range(runs):
            way.fill(0)
            until(lambda: self.tor.count(way.host.addresses[0]) == 0, "none left", _TIMEOUT_S)
            with watching_routes(self.tor.host) as log:
                began = time.monotonic()
                way.fill(count)
                until(lambda: len({p for _, came, p in log.events if came}) >= count, f"{count} at once", _TIMEOUT_S)
                took.append((max(at for at, came, _ in log.events if came) - began) * 1000)
        self._row(way.name, count, "all added at once", took)

    def losses(self, way: Ours, event: str, cause: Callable[[], None], cure: Callable[[], None], runs: int) -> None:
        """One prefix there; its host is lost in some way, until the router's kernel has no route any more."""
        took = []
        for _ in range(runs):
            until(lambda: "10.64.0.0" in self.tor.kernel(), f"the route before: {event}", _TIMEOUT_S)
            with watching_routes(self.tor.host) as log:
                began = time.monotonic()
                cause()
                took.append((_wait(log, prefix(0), came=False) - began) * 1000)
            cure()
        self._row(way.name, 1, event, took)

    def _row(self, way: str, present: int, event: str, took_ms: Sequence[float]) -> None:
        row: Row = {"way": way, "present": present, "event": event, "runs": len(took_ms), "ms": _spread(took_ms)}
        self.rows.append(row)
        FOLDER.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(self.rows, indent=1) + "\n")
        click.echo(f"{way:22} {present:6} {event:44} median {row['ms']['median']:8.0f} ms  ({len(took_ms)} runs)")


def _ms(way: Way, at: float) -> float:
    return (at - way.began) * 1000


def _wait(log: RouteLog, network: str, *, came: bool) -> float:
    seen = log.came if came else log.gone
    until(lambda: seen(network), f"{network} to {'come' if came else 'go'}", _TIMEOUT_S)
    return seen(network)[0]


def _spread(values: Sequence[float]) -> dict[str, float]:
    """p95 by nearest rank."""
    ordered = sorted(round(value, 1) for value in values)
    last = len(ordered)
    return {
        "min": ordered[0],
        "median": round(statistics.median(ordered), 1),
        "p95": ordered[max(0, -(-last * 95 // 100) - 1)],
        "max": ordered[-1],
    }


# --- the bench --------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--runs", default=10, show_default=True, help="Of each event; frr-reload a third of them.")
@click.option("--present", default=",".join(map(str, PRESENT)), show_default=True, help="Prefixes that are there.")
def bench(*, runs: int, present: str) -> None:
    """Measure on a lab that is made for it."""
    counts = [int(each) for each in present.split(",")]
    hosts = {TOR: Disk(add=FRR), "frr8": Disk(add=FRR), "frr10": Disk(suite=TRIXIE, add=FRR), "reload": Disk(add=FRR)}
    with Lab.up(f"bench-{os.getpid()}-bgp", hosts=0, routers=hosts, control_plane=False, kube_proxy=False) as lab:
        measured = _measure(lab, runs, counts)
    write_document(measured)
    click.echo(f"{RESULT}; table in {DOCUMENT}")


def _measure(lab: Lab, runs: int, counts: Sequence[int]) -> list[Row]:
    names = ("frr8", "frr10", "reload")
    tor = FrrRouterHost(host=lab.host(TOR))
    enable_frr(tor.host)
    load(tor.host, frr_text({n: Neighbour(v4=lab.host(n).addresses[0], v6=lab.host(n).addresses[1]) for n in names}))
    for name in names:
        enable_frr(lab.host(name))
    ours = [Ours("hostagent, FRR 8.4", lab.host("frr8")), Ours("hostagent, FRR 10.3", lab.host("frr10"))]
    theirs = Reload("frr-reload, FRR 8.4", lab.host("reload"))
    measuring = Bench(lab, tor, runs, [])
    ways: list[Way] = [*ours, theirs]
    for way in ways:
        way.begin()
        until(partial(tor.established, way.host.addresses[0]), f"a session of {way.name}")
        for count in counts:
            if count <= way.at_most:
                measuring.changes(way, count, max(2, runs // 3) if way is theirs else runs)
        way.end()
        until(partial(_none_of, tor, way), f"nothing of {way.name} any more", _TIMEOUT_S)
    for way, count in itertools.product(ours, counts[1:]):
        measuring.burst(way, count, max(2, runs // 3))
    for way in ours:
        _lose(measuring, way, runs)
    return measuring.rows


def _none_of(tor: FrrRouterHost, way: Way) -> bool:
    return tor.count(way.host.addresses[0]) == 0


def _lose(measuring: Bench, way: Ours, runs: int) -> None:
    lab, host = measuring.lab, way.host
    cut = [Loss(host=host.name, direction=each) for each in Direction]
    profile = BfdProfile(name="fast", receive_interval_ms=100, transmit_interval_ms=100, detect_multiplier=3)
    with_bfd = a_peer(dual_stack=True, bfd=True, bfd_profile="fast", hold_time_s=9, keepalive_time_s=3)
    without = a_peer(dual_stack=True, hold_time_s=9, keepalive_time_s=3)
    speaker = Speaker(host=host)
    at = host.addresses[0]

    def up(peer: Peer) -> None:
        until(lambda: measuring.tor.established(at), "the session", _TIMEOUT_S)
        if peer.bfd:
            until(lambda: measuring.tor.bfd(at).get("status") == "up", "BFD", _TIMEOUT_S)

    def mend(peer: Peer) -> None:
        lab.segment.set_faults()
        up(peer)

    for event, peer in (("silent loss, BFD 3 x 100 ms", with_bfd), ("silent loss, no BFD, hold time 9 s", without)):
        speaker.clear()
        speaker.peer_with(peer, profiles=(profile,))
        speaker.announce([prefix(0)])
        up(peer)
        times = runs if peer.bfd else max(2, runs // 3)
        measuring.losses(way, event, lambda: lab.segment.set_faults(*cut), partial(mend, peer), times)
    measuring.losses(
        way,
        "bgpd killed",
        lambda: _kill_bgpd(host),
        lambda: _tell_again(speaker, without),
        max(2, runs // 3),
    )
    speaker.clear()


def _kill_bgpd(host: Host) -> None:
    host.run(["sh", "-c", "kill -KILL $(cat /run/frr/bgpd.pid)"])


def _tell_again(speaker: Speaker, peer: Peer) -> None:
    """watchfrr starts it again, and the agent tells it what it forgot."""
    is_up = ["vtysh", "-d", "bgpd", "-c", "show version"]
    until(lambda: speaker.host.run(is_up, check=False).returncode == 0, "bgpd to be back", _TIMEOUT_S)
    speaker.peer_with(peer)


# --- the document -----------------------------------------------------------------------------------------------------


def write_document(rows: Sequence[Row]) -> None:
    """Put the table between its marks in docs/bgp.md."""
    head = "| Way | Prefixes there | What happens | Runs | min | median | p95 | max |\n"
    head += "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n"
    lines = [
        f"| {row['way']} | {row['present']} | {row['event']} | {row['runs']} | "
        + " | ".join(f"{row['ms'][each]:.0f} ms" for each in ("min", "median", "p95", "max"))
        + " |\n"
        for row in rows
    ]
    note = f"Measured on {datetime.now(tz=UTC).date()}: {machine()}; hosts and router are systemd machines of the\n"
    note += "[lab](lab.md) and share it.\n\n"
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(_MARKED.sub(lambda found: f"{found[1]}{note}{head}{''.join(lines)}{found[2]}", text))


if __name__ == "__main__":
    try:
        bench()
    except FabricError as exc:
        click.echo(f"bench: {exc}", err=True)
        sys.exit(1)
