"""Which of this host's interfaces could carry a VIP."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from hostagent.model.host import Link
from hostagent.model.names import Instant, InterfaceName
from hostagent.model.ownership import Segment

VIRTUAL = re.compile(
    r"^(lo|docker.*|cbr.*|dummy.*|virbr.*|lxcbr.*|veth.*|cali.*|tunl.*|flannel.*|kube-ipvs.*|cni.*|nodelocaldns.*|lxc.*)$"
)
"""Interfaces of container networks: MetalLB's own exclusions, so that a migrated host announces where it did."""

READDRESSED_S = 1.0
"""For how long an interface that keeps its carrier may lack addresses of its own before others are told.

NetworkManager takes all of them off for some 50 ms when it activates a connection anew: nothing to hand VIPs over for.
"""


def segments_of(links: Iterable[Link]) -> tuple[Segment, ...]:
    """The interfaces that others may count on: up, with carrier, with an address of their own, nobody's member."""
    return tuple(
        Segment(interface=link.name, mac=link.mac, subnets=tuple(sorted(link.addresses, key=str)))
        for link in sorted(links, key=lambda link: link.name)
        if link.up and link.addresses and link.mac and not (link.enslaved or link.loopback)
        if not VIRTUAL.match(link.name)
    )


class Settling:
    """What others are told about this host's interfaces: all changes at once, but not what is over in a moment."""

    def __init__(self) -> None:
        self._told: dict[InterfaceName, Segment] = {}
        self._lacking_since: dict[InterfaceName, Instant] = {}

    @property
    def lacking(self) -> frozenset[InterfaceName]:
        """Where something is gone that others still count on: look again."""
        return frozenset(self._lacking_since)

    def settle(self, links: Iterable[Link], now: Instant) -> tuple[Segment, ...]:
        """The interfaces as others may count on them.

        A subnet that is gone from an interface with carrier stays among them for `READDRESSED_S`.
        """
        links = tuple(links)
        found = {segment.interface: segment for segment in segments_of(links)}
        for link in links:
            told, new = self._told.get(link.name), found.get(link.name)
            lost = set(told.subnets) - set(new.subnets if new else ()) if told and link.mac == told.mac else set()
            if not told or not lost or not link.up or link.enslaved:
                self._lacking_since.pop(link.name, None)
            elif now < self._lacking_since.setdefault(link.name, now) + READDRESSED_S:
                kept = lost | set(new.subnets if new else ())
                found[link.name] = replace(told, subnets=tuple(sorted(kept, key=str)))
            else:
                del self._lacking_since[link.name]
        for gone in self._lacking_since.keys() - {link.name for link in links}:
            del self._lacking_since[gone]
        self._told = found
        return tuple(found[name] for name in sorted(found))
