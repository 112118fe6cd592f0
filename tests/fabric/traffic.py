"""What molecule scenarios ask of a lab's client: `python -m tests.fabric.traffic VERB`. Services, pings, who answers.

Scenarios are YAML and run one command after another, so pings that go on beside a playbook are a process of the lab:
`ping-start` returns, `ping-stop` prints the loss. The lab's end is theirs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from hostagent.edges.kube.lease_objects import claim_name
from tests.fabric.admin import wait_for
from tests.fabric.backends import endpoint_slices, service, start_backend
from tests.fabric.client import PingResult
from tests.fabric.command import FabricError
from tests.fabric.controlplane import ControlPlaneError
from tests.fabric.hosts import PROJECT
from tests.fabric.lab import Lab
from tests.fabric.processes import Processes

CONFIG = "metallb-system"
POOL = ["198.51.100.64-198.51.100.95", "2001:db8:51:0:1::-2001:db8:51:0:1::1f"]
WITHIN_S = 60.0
_PINGER = "pinger"

name_option = click.option("--name", required=True, help="Which lab.")


@click.group()
def cli() -> None:
    """Traffic in a lab."""


@cli.command()
@name_option
@click.option("--count", default=2, show_default=True, help="How many Services, the last of them dual stack.")
def serve(*, name: str, count: int) -> None:
    """Make Services with a backend on each host that is up, wait until each VIP is answered, print the VIPs (JSON)."""
    lab = Lab.find(name)
    plane, hosts = lab.control_plane, [host for host in lab.hosts.values() if host.running]
    for host in hosts:
        start_backend(host)
    for kind, spec in (("IPAddressPool", {"addresses": POOL}), ("L2Advertisement", {"ipAddressPools": ["all"]})):
        meta = {"name": "all", "namespace": CONFIG}
        plane.apply({"apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": meta, "spec": spec})
    vips: list[str] = []
    for number in range(1, count + 1):
        families = ["IPv4", "IPv6"] if number == count else ["IPv4"]
        made = service(f"web-{number}", families=families)
        plane.apply([made, *endpoint_slices(made, hosts)])
        vips += wait_for(
            partial(_addresses, lab, f"web-{number}", len(families)), WITHIN_S, f"addresses for web-{number}"
        )
    for vip in vips:
        wait_for(partial(lab.client.pings, vip), WITHIN_S, f"{vip} to answer")
    click.echo(json.dumps(vips))


@cli.command("ping-start")
@name_option
@click.argument("vips", nargs=-1, required=True)
def ping_start(*, name: str, vips: tuple[str, ...]) -> None:
    """Ping each VIP every 10 ms from now on; returns once all have answered."""
    processes = _processes(name)
    processes.log(_PINGER).unlink(missing_ok=True)
    argv = [sys.executable, "-P", "-m", "tests.fabric.traffic", "ping", "--name", name, *vips]
    own = {key: os.environ[key] for key in ("HOME", "XDG_STATE_HOME") if key in os.environ}  # where labs are
    processes.start(_PINGER, argv, env={"PYTHONPATH": str(PROJECT), **own})
    wait_for(lambda: "answered" in processes.tail(_PINGER), WITHIN_S, lambda: processes.tail(_PINGER))


@cli.command("ping-stop")
@name_option
@click.option("--after", "after_s", default=0.0, help="Seconds to go on first, for what comes late.")
def ping_stop(*, name: str, after_s: float) -> None:
    """Print what was lost since, by VIP (JSON): sent, lost, windows (of loss), longest_gap_ms."""
    processes = _processes(name)
    time.sleep(after_s)
    processes.stop(_PINGER, grace_s=15.0)
    said = processes.tail(_PINGER).splitlines()
    if not said or not said[-1].startswith("{"):
        raise FabricError(f"the pinger ended without a result: {processes.tail(_PINGER)}")
    click.echo(said[-1])


@cli.command()
@name_option
@click.argument("vips", nargs=-1, required=True)
def ping(*, name: str, vips: tuple[str, ...]) -> None:
    """Ping until SIGTERM, then say what was lost. For `ping-start`."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ended.append(number))
    with Lab.find(name).client.pinging(*vips) as pinger:
        click.echo("answered")
        sys.stdout.flush()
        while not ended:
            time.sleep(0.1)
    click.echo(json.dumps({vip: _summary(result) for vip, result in pinger.results.items()}))


@cli.command("who-answers")
@name_option
@click.argument("vips", nargs=-1, required=True)
def who_answers(*, name: str, vips: tuple[str, ...]) -> None:
    """Print which hosts the client hears answering for each VIP (JSON), all that do within two seconds."""
    lab = Lab.find(name)
    with lab.listening(ask=list(vips)) as listener:
        time.sleep(2.0)
        heard = {vip: sorted({each.host for each in listener.answers(vip)}) for vip in vips}
    click.echo(json.dumps(heard))


@cli.command()
@name_option
@click.argument("vip")
def holder(*, name: str, vip: str) -> None:
    """Print on whose interface the VIP is, by the kernels' word; waits until it is exactly one host's."""
    lab = Lab.find(name)

    def holders() -> list[str]:
        return [host.name for host in lab.hosts.values() if vip in host.kernel_addresses()]

    wait_for(lambda: len(holders()) == 1, WITHIN_S, f"one holder of {vip}")
    click.echo(holders()[0])


@cli.command()
@name_option
@click.argument("vips", nargs=-1, required=True)
def moves(*, name: str, vips: tuple[str, ...]) -> None:
    """Print how often each VIP has changed hands, by the word of the claims (JSON)."""
    leases = Lab.find(name).control_plane.admin.list_all("leases", CONFIG)
    often = {lease["metadata"]["name"]: lease["spec"].get("leaseTransitions", 0) for lease in leases}
    click.echo(json.dumps({vip: often[claim_name(ip_address(vip))] for vip in vips}))


def _addresses(lab: Lab, name: str, count: int) -> list[str]:
    found: dict[str, Any] = lab.control_plane.get("service", name, "default") or {}
    ingress = found.get("status", {}).get("loadBalancer", {}).get("ingress") or []
    return [entry["ip"] for entry in ingress] if len(ingress) == count else []


def _summary(result: PingResult) -> dict[str, Any]:
    return {
        "sent": result.sent,
        "lost": result.lost,
        "windows": len(result.windows),
        "most_in_a_row": max((window.lost for window in result.windows), default=0),
        "longest_gap_ms": round(result.longest_gap_ms, 1),
    }


def _processes(name: str) -> Processes:
    """In the lab's own namespace, and so ended with the lab; the pinger enters the client's by itself."""
    state = Lab.find(name).state
    folder: Path = state.folder / "traffic"
    return Processes(netns=state.netns, folder=folder)


if __name__ == "__main__":
    try:
        cli(prog_name="python -m tests.fabric.traffic")
    except (FabricError, ControlPlaneError, TimeoutError) as exc:
        click.echo(f"lab: {exc}", err=True)
        sys.exit(1)
