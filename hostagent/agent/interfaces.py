"""Which of this host's interfaces could carry a VIP."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hostagent.model.host import Link
from hostagent.model.ownership import Segment

VIRTUAL = re.compile(
    r"^(lo|docker.*|cbr.*|dummy.*|virbr.*|lxcbr.*|veth.*|cali.*|tunl.*|flannel.*|kube-ipvs.*|cni.*|nodelocaldns.*|lxc.*)$"
)
"""Interfaces of container networks: MetalLB's own exclusions, so that a migrated host announces where it did."""


def segments_of(links: Iterable[Link]) -> tuple[Segment, ...]:
    """The interfaces that others may count on: up, with carrier, with an address of their own, nobody's member."""
    return tuple(
        Segment(interface=link.name, mac=link.mac, subnets=tuple(sorted(link.addresses, key=str)))
        for link in sorted(links, key=lambda link: link.name)
        if link.up and link.addresses and link.mac and not (link.enslaved or link.loopback)
        if not VIRTUAL.match(link.name)
    )
