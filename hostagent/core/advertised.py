"""Who advertises an address over BGP, to whom and with which attributes: every node's own plan, side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hostagent.core.advertise import Leaving, Plan, WhyNot, peers_here
from hostagent.core.candidates import Use
from hostagent.model.bgp import Grant
from hostagent.model.cluster import ConfigSet, Node
from hostagent.model.names import IP, Network, NodeName

WHY: Mapping[WhyNot, str] = {
    WhyNot.NO_POOL: "no IPAddressPool has the address",
    WhyNot.NO_ADVERTISEMENT: "no BGPAdvertisement covers the pool and this Service",
    WhyNot.NODE_SELECTOR: "no BGPAdvertisement for this Service selects the node",
    WhyNot.NO_PEER: "no BGPPeer that the advertisement is for selects the node",
    WhyNot.NO_ENDPOINT: "no endpoint of the Service serves",
    WhyNot.NO_LOCAL_ENDPOINT: "no endpoint serves on the node, and externalTrafficPolicy is Local",
    WhyNot.NO_NODE: "the Node is not known",
    WhyNot.DRAINING: "it is being drained",
    WhyNot.EXCLUDED: "its label says so",
    WhyNot.NETWORK_UNAVAILABLE: "its condition NetworkUnavailable is true",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertised:
    """One prefix, from one node to one peer."""

    node: NodeName
    peer: str
    prefix: Network
    grant: Grant
    """With which attributes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """What all nodes advertise of some addresses."""

    advertised: Mapping[IP, tuple[Advertised, ...]]
    excluded: Mapping[IP, Mapping[NodeName, WhyNot]]
    """Nodes that do not, and why."""
    set_aside: Mapping[IP, tuple[str, ...]]
    """Advertisements that do not count for an address on some node, as they contradict others; in sentences."""

    def of(self, vip: IP) -> tuple[Advertised, ...]:
        return self.advertised.get(vip, ())

    def why_not(self, vip: IP) -> dict[NodeName, str]:
        return {node: WHY[why] for node, why in sorted(self.excluded.get(vip, {}).items())}


def routes(
    config: ConfigSet,
    nodes: Mapping[NodeName, Node],
    users: Mapping[IP, Sequence[Use]],
    *,
    alive: Collection[NodeName],
    draining: Collection[NodeName] = (),
) -> Routes:
    """What each node that is `alive` advertises of these addresses, and why each does not.

    Empty where no BGPAdvertisement is in force. A prefix that several addresses share carries what they ask for
    together: leave none of them out.
    """
    advertised: dict[IP, list[Advertised]] = {}
    excluded: dict[IP, dict[NodeName, WhyNot]] = {}
    set_aside: dict[IP, dict[str, None]] = {}
    for name in sorted(nodes) if config.bgp.advertisements else ():
        if name not in alive:
            continue
        node = nodes[name]
        peers, _ = peers_here(config.bgp, node, running=())
        leaving = Leaving.GONE if name in draining else Leaving.NO
        plan = Plan(config=config, node=node, peers=[peer.name for peer in peers], leaving=leaving)
        for vip, uses in users.items():
            plan.judge(vip, uses)
        for prefix, each in plan.prefixes.items():
            for peer in peers:
                grant = each.toward(peer.name)
                if grant is None:
                    continue
                told = Advertised(node=name, peer=peer.name, prefix=prefix, grant=grant)
                for vip in plan.vips_of(prefix):
                    advertised.setdefault(vip, []).append(told)
        for vip, why in plan.excluded.items():
            excluded.setdefault(vip, {})[name] = why
        for left_out in plan.set_aside:
            text = f"BGPAdvertisement {left_out.advertisement} for {left_out.prefix}: {left_out.message}"
            for vip in plan.vips_of(left_out.prefix):
                set_aside.setdefault(vip, {})[text] = None
    return Routes(
        advertised={vip: tuple(each) for vip, each in advertised.items()},
        excluded=excluded,
        set_aside={vip: tuple(each) for vip, each in set_aside.items()},
    )


def to_document(each: Advertised) -> dict[str, Any]:
    """The same as JSON has it."""
    return {
        "node": each.node,
        "peer": each.peer,
        "prefix": str(each.prefix),
        "communities": [*each.grant.communities],
        "large_communities": [*each.grant.large_communities],
        "local_pref": each.grant.local_pref or None,
        "med": each.grant.med or None,
        "prepend": each.grant.prepend or None,
    }
