"""`hostagent who-has`: ask the segment, not the agents, who answers for the VIPs."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from hostagent.cli.client import AgentError, NotPermittedError, ask, console, output_option, socket_option, table
from hostagent.edges.neighbors.socket import PacketSockets
from hostagent.model.errors import EdgeError
from hostagent.model.host import Heard
from hostagent.model.names import IP, InterfaceName, Mac

QUESTIONS = 3
"""Asked so often, evenly spread over the time: a frame may be lost."""
Parse = Callable[[bytes, InterfaceName], Heard | None]
_STYLES = {"right": "green", "here": "green", "free": "", "elsewhere": ""}


class Answered(StrEnum):
    """What the segment says of a VIP, held against its claim."""

    RIGHT = "right"
    """By its holder, once."""
    HERE = "here"
    """This host holds it, and nobody else answers; that this host does, others can hear."""
    FREE = "free"
    """By nobody, and no claim names a holder."""
    ELSEWHERE = "elsewhere"
    """By nobody, and its holder is on no segment of this host."""
    NOBODY = "nobody"
    TWICE = "twice"
    OTHER = "other"
    """By one machine, and not by its holder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    vip: str
    holder: str | None
    answered: Answered
    by: tuple[str, ...]
    """Who answered: node and MAC, or the MAC alone of a machine that is no host of ours."""

    @property
    def as_it_should(self) -> bool:
        return self.answered in (Answered.RIGHT, Answered.HERE, Answered.FREE, Answered.ELSEWHERE)


@click.command("who-has", short_help="Ask the segment who answers for VIPs; are they the right ones?")
@click.argument("vips", metavar="[VIP]...", nargs=-1)
@click.option(
    "--wait",
    "wait_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1, max=60),
    default=1.0,
    show_default=True,
    help="How long to listen for answers.",
)
@output_option
@socket_option
def who_has(*, vips: tuple[str, ...], wait_s: float, output: str, socket: Path) -> None:
    """Ask with ARP and NDP who has each VIP (all, unless some are named), and hold the answers against the claims.

    The questions are probes: they change nobody's neighbour table. A host does not hear itself, so its own VIPs are
    only checked for others who answer; ask from two hosts to check all. Needs root.

    \b
    What is said of each VIP:
        right      one machine answers, the claim's holder
        here       this host holds it, no other machine answers
        free       nobody answers, and no claim names a holder
        elsewhere  nobody answers, and the holder shares no segment with this host
        nobody     nobody answers, though the claim names a holder on this segment
        twice      two machines answer, or more
        other      one machine answers, and it is not the holder

    \b
    Exit codes:
        0  right, here, free or elsewhere, each of them
        1  any of the others
        3  the agent does not answer
        4  only root may ask the segment
    """  # noqa: D301 - \\b is click's mark for lines that are not to be filled
    document = ask(socket, "status")
    known = {vip["vip"]: vip for vip in document["vips"]}
    wanted = [_canonical(vip, known) for vip in vips] or list(known)
    interfaces: dict[str, str] = next(
        (host["macs"] for host in document["hosts"] if host["node"] == document["node"]), {}
    )
    try:
        heard = asyncio.run(_heard([ipaddress.ip_address(vip) for vip in wanted], interfaces, wait_s))
    except EdgeError as exc:
        if exc.status == errno.EPERM:
            raise NotPermittedError(f"only root may ask the segment: {exc}") from exc
        raise AgentError(str(exc)) from exc
    names = {mac: host["node"] for host in document["hosts"] for mac in host["macs"].values()}
    findings = [judged(known[vip], document["node"], heard.get(vip, ()), names) for vip in wanted]
    if output == "json":
        click.echo(json.dumps([_document(each) for each in findings], indent=2))
    else:
        _show(findings)
    if not all(each.as_it_should for each in findings):
        raise SystemExit(AgentError.exit_code)


def judged(vip: Mapping[str, Any], node: str, macs: Sequence[str], names: Mapping[str, str]) -> Finding:
    """Hold the MACs that answered for a VIP (one of `vips` of the status) against whom its claim names.

    `names` says which node each MAC of a host of ours belongs to.
    """
    holder, own = vip["holder"], vip["here"]
    others = [mac for mac in macs if not (own and names.get(mac) == node)]
    if len(others) > 1 or (others and own):
        answered = Answered.TWICE
    elif own:
        answered = Answered.HERE
    elif not others and holder is None:
        answered = Answered.FREE
    elif not others:
        answered = Answered.NOBODY if vip["heard_on"] else Answered.ELSEWHERE
    else:
        answered = Answered.RIGHT if holder is not None and names.get(others[0]) == holder else Answered.OTHER
    by = tuple(f"{names[mac]} {mac}" if mac in names else mac for mac in others)
    return Finding(vip=vip["vip"], holder=holder, answered=answered, by=by)


async def _heard(vips: Sequence[IP], interfaces: Mapping[str, str], wait_s: float) -> dict[str, tuple[str, ...]]:
    """Address → MACs that answered for it, on any of this host's interfaces. Raises EdgeError."""
    from hostagent.edges.neighbors import diagnosis  # noqa: PLC0415  # half a second, which other commands need not wait

    macs: dict[str, dict[str, None]] = {str(vip): {} for vip in vips}
    opened: dict[PacketSockets, list[bytes]] = {}
    try:
        for name, mac in interfaces.items():
            questions = [diagnosis.probe(vip, Mac(mac)) for vip in vips]
            opened[PacketSockets.open(InterfaceName(name), Mac(mac))] = questions
        for sockets in opened:
            sockets.listen(_listener(sockets, macs, diagnosis.parse))
        for _ in range(QUESTIONS):
            for sockets, questions in opened.items():
                await _ask_all(sockets, questions)
            await asyncio.sleep(wait_s / QUESTIONS)
    finally:
        for sockets in opened:
            sockets.close()
    return {vip: tuple(found) for vip, found in macs.items()}


def _listener(sockets: PacketSockets, macs: dict[str, dict[str, None]], parse: Parse) -> Any:
    def take(frame: bytes) -> None:
        heard = parse(frame, sockets.interface)
        if heard is not None and str(heard.ip) in macs:
            macs[str(heard.ip)][heard.mac] = None

    return take


async def _ask_all(sockets: PacketSockets, questions: Sequence[bytes]) -> None:
    """Raises EdgeError when the interface is down."""
    for number, question in enumerate(questions):
        try:
            sockets.send(question)
        except OSError as exc:
            raise EdgeError("who-has.ask", sockets.interface, exc.strerror or str(exc), status=exc.errno) from exc
        if number % 64 == 63:
            await asyncio.sleep(0)  # answers come in meanwhile


def _canonical(text: str, known: Mapping[str, Any]) -> str:
    try:
        vip = str(ipaddress.ip_address(text))
    except ValueError as exc:
        raise click.BadParameter(f"{text} is not an IP address") from exc
    if vip not in known:
        raise click.BadParameter(f"{vip} is no VIP: no Service has it. `hostagent status` lists them")
    return vip


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "vip": finding.vip,
        "holder": finding.holder,
        "answered": finding.answered.value,
        "by": list(finding.by),
        "ok": finding.as_it_should,
    }


def _show(findings: Sequence[Finding]) -> None:
    rows = table("VIP", "Holder", "Answered", "By")
    for each in findings:
        style = _STYLES.get(each.answered.value, "red")
        rows.add_row(each.vip, each.holder or "-", Text(each.answered.value, style=style), ", ".join(each.by))
    console().print(rows if findings else "No Service has an address.")
