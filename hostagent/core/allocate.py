"""Which addresses each Service gets: Services and pools in, decisions with their reasons out.

The store of assignments is the Services' own status; `Ledger` is only its index. Feeding a decision's result back
in changes nothing (a fix-point), so a restart, a relist or an allocator that takes over ends in the same place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hostagent.core.occupancy import Occupancy, Tenancy
from hostagent.core.requests import Request, RequestError, annotation, request_of
from hostagent.model.cluster import (
    ConfigSet,
    Family,
    FamilyPolicy,
    Pool,
    Service,
    TrafficPolicy,
    any_matches,
    family_of,
)
from hostagent.model.errors import InvariantError
from hostagent.model.names import IP, Labels, ServiceKey


class Outcome(StrEnum):
    """What becomes of a Service's addresses."""

    LEAVE = "leave"
    """Not ours, or nothing to do and nothing held."""
    KEEP = "keep"
    ASSIGN = "assign"
    CLEAR = "clear"
    PENDING = "pending"
    """Wants an address and cannot have one now; asked again when something is freed or the pools change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to write into a Service's status, and the event that tells why. Event reasons are MetalLB's."""

    outcome: Outcome
    addresses: tuple[IP, ...] = ()
    """What the Service has after this decision; empty when cleared or pending."""
    pool: str = ""
    event: str = ""
    message: str = ""
    waits_for: tuple[IP, ...] = ()
    """Addresses that the Service asks for by name and that are set aside: worth asking about again."""


@dataclass(slots=True)
class Ledger:
    """Who has which address, and what everybody else may get."""

    load_balancer_class: str | None = None
    config: ConfigSet = field(default_factory=ConfigSet)
    namespaces: Mapping[str, Labels] = field(default_factory=dict)
    _occupancy: Occupancy = field(default_factory=Occupancy)

    def ours(self, service: Service) -> bool:
        """Whether this allocator answers for the Service: its type, and its class equal to the configured one."""
        return (
            service.type == "LoadBalancer"
            and not service.deleted
            and service.load_balancer_class == self.load_balancer_class
        )

    def note(self, service: Service) -> bool:
        """Take down what the Service's status says it has: what is written there was given, whoever gave it.

        True if that may have made room for a Service that waits.
        """
        addresses = service.addresses if service.type == "LoadBalancer" else ()
        return self._occupancy.occupy(service.key, addresses, _tenancy(service))

    def forget(self, key: ServiceKey) -> bool:
        """The Service is gone. True if that may have made room for a Service that waits."""
        return self._occupancy.vacate(key)

    def set_aside(self, ip: IP, user: str) -> None:
        """`user` answers for this address on the segment: nobody gets it from now on; who has it keeps it."""
        self._occupancy.bar(ip, user)

    def why_set_aside(self, ip: IP) -> str:
        """Who answers for the address; empty for one that is not set aside."""
        return self._occupancy.why_barred(ip)

    def put_back(self, ip: IP) -> None:
        """An address that was set aside may be given again."""
        self._occupancy.unbar(ip)

    def holdings(self) -> Mapping[ServiceKey, tuple[IP, ...]]:
        """Which addresses each Service has."""
        return self._occupancy.holdings

    def in_use(self) -> frozenset[IP]:
        """All addresses that Services have."""
        return frozenset(ip for addresses in self._occupancy.holdings.values() for ip in addresses)

    def tenants(self, ip: IP) -> Iterable[ServiceKey]:
        """The Services that have this address."""
        return self._occupancy.tenants(ip)

    def decide(self, service: Service) -> Decision:
        """Say what the Service should have, and take it down as had, so that the next decision knows.

        An address once given stays unless the Service or its pool says otherwise. Where pools are set aside as
        faulty, nothing is taken from anybody for being in no pool.
        """
        if not self.ours(service):
            return Decision(outcome=Outcome.LEAVE)
        decision = self._decide(service)
        self._occupancy.occupy(service.key, decision.addresses, _tenancy(service))
        self._occupancy.settle(service.key)
        return decision

    # How a decision is made

    def _decide(self, service: Service) -> Decision:
        held = self._occupancy.holdings.get(service.key, ())
        wanted = tuple(family_of(ip) for ip in service.cluster_ips)
        if not wanted:
            return _without(held, "AllocationFailed", "the Service has no cluster IP, so its families are unknown")
        if service.family_policy is FamilyPolicy.REQUIRE_DUAL and len(wanted) < 2:
            return _without(held, "AllocationFailed", "RequireDualStack needs two cluster IPs and the Service has one")
        try:
            request = request_of(service)
        except RequestError as fault:
            return self._refuse(service, held, wanted, str(fault))
        barred = {ip: user for ip in request.addresses if ip not in held and (user := self._occupancy.why_barred(ip))}
        if barred:
            taken = "; ".join(f"{ip} asked for, but {user} answers for it" for ip, user in barred.items())
            refusal = self._refuse(service, held, wanted, f"{taken}: stop that, or ask for another address")
            return replace(refusal, waits_for=tuple(barred))
        objection = self._objection(service, held, wanted, request) if held else ""
        if held and not objection:
            return self._keep(service, held, wanted, request)
        self._occupancy.vacate(service.key)  # what it had is free for itself, too
        found = self._find(service, wanted, request)
        if isinstance(found, str):
            if held:
                return _without(held, "ClearAssignment", f"{_join(held)} is taken back: {objection}; and {found}")
            return _without(held, "AllocationFailed", found)
        addresses, pool = found
        message = f"assigned {_join(addresses)} from pool {pool.name}"
        if objection:
            message = f"{message} in place of {_join(held)}: {objection}"
        return Decision(
            outcome=Outcome.ASSIGN, addresses=addresses, pool=pool.name, event="IPAllocated", message=message
        )

    def _refuse(self, service: Service, held: tuple[IP, ...], wanted: Sequence[Family], fault: str) -> Decision:
        """The request cannot be met, for a reason that may pass or was not meant: nonsense, or a stranger's address.

        What the Service has it keeps, if it could keep it without a request.
        """
        objection = self._objection(service, held, wanted, Request()) if held else ""
        if not held:
            return _without(held, "AllocationFailed", fault)
        if objection:
            return _without(held, "ClearAssignment", f"{_join(held)} is taken back: {objection}; and {fault}")
        pool = self.config.pool_of(held[0])
        return Decision(
            outcome=Outcome.KEEP,
            addresses=held,
            pool=pool.name if pool else "",
            event="LoadBalancerFailed",
            message=fault,
        )

    def _keep(self, service: Service, held: tuple[IP, ...], wanted: Sequence[Family], request: Request) -> Decision:
        pool = self.config.pool_of(held[0])
        missing = [family for family in wanted if family not in map(family_of, held)]
        name = pool.name if pool else ""
        if pool is None or not missing or request.addresses:
            return Decision(outcome=Outcome.KEEP, addresses=held, pool=name)
        added = self._first_free(service, pool, missing[0])
        if added is None:
            return Decision(outcome=Outcome.KEEP, addresses=held, pool=name)
        both = tuple(sorted((*held, added), key=lambda ip: wanted.index(family_of(ip))))
        message = f"assigned {added} from pool {name} as the second family"
        return Decision(outcome=Outcome.ASSIGN, addresses=both, pool=name, event="IPAllocated", message=message)

    def _objection(self, service: Service, held: tuple[IP, ...], wanted: Sequence[Family], request: Request) -> str:
        """Why the Service may not keep what it has; empty if it may."""
        families = [family_of(ip) for ip in held]
        if len(set(families)) != len(families):
            return "two addresses of one family"
        if not set(families) <= set(wanted):
            return f"the Service's cluster IPs are {_join(wanted)}"
        if len(families) < len(wanted) and service.family_policy is FamilyPolicy.REQUIRE_DUAL:
            return "RequireDualStack needs an address of each family"
        if request.addresses and set(request.addresses) != set(held):
            return f"the Service asks for {_join(request.addresses)}"
        complaints = (self._complaint(service, ip, request) for ip in held)
        return next(filter(None, complaints), "")

    def _complaint(self, service: Service, ip: IP, request: Request) -> str:
        """Why the Service may not keep this one of its addresses; empty if it may."""
        pool = self.config.pool_of(ip)
        if pool is None and not self._pools_set_aside():
            return f"no pool has {ip}"
        if pool is not None:
            if not pool.covers(ip):
                return f"pool {pool.name} has avoidBuggyIPs, which rules out {ip}"
            if refusal := self._refusal(pool, service):
                return refusal
            if request.pool and pool.name != request.pool:
                return f"the Service asks for pool {request.pool}"
        for rival in self._rivals(ip, service):
            if self._occupancy.has_precedence(rival, service.key):
                return f"{rival} uses {ip} too and they may not share it"
        return ""

    def _find(self, service: Service, wanted: Sequence[Family], request: Request) -> tuple[tuple[IP, ...], Pool] | str:
        """Addresses for the Service and their pool, or why there are none."""
        if request.addresses:
            return self._find_requested(service, wanted, request)
        if request.pool:
            pool = next((pool for pool in self.config.pools if pool.name == request.pool), None)
            if pool is None:
                return f'the Service asks for pool "{request.pool}", which does not exist'
            if refusal := self._refusal(pool, service):
                return refusal
            pools: Sequence[Pool] = (pool,)
        else:
            pools = self._automatic(service)
            if not pools:
                return "no pool gives addresses to this Service by itself: see autoAssign and serviceAllocation"
        return self._find_in(service, wanted, pools)

    def _find_in(
        self, service: Service, wanted: Sequence[Family], pools: Sequence[Pool]
    ) -> tuple[tuple[IP, ...], Pool] | str:
        for pool in pools:
            picked = [self._first_free(service, pool, family) for family in wanted]
            if all(ip is not None for ip in picked):
                return tuple(ip for ip in picked if ip is not None), pool
        if service.family_policy is FamilyPolicy.PREFER_DUAL:
            for family in wanted:
                for pool in pools:
                    ip = self._first_free(service, pool, family)
                    if ip is not None:
                        return (ip,), pool
        names = _join(pool.name for pool in pools)
        together = " together" if len(wanted) > 1 else ""
        aside = sum(self._occupancy.barred_in(pool) for pool in pools)
        besides = f" ({aside} set aside, as other machines answer for them)" if aside else ""
        return f"no free {' and '.join(wanted)} address{together} in {names}{besides}: free one, or enlarge a pool"

    def _find_requested(
        self, service: Service, wanted: Sequence[Family], request: Request
    ) -> tuple[tuple[IP, ...], Pool] | str:
        asked = request.addresses
        if sorted(map(family_of, asked)) != sorted(wanted):
            return f"{_join(asked)} asked for, but the Service's families are {_join(wanted)}: ask for one of each"
        pool = self.config.pool_of(asked[0])
        for ip in asked:
            own = self.config.pool_of(ip)
            if own is None:
                return f"{ip} asked for, but no pool has it"
            if own is not pool:
                return f"{_join(asked)} asked for, but they are in different pools"
            if not own.covers(ip):
                return f"{ip} asked for, but pool {own.name} has avoidBuggyIPs"
            if request.pool and own.name != request.pool:
                return f"{ip} asked for, but it is in pool {own.name} and pool {request.pool} is asked for too"
            if refusal := self._refusal(own, service):
                return refusal
            if rivals := self._rivals(ip, service):
                return f"{ip} asked for, but {rivals[0]} has it"
        if pool is None:
            raise InvariantError("a request for addresses names at least one")
        return asked, pool

    # What a pool has, and for whom

    def _automatic(self, service: Service) -> list[Pool]:
        """Pools in the order in which they are tried: those pinned to the Service by priority, then the common ones."""
        usable = [pool for pool in self.config.pools if pool.auto_assign and not self._refusal(pool, service)]
        pinned = [pool for pool in usable if pool.allocation is not None]
        pinned.sort(key=_priority)
        return [*pinned, *(pool for pool in usable if pool.allocation is None)]

    def _refusal(self, pool: Pool, service: Service) -> str:
        """Why the pool is not for this Service; empty if it is.

        A namespace selector that matches no namespace matches none: it never opens the pool to all.
        """
        terms = pool.allocation
        if terms is None:
            return ""
        namespace = service.key.namespace
        if terms.namespaces or terms.namespace_selectors:
            labels = self.namespaces.get(namespace, {})
            selected = bool(terms.namespace_selectors) and any_matches(terms.namespace_selectors, labels)
            if namespace not in terms.namespaces and not selected:
                return f"pool {pool.name} is not for namespace {namespace}"
        if not any_matches(terms.service_selectors, service.labels):
            return f"pool {pool.name} is for Services with other labels"
        return ""

    def _first_free(self, service: Service, pool: Pool, family: Family) -> IP | None:
        """The lowest address of the pool, range by range, that is free or may be shared with its users."""
        ranges = (addresses for addresses in pool.ranges if family_of(addresses.first) is family)
        found = (self._occupancy.first_free(each, pool, service.key, _tenancy(service)) for each in ranges)
        return next((ip for ip in found if ip is not None), None)

    def _rivals(self, ip: IP, service: Service) -> list[ServiceKey]:
        return self._occupancy.rivals(ip, service.key, _tenancy(service))

    def _pools_set_aside(self) -> bool:
        return any(fault.kind == "IPAddressPool" and not fault.warning for fault in self.config.faults)


def _tenancy(service: Service) -> Tenancy:
    backend = ""
    if service.traffic_policy is TrafficPolicy.LOCAL:  # its traffic is dropped where its own Pods are not
        backend = "local:" + ",".join(f"{k}={v}" for k, v in sorted(service.selector.items()))
    return Tenancy(sharing_key=annotation(service, "allow-shared-ip"), backend=backend, ports=frozenset(service.ports))


def _priority(pool: Pool) -> tuple[bool, int, str]:
    priority = pool.allocation.priority if pool.allocation else 0
    return (priority == 0, priority, pool.name)


def _without(held: tuple[IP, ...], event: str, message: str) -> Decision:
    return Decision(outcome=Outcome.CLEAR if held else Outcome.PENDING, event=event, message=message)


def _join(things: Iterable[object]) -> str:
    return ", ".join(str(thing) for thing in things)
