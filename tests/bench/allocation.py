"""`make bench-allocation`: how fast Services get addresses, and what ten thousand of them cost an agent.

Writes build/bench/allocation.json and, when all was measured, docs/scale.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import click

from tests.bench.failover import program_key
from tests.bench.report import machine
from tests.bench.scale import write_document
from tests.fabric.admin import wait_for
from tests.fabric.backends import namespace as namespace_object
from tests.fabric.deploy import ROOT, deploy
from tests.fabric.hosts import Host
from tests.fabric.lab import Lab
from tests.fabric.processes import in_namespace

FOLDER = ROOT / "build" / "bench"
RESULT = FOLDER / "allocation.json"
CONFIG = "metallb-system"
NETWORK = "100.64.0.0/16"
BURST, MANY = 1_000, 10_000
WITHIN_S = 1800.0
CALM_CPU = 0.2
"""Of a core, in a window: an agent that uses less has nothing left to do but to keep what there is."""
WINDOW_S = 2.0
Row = dict[str, Any]


@click.command()
@click.option("--runs", default=3, show_default=True, help="Of each burst, and of each start.")
@click.option("--many", default=MANY, show_default=True, help="Services of the second part.")
@click.option("--burst", default=BURST, show_default=True, help="Services created at once.")
def bench(*, runs: int, many: int, burst: int) -> None:
    """Measure on a lab of one host that is made for it. No host answers for these addresses: that is another matter."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Lab.up(f"bench-{os.getpid()}", hosts=1, kube_proxy=False, audited=False) as lab:
        deploy(lab)
        desk = Desk(lab=lab, host=lab.hosts["h1"])
        desk.pool()
        bursts = [_told("burst", {**desk.alone(burst), **desk.burst(burst)}) for _ in range(runs)]
        desk.namespace("load")
        desk.host.run(["systemctl", "stop", "hostagent"])
        _told("created, while no agent runs", desk.load("create", "load", many, "--no-wait"))
        first = _told("all at the first start", desk.start("load", many))
        starts = [_told("start", desk.start("load", many)) for _ in range(runs)]
    result = {
        "program": program_key(),
        "at": time.time(),
        "machine": machine(),
        "burst": {"services": burst, "runs": bursts},
        "first_start": {"services": many, "runs": [first]},
        "start": {"services": many, "runs": starts},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(f"written: {RESULT.relative_to(ROOT)}, {write_document(result).relative_to(ROOT)}")
    wrong = [run for run in (*bursts, first, *starts) if run["distinct"] != run["addresses"]]
    sys.exit(1 if wrong else 0)


@dataclass(kw_only=True)
class Desk:
    """The lab, and what is done to it."""

    lab: Lab
    host: Host
    _bursts: int = 0

    def pool(self) -> None:
        meta = {"name": "load", "namespace": CONFIG}
        spec = {"addresses": [NETWORK]}
        self.lab.control_plane.apply(
            {"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": meta, "spec": spec}
        )
        wait_for(lambda: "allocates addresses" in self.status_line(), 60.0, "the agent to be allocator")

    def namespace(self, name: str) -> None:
        self.lab.control_plane.apply(namespace_object(name))

    def alone(self, count: int) -> Row:
        """Services created at once while no agent runs, and removed again: what the API server takes for them."""
        name = self._next()
        self.host.run(["systemctl", "stop", "hostagent"])
        row = self.load("create", name, count, "--no-wait")
        self.load("delete", name, count)
        self.host.run(["systemctl", "start", "hostagent"])
        wait_for(lambda: "allocates addresses" in self.status_line(), 60.0, "the agent to be allocator")
        self.calm()
        return {"created_alone_s": row["created_at"] - row["began_at"]}

    def burst(self, count: int) -> Row:
        """Services created at once while the agent runs, and removed again."""
        name = self._next()
        before_s = self.cpu_s()
        row = self.load("create", name, count)
        memory = self.memory() | {"cpu_s": self.cpu_s() - before_s}
        self.load("delete", name, count)
        self.calm()
        return {
            "created_s": row["created_at"] - row["began_at"],
            "assigned_s": row["last_at"] - row["began_at"],
            "after_the_last_was_created_s": max(0.0, row["last_at"] - row["created_at"]),
            "addresses": row["addresses"],
            "distinct": row["distinct"],
            **memory,
        }

    def _next(self) -> str:
        """A namespace for one burst."""
        self._bursts += 1
        name = f"burst-{self._bursts}"
        self.namespace(name)
        return name

    def start(self, namespace: str, count: int) -> Row:
        """Stop the agent, start it, and wait until it has nothing left to do."""
        self.host.run(["systemctl", "stop", "hostagent"])
        began_at = time.time()
        self.host.run(["systemctl", "start", "hostagent"], timeout_s=WITHIN_S)
        ready_at = time.time()
        row = self.load("watch", namespace, count)
        wait_for(lambda: "allocates addresses" in self.status_line(), WITHIN_S, "the agent to be allocator")
        calm_at = self.calm()
        return {
            "ready_s": ready_at - began_at,
            "assigned_s": max(ready_at, row["last_at"]) - began_at,
            "steady_s": calm_at - began_at,
            "cpu_s": self.cpu_s(),
            "addresses": row["addresses"],
            "distinct": row["distinct"],
            **self.memory(),
        }

    def calm(self) -> float:
        """When the first window began in which the agent used less than a fifth of a core."""
        give_up_at = time.monotonic() + WITHIN_S
        while time.monotonic() < give_up_at:
            began_at, before_s = time.time(), self.cpu_s()
            time.sleep(WINDOW_S)
            if self.cpu_s() - before_s < CALM_CPU * (time.time() - began_at):
                return began_at
        raise TimeoutError(f"the agent is busy after {WITHIN_S:g} s")

    def load(self, verb: str, namespace: str, count: int, *more: str) -> Row:
        plane = self.lab.control_plane
        argv = [
            sys.executable, "-m", "tests.bench.load", verb, f"--kubeconfig={plane.admin.kubeconfig}",
            f"--namespace={namespace}", f"--count={count}", *more,
        ]  # fmt: skip
        done = subprocess.run(
            in_namespace(plane.netns, argv),
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=WITHIN_S,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr[-2000:]}")
        row: Row = json.loads(done.stdout.splitlines()[-1])
        return row

    def status_line(self) -> str:
        return self.host.run(["systemctl", "show", "hostagent", "--property=StatusText"]).stdout

    def memory(self) -> dict[str, float]:
        lines = self.host.run(["cat", f"/proc/{self._pid()}/status"]).stdout.splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}
        return {"rss_mb": kib["VmRSS"] / 1000 * 1.024, "peak_mb": kib["VmHWM"] / 1000 * 1.024}

    def cpu_s(self) -> float:
        fields = self.host.run(["cat", f"/proc/{self._pid()}/stat"]).stdout.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _pid(self) -> int:
        return int(self.host.run(["systemctl", "show", "hostagent", "--property=MainPID", "--value"]).stdout)


def _told(what: str, row: Row) -> Row:
    said = ", ".join(
        f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )
    click.echo(f"{what}: {said}")
    return row


def _interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    """The first signal ends the bench and tears the lab down; no second one may end that."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupted)
    bench(prog_name="python -m tests.bench.allocation")
