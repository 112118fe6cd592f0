"""`hostagent move` and `rebalance`: put VIPs where an operator, or the ranking, wants them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from hostagent.cli.client import AgentError, ask, console, output_option, socket_option, table

POLL_S = 0.1


@click.command("move", short_help="Hand a VIP of this host over to another.")
@click.argument("vip")
@click.argument("node")
@click.option("--wait", is_flag=True, help="Come back when NODE holds the VIP and this host has let go of it.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="How long to wait at most.",
)
@socket_option
def move(*, vip: str, node: str, wait: bool, timeout_s: float, socket: Path) -> None:
    """Hand the address VIP, which this host holds, over to NODE.

    NODE answers before this host lets go. It keeps the VIP, as whoever holds one does: until it fails, is drained, or
    an advertisement prefers another. Run this on the host that holds the VIP; `hostagent status` tells which one that
    is, and which nodes are candidates.

    \b
    Example:
        hostagent move 198.51.100.64 h2 --wait

    \b
    Exit codes:
        0  done; without --wait: begun
        1  refused: no such VIP, NODE may not answer for it, another host holds it; or it was not done in time
        3  the agent does not answer
        4  only root and the agent's own user may ask for this
    """  # noqa: D301 - \\b is click's mark for lines that are not to be filled
    [place] = ask(socket, "move", vip=vip, node=node)["vips"]
    if not wait:
        click.echo(f"{vip} is being handed over to {node}")
        return
    deadline = time.monotonic() + timeout_s
    while place["holder"] != node or place["here"]:
        if time.monotonic() >= deadline:
            where = f"held by {place['holder'] or 'nobody'}" + (" and answered here" if place["here"] else "")
            raise AgentError(f"{vip} is not on {node} after {timeout_s:g} s: {where} ({place['why']})")
        time.sleep(POLL_S)
        [place] = ask(socket, "where", vips=[vip])["vips"]
    click.echo(f"{vip} is held by {node}")


@click.command("rebalance", short_help="Hand over VIPs that are better placed elsewhere.")
@click.option("--dry-run", is_flag=True, help="Only show the plan. Everybody may.")
@output_option
@socket_option
def rebalance(*, dry_run: bool, output: str, socket: Path) -> None:
    """Hand over those VIPs of this host that are better placed on another.

    Ownership is sticky: after a host has failed and come back, others still hold what it had. This undoes that. The
    best place is the first living candidate of the ranking, which spreads VIPs evenly. The plan shown is for the whole
    cluster; each host does its own part, so run this on every host that is named as a holder.

    \b
    Example:
        hostagent rebalance --dry-run
        ansible hostagent -b -a '/opt/hostagent/venv/bin/hostagent rebalance'

    \b
    Exit codes:
        0  done, or nothing to do
        3  the agent does not answer
        4  only root and the agent's own user may ask for this
    """  # noqa: D301 - \\b is click's mark for lines that are not to be filled
    plan = ask(socket, "plan" if dry_run else "rebalance")
    if output == "json":
        click.echo(json.dumps({**plan, "dry_run": dry_run}, indent=2))
    else:
        _show(plan, dry_run=dry_run)


def _show(plan: dict[str, Any], *, dry_run: bool) -> None:
    moves = plan["moves"]
    if not moves:
        click.echo("every VIP is where it is best placed")
        return
    rows = table("VIP", "Held by", "Better on", "Who hands it over")
    for each in moves:
        who = Text("this host", style="green") if each["here"] else Text(f"rebalance on {each['holder']}")
        rows.add_row(each["vip"], each["holder"], each["to"], who)
    console().print(rows)
    ours = sum(each["here"] for each in moves)
    verb = "would be" if dry_run else "are being"
    elsewhere = sorted({each["holder"] for each in moves if not each["here"]})
    click.echo(f"{ours} of {len(moves)} {verb} handed over by this host")
    if elsewhere:
        click.echo(f"For the others run this on {', '.join(elsewhere)}")
