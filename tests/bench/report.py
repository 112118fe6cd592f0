"""What the bench's runs amount to: build/bench/failover.json, and the table of docs/failover.md."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fabric.deploy import ROOT
from tests.fault.faults import BY_NAME, Fault

DOCUMENT = ROOT / "docs" / "failover.md"
README = ROOT / "README.md"
HEADLINES = (
    "vip-moved", "host-drained", "agents-restarted", "agent-killed", "power-off", "cable-pulled", "agent-hung",
    "api-stopped", "power-off-200-vips",
)  # fmt: skip
_MARKED = re.compile(r"(<!-- failover:begin -->\n).*?(<!-- failover:end -->)", re.DOTALL)
HOSTS = 3
Row = dict[str, Any]

_TEXT = """\
# How long a failover takes

Written by `make bench-failover` on {date}, after {runs} runs. Each fault came at random moments within the interval
of renewal. The three hosts are systemd machines of the [lab](lab.md), and share one real machine with API server,
client and measuring programs, which costs them time that hosts of their own would not lose. That machine:
{machine}.

| What happens | Runs | Outage: min | median | p95 | max | Two answer: median | max | Moves | API writes |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{faults}

When nothing happens:

| VIPs | Outage | Moves | API writes |
| ---: | ---: | ---: | ---: |
{calm}

- **Outage**: milliseconds in which a client that pings every 10 ms got no answer; the longest gap of a run, from the
  fault until everything had settled after its cure (host booted, cable plugged in, API back). One Service with an IPv4
  and an IPv6 VIP, the worse one counts; with 200 VIPs each is pinged every 100 ms, and the slowest counts.
- **Two answer**: milliseconds in which two hosts answered for one VIP. A listener on the segment asks every 20 ms and
  records every ARP and ND frame in which somebody says that he has a VIP. A host's run of answers goes from its
  first to its last, and ends with 200 ms of silence; the time in which two hosts' runs overlap is counted. In a planned
  move both answer until the predecessor hears the successor. What a mute host says reaches nobody and is left out.
- **Moves**: how often claims changed hands, all runs and VIPs together.
- **API writes**: per second and host, from the fault until everything had settled, at least for one interval of
  renewal; as the API server's audit log has them.
- Outages of planned moves count pings only: connections are another matter, as replies and kube-proxy's tables are.

All runs are in `build/bench/failover.runs.jsonl`, sums in `build/bench/failover.json`.
"""


def summary(faults: Sequence[Fault], runs: Sequence[Row]) -> list[Row]:
    """One row per fault, of its runs that came to their end."""
    rows = []
    for fault in faults:
        of_fault = [run for run in runs if run["fault"] == fault.name]
        done = [run for run in of_fault if "error" not in run]
        if not done:
            rows.append({"fault": fault.name, "what": fault.what, "runs": 0, "failed_runs": len(of_fault)})
            continue
        rows.append(
            {
                "fault": fault.name,
                "what": fault.what,
                "vips": fault.vips,
                "runs": len(done),
                "failed_runs": len(of_fault) - len(done),
                "broken_promises": sum(bool(run["broken"]) for run in done),
                "outage_ms": _spread([run["outage_ms"] for run in done]),
                "ended_ms": _spread([run["ended_ms"] for run in done]),
                "duplicate_ms": _spread([run["duplicate_ms"] for run in done]),
                "relapses": sum(run["relapses"] for run in done),
                "moves": sum(sum(run["moves"]) for run in done),
                "api_writes_per_s_per_host": _rate(done, "writes", "watched_s"),
                "steady_api_writes_per_s_per_host": _rate(done, "steady_writes", "phase_s"),
            }
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """For the terminal."""
    head = f"{'fault':26} runs   outage: min  median     p95     max   two: median  max  moves  writes  broken"
    lines = [head]
    for row in rows:
        if not row["runs"]:
            lines.append(f"{row['fault']:26}    0   ({row['failed_runs']} failed)")
            continue
        out, two = row["outage_ms"], row["duplicate_ms"]
        lines.append(
            f"{row['fault']:26} {row['runs']:4} {out['min']:13.0f} {out['median']:7.0f} {out['p95']:7.0f}"
            f" {out['max']:7.0f} {two['median']:13.1f} {two['max']:4.0f} {row['moves']:6}"
            f" {row['api_writes_per_s_per_host']:7.2f} {row['broken_promises']:7}"
        )
    return "\n".join(lines)


def write_document(rows: Sequence[Row]) -> Path:
    """Write docs/failover.md, and the headline rows of the README."""
    done = [row for row in rows if row["runs"]]
    DOCUMENT.write_text(
        _TEXT.format(
            date=datetime.now(tz=UTC).date(),
            runs=sum(row["runs"] for row in done),
            machine=machine(),
            faults="\n".join(_markdown(row) for row in done if not _is_calm(row)),
            calm="\n".join(_markdown_calm(row) for row in done if _is_calm(row)),
        )
    )
    by_name = {row["fault"]: row for row in done}
    lines = [_headline(by_name[name]) for name in HEADLINES if name in by_name]
    head = "| What happens | outage: median | p95 | max |\n| --- | ---: | ---: | ---: |\n"
    README.write_text(_MARKED.sub(rf"\g<1>{head}{''.join(lines)}\g<2>", README.read_text()))
    return DOCUMENT


def _headline(row: Row) -> str:
    out = row["outage_ms"]
    return f"| {row['what']} | {out['median']:.0f} ms | {out['p95']:.0f} ms | {out['max']:.0f} ms |\n"


def machine() -> str:
    """What it ran on, in a few words."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", cpu, re.MULTILINE)
    name = re.sub(r"\s+", " ", model[1]) if model else platform.machine()
    return f"{os.cpu_count()} CPUs ({name}), Linux {platform.release().split('-')[0]}"


def _is_calm(row: Row) -> bool:
    return BY_NAME[row["fault"]].runs_at_most is not None


def _markdown(row: Row) -> str:
    out, two = row["outage_ms"], row["duplicate_ms"]
    cells = [
        *(row["what"], row["runs"]),
        *(f"{out[each]:.0f}" for each in ("min", "median", "p95", "max")),
        *(f"{two[each]:.0f}" for each in ("median", "max")),
        *(row["moves"], f"{row['api_writes_per_s_per_host']:.2f}"),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _markdown_calm(row: Row) -> str:
    cells = (row["vips"], f"{row['outage_ms']['max']:.0f}", row["moves"], f"{row['api_writes_per_s_per_host']:.2f}")
    return f"| {' | '.join(map(str, cells))} |"


def _spread(values: Sequence[float]) -> dict[str, float]:
    """p95 by nearest rank: with 10 runs it is the worst."""
    ordered = sorted(values)
    return {
        "min": ordered[0],
        "median": round(statistics.median(ordered), 1),
        "p95": ordered[max(0, -(-len(ordered) * 95 // 100) - 1)],
        "max": ordered[-1],
    }


def _rate(runs: Sequence[Row], writes: str, seconds: str) -> float:
    """Over all runs together: one alone is too short to have a rate."""
    count, span_s = sum(int(run[writes]) for run in runs), sum(float(run[seconds]) for run in runs)
    return round(count / max(1e-3, span_s) / HOSTS, 3)
