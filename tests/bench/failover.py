"""`make bench-failover`: how long clients are without an answer, fault by fault, each at many random moments.

Every run is on disk as soon as it is done (build/bench/failover.runs.jsonl); what is there of the same program is not
done again, so an interrupted bench goes on where it was. At the end the sum of it is in build/bench/failover.json and,
if it is complete, in docs/failover.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from types import FrameType
from typing import Any, NoReturn

import click

from tests.bench.report import summary, table, write_document
from tests.fabric.admin import ApiError, KubectlError
from tests.fabric.command import FabricError
from tests.fabric.controlplane import ControlPlaneError
from tests.fabric.deploy import ROOT, deploy
from tests.fabric.lab import Lab
from tests.fault.faults import BY_NAME, CALM, FAULTS, Fault
from tests.fault.stage import Stage
from tests.fault.trial import broken, try_out

RENEW_S = 5.0
FEW_VIPS = 2
FAILURES_AT_MOST = 3  # of one fault; then something is wrong with it, and the rest of the bench shall not wait
FOLDER = ROOT / "build" / "bench"
RUNS = FOLDER / "failover.runs.jsonl"
RESULT = FOLDER / "failover.json"
EVIDENCE = FOLDER / "evidence"
"""Of runs that broke a promise: what each host's journal says."""
Run = dict[str, Any]


@click.command()
@click.option("--runs", default=10, show_default=True, help="Of each fault.")
@click.option("--faults", default="", help="Names, with commas between; default: all. --list shows them.")
@click.option("--list", "only_list", is_flag=True, help="Say which faults there are.")
@click.option("--fresh", is_flag=True, help="Forget earlier runs.")
@click.option("--seed", type=int, help="Of the random moments.")
def bench(*, runs: int, faults: str, only_list: bool, fresh: bool, seed: int | None) -> None:
    """Do all faults again and again to a lab that is made for it, and sum up what clients saw."""
    chosen = _chosen(faults)
    if only_list:
        for fault in chosen:
            click.echo(f"{fault.name:26} {fault.what}")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    if fresh:
        RUNS.unlink(missing_ok=True)
    program = program_key()
    todo = [(fault, _missing(fault, runs, program)) for fault in chosen]
    if any(count for _, count in todo):
        _do(todo, program, random.Random(seed))
    done = [run for run in _earlier(program) if run["fault"] in {fault.name for fault in chosen}]
    result = summary([fault for fault in chosen if any(run["fault"] == fault.name for run in done)], done)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(f"\n{table(result)}\nall runs: {RUNS.relative_to(ROOT)}; sums: {RESULT.relative_to(ROOT)}")
    if all(row["runs"] for row in result) and not faults:
        click.echo(f"written: {write_document(result).relative_to(ROOT)}")
    failed = [run for run in done if "error" in run]
    wrong = [run for run in done if run.get("broken")]
    click.echo(f"{len(done)} runs, {len(wrong)} with a broken promise, {len(failed)} that did not come to their end")
    sys.exit(1 if failed else 0)


def program_key() -> str:
    """Names what is measured: all that comes to hosts. Runs of another program do not count."""
    digest = hashlib.sha256()
    for folder in ("hostagent", "roles/hostagent"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _chosen(names: str) -> Sequence[Fault]:
    if not names:
        return (*FAULTS, *CALM)
    if unknown := set(names.split(",")) - set(BY_NAME):
        raise click.ClickException(f"no fault {', '.join(sorted(unknown))}; there are {', '.join(BY_NAME)}")
    return [BY_NAME[name] for name in names.split(",")]


def _earlier(program: str) -> list[Run]:
    lines = RUNS.read_text().splitlines() if RUNS.exists() else []
    return [run for run in map(json.loads, lines) if run["program"] == program]


def _missing(fault: Fault, runs: int, program: str) -> int:
    good = [run for run in _earlier(program) if run["fault"] == fault.name and "error" not in run]
    return max(0, min(runs, fault.runs_at_most or runs) - len(good))


def _do(todo: Sequence[tuple[Fault, int]], program: str, dice: random.Random) -> None:
    plan = _in_rounds(todo)
    total, failures = len(plan), Counter[str]()
    with Lab.up(f"bench-{os.getpid()}") as lab:
        deploy(lab)
        stage, began_s = Stage(lab=lab), time.monotonic()
        for number, fault in enumerate(plan, start=1):
            if failures[fault.name] == FAILURES_AT_MOST:
                continue
            run = _run_once(stage, fault, dice)
            failures[fault.name] += "error" in run
            with RUNS.open("a") as file:
                file.write(json.dumps({"program": program, "at": time.time(), **run}) + "\n")
            left_s = (time.monotonic() - began_s) / number * (total - number)
            click.echo(f"{number}/{total} {_line(run)} ({left_s / 60:.0f} min left)")


def _in_rounds(todo: Sequence[tuple[Fault, int]]) -> list[Fault]:
    """One run of each after the other, so that a bench that is interrupted knows something of all.

    Those with many VIPs come in one piece, as making so many Services takes longer than the fault.
    """
    rounds = max((count for _, count in todo), default=0)
    few = [fault for nth in range(rounds) for fault, count in todo if fault.vips <= FEW_VIPS and nth < count]
    return few + [fault for fault, count in todo if fault.vips > FEW_VIPS for _ in range(count)]


def _run_once(stage: Stage, fault: Fault, dice: random.Random) -> Run:
    began_at = time.time()
    try:
        trial = try_out(stage.scene(fault.vips), fault, phase_s=dice.uniform(0.0, RENEW_S), at_least_s=RENEW_S)
    except (FabricError, ControlPlaneError, KubectlError, ApiError, AssertionError, OSError) as exc:
        stage.repair()
        return {"fault": fault.name, "error": str(exc) or repr(exc)}
    wrong = broken(trial, fault.promise)
    if wrong:
        _keep_evidence(stage.lab, f"{fault.name}-{time.strftime('%H%M%S')}", began_at)
    return {**asdict(trial), "broken": wrong}


def _keep_evidence(lab: Lab, name: str, since_s: float) -> None:
    (EVIDENCE / name).mkdir(parents=True, exist_ok=True)
    for host in lab.hosts.values():
        asked = ["journalctl", "-u", "hostagent", "--output=short-precise", f"--since=@{since_s:.0f}"]
        (EVIDENCE / name / f"{host.name}.log").write_text(host.run(asked, check=False).stdout)


def _line(run: Run) -> str:
    if "error" in run:
        return f"{run['fault']}: FAILED: {run['error'].splitlines()[0][:150]}"
    wrong = f"  BROKEN: {'; '.join(run['broken'])}" if run["broken"] else ""
    twice = f", twice {run['duplicate_ms']:.0f} ms" if run["duplicate_ms"] else ""
    return f"{run['fault']}: {run['outage_ms']:.0f} ms{twice}, {sum(run['moves'])} moves, {run['took_s']:.0f} s{wrong}"


def _interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    """The first signal ends the bench and tears the lab down; no second one may end that."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    bench(prog_name="python -m tests.bench.failover")


if __name__ == "__main__":
    main()
