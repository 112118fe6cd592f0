"""`make demo`: the main job, end to end, on real systemd hosts, with a real API server and real traffic.

Everything is made in namespaces of its own and removed at the end, also after a failure or Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click

from tests.fabric.admin import wait_for
from tests.fabric.backends import endpoint_slices, service, start_backend
from tests.fabric.client import Client
from tests.fabric.command import FabricError
from tests.fabric.controlplane import ControlPlaneError
from tests.fabric.deploy import ROOT, build_wheelhouse, playbook_argv, playbook_env
from tests.fabric.hosts import Host
from tests.fabric.lab import Lab
from tests.fabric.state import DEFAULT_NAME, existing_labs

MANIFESTS = Path(__file__).with_name("manifests.yaml")
NAMESPACE = "metallb-system"
HOSTS = 3
WAIT_S = 30.0
OUTAGE_WAIT_S = 60.0
_steps = iter(range(1, 100))


@click.command()
@click.option("--keep", is_flag=True, help="Leave the lab running for playing.")
@click.option("--name", default=DEFAULT_NAME, show_default=True, envvar="LAB", help="Of the lab.")
def demo(*, keep: bool, name: str) -> None:
    """Show hostagent at work: an address, an answer, a host that dies, another that takes over."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    if name in existing_labs():
        raise click.ClickException(f"a lab {name} is up already: `make lab-down` removes it")
    began = time.monotonic()
    try:
        step("Three hosts with systemd, an API server, a client on one segment")
        lab = Lab.up(name, hosts=HOSTS, progress=lambda text: click.echo(f"   {text}"))
        outage_ms = show(lab)
    except (FabricError, ControlPlaneError, TimeoutError) as exc:
        if name in existing_labs():
            _last_words(Lab.find(name))
            Lab.down(name)
        raise click.ClickException(
            f"{exc}\nThe lab was removed. To look into it: make lab-up, then run the steps."
        ) from exc
    except BaseException:
        Lab.down(name)
        raise
    if keep:
        step(f"The lab {name} stays")
        click.echo("   make lab-sh HOST=h1     a shell on a host; try `hostagent status` there")
        click.echo("   make lab-down           remove it")
    else:
        step("Everything is removed again")
        Lab.down(name)
    click.echo(f"\nDone in {time.monotonic() - began:.0f} s.")
    click.secho(f"The client was without an answer for {outage_ms:.0f} ms after the holder lost power.", bold=True)


def show(lab: Lab) -> float:
    """Everything between the making of the lab and its end; returns the outage that the client measured, in ms."""
    plane, client = lab.control_plane, lab.client

    step("ansible-playbook -i inventories/lab playbooks/site.yml")
    click.echo("   (building the wheels first, unless they are in the cache: a lab reaches no package index)")
    build_wheelhouse()
    play(lab)

    step("A pool, an advertisement, a Service with three backends")
    click.echo(_indented(MANIFESTS.read_text().split("\n", 1)[1]))
    plane.apply(MANIFESTS.read_text())
    hosts = list(lab.hosts.values())
    for host in hosts:
        start_backend(host)
    web = service("web")
    plane.apply([web, *endpoint_slices(web, hosts)])
    vip = wait_for(lambda: address_of(lab, "web"), WAIT_S, "an address for the Service default/web")
    url = f"http://{vip}/"
    answer = wait_for(lambda: client.answers(url), WAIT_S, f"an answer from {url}")
    kubectl(lab, "get", "service", "web")
    kubectl(lab, "get", "leases", "--namespace", NAMESPACE)
    click.echo(f"   $ curl {url}          (from the client's namespace)\n   {answer}\n")
    holder = lab.hosts[holder_of(lab, vip)]
    click.echo(f"   {holder.name}$ hostagent status")
    click.echo(_indented(on_host(holder, "hostagent", "status")))

    step(f"{holder.name}, which answers for {vip}, loses power")
    outage_ms, successor = power_off(lab, client, holder, vip)
    click.echo(f"   {successor.name} took over; the client was without an answer for {outage_ms:.0f} ms.")
    answer = wait_for(lambda: client.answers(url), WAIT_S, f"an answer from {url}")
    click.echo(f"   $ curl {url}\n   {answer}\n")
    kubectl(lab, "get", "lease", f"vip.{vip}", "--namespace", NAMESPACE)
    click.echo(f"   {successor.name}$ journalctl -u hostagent HOSTAGENT_VIP={vip}")
    life = ("journalctl", "--unit=hostagent", "--no-pager", "--output=cat", f"HOSTAGENT_VIP={vip}")
    click.echo(_indented(on_host(successor, *life)))
    return outage_ms


def power_off(lab: Lab, client: Client, holder: Host, vip: str) -> tuple[float, Host]:
    """Cut the holder's power under a client that pings every 10 ms; the outage in ms, and who took over."""
    with client.pinging(vip) as pinger:
        time.sleep(1.0)
        off_at = time.monotonic()
        holder.power_off()
        successor = wait_for(
            lambda: holder_of(lab, vip).replace(holder.name, ""), OUTAGE_WAIT_S, f"another host to take {vip}"
        )
        wait_for(lambda: client.pings(vip), WAIT_S, f"{vip} to answer again")
        click.echo(f"   {time.monotonic() - off_at:.1f} s after the power cut {vip} is answered again")
        time.sleep(0.5)
    return pinger.result.longest_gap_ms, lab.hosts[successor]


def play(lab: Lab) -> None:
    """The playbook, with its output as it comes: the changes only, as there are some eighty tasks."""
    argv = playbook_argv(lab, "site", "-e", "hostagent_serial=100%")
    quiet = {"ANSIBLE_DISPLAY_OK_HOSTS": "0", "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0"}
    process = subprocess.Popen(
        argv, cwd=ROOT, env={**playbook_env(lab), **quiet}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said: list[str] = []
    try:
        for line in process.stdout or ():
            said.append(line)
            if line.startswith(("PLAY", "TASK", "RUNNING", "h")) and line.strip():
                text = line.rstrip(" *\n")
                click.echo(f"   {text[:76]}")
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    if process.returncode:
        raise FabricError(f"ansible-playbook ended with {process.returncode}:\n{''.join(said[-40:])}")


def address_of(lab: Lab, name: str) -> str:
    """The Service's first address; empty while it has none."""
    found = lab.control_plane.get("service", name, "default") or {}
    ingress: list[dict[str, Any]] = found.get("status", {}).get("loadBalancer", {}).get("ingress") or []
    return str(ingress[0]["ip"]) if ingress else ""


def holder_of(lab: Lab, vip: str) -> str:
    lease = lab.control_plane.get("lease", f"vip.{vip}", NAMESPACE) or {}
    return str(lease.get("spec", {}).get("holderIdentity", ""))


def kubectl(lab: Lab, *arguments: str) -> None:
    click.echo(f"   $ kubectl {' '.join(arguments)}")
    click.echo(_indented(lab.control_plane.kubectl(*arguments)))


def on_host(host: Host, *argv: str) -> str:
    return host.run(["env", "COLUMNS=96", *argv]).stdout


def step(text: str) -> None:
    click.secho(f"\n{next(_steps)}. {text}", bold=True)
    sys.stdout.flush()


def _indented(text: str) -> str:
    return "".join(f"   {line.rstrip()}\n" for line in text.splitlines())


def _last_words(lab: Lab) -> None:
    """What the hosts' agents said last, before they are gone."""
    for host in lab.hosts.values():
        lines = host.journal_text("hostagent").splitlines()[-15:]
        click.echo(f"-- {host.name}: journalctl -u hostagent\n" + "\n".join(lines), err=True)


def _interrupted(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    os.chdir(ROOT)
    demo()
