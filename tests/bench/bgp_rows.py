"""Of `make bench-bgp`: what was measured, kept from run to run, and the table of docs/bgp.md made of it."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import click

from tests.bench.report import machine
from tests.fabric.deploy import ROOT

FOLDER = ROOT / "build" / "bench"
RUNS = FOLDER / "bgp.runs.jsonl"
RESULT = FOLDER / "bgp.json"
DOCUMENT = ROOT / "docs" / "bgp.md"
_MARKED = re.compile(r"(<!-- bench-bgp:begin -->\n).*?(<!-- bench-bgp:end -->)", re.DOTALL)
Row = dict[str, Any]


class Measured(Protocol):
    """A way of announcing, as far as its times are kept by it."""

    name: str
    made_of: tuple[str, ...]
    """Paths of what its times depend on."""


def program_key(way: Measured) -> str:
    """Names what is measured. Runs of another program do not count."""
    digest = hashlib.sha256()
    for each in way.made_of:
        files = [ROOT / each] if (ROOT / each).is_file() else sorted((ROOT / each).rglob("*"))
        for path in files:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@dataclass(slots=True)
class Rows:
    """Every single time, on disk as soon as it is known; what is there of the same program is not measured again."""

    _runs: list[Row] = field(default_factory=list)
    _programs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        self._runs = [json.loads(line) for line in (RUNS.read_text().splitlines() if RUNS.exists() else [])]

    def missing(self, way: Measured, present: int, event: str, wanted: int) -> int:
        return max(0, wanted - len(self._of(self._program(way), (way.name, present, event))))

    def add(self, way: Measured, present: int, event: str, took_ms: float) -> None:
        run = {"program": self._program(way), "at": round(time.time()), "way": way.name}
        run |= {"present": present, "event": event, "ms": round(took_ms, 1)}
        self._runs.append(run)
        with RUNS.open("a") as file:
            file.write(json.dumps(run) + "\n")
        click.echo(f"{way.name:26} {present:6} {event:36} {took_ms:8.0f} ms")

    def summary(self) -> list[Row]:
        """What is known of each way's last program."""
        last = {run["way"]: run["program"] for run in self._runs}
        keys = dict.fromkeys((run["way"], run["present"], run["event"]) for run in self._runs)
        return [
            {"way": way, "present": present, "event": event, "runs": len(of), "ms": _spread(of)}
            for way, present, event in sorted(keys, key=_in_order)
            if (of := self._of(last[way], (way, present, event)))
        ]

    def _program(self, way: Measured) -> str:
        if way.name not in self._programs:
            self._programs[way.name] = program_key(way)
        return self._programs[way.name]

    def _of(self, program: str, key: tuple[str, int, str]) -> list[float]:
        return [
            run["ms"]
            for run in self._runs
            if run["program"] == program and (run["way"], run["present"], run["event"]) == key
        ]


def _in_order(key: tuple[str, int, str]) -> tuple[str, bool, int, str]:
    """What happens often before what is rare."""
    way, present, event = key
    return way, "loss" in event or "killed" in event, present, event


def _spread(values: Sequence[float]) -> dict[str, float]:
    """p95 by nearest rank."""
    ordered = sorted(values)
    last = len(ordered)
    return {
        "min": ordered[0],
        "median": round(statistics.median(ordered), 1),
        "p95": ordered[max(0, -(-last * 95 // 100) - 1)],
        "max": ordered[-1],
    }


def write_document(rows: Sequence[Row]) -> None:
    """Put the table between its marks in docs/bgp.md, and the sums in build/bench/bgp.json."""
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    head = "| Way | Prefixes there | What happens | Runs | min | median | p95 | max |\n"
    head += "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n"
    lines = [
        f"| {row['way']} | {row['present']} | {row['event']} | {row['runs']} | "
        + " | ".join(f"{row['ms'][each]:.0f} ms" for each in ("min", "median", "p95", "max"))
        + " |\n"
        for row in rows
    ]
    note = f"Measured on {datetime.now(tz=UTC).date()}: {machine()}; hosts, routers, API server and etcd are\n"
    note += "systemd machines and processes of the [lab](lab.md), and share it.\n\n"
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(_MARKED.sub(lambda found: f"{found[1]}{note}{head}{''.join(lines)}{found[2]}", text))
