"""What the Kubernetes API says: Services, endpoints, nodes, and the metallb.io configuration once validated."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

from hostagent.model.bgp import BgpConfig
from hostagent.model.names import IP, InterfaceName, Labels, Network, NodeName, ServiceKey

EXCLUDE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
POOL_ANNOTATION = "metallb.io/ip-allocated-from-pool"
"""Written by the allocator: the pool of a Service's addresses (two, with a comma, where they are of paired pools)."""
OLD_POOL_ANNOTATION = "metallb.universe.tf/ip-allocated-from-pool"
"""MetalLB's former prefix: left by an old MetalLB, ours to remove, as it would name a pool that is not in use."""
QUARANTINE_S = 30.0
"""A freed address is given to another Service before this time only where no other is free: clients still have it in
their caches, and connections to it are still open."""
OVERLAPS = ("nodes", "pods", "services")
"""What of the cluster's own a pool must not give away: addresses of nodes, networks of pods and of Services."""


class Family(StrEnum):
    """An IP family, as Services spell it."""

    V4 = "IPv4"
    V6 = "IPv6"


def family_of(ip: IP) -> Family:
    return Family.V4 if ip.version == 4 else Family.V6


class FamilyPolicy(StrEnum):
    SINGLE = "SingleStack"
    PREFER_DUAL = "PreferDualStack"
    REQUIRE_DUAL = "RequireDualStack"


class TrafficPolicy(StrEnum):
    CLUSTER = "Cluster"
    LOCAL = "Local"


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port that a Service serves; protocol in lower case as nftables spells it (tcp, udp, sctp)."""

    protocol: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service, with what address allocation and announcing need and nothing else."""

    key: ServiceKey
    uid: str
    resource_version: str
    type: str = "LoadBalancer"
    deleted: bool = False
    """Being deleted (a deletion timestamp is set): no new address, no announcement."""
    load_balancer_class: str | None = None
    labels: Labels = field(default_factory=dict)
    annotations: Labels = field(default_factory=dict)
    cluster_ips: tuple[IP, ...] = ()
    families: tuple[Family, ...] = ()
    family_policy: FamilyPolicy = FamilyPolicy.SINGLE
    traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    selector: Labels = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    load_balancer_ip: str = ""
    """`spec.loadBalancerIP`, as written (it may not parse)."""
    assigned: tuple[str, ...] = ()
    """`status.loadBalancer.ingress[].ip` as written: the store of assignments, ours or another implementation's."""
    ip_modes: tuple[str, ...] = ()
    """`ipMode` of each entry of `assigned`; empty string where unset."""

    @property
    def addresses(self) -> tuple[IP, ...]:
        """The addresses in `assigned`, each once; what does not parse is not ours to judge, and left out."""
        return tuple(dict.fromkeys(ip for ip in map(_address, self.assigned) if ip is not None))


def _address(text: str) -> IP | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a Service's traffic can go now: all its EndpointSlices, folded."""

    serving: bool = False
    """At least one endpoint serves, on a node or not (ready unset counts as ready, terminating but serving counts)."""
    nodes: frozenset[NodeName] = frozenset()
    """Nodes that have a serving endpoint of their own."""


NO_ENDPOINTS = Endpoints()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A Node, with what makes it a candidate or not."""

    name: NodeName
    labels: Labels = field(default_factory=dict)
    network_unavailable: bool = False
    unschedulable: bool = False
    addresses: tuple[IP, ...] = ()
    """`status.addresses` of type InternalIP and ExternalIP."""
    pod_networks: tuple[Network, ...] = ()
    """`spec.podCIDRs`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A custom resource as it was read, from the API or from a file, before anything was believed."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""
    generation: int = 0
    labels: Labels = field(default_factory=dict)
    annotations: Labels = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.kind, self.namespace, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why an object was set aside (`error`), or what about it will surprise its author (`warning`)."""

    kind: str
    namespace: str
    name: str
    field: str
    """Path from the object's root, such as `spec.addresses[1]`."""
    message: str
    """What is wrong and what to do, in one sentence or two; names the other object where there is one."""
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {where}: {self.field}: {self.message}"


@dataclass(frozen=True, slots=True)
class Expression:
    """One `matchExpressions` entry. Operators: In, NotIn, Exists, DoesNotExist."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Selector:
    """A label selector: all of its expressions must hold (`matchLabels` are kept as `In`). Empty matches everything."""

    expressions: tuple[Expression, ...] = ()

    def matches(self, labels: Labels) -> bool:
        return all(_holds(expression, labels) for expression in self.expressions)


def _holds(expression: Expression, labels: Labels) -> bool:
    value = labels.get(expression.key)
    match expression.operator:
        case "In":
            return value is not None and value in expression.values
        case "NotIn":  # as apimachinery: an absent label is "not in"
            return value is None or value not in expression.values
        case "Exists":
            return value is not None
        case _:
            return value is None


def any_matches(selectors: tuple[Selector, ...], labels: Labels) -> bool:
    """Entries are OR-ed; no entry at all means everything (the rule of every metallb.io selector list)."""
    return not selectors or any(selector.matches(labels) for selector in selectors)


@dataclass(frozen=True, slots=True)
class AddressRange:
    """An inclusive range of addresses of one family; a CIDR is the range from its first to its last address."""

    first: IP
    last: IP

    def __contains__(self, ip: IP) -> bool:
        return ip.version == self.first.version and int(self.first) <= int(ip) <= int(self.last)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAllocation:
    """Whom a pinned pool is for (`spec.serviceAllocation`)."""

    priority: int = 0
    """Lower is tried first; 0 is last."""
    namespaces: frozenset[str] = frozenset()
    namespace_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """An IPAddressPool, valid."""

    name: str
    labels: Labels = field(default_factory=dict)
    ranges: tuple[AddressRange, ...]
    auto_assign: bool = True
    avoid_buggy_ips: bool = False
    allocation: ServiceAllocation | None = None
    exclusive: bool = False
    """Services that it is kept for get no address of common pools by themselves."""
    sharing_within_namespace: bool = False
    """A sharing key counts within one namespace only."""
    partner: str = ""
    """Pool that gives the other family to a dual-stack Service, and the other way round."""
    quarantine_s: float = QUARANTINE_S
    allow_overlap: frozenset[str] = frozenset()
    """Of `OVERLAPS`: what it may give away all the same."""

    @property
    def families(self) -> frozenset[Family]:
        """The families that it has addresses of."""
        return frozenset(family_of(addresses.first) for addresses in self.ranges)

    def pairs_with(self, other: Pool) -> bool:
        """Whether a dual-stack Service may have one address of each."""
        return self.name != other.name and (self.partner == other.name or other.partner == self.name)

    def covers(self, ip: IP) -> bool:
        """Whether the pool may give this address out."""
        return not self.skips(ip) and any(ip in r for r in self.ranges)

    def skips(self, ip: IP) -> bool:
        """Whether `avoidBuggyIPs` rules the address out: .0 and .255."""
        return self.avoid_buggy_ips and ip.version == 4 and int(ip) & 0xFF in (0, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One entry of `preferredNodeSelectors`: nodes that match gain `weight`."""

    weight: int
    selector: Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class L2Advertisement:
    """An L2Advertisement, valid; its pools already resolved to names."""

    name: str
    pools: frozenset[str]
    node_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()
    interfaces: frozenset[InterfaceName] = frozenset()
    """Empty means any interface."""
    preferences: tuple[Preference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSet:
    """One configuration, of all objects that are valid; what was set aside is in `faults`."""

    pools: tuple[Pool, ...] = ()
    """Sorted by name."""
    l2_advertisements: tuple[L2Advertisement, ...] = ()
    bgp: BgpConfig = field(default_factory=BgpConfig)
    faults: tuple[Fault, ...] = ()
    good: tuple[Resource, ...] = ()
    """What this configuration was made of: stays in force when one of them is edited into a faulty one."""

    def pool_of(self, ip: IP) -> Pool | None:
        """The pool whose ranges hold this address, whether or not it would give it out."""
        return next((pool for pool in self.pools if any(ip in r for r in pool.ranges)), None)
