"""Why a Service has the address that it has, who answers for it, and why each other node does not: in sentences.

Values in, an account out; `hostagent explain` and `hostagent simulate` print it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hostagent.core.advertised import Advertised, Routes
from hostagent.core.advertised import to_document as advertised_document
from hostagent.core.candidates import Placement, Ranking, Use, WhyNot
from hostagent.core.requests import RequestError, annotation, request_of
from hostagent.model.cluster import EXCLUDE_LABEL, ConfigSet, Pool, Service, TrafficPolicy
from hostagent.model.names import IP, InterfaceName, NodeName, ServiceKey

LOWEST = "it was the lowest that could be given"
TEXTS: Mapping[WhyNot, tuple[str, str]] = {
    WhyNot.NO_POOL: (
        "no IPAddressPool has the address",
        "put the address into a pool, or delete the Service's status so that it gets another",
    ),
    WhyNot.NO_ADVERTISEMENT: (
        "no L2Advertisement covers the pool and this Service",
        "add an L2Advertisement for the pool, or widen its serviceSelectors",
    ),
    WhyNot.NODE_SELECTOR: (
        "no L2Advertisement for this Service selects the node",
        "widen nodeSelectors, or label the node",
    ),
    WhyNot.NO_ENDPOINT: (
        "no endpoint of the Service serves",
        "make a Pod ready that the Service's selector selects: `kubectl get endpointslices`",
    ),
    WhyNot.NO_LOCAL_ENDPOINT: (
        "no endpoint serves on the node, and externalTrafficPolicy is Local",
        "run a ready Pod on the node, or use externalTrafficPolicy: Cluster",
    ),
    WhyNot.NO_AGENT: (
        "no agent lives there, or the Node is not known",
        "`systemctl status hostagent` on the host; its `node` must be the Node's name",
    ),
    WhyNot.DRAINING: ("it is being drained", "`hostagent undrain` on the host, or uncordon the Node"),
    WhyNot.EXCLUDED: ("its label says so", f"`kubectl label node NODE {EXCLUDE_LABEL}-`"),
    WhyNot.NETWORK_UNAVAILABLE: ("its condition NetworkUnavailable is true", "mend the node's network plugin"),
    WhyNot.NO_INTERFACE: (
        "none of its interfaces that are up and allowed has the address's subnet or the node's own address",
        "plug in the cable, or correct `interfaces` of the L2Advertisement",
    ),
}
"""For each reason: what it means, and what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAccount:
    """One node and one address."""

    node: NodeName
    rank: int | None
    """1 is the best candidate; None: no candidate."""
    weight: int = 0
    interface: InterfaceName | None = None
    reason: str = ""
    """The rule's word where it is no candidate: `draining`."""
    why: str
    change: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressAccount:
    """One address of a Service."""

    address: IP
    pool: str
    why: str
    shared_with: tuple[ServiceKey, ...]
    holder: NodeName | None
    why_holder: str
    nodes: tuple[NodeAccount, ...]
    """Candidates first, by rank; then the others by name."""
    advertised: tuple[Advertised, ...] = ()
    """Over BGP: by whom, to whom, with which attributes."""
    not_advertised: Mapping[NodeName, str] = field(default_factory=dict)
    """Nodes that do not, and why; empty where nothing is advertised over BGP at all."""
    set_aside: tuple[str, ...] = ()
    """BGPAdvertisements that do not count for it, as they contradict others; in sentences."""

    @property
    def announced(self) -> bool:
        """Somebody holds it, or advertises it."""
        return self.holder is not None or bool(self.advertised)

    @property
    def changes(self) -> tuple[str, ...]:
        """What would make somebody answer; empty when somebody does or may."""
        if self.announced or any(node.rank for node in self.nodes):
            return ()
        return tuple(dict.fromkeys(node.change for node in self.nodes if node.change))


def to_document(account: AddressAccount) -> dict[str, Any]:
    """The same as JSON has it: docs/simulate.md and docs/operate.md describe the fields."""
    return {
        "address": str(account.address),
        "pool": account.pool or None,
        "why": account.why,
        "shared_with": [str(key) for key in account.shared_with],
        "holder": account.holder,
        "why_holder": account.why_holder,
        "nodes": [
            {
                "node": node.node,
                "rank": node.rank,
                "weight": node.weight,
                "interface": node.interface,
                "reason": node.reason or None,
                "why": node.why,
                "change": node.change or None,
            }
            for node in account.nodes
        ],
        "advertised": [advertised_document(each) for each in account.advertised],
        "not_advertised": dict(account.not_advertised),
        "set_aside": list(account.set_aside),
        "change": list(account.changes),
    }


def not_ours(service: Service, load_balancer_class: str | None) -> str:
    """Why hostagent leaves the Service alone; empty if it does not."""
    if service.deleted:
        return "it is being deleted"
    if service.type != "LoadBalancer":
        return f"its type is {service.type}: only LoadBalancer Services get addresses"
    if service.load_balancer_class != load_balancer_class:
        wanted = load_balancer_class or "none"
        return f"its loadBalancerClass is {service.load_balancer_class or 'not set'}, and ours is {wanted}"
    return ""


def account_for(
    service: Service,
    address: IP,
    *,
    uses: Sequence[Use],
    config: ConfigSet,
    placement: Placement,
    holder: NodeName | None,
    routes: Routes,
) -> AddressAccount:
    """Account for one address of a Service. `uses` are all Services on it, this one included."""
    pool = config.pool_of(address)
    shared = tuple(use.service.key for use in uses if use.service.key != service.key)
    together = placement.rank(address, uses)
    alone = placement.rank(address, [use for use in uses if use.service.key == service.key])
    return AddressAccount(
        address=address,
        pool=pool.name if pool else "",
        why=_why_address(service, address, pool, shared),
        shared_with=shared,
        holder=holder,
        why_holder=why_holder(together, holder),
        nodes=tuple(_nodes(together, alone, service)),
        advertised=routes.of(address),
        not_advertised=routes.why_not(address),
        set_aside=routes.set_aside.get(address, ()),
    )


def _why_address(service: Service, address: IP, pool: Pool | None, shared: Iterable[ServiceKey]) -> str:
    if pool is None:
        return "no pool has it any more: it was given by another configuration, or by somebody else"
    try:
        request = request_of(service)
    except RequestError as fault:
        why = f"it was given before; what the Service asks for now cannot be followed: {fault}"
        return why + _sharing(service, shared)
    if address in request.addresses:
        where = "spec.loadBalancerIP" if service.load_balancer_ip else "annotation loadBalancerIPs"
        why = f"the Service asks for it ({where})"
    elif request.pool:
        why = (
            f"the Service asks for pool {request.pool} (annotation address-pool); it was the lowest that could be given"
        )
    elif pool.allocation is not None:
        terms = pool.allocation
        priority = f", priority {terms.priority}" if terms.priority else ""
        why = (
            f"pool {pool.name} is for this Service (serviceAllocation{priority}); it was the lowest that could be given"
        )
    else:
        why = f"{LOWEST} in pool {pool.name}, the first common pool by name that had one"
    return f"{why}; it stays with the Service for as long as the pool has it" + _sharing(service, shared)


def _sharing(service: Service, shared: Iterable[ServiceKey]) -> str:
    others = ", ".join(map(str, shared))
    return f"; shared with {others} (allow-shared-ip: {annotation(service, 'allow-shared-ip')})" if others else ""


def why_holder(ranking: Ranking, holder: NodeName | None) -> str:
    """Why this node holds the address, or nobody does."""
    ranked = [candidate.node for candidate in ranking.ranked]
    if holder is None:
        return f"nobody yet: {ranked[0]} is to take it" if ranked else "nobody may answer for it"
    if holder not in ranked:
        reason = ranking.excluded.get(holder, WhyNot.NO_AGENT)
        return f"it had it, is no candidate now ({reason}), and " + (
            f"{ranked[0]} is to take over" if ranked else "there is nobody to take over"
        )
    place = ranked.index(holder) + 1
    if place == 1:
        best = ranking.ranked[0]
        cause = f"preferred, weight {best.weight}" if best.weight else "lowest hash of node and address"
        return f"the best of {len(ranked)} candidates ({cause})" if len(ranked) > 1 else "the only candidate"
    return (
        f"it had it already ({_nth(place)} of {len(ranked)} candidates): an address stays where it is until its holder "
        f"fails, is drained, or an advertisement prefers another; `hostagent rebalance` moves it to {ranked[0]}"
    )


def _nodes(together: Ranking, alone: Ranking, service: Service) -> Iterable[NodeAccount]:
    for rank, candidate in enumerate(together.ranked, start=1):
        order = f"preference weight {candidate.weight}" if candidate.weight else "by hash of node and address"
        yield NodeAccount(
            node=candidate.node,
            rank=rank,
            weight=candidate.weight,
            interface=candidate.interface,
            why=f"candidate, {_nth(rank)} {order}",
        )
    ranked = {candidate.node for candidate in together.ranked}
    for node in sorted((together.excluded.keys() | alone.excluded.keys() | {c.node for c in alone.ranked}) - ranked):
        reason = alone.excluded.get(node)
        if reason is None:  # this Service could be served there, one that shares its address could not
            yield NodeAccount(
                node=node,
                rank=None,
                reason="shared-address",
                why="another Service on the same address cannot be served there",
                change="give the Services addresses of their own, or run the other's Pods there too",
            )
            continue
        why, change = TEXTS[reason]
        if reason is WhyNot.NO_ENDPOINT and service.traffic_policy is TrafficPolicy.LOCAL:
            change = f"{change}; with externalTrafficPolicy: Local on each node that shall answer"
        yield NodeAccount(node=node, rank=None, reason=reason.value, why=why, change=change.replace("NODE", node))


def _nth(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 <= number % 100 <= 20 else endings.get(number % 10, 'th')}"
