"""How long a rollout to many hosts takes, and what limits it: `make bench-rollout [HOSTS=20]`. Writes docs/rollout.md.

Over ssh, as operators do, with the forks of ansible.cfg and the default `hostagent_serial`. Hosts and control machine
are one machine here, so what is measured is an upper bound: real hosts have processors of their own.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from tests.bench.report import machine
from tests.fabric.command import FabricError
from tests.fabric.deploy import ROOT, build_wheelhouse, playbook_argv, playbook_env
from tests.fabric.lab import Lab

DOCUMENT = ROOT / "docs" / "rollout.md"
LOUDEST = 10
_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")
_BUSY = 0.8  # of all cores: the rest is the time between two tasks
_HEADING = re.compile(r"(?:TASK|RUNNING HANDLER) \[(?:[a-z_]+ : )?(.*?)\]|PLAY \[")

_TEXT = """\
# How long a rollout takes

Written by `make bench-rollout HOSTS={hosts}` on {date}. {hosts} [lab](lab.md) hosts over ssh, `forks = {forks}`
(ansible.cfg), the default `hostagent_serial` (one host, then a quarter at a time), wheels built beforehand. Control
machine, API server and all {hosts} hosts share one machine, so these are upper bounds: real hosts unpack, install and
start on their own processors. That machine: {machine}.

| Run | Took | Cores busy | Processor time of Ansible itself |
| --- | ---: | ---: | ---: |
{runs}

Where the time of the first went, all batches together ({tasks} tasks, the {shown} that took longest):

| Task | Took |
| --- | ---: |
{loud}

What limits it: {limit}
Ansible itself, which forks and connects for each task and each host, took {own_s:.1f} s of one core per host in the
first run; that is what remains on real hosts, and what a control machine must have. Then the number of batches counts,
as each waits for its slowest host. `forks` above the size of a batch changes nothing; `-e hostagent_serial=100%` makes
one batch of all, at the price of the canary.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a playbook."""

    what: str
    took_s: float
    busy_cores: float
    control_cpu_s: float
    """Of Ansible, its forks and its ssh: what a control machine would spend."""
    tasks: Mapping[str, float]
    """Task → seconds until the next one began, summed over batches."""


def measured(lab: Lab, what: str, *arguments: str) -> Run:
    """Run site.yml, timing its tasks by their headings. Raises FabricError when it fails."""
    argv = playbook_argv(lab, "site", *arguments)
    began, busy, spent = time.monotonic(), _busy_s(), _children_s()
    tasks: defaultdict[str, float] = defaultdict(float)
    said: list[str] = []
    task, since = "(start)", began
    with subprocess.Popen(
        argv, cwd=ROOT, env=playbook_env(lab), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            said.append(line)
            if heading := _HEADING.match(line):
                now = time.monotonic()
                tasks[task] += now - since
                task, since = heading[1] or "(between plays)", now
    took_s = time.monotonic() - began
    tasks[task] += began + took_s - since
    if process.returncode:
        raise FabricError(f"{' '.join(argv)} ended with {process.returncode}:\n{''.join(said[-60:])}")
    busy_cores = (_busy_s() - busy) / took_s
    return Run(what=what, took_s=took_s, busy_cores=busy_cores, control_cpu_s=_children_s() - spent, tasks=tasks)


def _children_s() -> float:
    """Processor seconds of programs that we started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _busy_s() -> float:
    """Processor seconds that this machine has spent since its boot, on anything (proc(5): all but idle and iowait)."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) * _TICKS_S


def document(hosts: int, runs: Sequence[Run], forks: str) -> str:
    """docs/rollout.md."""
    cores = os.cpu_count() or 1
    first = runs[0]
    loud = sorted(first.tasks.items(), key=lambda item: -item[1])[:LOUDEST]
    share = first.busy_cores / cores
    limit = (
        f"the processor, {share:.0%} of which was busy throughout; more `forks` change nothing then."
        if share > _BUSY
        else f"waiting; the processor was busy for {share:.0%} only."
    )
    return _TEXT.format(
        hosts=hosts,
        date=datetime.now(UTC).strftime("%d %B %Y"),
        forks=forks,
        machine=machine(),
        runs="\n".join(
            f"| {run.what} | {run.took_s:.0f} s | {run.busy_cores:.1f} of {cores} | {run.control_cpu_s:.0f} s |"
            for run in runs
        ),
        tasks=len(first.tasks),
        shown=len(loud),
        loud="\n".join(f"| {name} | {seconds:.0f} s |" for name, seconds in loud),
        limit=limit,
        own_s=first.control_cpu_s / hosts,
    )


@click.command()
@click.option("--hosts", default=20, show_default=True)
def main(*, hosts: int) -> None:
    """Roll out to a lab of many hosts, and write down how long it took."""
    build_wheelhouse()
    forks = re.search(r"^forks = (\d+)", (ROOT / "ansible.cfg").read_text(), re.MULTILINE)
    many = {f"h{number}": f"198.51.100.{10 + number}" for number in range(1, hosts + 1)}
    inventory = ROOT / "build" / "bench" / "rollout.yml"
    inventory.parent.mkdir(parents=True, exist_ok=True)
    listed = "".join(f"    {host}: {{ansible_host: {address}}}\n" for host, address in many.items())
    inventory.write_text(f"hostagent:\n  hosts:\n{listed}")
    with Lab.up(f"bench-{os.getpid()}-rollout", hosts=hosts, kube_proxy=False) as lab:
        more = ("-i", str(inventory))
        runs = [
            measured(lab, "first rollout, bare hosts", *more),
            measured(lab, "again, nothing to change", *more),
        ]
    DOCUMENT.write_text(document(hosts, runs, forks[1] if forks else "5"))
    click.echo(f"{DOCUMENT}: " + "; ".join(f"{run.what}: {run.took_s:.0f} s" for run in runs))


if __name__ == "__main__":
    try:
        main()
    except FabricError as exc:
        click.echo(f"bench: {exc}", err=True)
        sys.exit(1)
