"""What this host, and the allocator, tell the cluster about themselves in status objects. Nothing waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.core.status_objects import allocator_state, host_state, l2_statuses, pool_statuses
from hostagent.edges.kube.status_objects import StatusObjects, owners, remove_of
from hostagent.edges.kube.transport import Api
from hostagent.model.cluster import ConfigSet, Fault
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, Instant, InterfaceName, NodeName, ServiceKey
from hostagent.model.status_objects import (
    CONFIGURATION_STATE,
    IP_ADDRESS_POOL,
    NODE_LABEL,
    SERVICE_BGP_STATUS,
    SERVICE_L2_STATUS,
    STATE_NODE_LABEL,
    STATUS_KINDS,
    Kind,
)
from hostagent.telemetry.journal import say, warn

TURN_S = 0.5
"""People read these; a turn of the agent's loop is no reason to look at ten thousand Services."""
SWEEP_AGAIN_S = 10.0
LAST_WORD_S = 1.0
"""For taking back what this host said, when it stops; what it leaves, the allocator removes."""


class Reports:
    """A host's own objects: what it answers for, what it thinks of the configuration."""

    def __init__(self, api: Api, *, namespace: str, node: NodeName, cluster: Cluster) -> None:
        self._node = node
        self._cluster = cluster
        mine = {NODE_LABEL: node}
        self.l2 = StatusObjects(api, SERVICE_L2_STATUS, namespace=namespace, selector=mine)
        self.bgp = StatusObjects(api, SERVICE_BGP_STATUS, namespace=namespace, selector=mine)
        """For whoever knows what is advertised: `want` all of this host's ServiceBGPStatus objects."""
        self.state = StatusObjects(api, CONFIGURATION_STATE, namespace=namespace, selector={STATE_NODE_LABEL: node})
        self._turned_at = Instant(0)
        self._told: object = None

    @property
    def _kinds(self) -> tuple[StatusObjects, ...]:
        return (self.l2, self.bgp, self.state)

    @property
    def troubles(self) -> tuple[str, ...]:
        return tuple(each.trouble for each in self._kinds if each.trouble)

    async def run(self) -> None:
        """Keep the objects as they should be, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for each in self._kinds:
                tasks.create_task(each.run())

    def turn(self, held: Mapping[IP, InterfaceName], faults: tuple[Fault, ...] = ()) -> None:
        """Say what is to be told now. `held` are the addresses that are on this host's interfaces, `faults` what only
        this host can tell of the configuration.
        """
        if now() - self._turned_at < TURN_S:
            return
        self._turned_at = now()
        told = (dict(held), self._cluster.config, self._cluster.users_version, faults)
        if told == self._told:
            return
        self._told = told
        answered: dict[ServiceKey, set[InterfaceName]] = {}
        for vip, interface in held.items():
            for use in self._cluster.uses(vip):
                answered.setdefault(use.service.key, set()).add(interface)
        self.l2.want(l2_statuses(self._node, answered))
        self.state.want([host_state(self._node, (*self._cluster.config.faults, *faults))])

    async def end(self) -> None:
        """Take back what this host said: it is about to leave."""
        for each in self._kinds:
            each.want([])
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await asyncio.gather(*(each.settle() for each in self._kinds))
        except TimeoutError:
            say("status.left", "there was no time to delete this host's status objects: the allocator does it")


class AllocatorReports:
    """What the allocator tells for all, while it has the seat: the pools' counters, its verdict, and whom it clears up
    after. Make one for each term; `run` until the term ends.
    """

    def __init__(self, api: Api, *, namespace: str, alive: Callable[[], frozenset[NodeName]]) -> None:
        """`alive` are the hosts whose status objects shall stay."""
        self._api = api
        self._namespace = namespace
        self._alive = alive
        self._pools = StatusObjects(api, IP_ADDRESS_POOL, namespace=namespace, owned=False)
        self._state = StatusObjects(
            api, CONFIGURATION_STATE, namespace=namespace, selector={"metallb.io/component-type": "controller"}
        )

    @property
    def troubles(self) -> tuple[str, ...]:
        return tuple(each.trouble for each in (self._pools, self._state) if each.trouble)

    def tell(self, config: ConfigSet, in_use: AbstractSet[IP]) -> None:
        """The configuration and the addresses that Services have, as of now."""
        self._pools.want(pool_statuses(config, in_use))
        self._state.want([allocator_state(config.faults)])

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pools.run())
            tasks.create_task(self._state.run())
            tasks.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Remove what hosts that are gone have left: at first of all, then of each that goes."""
        left: dict[Kind, set[str]] | None = None
        known: frozenset[str] = frozenset()
        trouble = ""
        while True:
            alive = self._alive()
            try:
                if left is None:
                    left = {
                        kind: set(await owners(self._api, kind, namespace=self._namespace)) for kind in STATUS_KINDS
                    }
                for kind in STATUS_KINDS:
                    left[kind] = (left[kind] | (known - alive)) - alive
                    for node in sorted(left[kind]):
                        removed = await remove_of(self._api, kind, node, namespace=self._namespace)
                        left[kind].discard(node)
                        if removed:
                            say("status.cleared", f"{removed} {kind.name} of {node}, which is gone, deleted", by=node)
                known, trouble = alive, ""
            except EdgeError as error:
                if trouble != str(error):
                    warn("status.not-cleared", f"status objects of hosts that are gone are still there: {error}")
                trouble = str(error)
            await asyncio.sleep(SWEEP_AGAIN_S)
