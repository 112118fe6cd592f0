"""The prefixes that this host has in its kernel for a routing daemon: looked at, changed as planned, and told of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.core.advertise import Plan
from hostagent.core.tellings import PROTOCOL_BGP, Telling, announced, withdrawn
from hostagent.edges.kube.events import Events, about_service
from hostagent.model.bgp import AttributeClass, Routes
from hostagent.model.cluster import Service
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, Instant, Network, NodeName
from hostagent.telemetry.journal import say, warn

POLL_S = 1.0
"""Between looks while they are few: a look costs the kernel a millisecond."""
CHECK_S = 5.0
"""Between looks while they are many."""
MANY = 2000


class Prefixes:
    """Our routes. They outlive the agent: a new life looks at what is there, and changes what differs."""

    def __init__(
        self, *, me: NodeName, cluster: Cluster, events: Events, guarded: Callable[[], Mapping[IP, object]]
    ) -> None:
        """`guarded` are the VIPs that the guard covers: others are not announced yet."""
        self.routes: Routes | None = None
        """The edge, once there is a routing daemon."""
        self.present: dict[Network, int] = {}
        """With the numbers of their classes, as read from the kernel last, or written since."""
        self.since: dict[Network, Instant] = {}
        self.waiting: set[Network] = set()
        """Those that the guard does not cover yet."""
        self._me = me
        self._cluster = cluster
        self._events = events
        self._guarded = guarded
        self._looked_at: Instant | None = None
        self._compared_all = False
        """`present` is as planned but for what the plan says changed."""

    def look_again(self) -> None:
        """The next `look` is due at once."""
        self._looked_at = None

    def compare_all(self) -> None:
        """The plan or its numbers are others than before."""
        self._compared_all = False

    async def look(self) -> None:
        """Read them from the kernel, if it is time. Raises EdgeError."""
        every_s = POLL_S if len(self.present) < MANY else CHECK_S
        if self.routes is None or (self._looked_at is not None and now() - self._looked_at < every_s):
            return
        before, self.present = self.present, dict(await self.routes.present())
        self._looked_at = now()
        if self.present == before:
            return
        self._compared_all = False
        for prefix in self.since.keys() - self.present.keys():
            del self.since[prefix]
        for prefix in self.present:
            self.since.setdefault(prefix, self._looked_at)

    async def change(self, plan: Plan, numbers: Mapping[AttributeClass, int]) -> bool:
        """Make them as planned; True if they were not. All are compared after a look at the kernel, else those whose
        plan changed: a Service's coming costs the same whether there are ten others or ten thousand.

        Raises EdgeError.
        """
        if self.routes is None:
            return False
        touched, plan.changed = plan.changed | self.waiting, set()
        if self._compared_all:
            wanted = {prefix: _number_of(plan, numbers, prefix) for prefix in touched}
        else:
            planned = _planned(plan, numbers)
            wanted = {prefix: planned.get(prefix) for prefix in planned.keys() | self.present.keys()}
            self._compared_all = True
        differ = {prefix: number for prefix, number in wanted.items() if self.present.get(prefix) != number}
        guarded = self._guarded()
        add = {
            prefix: number
            for prefix, number in differ.items()
            if number is not None and (prefix in self.present or any(vip in guarded for vip in plan.vips_of(prefix)))
        }
        remove = frozenset(prefix for prefix, number in differ.items() if number is None)
        self.waiting = differ.keys() - add.keys() - remove
        if not add and not remove:
            return False
        self._compared_all = False
        await self.routes.change(add=add, remove=remove)
        self._looked_at = self._looked_at if len(self.present) >= MANY else None  # read back, at once if that is cheap
        self._compared_all = self._looked_at is not None
        self._note(plan, add, remove)
        return True

    async def put_again(self, prefixes: Iterable[Network]) -> None:
        """Have the routing daemon hear of these anew. Raises EdgeError."""
        again = {prefix: self.present[prefix] for prefix in prefixes}
        if self.routes is not None:
            await self.routes.change(add={}, remove=frozenset(again))
            await self.routes.change(add=again, remove=frozenset())

    async def withdraw(self, why: str) -> None:
        """Take all away at once: the last act of a stop that ran out of time."""
        if self.routes is None or not self.present:
            return
        try:
            await self.routes.change(add={}, remove=frozenset(await self.routes.present()))
        except EdgeError as error:
            warn("bgp.failed", f"prefixes cannot be withdrawn: {error}")
            return
        warn("bgp.withdrawn", f"{len(self.present)} prefixes are withdrawn: {why}", reason=why)
        self.present = {}

    def _note(self, plan: Plan, add: Mapping[Network, int], remove: frozenset[Network]) -> None:
        at = now()
        for prefix in remove:
            self.present.pop(prefix)
            self.since.pop(prefix, None)
            why = plan.why_not(prefix)
            say(
                "bgp.withdrawn", f"{prefix} is no longer advertised: {why}", vip=str(prefix.network_address), reason=why
            )
            told = withdrawn(prefix, self._me, why, heir=None, protocol=PROTOCOL_BGP)
            # Other hosts may go on: each decides for itself.
            self._emit(replace(told, warning=False), self._services(self._inside(prefix)))
        fresh = [prefix for prefix in add if prefix not in self.present]
        self.present |= add
        for prefix in fresh:
            self.since[prefix] = at
            services = self._services(plan.vips_of(prefix))
            say(
                "bgp.advertised",
                f"{prefix} is advertised",
                vip=str(prefix.network_address),
                service=" ".join(sorted(str(each.key) for each in services)),
            )
            self._emit(announced(prefix, self._me, PROTOCOL_BGP), services)

    def _inside(self, prefix: Network) -> Iterable[IP]:
        """The VIPs in a prefix: the plan has let go of those that it was announced for."""
        if prefix.prefixlen == prefix.max_prefixlen:
            return (prefix.network_address,)
        return (vip for vip in self._cluster.vips if vip in prefix)

    def _services(self, vips: Iterable[IP]) -> list[Service]:
        """Each once."""
        return [*{use.service.key: use.service for vip in vips for use in self._cluster.uses(vip)}.values()]

    def _emit(self, told: Telling, services: Iterable[Service]) -> None:
        for service in services:
            self._events.emit(about_service(service), reason=told.reason, message=told.message, warning=told.warning)


def _planned(plan: Plan, numbers: Mapping[AttributeClass, int]) -> dict[Network, int]:
    """All, with their numbers. A class is one object in a plan: hashing it once is enough."""
    number = {id(each): numbers[each] for each in plan.classes if each in numbers}
    return {prefix: number[id(each)] for prefix, each in plan.prefixes.items() if id(each) in number}


def _number_of(plan: Plan, numbers: Mapping[AttributeClass, int], prefix: Network) -> int | None:
    planned = plan.prefixes.get(prefix)
    return None if planned is None else numbers.get(planned)
