"""`hostagent status`: what the agent on this host answers for, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hostagent.cli.client import ask, console, socket_option, table


@click.command("status")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@socket_option
def status(output: str, socket: Path) -> None:
    """Show what this host's agent answers for, who holds the other VIPs, and what is wrong.

    Asks the running agent, which answers from memory: it works while the API is away. Exits with 0, or 3 if the agent
    does not answer.
    """
    document = ask(socket, "status")
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    else:
        show(document)


def show(document: dict[str, Any]) -> None:
    """Print a status document for people."""
    out = console()
    api = document["api"]
    reach = "reachable" if api["reachable"] else f"UNREACHABLE for {api['unreachable_for_s']:.0f} s"
    out.print(Text(f"{document['node']}: {document['status']}", style="bold"))
    out.print(f"API {api['server']} {reach}; allocator: {document['allocator']['holder'] or 'nobody'}")
    out.print(_vips(document["vips"]) if document["vips"] else "No Service has an address.")
    out.print(_hosts(document["hosts"]))
    bgp = document.get("bgp")  # an agent of an older version has none
    if bgp and (bgp["active"] or bgp["peers"]):
        _bgp(out, bgp)
    for pending in document["pending"]:
        out.print(Text(f"pending  {pending['service']}: {pending['why']}", style="yellow"))
    for problem in document["problems"]:
        out.print(Text(f"problem  {problem}", style="red"))


def _vips(vips: list[dict[str, Any]]) -> Table:
    rows = table("VIP", "Service", "Holder", "Interface", "For", "Moves", "Why here, or not")
    for vip in vips:
        here = Text("this host", style="green") if vip["here"] else Text(vip["holder"] or "-")
        why = vip["why"] if vip["candidates"] else _nobody(vip["excluded"])
        if vip["conflict"]:
            why = f"CONFLICT: {vip['conflict']} answers"
        for_s = "" if vip["for_s"] is None else _duration(vip["for_s"])
        rows.add_row(vip["vip"], " ".join(vip["services"]), here, vip["interface"] or "", for_s, str(vip["moves"]), why)
    return rows


def _bgp(out: Console, bgp: dict[str, Any]) -> None:
    going = {"no": "", "announced": ", leaving: GRACEFUL_SHUTDOWN", "gone": ", leaving: withdrawn"}[bgp["leaving"]]
    out.print(f"BGP: {len(bgp['prefixes'])} prefixes{going}")
    if not bgp["peers"]:
        return
    rows = table("Peer", "Neighbor", "AS", "State", "For", "Sent", "BFD", "Last reset")
    for peer in bgp["peers"]:
        up = peer["state"] == "Established"
        rows.add_row(
            peer["name"],
            peer["neighbor"] + (f" ({peer['vrf']})" if peer["vrf"] else ""),
            str(peer["asn"] or ""),
            Text(peer["state"], style="green" if up else "red"),
            "" if peer["for_s"] is None else _duration(peer["for_s"]),
            str(peer["sent"]),
            Text(peer["bfd"] or "-", style="red" if peer["bfd"] == "down" else ""),
            "" if up else peer["last_reset"],
        )
    out.print(rows)


def _nobody(excluded: dict[str, str]) -> str:
    return "no candidate: " + (", ".join(sorted(set(excluded.values()))) or "no node is known")


def _hosts(hosts: list[dict[str, Any]]) -> Table:
    rows = table("Host", "State", "Last sign", "Version", "Interfaces")
    for host in hosts:
        state = "ended" if host["ended"] else ("alive" if host["alive"] else "SILENT")
        if state == "alive" and (host.get("suspected") or host.get("draining")):
            state = "SUSPECTED" if host.get("suspected") else "draining"
        rows.add_row(
            host["node"],
            Text(state, style="" if state == "alive" else "yellow"),
            f"{_duration(host['seen_ago_s'])} ago",
            host["version"],
            " ".join(host["interfaces"]),
        )
    return rows


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
