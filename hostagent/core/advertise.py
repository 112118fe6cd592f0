"""What this host advertises over BGP: which prefixes, with which attributes to whom, and why each of the others not.

No host depends on another here: each decides from the same facts for itself alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_network, summarize_address_range
from itertools import combinations

from hostagent.core.candidates import Use
from hostagent.core.config.bgp import clash
from hostagent.core.config.bgp_advertisements import contradicts
from hostagent.model.bgp import GRACEFUL_SHUTDOWN, AttributeClass, BgpAdvertisement, BgpConfig, Grant, Peer
from hostagent.model.cluster import EXCLUDE_LABEL, ConfigSet, Fault, Node, TrafficPolicy, any_matches
from hostagent.model.names import IP, Network, ServiceKey

SELECTING_AHEAD = 4
"""Advertisements with service selectors of one pool whose combinations (16) have their class before a Service asks."""


class WhyNot(StrEnum):
    """Why a VIP is not advertised by this host."""

    NO_POOL = "address-in-no-pool"
    NO_ADVERTISEMENT = "no-advertisement"
    NODE_SELECTOR = "no-advertisement-selects-the-node"
    NO_PEER = "no-peer-on-this-host"
    NO_ENDPOINT = "no-serving-endpoint"
    NO_LOCAL_ENDPOINT = "no-serving-endpoint-on-the-node"
    NO_NODE = "no-node-object"
    DRAINING = "draining"
    EXCLUDED = "excluded-by-label"
    NETWORK_UNAVAILABLE = "network-unavailable"


class Leaving(StrEnum):
    """How far a host is on its way out."""

    NO = "no"
    ANNOUNCED = "announced"
    """GRACEFUL_SHUTDOWN (RFC 8326): routers look for another way while this one still works."""
    GONE = "gone"
    """Everything is withdrawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An advertisement that does not count for one prefix, because it contradicts another."""

    prefix: Network
    advertisement: str
    message: str


def peers_here(config: BgpConfig, node: Node | None, *, running: Collection[str]) -> tuple[list[Peer], list[Fault]]:
    """The peers that select this node and get along with each other; those in `running` come before new ones."""
    if node is None:  # a Node that is deleted and made anew costs prefixes, not sessions
        selected = [peer for peer in config.peers if peer.name in running]
    else:
        selected = [peer for peer in config.peers if any_matches(peer.node_selectors, node.labels)]
    selected.sort(key=lambda peer: (peer.name not in running, peer.name))
    peers: list[Peer] = []
    faults: list[Fault] = []
    for peer in selected:
        if found := clash(peer, peers):
            faults.append(peer_fault(peer.name, found.field, f"on this host: {found.message}"))
        else:
            peers.append(peer)
    return sorted(peers, key=lambda peer: peer.name), faults


def peer_fault(name: str, field: str, message: str) -> Fault:
    """Something about a BGPPeer that only its host can tell."""
    return Fault(kind="BGPPeer", namespace="", name=name, field=field, message=message)


class Plan:
    """The prefixes of this host for one state of configuration, node and peers, kept VIP by VIP.

    A Service's change costs its own VIPs, however many others there are.
    """

    def __init__(
        self,
        *,
        config: ConfigSet,
        node: Node | None,
        peers: Iterable[str] | None,
        leaving: Leaving = Leaving.NO,
    ) -> None:
        """`peers` are those of this host; None: another daemon has them, and they are not known."""
        self._config = config
        self._peers = None if peers is None else frozenset(peers)
        self._leaving = leaving
        self._out = self._why_out(node)
        labels = node.labels if node else {}
        self._ads = tuple(ad for ad in config.bgp.advertisements if node and any_matches(ad.node_selectors, labels))
        self._node = node
        self._said: dict[IP, dict[Network, frozenset[str]]] = {}
        """What each VIP asks for: the names of the advertisements for each prefix."""
        self._askers: dict[Network, set[IP]] = {}
        self._combination: dict[Network, frozenset[str]] = {}
        """The advertisements that count for each prefix, those set aside too."""
        self._combined: Counter[frozenset[str]] = Counter()
        """How many prefixes have each combination."""
        self._memo: dict[frozenset[str], tuple[AttributeClass, tuple[tuple[str, str], ...]]] = {}
        self._one: dict[AttributeClass, AttributeClass] = {}
        """Each class as the one object that stands for it, whichever advertisements say it."""
        self._by_name = {ad.name: ad for ad in self._ads}
        self._hearers = {ad.name: self._reached(AttributeClass((ad.grant,))) for ad in self._ads}
        """The peers of this host that each advertisement reaches."""
        self.prefixes: dict[Network, AttributeClass] = {}
        self.changed: set[Network] = set()
        """Prefixes that came, went or changed their class since somebody emptied this."""
        self.excluded: dict[IP, WhyNot] = {}
        self.heard_changed: set[ServiceKey] = set()
        """Services of which other peers may hear since somebody emptied this."""
        self._heard: dict[ServiceKey, dict[IP, frozenset[str]]] = {}
        self._services: dict[IP, tuple[ServiceKey, ...]] = {}

    @property
    def heard_by(self) -> Mapping[ServiceKey, tuple[str, ...]]:
        """The peers that each advertised Service is told to, sorted; whether their sessions are up or not."""
        return {key: self.hearing(key) for key in sorted(self._heard)}

    def hearing(self, service: ServiceKey) -> tuple[str, ...]:
        """The peers that this one is told to; none if it is not advertised."""
        return tuple(sorted(frozenset().union(*self._heard.get(service, {}).values())))

    @property
    def contradictions(self) -> tuple[Fault, ...]:
        """The same as `set_aside`, once for each advertisement and reason: cheap, as most hosts have none."""
        left_out = dict.fromkeys(
            each for names in self._combined if (found := self._memo.get(names)) for each in found[1]
        )
        return tuple(
            Fault(
                kind="BGPAdvertisement",
                namespace="",
                name=name,
                field="spec",
                message=f"set aside for some prefixes of this host: {message}",
            )
            for name, message in sorted(left_out)
        )

    @property
    def set_aside(self) -> list[SetAside]:
        """What was left out of prefixes."""
        found = []
        for prefix in sorted(self._askers, key=lambda p: (p.version, p)):
            _, left_out = self._class_of(self._names(prefix))
            found += [SetAside(prefix=prefix, advertisement=name, message=message) for name, message in left_out]
        return found

    @property
    def classes(self) -> frozenset[AttributeClass]:
        """The classes of all prefixes. They are few, and each is one object: hashing it once is enough."""
        return frozenset({id(each): each for each in self.prefixes.values()}.values())

    @property
    def routed(self) -> frozenset[Network]:
        """The addresses of which this host may draw traffic from routers: the pools that it advertises."""
        heard = [ad for ad in self._ads if self._hearers[ad.name]]
        return frozenset(
            network
            for pool in self._config.pools
            if any(pool.name in ad.pools for ad in heard)
            for each in pool.ranges
            for network in summarize_address_range(each.first, each.last)
        )

    @property
    def standing(self) -> frozenset[AttributeClass]:
        """The classes that Services may need: so that a Service's coming changes no configuration of FRR."""
        if self._out is not None:
            return frozenset()
        classes: set[AttributeClass] = set()
        for pool in self._config.pools:
            ads = [ad for ad in self._ads if pool.name in ad.pools]
            always = frozenset(ad.name for ad in ads if not ad.service_selectors)
            selecting = [ad.name for ad in ads if ad.service_selectors]
            if len(selecting) > SELECTING_AHEAD:
                continue
            for size in range(len(selecting) + 1):
                for some in combinations(selecting, size):
                    if names := always | frozenset(some):
                        classes.add(self._class_of(names)[0])
        return frozenset(each for each in classes if self._reached(each))

    def judge(self, vip: IP, uses: Sequence[Use]) -> None:
        """Take in one VIP as it is now; no uses: no Service has it any more."""
        for key in self._services.pop(vip, ()):
            self.heard_changed.add(key)
            self._heard[key].pop(vip)
            if not self._heard[key]:
                del self._heard[key]
        asked = self._ask(vip, uses) if uses else {}
        self.excluded.pop(vip, None)
        if isinstance(asked, WhyNot):
            self.excluded[vip], asked = asked, {}
        before = self._said.pop(vip, {})
        if asked:
            self._said[vip] = asked
        for prefix in before.keys() | asked.keys():
            if prefix in asked:
                self._askers.setdefault(prefix, set()).add(vip)
            else:
                self._askers[prefix].discard(vip)
            self._settle(prefix)

    def vips_of(self, prefix: Network) -> frozenset[IP]:
        """The VIPs that ask for this prefix."""
        return frozenset(self._askers.get(prefix, ()))

    def why_not(self, prefix: Network) -> str:
        """Why a prefix is not advertised."""
        inside = (why for vip, why in self.excluded.items() if vip in prefix)
        return next(inside, "no-service")

    def _why_out(self, node: Node | None) -> WhyNot | None:
        if node is None:
            return WhyNot.NO_NODE
        if self._leaving is Leaving.GONE:
            return WhyNot.DRAINING
        if EXCLUDE_LABEL in node.labels:
            return WhyNot.EXCLUDED
        return WhyNot.NETWORK_UNAVAILABLE if node.network_unavailable else None

    def _ask(self, vip: IP, uses: Sequence[Use]) -> dict[Network, frozenset[str]] | WhyNot:
        if self._out is not None:
            return self._out
        pool = self._config.pool_of(vip)
        if pool is None:
            return WhyNot.NO_POOL
        asked: dict[Network, frozenset[str]] = {}
        by_service: dict[ServiceKey, list[tuple[Network, BgpAdvertisement]]] = {}
        why = WhyNot.NO_ADVERTISEMENT
        for use in uses:
            mine = self._ads_for(pool.name, use)
            if isinstance(mine, WhyNot):
                why = mine
                continue
            by_service[use.service.key] = said = []
            for ad in mine:
                length = ad.aggregation_length if vip.version == 4 else ad.aggregation_length_v6
                prefix: Network = ip_network((vip, length), strict=False)
                asked[prefix] = asked.get(prefix, frozenset()) | {ad.name}
                said.append((prefix, ad))
        left_out = {(prefix, name) for prefix, names in asked.items() for name, _ in self._class_of(names)[1]}
        for key, said in by_service.items():
            counted = [self._hearers[ad.name] for prefix, ad in said if (prefix, ad.name) not in left_out]
            self._heard.setdefault(key, {})[vip] = frozenset().union(*counted)
            self.heard_changed.add(key)
        self._services[vip] = tuple(by_service)
        return asked or why

    def _ads_for(self, pool: str, use: Use) -> list[BgpAdvertisement] | WhyNot:
        """What applies to one Service here; in MetalLB's order of reasons."""
        of_pool = [ad for ad in self._config.bgp.advertisements if pool in ad.pools]
        matching = [ad for ad in of_pool if any_matches(ad.service_selectors, use.service.labels)]
        if not matching:
            return WhyNot.NO_ADVERTISEMENT
        here = [ad for ad in matching if ad.name in self._by_name]
        if not here:
            return WhyNot.NODE_SELECTOR
        heard = [ad for ad in here if self._hearers[ad.name]]
        if not heard:
            return WhyNot.NO_PEER
        if not use.endpoints.serving:
            return WhyNot.NO_ENDPOINT
        local = use.service.traffic_policy is TrafficPolicy.LOCAL
        if local and self._node and self._node.name not in use.endpoints.nodes:
            return WhyNot.NO_LOCAL_ENDPOINT
        return heard

    def _reached(self, of: AttributeClass) -> frozenset[str]:
        """The peers of this host that a class reaches; where they are not known, a stand-in for them."""
        if self._peers is None:
            return frozenset({"*"})
        return frozenset(peer for peer in self._peers if of.toward(peer))

    def _names(self, prefix: Network) -> frozenset[str]:
        return frozenset().union(*(self._said[vip][prefix] for vip in self._askers[prefix]))

    def _settle(self, prefix: Network) -> None:
        self.changed.add(prefix)
        if before := self._combination.pop(prefix, None):
            self._combined[before] -= 1
            if not self._combined[before]:
                del self._combined[before]
        if self._askers[prefix]:
            names = self._combination[prefix] = self._names(prefix)
            self._combined[names] += 1
            self.prefixes[prefix] = self._class_of(names)[0]
        else:
            del self._askers[prefix]
            self.prefixes.pop(prefix, None)

    def _class_of(self, names: frozenset[str]) -> tuple[AttributeClass, tuple[tuple[str, str], ...]]:
        """Communities add up; of what contradicts itself the first by name counts."""
        found = self._memo.get(names)
        if found is None:
            taken: dict[str, Grant] = {}
            left_out: list[tuple[str, str]] = []
            for name in sorted(names):
                grant = self._by_name[name].grant
                other = next((each for each, its in taken.items() if contradicts(grant, its)), None)
                if other is None:
                    taken[name] = grant
                elif what := contradicts(grant, taken[other]):
                    message = f"{what[0]} {what[1]} contradicts {what[2]} of BGPAdvertisement {other}, which applies"
                    left_out.append((name, message))
            grants = {self._leave(self._by_name[name], grant) for name, grant in taken.items()}
            of = AttributeClass(tuple(sorted(grants)))
            found = self._memo[names] = (self._one.setdefault(of, of), tuple(left_out))
        return found

    def _leave(self, ad: BgpAdvertisement, grant: Grant) -> Grant:
        if self._leaving is not Leaving.ANNOUNCED or not ad.graceful_shutdown:
            return grant
        communities = {*grant.communities, GRACEFUL_SHUTDOWN}
        return replace(grant, communities=tuple(sorted(communities, key=lambda c: tuple(map(int, c.split(":"))))))
