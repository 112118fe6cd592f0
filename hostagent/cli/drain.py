"""`hostagent drain` and `undrain`: empty this host before work on it, and take VIPs again after."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from hostagent.cli.client import AgentError, ask, console, output_option, socket_option, table

POLL_S = 0.1
SETTLE_S = 2.0
"""What is stuck for so long stays: a host that is about to become a candidate has had its chance."""
ASKED_AT_ONCE = 200
"""VIPs named in one question: its length is bounded."""

Place = dict[str, Any]
"""One of `vips` in the answer to `where`."""


@click.command("drain", short_help="Hand this host's VIPs over, and take none until undrain.")
@click.option("--wait", is_flag=True, help="Come back when nothing is held or advertised, or nothing more can leave.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="How long to wait at most.",
)
@output_option
@socket_option
def drain(*, wait: bool, timeout_s: float, output: str, socket: Path) -> None:
    """Hand all VIPs of this host over to others, and take none until `hostagent undrain`.

    Prefixes that it advertises by BGP carry GRACEFUL_SHUTDOWN (RFC 8326) for a while, so that routers turn to other
    hosts, and are withdrawn then.

    Each successor answers before this host lets go: no connection is cut. The agent goes on running, and stays drained
    through restarts, upgrades and reboots. A VIP that no other host may answer for stays here, and leaves as soon as
    one may. Draining a host that drains already changes nothing, and may be used to wait.

    \b
    Before work on a host:
        hostagent drain --wait && reboot
    and after it:
        hostagent undrain

    \b
    Exit codes:
        0  done; without --wait: begun
        1  VIPs are left here: no other host may answer for them, or there was no time; they are listed
        3  the agent does not answer
        4  only root and the agent's own user may ask for this
    """  # noqa: D301 - \\b is click's mark for lines that are not to be filled
    begun = ask(socket, "drain")
    moved: list[Place] = []
    left: list[Place] = begun["vips"]
    prefixes: int = begun.get("prefixes", 0)  # an agent of an older version advertises none
    if wait:
        with _told(console(), quiet=output == "json") as tell:
            moved, left, prefixes = _wait(socket, left, prefixes, timeout_s, tell)
    if output == "json":
        click.echo(json.dumps(_document(begun, moved, left, prefixes), indent=2))
    else:
        _conclude(begun, moved, left, prefixes, waited=wait)
    if wait and (left or prefixes):
        raise SystemExit(AgentError.exit_code)


@click.command("undrain", short_help="Let this host take VIPs again.")
@socket_option
def undrain(socket: Path) -> None:
    """Let this host take VIPs again, after `hostagent drain`.

    None comes back at once: a VIP stays where it is until that host fails or is drained, or an advertisement prefers
    this one. `hostagent rebalance` evens out.

    \b
    Exit codes:
        0  done, or it was not drained
        1  the host still drains, as its Node is cordoned and on_cordon is "drain"
        3  the agent does not answer
        4  only root and the agent's own user may ask for this
    """  # noqa: D301 - \\b is click's mark for lines that are not to be filled
    answer = ask(socket, "undrain")
    node, why = answer["node"], answer["why_draining"]
    if why:
        raise AgentError(
            f"nobody asks {node} to drain any more, but it still drains: {why}\nTo end that: kubectl uncordon {node}"
        )
    click.echo(f"{node} takes VIPs again")


def _wait(
    socket: Path, here: list[Place], prefixes: int, timeout_s: float, tell: Callable[[list[Place], int], None]
) -> tuple[list[Place], list[Place], int]:
    """Until nothing is here, or nothing more can leave, or time is up: what has left, what has not, and the number of
    prefixes that are still advertised.
    """
    deadline = time.monotonic() + timeout_s
    moved: list[Place] = []
    stuck_since: float | None = None
    while (here or prefixes) and time.monotonic() < deadline:
        if prefixes or not all(place["stuck"] for place in here):
            stuck_since = None
        elif stuck_since is None:
            stuck_since = time.monotonic()
        elif time.monotonic() - stuck_since >= SETTLE_S:
            break
        time.sleep(POLL_S)
        answer = ask(socket, "where")
        if not answer["why_draining"]:
            raise AgentError("somebody ended the drain meanwhile: hostagent undrain")
        still = {place["vip"] for place in answer["vips"]}
        gone = [place["vip"] for place in here if place["vip"] not in still]
        left = _places(socket, gone)
        moved += left
        here, prefixes = answer["vips"], answer.get("prefixes", 0)
        tell(left, len(here))
    return moved, here, prefixes


def _places(socket: Path, vips: list[str]) -> list[Place]:
    portions = [vips[at : at + ASKED_AT_ONCE] for at in range(0, len(vips), ASKED_AT_ONCE)]
    return [place for portion in portions for place in ask(socket, "where", vips=portion)["vips"]]


@contextmanager
def _told(out: Console, *, quiet: bool) -> Iterator[Callable[[list[Place], int], None]]:
    """Tells of each VIP that left in a line of its own; on a terminal also how many are to go."""
    if quiet:
        yield lambda _left, _count: None
        return
    live = out.status("handing over") if out.is_terminal else None

    def tell(left: list[Place], count: int) -> None:
        for place in left:
            out.print(f"{place['vip']} is held by {place['holder'] or 'nobody'}")
        if live is not None:
            live.update(f"{count} to go")

    if live is None:
        yield tell
        return
    with live:
        yield tell


def _document(begun: dict[str, Any], moved: list[Place], left: list[Place], prefixes: int) -> dict[str, Any]:
    return {
        "node": begun["node"],
        "draining": begun["why_draining"],
        "drained": not left and not prefixes,
        "moved": [{"vip": place["vip"], "holder": place["holder"]} for place in moved],
        "prefixes": prefixes,
        "left": [{key: place[key] for key in ("vip", "why", "stuck", "excluded")} for place in left],
    }


def _conclude(begun: dict[str, Any], moved: list[Place], left: list[Place], prefixes: int, *, waited: bool) -> None:
    node = begun["node"]
    if prefixes and waited:
        click.echo(f"{node} still advertises {prefixes} prefixes by BGP: there was no time, or see `hostagent status`")
        if not left:
            return
    if not left and not prefixes:
        click.echo(f"{node} is drained: {len(moved)} VIPs moved, none is left. To end it: hostagent undrain")
        return
    if not waited:
        by_bgp = f" and {prefixes} prefixes to withdraw" if prefixes else ""
        click.echo(f"{node} drains: {len(left)} VIPs to hand over{by_bgp}. To wait for that: hostagent drain --wait")
        return
    rows = table("VIP", "Why it is still here")
    for place in left:
        rows.add_row(place["vip"], Text(_why_here(place, node), style="yellow"))
    console().print(rows)
    click.echo(
        f"{node} still holds {len(left)} VIPs. Each leaves by itself as soon as another host may answer for it;\n"
        "see the reasons above. `systemctl stop hostagent` drops what is left, with nobody to answer for it."
    )


def _why_here(place: Place, node: str) -> str:
    if not place["stuck"]:
        return f"there was no time: {place['why']}"
    others = ", ".join(f"{other}: {why}" for other, why in place["excluded"].items() if other != node)
    return f"no other host may answer for it ({others or 'no other lives'})"
