"""Which addresses each Service gets: Services and pools in, decisions with their reasons out.

The store of assignments is the Services' own status; `Ledger` is only its index. Feeding a decision's result back
in changes nothing (a fix-point), so a restart, a relist or an allocator that takes over ends in the same place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum

from hostagent.core.requests import Request, RequestError, request_of
from hostagent.core.stock import Stock, join, tenancy_of
from hostagent.model.cluster import (
    POOL_ANNOTATION,
    Family,
    FamilyPolicy,
    Pool,
    Service,
    family_of,
)
from hostagent.model.names import IP, ServiceKey


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
    incomplete: bool = False
    """It has one family and would like the other, too: worth another decision when something is freed."""

    def is_written_in(self, service: Service) -> bool:
        """Whether the Service's status says so already. Addresses that somebody else assigned, or an older version of
        us, lack the mode that kube-proxy needs; and a pool may have been renamed, or split.
        """
        renamed = bool(self.pool) and service.annotations.get(POOL_ANNOTATION) != self.pool
        mode_is_missing = any(mode != "VIP" for mode in service.ip_modes)
        return not (renamed or mode_is_missing or service.assigned != tuple(str(ip) for ip in self.addresses))


@dataclass(slots=True)
class Ledger(Stock):
    """Who has which address, and what everybody else may get."""

    load_balancer_class: str | None = None

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
        self._occupancy.wake(self.now)
        return self._occupancy.occupy(service.key, addresses, tenancy_of(service))

    def forget(self, key: ServiceKey) -> bool:
        """The Service is gone. True if that may have made room for a Service that waits."""
        self._occupancy.wake(self.now)
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

    def in_use(self) -> AbstractSet[IP]:
        """All addresses that Services have: now, and not as they were when it was asked."""
        return self._occupancy.taken

    def tenants(self, ip: IP) -> Iterable[ServiceKey]:
        """The Services that have this address."""
        return self._occupancy.tenants(ip)

    def decide(self, service: Service) -> Decision:
        """Say what the Service should have, and take it down as had, so that the next decision knows.

        An address once given stays unless the Service or its pool says otherwise. Where pools are set aside as
        faulty, nothing is taken from anybody for being in no pool.
        """
        if not self.ours(service):
            left_over = (
                service.type != "LoadBalancer" and not service.deleted and POOL_ANNOTATION in service.annotations
            )
            if not left_over:
                return Decision(outcome=Outcome.LEAVE)
            what = join(service.addresses) or f"what it had of pool {service.annotations[POOL_ANNOTATION]}"
            message = f"{what} is released: the Service is of type {service.type} now"
            return Decision(outcome=Outcome.CLEAR, event="ClearAssignment", message=message)
        self._occupancy.wake(self.now)
        decision = self._decide(service)
        self._occupancy.occupy(service.key, decision.addresses, tenancy_of(service))
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
        fresh = [ip for ip in request.addresses if ip not in held]
        if closed := [f"{ip} asked for, but {user} has it" for ip in fresh if (user := self.why_closed(ip))]:
            return self._refuse(service, held, wanted, f"{'; '.join(closed)}: ask for another address")
        barred = {ip: user for ip in fresh if (user := self._occupancy.why_barred(ip))}
        if barred:
            taken = "; ".join(f"{ip} asked for, but {user} answers for it" for ip, user in barred.items())
            refusal = self._refuse(service, held, wanted, f"{taken}: stop that, or ask for another address")
            return replace(refusal, waits_for=tuple(barred))
        objection = self._objection(service, held, wanted, request) if held else ""
        if held and not objection:
            return self._keep(service, held, wanted, request)
        self._occupancy.vacate(service.key)  # what it had is free for itself, too
        found = self._find(service, held, wanted, request)
        if isinstance(found, str):
            if held:
                return _without(held, "ClearAssignment", f"{join(held)} is taken back: {objection}; and {found}")
            return _without(held, "AllocationFailed", found)
        pool = self.pools_of(found)
        message = f"assigned {join(found)} from pool {pool}"
        if objection:
            message = f"{message} in place of {join(held)}: {objection}"
        return Decision(outcome=Outcome.ASSIGN, addresses=found, pool=pool, event="IPAllocated", message=message)

    def _refuse(self, service: Service, held: tuple[IP, ...], wanted: Sequence[Family], fault: str) -> Decision:
        """The request cannot be met, for a reason that may pass or was not meant: nonsense, or a stranger's address.

        What the Service has it keeps, if it could keep it without a request.
        """
        objection = self._objection(service, held, wanted, Request()) if held else ""
        if not held:
            return _without(held, "AllocationFailed", fault)
        if objection:
            return _without(held, "ClearAssignment", f"{join(held)} is taken back: {objection}; and {fault}")
        return Decision(
            outcome=Outcome.KEEP,
            addresses=held,
            pool=self.pools_of(held),
            event="LoadBalancerFailed",
            message=fault,
        )

    def _keep(self, service: Service, held: tuple[IP, ...], wanted: Sequence[Family], request: Request) -> Decision:
        pool, name = self.config.pool_of(held[0]), self.pools_of(held)
        missing = next((family for family in wanted if family not in map(family_of, held)), None)
        if pool is None or missing is None or request.addresses:
            return Decision(outcome=Outcome.KEEP, addresses=held, pool=name)
        sources = self.sources(pool, missing, service)
        if not sources:
            return Decision(outcome=Outcome.KEEP, addresses=held, pool=name)
        added = self.first_of(service, sources, missing, ())
        if added is None:
            message = f"{self.exhausted((missing,), sources)}; it keeps {join(held)} until then"
            return Decision(
                outcome=Outcome.KEEP,
                addresses=held,
                pool=name,
                event="AdditionalAssignFailed",
                message=message,
                incomplete=True,
            )
        both = tuple(sorted((*held, added), key=lambda ip: wanted.index(family_of(ip))))
        message = f"assigned {added} from pool {self.pools_of([added])} as the second family"
        return Decision(
            outcome=Outcome.ASSIGN, addresses=both, pool=self.pools_of(both), event="IPAllocated", message=message
        )

    def _objection(self, service: Service, held: tuple[IP, ...], wanted: Sequence[Family], request: Request) -> str:
        """Why the Service may not keep what it has; empty if it may."""
        families = [family_of(ip) for ip in held]
        if len(set(families)) != len(families):
            return "two addresses of one family"
        if not set(families) <= set(wanted):
            return f"the Service's cluster IPs are {join(wanted)}"
        if len(families) < len(wanted) and service.family_policy is FamilyPolicy.REQUIRE_DUAL:
            return "RequireDualStack needs an address of each family"
        if request.addresses and set(request.addresses) != set(held):
            return f"the Service asks for {join(request.addresses)}"
        complaints = (self._complaint(service, ip, request) for ip in held)
        if complaint := next(filter(None, complaints), ""):
            return complaint
        if request.pool and self.pools_of(held) and request.pool not in self.pools_of(held).split(","):
            return f"the Service asks for pool {request.pool}"
        return ""

    def _complaint(self, service: Service, ip: IP, request: Request) -> str:
        """Why the Service may not keep this one of its addresses; empty if it may."""
        pool = self.config.pool_of(ip)
        if pool is None and not self._pools_set_aside():
            return f"no pool has {ip}"
        if pool is not None:
            if not pool.covers(ip):
                return f"pool {pool.name} has avoidBuggyIPs, which rules out {ip}"
            if refusal := self.refusal(pool, service):
                return refusal
            if request.pool and not self.is_or_pairs_with(pool, request.pool):
                return f"the Service asks for pool {request.pool}"
        for rival in self.rivals(ip, service):
            if self._occupancy.has_precedence(rival, service.key):
                return f"{rival} uses {ip} too and they may not share it"
        return ""

    def _find(
        self, service: Service, held: tuple[IP, ...], wanted: Sequence[Family], request: Request
    ) -> tuple[IP, ...] | str:
        """Addresses for the Service, or why there are none."""
        if request.addresses:
            return self._find_requested(service, wanted, request)
        if request.pool:
            pool = next((pool for pool in self.config.pools if pool.name == request.pool), None)
            if pool is None:
                return f'the Service asks for pool "{request.pool}", which does not exist'
            if refusal := self.refusal(pool, service):
                return refusal
            return self._find_in(service, held, wanted, (pool,), by_name=True)
        pools = self.automatic(service)
        if not pools:
            return "no pool gives addresses to this Service by itself: see autoAssign and serviceAllocation"
        return self._find_in(service, held, wanted, pools)

    def _find_in(
        self,
        service: Service,
        held: tuple[IP, ...],
        wanted: Sequence[Family],
        pools: Sequence[Pool],
        *,
        by_name: bool = False,
    ) -> tuple[IP, ...] | str:
        """The first pool, with its partners if it has any, that can give what is wanted.

        What the Service had before, it gets again where it may have it.
        """
        for pool in pools:
            if pool.families.isdisjoint(wanted):
                continue
            sources = {family: self.sources(pool, family, service, by_name=by_name) for family in wanted}
            picked = [self.first_of(service, sources[family], family, held) for family in wanted]
            if all(ip is not None for ip in picked):
                return tuple(ip for ip in picked if ip is not None)
        if service.family_policy is FamilyPolicy.PREFER_DUAL:
            for family in wanted:
                ip = self.first_of(service, pools, family, held)
                if ip is not None:
                    return (ip,)
        return self.exhausted(wanted, pools)

    def _find_requested(self, service: Service, wanted: Sequence[Family], request: Request) -> tuple[IP, ...] | str:
        asked = request.addresses
        if sorted(map(family_of, asked)) != sorted(wanted):
            return f"{join(asked)} asked for, but the Service's families are {join(wanted)}: ask for one of each"
        pool = self.config.pool_of(asked[0])
        for ip in asked:
            own = self.config.pool_of(ip)
            if own is None or pool is None:
                return f"{ip if own is None else asked[0]} asked for, but no pool has it"
            if own is not pool and not own.pairs_with(pool):
                return f"{join(asked)} asked for, but they are in different pools"
            if not own.covers(ip):
                return f"{ip} asked for, but pool {own.name} has avoidBuggyIPs"
            if request.pool and not self.is_or_pairs_with(own, request.pool):
                return f"{ip} asked for, but it is in pool {own.name} and pool {request.pool} is asked for too"
            if refusal := self.refusal(own, service):
                return refusal
            if rivals := self.rivals(ip, service):
                return f"{ip} asked for, but {rivals[0]} has it"
        if request.pool and request.pool not in self.pools_of(asked).split(","):
            return f"{join(asked)} asked for, but pool {request.pool}, which is asked for too, has none of them"
        return asked

    def _pools_set_aside(self) -> bool:
        return any(fault.kind == "IPAddressPool" and not fault.warning for fault in self.config.faults)


def _without(held: tuple[IP, ...], event: str, message: str) -> Decision:
    return Decision(outcome=Outcome.CLEAR if held else Outcome.PENDING, event=event, message=message)
