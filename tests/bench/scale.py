"""docs/scale.md, written by `make bench-allocation`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fabric.deploy import ROOT

DOCUMENT = ROOT / "docs" / "scale.md"
Row = dict[str, Any]

_TEXT = """\
# How much it can carry

Written by `make bench-allocation` on {date}; raw numbers in `build/bench/allocation.json`. One host of the
[lab](lab.md) with its agent, API server, etcd and the load share one machine:
{machine}.

| What | Aim | best | median | worst | runs |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}

- **Created at once**: 32 requests at a time by curl, as fast as the API server takes them. The time until all have
  addresses counts from the first request; what is left of it after the last Service was created is the allocator's
  part alone. Nearly all of it is the API server's processor time, and the machine's speed is not the same from minute
  to minute: before each burst the same Services are created while no agent runs, which is the measure for it. API
  server and etcd run with `GOGC=400`, as everywhere in the lab; the API server writes no audit log.
- **Agent start**: from `systemctl start` until it has nothing left to do: all lists read, every Service judged, the
  guard's rules in the kernel, and less than a fifth of a core used for two seconds. The Services have their addresses
  from before; the first start gives them all.
- **Memory** is resident memory of the agent's process at that moment; the peak is the most that it ever had.
- Nobody answers for these addresses (there is no advertisement): what a host pays for VIPs that it holds is in
  [failover times](failover.md), with 200 of them.
"""


def write_document(result: Row) -> Path:
    """The table that operators read."""
    burst, first, start = (result[part]["runs"] for part in ("burst", "first_start", "start"))
    few, many = result["burst"]["services"], result["start"]["services"]
    rows = [
        _line(f"{few} Services created at once: all have addresses", "5 s", burst, "assigned_s", " s"),
        _line("… of which after the last was created", "", burst, "after_the_last_was_created_s", " s"),
        _line(f"{few} Services created while no agent runs", "", burst, "created_alone_s", " s"),
        _line(f"{many} Services: agent start to steady state", "20 s", start, "steady_s", " s"),
        _line("… of which until it reports ready", "", start, "ready_s", " s"),
        _line("… its memory then", "150 MB", start, "rss_mb", " MB"),
        _line("… its peak until then", "", start, "peak_mb", " MB"),
        _line(f"{many} Services without address: first start to the last address", "", first, "assigned_s", " s"),
        _line("… its memory then", "150 MB", first, "rss_mb", " MB"),
    ]
    date = datetime.fromtimestamp(result["at"], UTC).strftime("%d %B %Y")
    DOCUMENT.write_text(_TEXT.format(date=date, machine=result["machine"], rows="\n".join(rows)))
    return DOCUMENT


def _line(what: str, aim: str, runs: Sequence[Row], key: str, unit: str) -> str:
    values = [run[key] for run in runs]
    shown = (f"{value:.1f}{unit}" for value in (min(values), statistics.median(values), max(values)))
    return f"| {what} | {f'< {aim}' if aim else ''} | {' | '.join(shown)} | {len(values)} |"
