"""What the pools have to give, in which order, and to whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hostagent.core.occupancy import START, Occupancy, Tenancy
from hostagent.core.requests import annotation
from hostagent.core.reserved import Closed, Reserved, closed_in
from hostagent.model.cluster import ConfigSet, Family, Pool, Service, TrafficPolicy, any_matches, family_of
from hostagent.model.names import IP, Instant, Labels, ServiceKey
from hostagent.model.shared import shared


@dataclass(slots=True)
class Stock:
    """All pools, and who is on which of their addresses."""

    config: ConfigSet = field(default_factory=ConfigSet)
    namespaces: Mapping[str, Labels] = field(default_factory=dict)
    reserved: Reserved = ()
    """What the cluster itself uses: never given, unless the pool allows it; who has it keeps it."""
    now: Instant = START
    """What time it is, for addresses that rest after they were freed."""
    _occupancy: Occupancy = field(default_factory=Occupancy)
    _closed: dict[str, Closed] = field(default_factory=dict)
    _closed_for: tuple[ConfigSet, Reserved] | None = None

    def __post_init__(self) -> None:
        self._occupancy.rest_s = self._rest_s

    def overlaps(self) -> dict[str, tuple[str, ...]]:
        """Pools that hold addresses which the cluster itself uses, and who uses those."""
        found = {pool.name: self._closed_of(pool).uses for pool in self.config.pools}
        return {pool: tuple(use.user for use in uses) for pool, uses in found.items() if uses}

    def automatic(self, service: Service) -> list[Pool]:
        """Pools in the order in which they are tried: those pinned to the Service by priority, then the common ones.

        The latter not where one of the former is exclusive.
        """
        usable = [pool for pool in self.config.pools if pool.auto_assign and not self.refusal(pool, service)]
        pinned = [pool for pool in usable if pool.allocation is not None]
        pinned.sort(key=_priority)
        if any(pool.exclusive for pool in pinned):
            return pinned
        return [*pinned, *(pool for pool in usable if pool.allocation is None)]

    def sources(self, pool: Pool, family: Family, service: Service, *, by_name: bool = False) -> Sequence[Pool]:
        """The pool itself, or its partners where it has no addresses of this family."""
        if family in pool.families:
            return (pool,)
        return [
            each
            for each in self.config.pools
            if each.pairs_with(pool) and (by_name or each.auto_assign) and not self.refusal(each, service)
        ]

    def is_or_pairs_with(self, pool: Pool, name: str) -> bool:
        return pool.name == name or any(each.name == name and each.pairs_with(pool) for each in self.config.pools)

    def pools_of(self, addresses: Iterable[IP]) -> str:
        """The names of the addresses' pools, as the Service's annotation has them: nearly always just one."""
        pools = (self.config.pool_of(ip) for ip in addresses)
        return ",".join(dict.fromkeys(pool.name for pool in pools if pool is not None))

    def refusal(self, pool: Pool, service: Service) -> str:
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

    def first_of(self, service: Service, pools: Sequence[Pool], family: Family, held: tuple[IP, ...]) -> IP | None:
        found = (self._first_free(service, pool, family, held) for pool in pools)
        return next((ip for ip in found if ip is not None), None)

    def _first_free(self, service: Service, pool: Pool, family: Family, held: tuple[IP, ...]) -> IP | None:
        """An address of the pool for the Service: one that it has or had a moment ago, else the lowest, range by
        range, that is free or may be shared with its users, else the one that was freed first of those that rest.
        """
        closed = self._closed_of(pool)
        for ip in (*held, *self._occupancy.left_by(service.key)):
            usable = family_of(ip) is family and pool.covers(ip) and not closed.why(ip)
            if usable and not self._occupancy.why_barred(ip) and not self.rivals(ip, service):
                return ip
        ranges = (addresses for addresses in pool.ranges if family_of(addresses.first) is family)
        tenancy = tenancy_of(service)
        found = (self._occupancy.first_free(each, pool, service.key, tenancy, closed) for each in ranges)
        first = next((ip for ip in found if ip is not None), None)
        return first if first is not None else self._occupancy.longest_rested(pool, family, closed)

    def rivals(self, ip: IP, service: Service) -> list[ServiceKey]:
        pool = self.config.pool_of(ip)
        within = pool is not None and pool.sharing_within_namespace
        return self._occupancy.rivals(ip, service.key, tenancy_of(service), within_namespace=within)

    def _closed_of(self, pool: Pool) -> Closed:
        if (
            self._closed_for is None
            or self._closed_for[0] is not self.config
            or self._closed_for[1] is not self.reserved
        ):
            self._closed_for = (self.config, self.reserved)
            self._closed = {each.name: closed_in(each, self.reserved) for each in self.config.pools}
            self._occupancy.look_anew()
        return self._closed[pool.name]

    def why_closed(self, ip: IP) -> str:
        pool = self.config.pool_of(ip)
        return self._closed_of(pool).why(ip) if pool else ""

    def _rest_s(self, ip: IP) -> float:
        pool = self.config.pool_of(ip)
        return pool.quarantine_s if pool else 0.0

    def exhausted(self, wanted: Sequence[Family], pools: Sequence[Pool]) -> str:
        names = join(pool.name for pool in pools)
        together = " together" if len(wanted) > 1 else ""
        aside = sum(self._occupancy.barred_in(pool) for pool in pools)
        besides = [f"{aside} set aside, as other machines answer for them"] if aside else []
        if any(self._closed_of(pool).uses for pool in pools):
            besides.append("what nodes, Pods and Services of the cluster use is left out")
        more = f" ({'; '.join(besides)})" if besides else ""
        return f"no free {' and '.join(wanted)} address{together} in {names}{more}: free one, or enlarge a pool"


def tenancy_of(service: Service) -> Tenancy:
    backend = ""
    if service.traffic_policy is TrafficPolicy.LOCAL:  # its traffic is dropped where its own Pods are not
        backend = "local:" + ",".join(f"{k}={v}" for k, v in sorted(service.selector.items()))
    return shared(
        Tenancy(
            sharing_key=annotation(service, "allow-shared-ip"),
            backend=backend,
            ports=frozenset(service.ports),
            namespace=service.key.namespace,
        )
    )


def _priority(pool: Pool) -> tuple[bool, int, str]:
    priority = pool.allocation.priority if pool.allocation else 0
    return (priority == 0, priority, pool.name)


def join(things: Iterable[object]) -> str:
    return ", ".join(str(thing) for thing in things)
