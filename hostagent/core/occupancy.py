"""Who is on which address, who may join them there, and which address is free next."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from hostagent.core.reserved import Closed
from hostagent.model.cluster import AddressRange, Family, Pool, Port, family_of
from hostagent.model.names import IP, Instant, ServiceKey

NOTHING_CLOSED = Closed()
START = Instant(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenancy:
    """How one Service uses an address: what decides whether another may use it too."""

    sharing_key: str
    backend: str
    ports: frozenset[Port]
    namespace: str = ""

    def tolerates(self, other: Tenancy, *, within_namespace: bool = False) -> bool:
        """Both say so with the same key, have the same backends where those matter, and no port in common."""
        return (
            bool(self.sharing_key)
            and self.sharing_key == other.sharing_key
            and (self.namespace == other.namespace or not within_namespace)
            and self.backend == other.backend
            and self.ports.isdisjoint(other.ports)
        )


@dataclass(slots=True)
class Occupancy:
    """The index over all assignments. A Service is on all of its addresses with the same tenancy."""

    _tenants: dict[IP, dict[ServiceKey, Tenancy]] = field(default_factory=dict)
    _holdings: dict[ServiceKey, tuple[IP, ...]] = field(default_factory=dict)
    _settled: set[ServiceKey] = field(default_factory=set)
    _shared: dict[str, set[IP]] = field(default_factory=dict)
    """The addresses of each sharing key's Services."""
    _barred: dict[IP, str] = field(default_factory=dict)
    """Addresses that nobody gets, and why."""
    rest_s: Callable[[IP], float] = lambda _: 0.0
    """For how long nobody else gets an address that was freed, while there are others."""
    now: Instant = START
    _resting: dict[IP, tuple[ServiceKey, Instant]] = field(default_factory=dict)
    """Freed a moment ago: by whom, and until when it rests; in the order in which they were freed."""
    _left: dict[ServiceKey, tuple[IP, ...]] = field(default_factory=dict)
    """What Services had that gave up addresses which still rest."""
    _ends: list[tuple[Instant, int, int, IP]] = field(default_factory=list)
    """A heap of when each rest ends (address as family and number, to have an order); also of rests cut short."""
    _cursor: dict[tuple[AddressRange, bool], int] = field(default_factory=dict)
    """Below this offset the range has nothing to give (True: to a pool that avoids buggy addresses); keeps a burst of
    allocations linear."""

    @property
    def holdings(self) -> Mapping[ServiceKey, tuple[IP, ...]]:
        return self._holdings

    @property
    def taken(self) -> AbstractSet[IP]:
        """The addresses that somebody is on."""
        return self._tenants.keys()

    def tenants(self, ip: IP) -> Iterable[ServiceKey]:
        return self._tenants.get(ip, {})

    def occupy(self, key: ServiceKey, addresses: tuple[IP, ...], tenancy: Tenancy) -> bool:
        """Put the Service on these addresses and off all others. True if that may have made room for another."""
        if self._holdings.get(key, ()) == addresses and all(self._tenants[ip][key] == tenancy for ip in addresses):
            return False
        room = self.vacate(key)
        if addresses:
            self._holdings[key] = addresses
        for ip in addresses:
            self._resting.pop(ip, None)
            self._tenants.setdefault(ip, {})[key] = tenancy
            if tenancy.sharing_key:
                self._shared.setdefault(tenancy.sharing_key, set()).add(ip)
        return room

    def vacate(self, key: ServiceKey) -> bool:
        """Take the Service off all of its addresses. True if it had any.

        What nobody has then rests for a while, except for this Service: if it comes back, it gets the same again.
        """
        addresses = self._holdings.pop(key, ())
        self._settled.discard(key)
        for ip in addresses:
            tenants = self._tenants[ip]
            sharing_key = tenants.pop(key).sharing_key
            if sharing_key and not any(other.sharing_key == sharing_key for other in tenants.values()):
                self._shared[sharing_key].discard(ip)
                if not self._shared[sharing_key]:
                    del self._shared[sharing_key]
            if not tenants:
                del self._tenants[ip]
                self._free(ip, key)
        if addresses:
            self._left[key] = addresses
        return bool(addresses)

    def wake(self, now: Instant) -> None:
        """It is `now`: end the rests that are over."""
        self.now = now
        while self._ends and self._ends[0][0] <= now:
            *_, ip = heapq.heappop(self._ends)
            key, until = self._resting.get(ip, (None, now))
            if key is not None and until <= now:
                del self._resting[ip]
                self._left.pop(key, None)
                self._rewind(ip)

    def left_by(self, key: ServiceKey) -> tuple[IP, ...]:
        """Addresses that this Service had until a moment ago and that nobody has since."""
        return tuple(ip for ip in self._left.get(key, ()) if self._resting.get(ip, (None,))[0] == key)

    def longest_rested(self, pool: Pool, family: Family, closed: Closed = NOTHING_CLOSED) -> IP | None:
        """The address of the pool that has rested for the longest."""
        ips = (ip for ip in self._resting if family_of(ip) is family and pool.covers(ip))
        return next((ip for ip in ips if ip not in self._barred and closed.end_of(ip) is None), None)

    def _free(self, ip: IP, key: ServiceKey) -> None:
        until = Instant(self.now + self.rest_s(ip))
        if until > self.now:
            self._resting[ip] = (key, until)
            heapq.heappush(self._ends, (until, ip.version, int(ip), ip))
        else:
            self._rewind(ip)

    def bar(self, ip: IP, why: str) -> None:
        """Give this address to nobody from now on; who is on it stays."""
        self._barred[ip] = why

    def unbar(self, ip: IP) -> None:
        if self._barred.pop(ip, None) is not None:
            self._rewind(ip)

    def why_barred(self, ip: IP) -> str:
        """Empty for an address that may be given."""
        return self._barred.get(ip, "")

    def barred_in(self, pool: Pool) -> int:
        """How many addresses of the pool would be free if they were not barred."""
        return sum(ip not in self._tenants and pool.covers(ip) for ip in self._barred)

    def settle(self, key: ServiceKey) -> None:
        """The Service was found in order where it is: whoever comes or changes after this gives way to it."""
        if key in self._holdings:
            self._settled.add(key)

    def has_precedence(self, key: ServiceKey, over: ServiceKey) -> bool:
        """Which of two Services that cannot share an address stays on it: who was there in order, else by name.

        Only by name can it be told after a restart, and every allocator picks the same.
        """
        mine, others = key in self._settled, over in self._settled
        return mine if mine is not others else key < over

    def rivals(self, ip: IP, key: ServiceKey, tenancy: Tenancy, *, within_namespace: bool = False) -> list[ServiceKey]:
        """The Services on the address that do not tolerate this one beside them."""
        tenants = self._tenants.get(ip, {}).items()
        return sorted(
            other
            for other, theirs in tenants
            if other != key and not tenancy.tolerates(theirs, within_namespace=within_namespace)
        )

    def first_free(
        self,
        addresses: AddressRange,
        pool: Pool,
        key: ServiceKey,
        tenancy: Tenancy,
        closed: Closed = NOTHING_CLOSED,
    ) -> IP | None:
        """The lowest address of the range that is free, or that the Service may share with those on it.

        Those that rest, or are `closed` as the cluster itself uses them, are passed over.
        """
        friendly = self._shared.get(tenancy.sharing_key, set()) - self._barred.keys() if tenancy.sharing_key else ()
        shareable = (
            ip
            for ip in friendly
            if ip in addresses
            and pool.covers(ip)
            and not closed.why(ip)
            and not self.rivals(ip, key, tenancy, within_namespace=pool.sharing_within_namespace)
        )
        found = (min(shareable, key=int, default=None), self._empty(addresses, pool, closed))
        return min((ip for ip in found if ip), key=int, default=None)

    def look_anew(self) -> None:
        """What is closed has changed: what was passed over may be open now."""
        self._cursor.clear()

    def _empty(self, addresses: AddressRange, pool: Pool, closed: Closed) -> IP | None:
        base, size = addresses.first, int(addresses.last) - int(addresses.first) + 1
        cursor = (addresses, pool.avoid_buggy_ips)
        offset = self._cursor.get(cursor, 0)
        while offset < size:
            ip = base + offset
            end = closed.end_of(ip)
            if end is not None:
                offset += end - int(ip) + 1
            elif self._is_empty(ip, pool):
                break
            else:
                offset += 1
        self._cursor[cursor] = min(offset, size)
        return base + offset if offset < size else None

    def _is_empty(self, ip: IP, pool: Pool) -> bool:
        taken = ip in self._tenants or ip in self._barred or ip in self._resting
        return not taken and not pool.skips(ip)

    def _rewind(self, ip: IP) -> None:
        for (addresses, buggy), offset in self._cursor.items():
            if ip in addresses:
                self._cursor[addresses, buggy] = min(offset, int(ip) - int(addresses.first))
