"""Asks the segment who uses addresses that nobody should use, and remembers which are in use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from hostagent.agent.clock import now
from hostagent.edges.neighbors import Neighbors
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName
from hostagent.model.ownership import Segment
from hostagent.telemetry.journal import warn

ASK_TIMEOUT_S = 3.0
"""Three rounds take 0.12 s, for a thousand addresses 0.3 s; one who cannot send gives up after another second."""
SET_ASIDE_S = 600.0
"""After so long an address that a stranger had may be tried again: machines go, and DHCP leases end."""
ASK_AGAIN_S = 30.0
"""How often a stranger is asked about while a Service waits for just his address."""
LEFTOVER_S = 5.0
"""Our hosts take off what no Service has within a fraction of a second; what one still answers for after this, its
agent does not know of: it hangs, or somebody put the address there by hand."""

Ask = Callable[[Sequence[IP]], Awaitable[Mapping[IP, Mac | None]]]
"""Who answers for each address on the segments of this host. An address of another segment is not in the answer."""


class Finding(StrEnum):
    """What asking about an address came to."""

    FREE = "free"
    UNKNOWN = "unknown"
    """Nobody could be asked: its segment is not one of this host's, or cannot be reached at the moment."""
    LEFTOVER = "leftover"
    """One of our hosts still answers, for a Service that has just gone."""
    TAKEN = "taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An address that a machine answers for which should not."""

    mac: Mac
    node: NodeName | None
    """The host of ours that has this MAC; None: a stranger."""
    since: Instant
    asked_at: Instant

    @property
    def user(self) -> str:
        return f"{self.mac} ({f'an interface of {self.node}' if self.node else 'no host of ours'})"


class Survey:
    """What the segment said of addresses that no Service has."""

    def __init__(self, ask: Ask, node_of: Callable[[Mac], NodeName | None]) -> None:
        """`node_of` names the host of ours that has a MAC."""
        self.set_aside: dict[IP, SetAside] = {}
        self._ask = ask
        self._node_of = node_of
        self._leftovers: dict[IP, tuple[Instant, Instant]] = {}
        """First and last time that one of our hosts answered for the address."""

    async def ask(self, ips: Collection[IP]) -> dict[IP, Finding]:
        """Ask about all of these at once; 0.12 s. What is taken is in `set_aside` afterwards, and what is free is not.

        Silence and failure permit: the host that is to answer for an address asks once more before it does.
        """
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                answers = await self._ask(sorted(ips, key=lambda ip: (ip.version, int(ip))))
        except (EdgeError, TimeoutError) as error:
            cause = str(error) or f"no result within {ASK_TIMEOUT_S:g} s"
            warn("pool.not-asked", f"cannot ask who uses {len(ips)} addresses before they are given: {cause}")
            return dict.fromkeys(ips, Finding.UNKNOWN)
        at = now()
        return {ip: self._judge(ip, answers[ip], at) if ip in answers else Finding.UNKNOWN for ip in ips}

    def lapsed(self, at: Instant) -> list[IP]:
        """Set aside so long ago that they may be tried again."""
        return [ip for ip, entry in self.set_aside.items() if at >= entry.asked_at + SET_ASIDE_S]

    def ask_again_at(self, ips: Iterable[IP]) -> Instant:
        """When to ask again about addresses that are set aside while a Service waits for them."""
        return Instant(min(self.set_aside[ip].asked_at for ip in ips) + ASK_AGAIN_S)

    def _judge(self, ip: IP, mac: Mac | None, at: Instant) -> Finding:
        if mac is None:
            self._leftovers.pop(ip, None)
            self.set_aside.pop(ip, None)
            return Finding.FREE
        node = self._node_of(mac)
        if node is not None and ip not in self.set_aside and self._may_pass(ip, at):
            return Finding.LEFTOVER
        entry = SetAside(mac=mac, node=node, since=at, asked_at=at)
        before = self.set_aside.get(ip)
        self.set_aside[ip] = replace(entry, since=before.since) if before and before.mac == mac else entry
        return Finding.TAKEN

    def _may_pass(self, ip: IP, at: Instant) -> bool:
        first, last = self._leftovers.get(ip, (at, at))
        if at - last > LEFTOVER_S:  # that was another time
            first = at
        self._leftovers[ip] = (first, at)
        return at - first < LEFTOVER_S


async def ask_segments(ips: Iterable[IP], *, neighbors: Neighbors, segments: Iterable[Segment]) -> dict[IP, Mac | None]:
    """Ask about each address on the interface that has its subnet, on all interfaces at once; see `Ask`.

    Raises:
        EdgeError: an interface is not open, went down, or does not take the questions.
    """
    by_interface: dict[InterfaceName, list[IP]] = {}
    here = tuple(segments)
    for ip in ips:
        on_link = (s.interface for s in here if any(ip in own.network for own in s.subnets))
        interface = next(on_link, None)
        if interface is not None:
            by_interface.setdefault(interface, []).append(ip)
    probes = (neighbors.probe(asked, interface) for interface, asked in by_interface.items())
    return {ip: mac for answers in await asyncio.gather(*probes) for ip, mac in answers.items()}
