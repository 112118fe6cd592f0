"""What Kubernetes Events say of announcements. The reasons that MetalLB has are MetalLB's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from hostagent.core.candidates import WhyNot
from hostagent.model.names import IP, Network, NodeName

PROTOCOL_L2 = "layer2"
PROTOCOL_BGP = "bgp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """An Event without the object that it is about."""

    reason: str
    message: str
    warning: bool = False


def announced(vip: IP | Network, node: NodeName, protocol: str = PROTOCOL_L2) -> Telling:
    return Telling(reason="nodeAssigned", message=f'announcing {vip} from node "{node}" with protocol "{protocol}"')


def withdrawn(
    vip: IP | Network, node: NodeName, why: str, *, heir: NodeName | None, protocol: str = PROTOCOL_L2
) -> Telling:
    """A node no longer announces; with no heir nobody does, which is worth a warning."""
    goes_on = "takes over" if protocol == PROTOCOL_L2 else "goes on"
    after = f'; "{heir}" {goes_on}' if heir is not None else ""
    return Telling(
        reason="nodeWithdrawn",
        message=f'no longer announcing {vip} from node "{node}" with protocol "{protocol}": {why}{after}',
        warning=heir is None,
    )


def peer_changed(of: str, node: NodeName, what: str, *, good: bool) -> Telling:
    """The session of a node with a router, or its BFD, came up or went down."""
    return Telling(reason=f"{of}{'Up' if good else 'Down'}", message=f"{node}: {what}", warning=not good)


def unannounced(vip: IP, excluded: Mapping[NodeName, WhyNot]) -> Telling:
    """A Service has an address, and no node may announce it."""
    counts = Counter(excluded.values())
    reasons = ", ".join(f"{why} ({count})" for why, count in sorted(counts.items()))
    return Telling(
        reason="announceFailed",
        message=f"no node may announce {vip}: {reasons or 'no node is known'}",
        warning=True,
    )
