"""Labs for people: `python -m tests.fabric up`, `sh h1`, `status`, `down`. Root only."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console
from rich.table import Table

from tests.fabric import assets as control_plane_assets
from tests.fabric.base import BOOKWORM, FRR, TRIXIE, Disk, base_layers
from tests.fabric.command import FabricError
from tests.fabric.controlplane import ControlPlaneError
from tests.fabric.hosts import Host
from tests.fabric.lab import FRR_ROUTER, Lab
from tests.fabric.networks import Network
from tests.fabric.processes import in_namespace
from tests.fabric.remains import remains as remains_of
from tests.fabric.state import DEFAULT_NAME, existing_labs

_VERBS = {
    "boot": Host.boot,
    "shutdown": Host.shutdown,
    "power-off": Host.power_off,
    "reboot": Host.reboot,
    "hang": Host.hang,
    "thaw": Host.thaw,
    "cable-pull": Host.cable_pull,
    "cable-plug": Host.cable_plug,
}

name_option = click.option("--name", default=DEFAULT_NAME, show_default=True, envvar="LAB", help="Which lab.")
passed_on = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Small clusters of real systemd hosts, on one machine, in namespaces of their own."""


@cli.command()
@name_option
@click.option("--hosts", default=3, show_default=True, help="How many, h1 and on.")
@click.option(
    "--suite", type=click.Choice([BOOKWORM, TRIXIE]), default=BOOKWORM, show_default=True, help="Of the hosts."
)
@click.option("--frr", is_flag=True, help="FRR is installed on the hosts.")
@click.option(
    "--network",
    type=click.Choice([each.value for each in Network]),
    default=Network.IFUPDOWN.value,
    show_default=True,
    help="What configures the hosts' network cards.",
)
@click.option(
    "--unlike", "others", multiple=True, metavar="HOST=SUITE/NETWORK", help="A host of its own: h2=trixie/networkd."
)
@click.option("--router", is_flag=True, help="With a router host `tor` that has FRR.")
@click.option("--control-plane/--no-control-plane", default=True, help="etcd, API server, controllers.")
@click.option("--kube-proxy/--no-kube-proxy", default=True, help="On every host.")
@click.option("--bind", "binds", multiple=True, metavar="OUTSIDE:INSIDE", help="A path all hosts see, read-only.")
def up(
    *,
    name: str,
    hosts: int,
    suite: str,
    frr: bool,
    network: str,
    others: Sequence[str],
    router: bool,
    control_plane: bool,
    kube_proxy: bool,
    binds: Sequence[str],
) -> None:
    """Make a lab and leave it running. On failure and on Ctrl-C nothing is left."""
    disk = Disk(suite=suite, add=FRR if frr else (), network=Network(network))
    disks = {f"h{n}": disk for n in range(1, hosts + 1)} | dict(_unlike(each, disk) for each in others)
    began = time.monotonic()
    Lab.up(
        name,
        hosts=hosts,
        disks=disks,
        routers=FRR_ROUTER if router else {},
        control_plane=control_plane,
        kube_proxy=kube_proxy,
        binds=[_bind(each) for each in binds],
    )
    click.echo(f"up in {time.monotonic() - began:.1f} s; next: python -m tests.fabric sh --name {name} h1", err=True)


@cli.command()
@name_option
def down(*, name: str) -> None:
    """Remove a lab and all of it. No such lab is fine."""
    Lab.down(name)


@cli.command()
@name_option
def remains(*, name: str) -> None:
    """Fail, and say what, if anything of a lab is left: files, mounts, namespaces, control groups, processes."""
    if left := remains_of(name):
        raise FabricError("left of {}: {}".format(name, "\n".join(left)))


@cli.command(context_settings=passed_on)
@name_option
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def sh(*, name: str, host: str, command: tuple[str, ...]) -> None:
    """A root shell in HOST, or COMMAND there. HOST may be `client`: a shell in the client's network."""
    lab = Lab.find(name)
    shell = command or ("bash", "-l")
    if host == "client":
        _become(in_namespace(lab.state.client_netns, shell))
    _become(lab.host(host).argv(shell))


@cli.command()
@name_option
@click.argument("verb", type=click.Choice(list(_VERBS)))
@click.argument("host")
def do(*, name: str, verb: str, host: str) -> None:
    """Do something to a host: cut its power, hang it, pull its cable."""
    _VERBS[verb](Lab.find(name).host(host))


@cli.command()
@name_option
@click.argument("host")
def state(*, name: str, host: str) -> None:
    """Print what systemd says of a host: running, degraded, starting; or off, hung."""
    click.echo(Lab.find(name).host(host).system_state())


@cli.command()
def status() -> None:
    """All labs of this machine, and their hosts."""
    table = Table("lab", "host", "state", box=None)
    table.add_column("addresses", overflow="fold")
    table.add_column("MAC", no_wrap=True)
    for name in existing_labs():
        try:
            lab = Lab.find(name)
        except FabricError:
            table.add_row(name, "", "half-made: down removes it")
            continue
        if lab.plane:
            serving = "ready" if lab.plane.running() and lab.plane.admin.ready() else "not ready"
            table.add_row(name, "API server", serving, lab.plane.server)
        for host in [*lab.hosts.values(), *lab.routers.values()]:
            mac = host.mac if (host.folder / "mac").exists() else ""
            table.add_row(name, host.name, host.system_state(), " ".join(host.addresses), mac)
    Console(emoji=False, markup=False).print(table)  # ":ab:" in a MAC is no emoji


@cli.command()
@name_option
@click.option("--group", default="lab_hosts", show_default=True, help="The group that the hosts are in.")
@click.option("--connection", type=click.Choice(["ssh", "labhost"]), default="ssh", show_default=True)
def inventory(*, name: str, group: str, connection: str) -> None:
    """Print an Ansible inventory of a lab (JSON)."""
    click.echo(json.dumps(Lab.find(name).inventory(group=group, connection=connection), indent=2))


@cli.command(context_settings={**passed_on, "help_option_names": []})
@name_option
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def kubectl(*, name: str, args: tuple[str, ...]) -> None:
    """kubectl as the lab's cluster admin."""
    plane = Lab.find(name).control_plane
    environment = [
        "env",
        f"KUBECONFIG={plane.admin.kubeconfig}",
        f"KUBECACHEDIR={plane.admin.folder / 'kubectl-cache'}",
    ]
    _become(in_namespace(plane.netns, [*environment, plane.admin.kubectl_program, *args]))


@cli.command()
def assets() -> None:
    """Build what a control plane needs, if it is not there yet, and say where it is."""
    found = control_plane_assets.assets()
    for program in (found.etcd, found.kube_apiserver, found.kube_controller_manager, found.kube_proxy, found.kubectl):
        click.echo(program)


@cli.command()
@click.option("--suite", type=click.Choice([BOOKWORM, TRIXIE]), default=BOOKWORM, show_default=True)
@click.option("--add", "packages", multiple=True, metavar="PACKAGE", help="Installed in a layer above it.")
def base(*, suite: str, packages: tuple[str, ...]) -> None:
    """Build the disk that hosts start from, if it is not there yet, and say where it is."""
    for layer in base_layers(suite, add=packages):
        click.echo(layer)


def _unlike(text: str, disk: Disk) -> tuple[str, Disk]:
    said = re.fullmatch(rf"(\w+)=({BOOKWORM}|{TRIXIE})/({'|'.join(Network)})", text)
    if not said:
        raise FabricError(f"--unlike {text}: must be as h2={TRIXIE}/{Network.NETWORKD}")
    host, suite, network = said.groups()
    return host, replace(disk, suite=suite, network=Network(network))


def _bind(text: str) -> tuple[str, str]:
    outside, colon, inside = text.partition(":")
    if not colon or not inside.startswith("/") or not Path(outside).exists():
        raise FabricError(f"--bind {text}: must be an existing path and an absolute path in the hosts, with a colon")
    return str(Path(outside).resolve()), inside


def _become(argv: list[str]) -> NoReturn:
    sys.stdout.flush()
    os.execvp(argv[0], argv)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """The first signal ends what is being done, with its tidying up; no second one may end the tidying up."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        cli(prog_name="python -m tests.fabric", auto_envvar_prefix=None)
    except (FabricError, ControlPlaneError, control_plane_assets.AssetsError) as exc:
        click.echo(f"lab: {exc}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
