"""`hostagent status`: what the agent on this host answers for, and why."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hostagent.agent.control import SOCKET

TIMEOUT_S = 5.0
EXIT_DOWN = 3
"""As `systemctl status` of a unit that is not running."""


@click.command("status")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default=Path("/run/hostagent") / SOCKET,
    show_default=True,
    help="The agent's socket.",
)
def status(output: str, socket: Path) -> None:
    """Show what this host's agent answers for, who holds the other VIPs, and what is wrong.

    Asks the running agent, which answers from memory: it works while the API is away. Exits with 0, or 3 if the agent
    does not answer.
    """
    try:
        document = asyncio.run(_ask(socket))
    except (OSError, TimeoutError, msgspec.DecodeError) as exc:
        cause = "it does not answer; it may hang" if isinstance(exc, TimeoutError) else str(exc)
        click.echo(f"the agent cannot be asked: {cause}\nSee: systemctl status hostagent", err=True)
        sys.exit(EXIT_DOWN)
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    else:
        show(document)


async def _ask(socket: Path) -> dict[str, Any]:
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            answer: dict[str, Any] = msgspec.json.decode(await reader.read())
        finally:
            writer.close()
    return answer


def show(document: dict[str, Any]) -> None:
    """Print a status document for people."""
    # A pipe has no width: rich would cut columns at 80.
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or "160")
    console = Console(width=width, highlight=False)
    api = document["api"]
    reach = "reachable" if api["reachable"] else f"UNREACHABLE for {api['unreachable_for_s']:.0f} s"
    console.print(Text(f"{document['node']}: {document['status']}", style="bold"))
    console.print(f"API {api['server']} {reach}; allocator: {document['allocator']['holder'] or 'nobody'}")
    console.print(_vips(document["vips"]) if document["vips"] else "No Service has an address.")
    console.print(_hosts(document["hosts"]))
    for pending in document["pending"]:
        console.print(Text(f"pending  {pending['service']}: {pending['why']}", style="yellow"))
    for problem in document["problems"]:
        console.print(Text(f"problem  {problem}", style="red"))


def _vips(vips: list[dict[str, Any]]) -> Table:
    table = _table("VIP", "Service", "Holder", "Interface", "For", "Moves", "Why here, or not")
    for vip in vips:
        here = Text("this host", style="green") if vip["here"] else Text(vip["holder"] or "-")
        why = vip["why"] if vip["candidates"] else _nobody(vip["excluded"])
        if vip["conflict"]:
            why = f"CONFLICT: {vip['conflict']} answers"
        for_s = "" if vip["for_s"] is None else _duration(vip["for_s"])
        table.add_row(
            vip["vip"], " ".join(vip["services"]), here, vip["interface"] or "", for_s, str(vip["moves"]), why
        )
    return table


def _nobody(excluded: dict[str, str]) -> str:
    return "no candidate: " + (", ".join(sorted(set(excluded.values()))) or "no node is known")


def _hosts(hosts: list[dict[str, Any]]) -> Table:
    table = _table("Host", "State", "Last sign", "Version", "Interfaces")
    for host in hosts:
        state = "ended" if host["ended"] else ("alive" if host["alive"] else "SILENT")
        table.add_row(
            host["node"],
            Text(state, style="" if state == "alive" else "yellow"),
            f"{_duration(host['seen_ago_s'])} ago",
            host["version"],
            " ".join(host["interfaces"]),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:  # the first is what the row is about: in one piece, so that it can be found and copied
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    return table


def _duration(seconds: float) -> str:
    """`4.2s`, `3m12s`, `5h07m`, `12d`: two figures of use, as kubectl shows ages."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d"
