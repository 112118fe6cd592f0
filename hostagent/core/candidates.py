"""Which hosts may answer for a VIP, best first, and why each of the others may not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hostagent.model.cluster import (
    EXCLUDE_LABEL,
    ConfigSet,
    Endpoints,
    L2Advertisement,
    Node,
    Service,
    TrafficPolicy,
    any_matches,
)
from hostagent.model.names import IP, InterfaceName, Network, NodeName
from hostagent.model.ownership import Segment, Session


class WhyNot(StrEnum):
    """Why a node is not a candidate."""

    NO_POOL = "address-in-no-pool"
    NO_ADVERTISEMENT = "no-advertisement"
    NODE_SELECTOR = "no-advertisement-selects-the-node"
    NO_ENDPOINT = "no-serving-endpoint"
    NO_LOCAL_ENDPOINT = "no-serving-endpoint-on-the-node"
    NO_AGENT = "no-agent-session"
    DRAINING = "draining"
    EXCLUDED = "excluded-by-label"
    NETWORK_UNAVAILABLE = "network-unavailable"
    NO_INTERFACE = "no-interface-for-the-address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node that may answer, with the interface on which it would."""

    node: NodeName
    weight: int
    interface: InterfaceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """All nodes, sorted into those that may answer (best first) and those that may not."""

    ranked: tuple[Candidate, ...] = ()
    excluded: Mapping[NodeName, WhyNot]

    def of(self, node: NodeName) -> Candidate | None:
        return next((candidate for candidate in self.ranked if candidate.node == node), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One Service that uses a VIP, with where its traffic can go."""

    service: Service
    endpoints: Endpoints


def rendezvous(node: NodeName, vip: str) -> bytes:
    """Sort key that every host computes alike: SHA-256 of `node#address`, lowest first.

    It is MetalLB's, so that a migrated cluster's VIPs stay where they were. Losing a node moves only that node's
    VIPs.
    """
    return hashlib.sha256(f"{node}#{vip}".encode()).digest()


def interface_for(
    vip: IP, node: Node, segments: Iterable[Segment], allowed: frozenset[InterfaceName]
) -> Segment | None:
    """Where a node answers for a VIP: the allowed interface that has the VIP's subnet.

    A pool outside every subnet (reached through a static route) is answered on the interface of the node's own
    address. Segments list only interfaces with carrier, so that a pulled cable ends a candidacy.
    """
    usable = [segment for segment in segments if not allowed or segment.interface in allowed]
    on_link = (s for s in usable if any(vip in own.network for own in s.subnets))
    nodes_own = (s for s in usable if any(own.ip in node.addresses for own in s.subnets))
    return next(on_link, None) or next(nodes_own, None)


class Placement:
    """Ranks the candidates of VIPs for one state of configuration, nodes and sessions.

    What depends on the node alone is worked out once per set of advertisements and subnet, so that ranking ten
    thousand VIPs costs their hashes and little else.
    """

    def __init__(
        self, *, config: ConfigSet, nodes: Mapping[NodeName, Node], sessions: Mapping[NodeName, Session]
    ) -> None:
        self._config = config
        self._nodes = nodes
        self._sessions = sessions
        self._subnets: frozenset[Network] = frozenset(
            own.network for session in sessions.values() for segment in session.segments for own in segment.subnets
        )
        self._memo: dict[tuple[tuple[str, ...], frozenset[Network], int], Ranking] = {}
        self._nobodies: dict[WhyNot, Ranking] = {}

    def rank(self, vip: IP, uses: Sequence[Use]) -> Ranking:
        """Rank the nodes for a VIP that these Services share.

        A shared VIP goes where all of its Services can be served, or, when there is no such node, where any can.
        """
        pool = self._config.pool_of(vip)
        if pool is None:
            return self._nobody(WhyNot.NO_POOL)
        rankings = [self._rank_one(vip, pool.name, use) for use in uses]
        serving = [ranking for ranking in rankings if ranking.ranked] or rankings
        if not serving:
            return self._nobody(WhyNot.NO_ADVERTISEMENT)
        text = str(vip)
        if len(serving) == 1:  # nearly always; what it says of other nodes is shared by all VIPs alike
            only = serving[0]
            return Ranking(ranked=_ranked(only.ranked, text), excluded=only.excluded) if only.ranked else only
        everywhere = frozenset.intersection(*(frozenset(c.node for c in r.ranked) for r in serving))
        best: dict[NodeName, Candidate] = {}
        for ranking in serving:
            for candidate in ranking.ranked:
                if not everywhere or candidate.node in everywhere:
                    best.setdefault(candidate.node, candidate)
        excluded = {node: why for ranking in serving for node, why in ranking.excluded.items() if node not in best}
        return Ranking(ranked=_ranked(best.values(), text), excluded=excluded)

    def _rank_one(self, vip: IP, pool: str, use: Use) -> Ranking:
        if not use.endpoints.serving:
            return self._nobody(WhyNot.NO_ENDPOINT)
        labels = use.service.labels
        ads = tuple(
            ad
            for ad in self._config.l2_advertisements
            if pool in ad.pools and any_matches(ad.service_selectors, labels)
        )
        if not ads:
            return self._nobody(WhyNot.NO_ADVERTISEMENT)
        eligible = self._eligible(vip, ads)
        if use.service.traffic_policy is not TrafficPolicy.LOCAL:
            return eligible
        local = use.endpoints.nodes
        elsewhere = {c.node: WhyNot.NO_LOCAL_ENDPOINT for c in eligible.ranked if c.node not in local}
        return Ranking(
            ranked=tuple(c for c in eligible.ranked if c.node in local),
            excluded={**eligible.excluded, **elsewhere},
        )

    def _eligible(self, vip: IP, ads: tuple[L2Advertisement, ...]) -> Ranking:
        """Everything that does not depend on the Service or on the last bits of the address."""
        memo = (tuple(ad.name for ad in ads), frozenset(net for net in self._subnets if vip in net), vip.version)
        found = self._memo.get(memo)
        if found is None:
            ranked: list[Candidate] = []
            excluded: dict[NodeName, WhyNot] = {}
            for name in sorted(self._nodes.keys() | self._sessions.keys()):
                verdict = self._consider(vip, name, ads)
                if isinstance(verdict, Candidate):
                    ranked.append(verdict)
                else:
                    excluded[name] = verdict
            found = self._memo[memo] = Ranking(ranked=tuple(ranked), excluded=excluded)
        return found

    def _consider(self, vip: IP, name: NodeName, ads: tuple[L2Advertisement, ...]) -> Candidate | WhyNot:
        node, session = self._nodes.get(name), self._sessions.get(name)
        if node is None or session is None or session.ended:
            return WhyNot.NO_AGENT
        if session.draining:
            return WhyNot.DRAINING
        mine = [ad for ad in ads if any_matches(ad.node_selectors, node.labels)]
        if not mine:
            return WhyNot.NODE_SELECTOR
        if EXCLUDE_LABEL in node.labels:
            return WhyNot.EXCLUDED
        if node.network_unavailable:
            return WhyNot.NETWORK_UNAVAILABLE
        # One advertisement without interfaces allows all of them; otherwise the union counts.
        unrestricted = any(not ad.interfaces for ad in mine)
        allowed = frozenset() if unrestricted else frozenset[InterfaceName]().union(*(ad.interfaces for ad in mine))
        segment = interface_for(vip, node, session.segments, allowed)
        if segment is None:
            return WhyNot.NO_INTERFACE
        weight = sum(p.weight for ad in mine for p in ad.preferences if p.selector.matches(node.labels))
        return Candidate(node=name, weight=weight, interface=segment.interface)

    def _nobody(self, why: WhyNot) -> Ranking:
        if why not in self._nobodies:
            self._nobodies[why] = Ranking(excluded=dict.fromkeys(self._nodes, why))
        return self._nobodies[why]


def _ranked(candidates: Iterable[Candidate], vip: str) -> tuple[Candidate, ...]:
    return tuple(sorted(candidates, key=lambda c: (-c.weight, rendezvous(c.node, vip))))
