"""Addresses that the cluster itself uses: a pool that holds some of them gives away the others."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field

from hostagent.model.cluster import AddressRange, Node, Pool
from hostagent.model.names import IP, Network


@dataclass(frozen=True, slots=True)
class Use:
    """Addresses in use, by what (one of `OVERLAPS`), and how that reads in a sentence."""

    kind: str
    addresses: AddressRange
    user: str


Reserved = tuple[Use, ...]


def reserved_by(nodes: Iterable[Node], service_networks: Iterable[Network]) -> Reserved:
    """What nodes, Pods and Services of the cluster use, as far as the API tells (`podCIDRs`, ServiceCIDRs)."""
    uses: list[Use] = []
    for node in sorted(nodes, key=lambda node: node.name):
        uses += (Use("nodes", AddressRange(ip, ip), f"Node {node.name}") for ip in node.addresses)
        uses += (_network("pods", each, f"the Pod network {each} of Node {node.name}") for each in node.pod_networks)
    uses += (_network("services", each, f"the Service network {each}") for each in service_networks)
    return tuple(uses)


def _network(kind: str, network: Network, user: str) -> Use:
    return Use(kind, AddressRange(network[0], network[-1]), user)


@dataclass(frozen=True, slots=True)
class Closed:
    """What of one pool is not given to anybody, as the cluster uses it."""

    uses: Reserved = ()
    _spans: list[tuple[int, int, int]] = field(default_factory=list)
    """Family, first and last address; sorted, and apart from each other."""

    def why(self, ip: IP) -> str:
        """Who uses the address; empty for one that may be given."""
        if self.end_of(ip) is None:
            return ""
        return next(use.user for use in self.uses if ip in use.addresses)

    def end_of(self, ip: IP) -> int | None:
        """The last of the closed addresses that begin with this one; None if it is open."""
        spot = (ip.version, int(ip))
        at = bisect.bisect_right(self._spans, (*spot, 1 << 128)) - 1
        if at < 0:
            return None
        version, _, last = self._spans[at]
        return last if version == spot[0] and spot[1] <= last else None


def closed_in(pool: Pool, reserved: Reserved) -> Closed:
    """What of the pool the cluster uses, less what its owner allows to be given all the same."""
    uses = tuple(use for use in reserved if use.kind not in pool.allow_overlap and _meets(pool, use.addresses))
    spans: list[tuple[int, int, int]] = []
    for version, first, last in sorted(_span(use.addresses) for use in uses):
        if spans and spans[-1][0] == version and first <= spans[-1][2] + 1:
            spans[-1] = (version, spans[-1][1], max(last, spans[-1][2]))
        else:
            spans.append((version, first, last))
    return Closed(uses, spans)


def _meets(pool: Pool, addresses: AddressRange) -> bool:
    return any(addresses.first in each or each.first in addresses for each in pool.ranges)


def _span(addresses: AddressRange) -> tuple[int, int, int]:
    return (addresses.first.version, int(addresses.first), int(addresses.last))
