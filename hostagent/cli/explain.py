"""`hostagent explain`: why a Service has its address, who answers for it, and why nobody else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from hostagent.cli.client import ask, console, output_option, socket_option, table

ATTRIBUTES = ("communities", "large_communities", "local_pref", "med", "prepend")


@click.command("explain", short_help="Say why a Service is announced from where it is, or not.")
@click.argument("service", metavar="[NAMESPACE/]SERVICE")
@output_option
@socket_option
def explain(*, service: str, output: str, socket: Path) -> None:
    """Say which address SERVICE has and why, which node answers for it and why, why each other node does not, and what
    to change if nobody does.

    Asks the running agent, which answers from memory: it works while the API is away. Any host will do; why a Service
    has no address is known to the allocator (`hostagent status` names it).

    \b
    Example:
        hostagent explain shop/web

    \b
    Exit codes:
        0  somebody answers for each address of the Service
        1  not so: no such Service, not ours, no address, or an address that nobody answers for
        3  the agent does not answer
    """  # noqa: D301 - \\b is click's mark for lines that are not to be filled
    account = ask(socket, "explain", service=service)
    if output == "json":
        click.echo(json.dumps(account, indent=2))
    else:
        show(account)
    answered = all((each["holder"] and each["holder_alive"]) or each["advertised"] for each in account["addresses"])
    raise SystemExit(0 if account["addresses"] and answered else 1)


def show(account: dict[str, Any]) -> None:
    """Print an account for people."""
    out = console()
    out.print(Text(f"Service {account['service']}, as {account['node']} sees it", style="bold"))
    if account["why_not_ours"]:
        out.print(f"hostagent leaves it alone: {account['why_not_ours']}")
        return
    if account["pending"]:
        out.print(Text(f"It has no address: {account['pending']}", style="yellow"))
    for address in account["addresses"]:
        _show_address(out, address)
    for fault in account["faults"] if account["pending"] or account["change"] else ():
        out.print(Text(f"set aside  {fault}", style="red"))
    for change in account["change"]:
        out.print(Text(f"change     {change}", style="yellow"))


def _show_address(out: Any, address: dict[str, Any]) -> None:
    out.print()
    out.print(Text(address["address"], style="bold"), f"from pool {address['pool'] or '(none)'}: {address['why']}")
    holder = address["holder"]
    if holder is None:
        out.print(Text(f"held by nobody: {address['why_holder']}", style="" if address["advertised"] else "red"))
    else:
        here = ", this host" if address["here"] else ""
        silent = "" if address["holder_alive"] else " (SILENT)"
        out.print(f"held by {holder}{here}{silent}: {address['why_holder']}")
    for each in address["advertised"]:
        said = [f"{name} {each[name]}" for name in ATTRIBUTES if each[name]]
        attributes = f" ({', '.join(said)})" if said else ""
        out.print(Text(f"advertised as {each['prefix']} by {each['node']} to {each['peer']}{attributes}"))
    for node, why in address["not_advertised"].items():
        out.print(Text(f"not advertised by {node}: {why}", style="dim"))
    for text in address["set_aside"]:
        out.print(Text(f"set aside: {text}", style="yellow"))
    if address["last_move"]:
        out.print(f"last move: {address['last_move']} (moves: {address['moves']})")
    if address["conflict"]:
        out.print(Text(f"CONFLICT: {address['conflict']} answers for it, too", style="red"))
    rows = table("Node", "Rank", "Interface", "Why, or why not", "What to change")
    for node in address["nodes"]:
        rank = str(node["rank"] or "-")
        rows.add_row(node["node"], rank, node["interface"] or "", node["why"], node["change"] or "")
    out.print(rows)
