"""What the allocator tells about pools and other configuration: it speaks for all hosts."""

from __future__ import annotations

from hostagent.agent.cluster import Cluster
from hostagent.core.allocate import Ledger
from hostagent.core.config.switches import ALLOW_OVERLAP
from hostagent.edges.kube.events import Events, about_resource
from hostagent.telemetry.journal import warn


class PoolNews:
    """Events on the objects, and the journal where only the allocator knows."""

    def __init__(self, cluster: Cluster, events: Events) -> None:
        self._cluster = cluster
        self._events = events
        self._overlaps: dict[str, str] = {}
        """Pools that hold addresses which the cluster itself uses, as was told."""

    def forget(self) -> None:
        """Another host tells now."""
        self._overlaps.clear()

    def tell(self, ledger: Ledger) -> None:
        """The configuration, or what the cluster uses, has changed."""
        self._tell_faults()
        self._tell_overlaps(ledger)

    def _tell_overlaps(self, ledger: Ledger) -> None:
        """Once for each pool that holds what the cluster itself uses, and again when that changes."""
        found = {pool: "; ".join(dict.fromkeys(uses)) for pool, uses in ledger.overlaps().items()}
        for resource in self._cluster.resources["ipaddresspools"].items.values():
            used = found.get(resource.name)
            if used is None or self._overlaps.get(resource.name) == used:
                continue
            message = (
                f"pool {resource.name} holds addresses that the cluster itself uses and that no Service is given: "
                f"{used}; take them out of the pool, or allow it: annotation {ALLOW_OVERLAP}"
            )
            warn("pool.overlap", message, pool=resource.name)
            self._events.emit(about_resource(resource), reason="AddressOverlap", message=message, warning=True)
        self._overlaps = found

    def _tell_faults(self) -> None:
        resources = {r.key: r for informer in self._cluster.resources.values() for r in informer.items.values()}
        for fault in self._cluster.config.faults:
            resource = resources.get((fault.kind, fault.namespace, fault.name))
            if resource is not None:
                reason = "ConfigurationWarning" if fault.warning else "ConfigurationInvalid"
                message = f"{fault.field}: {fault.message}"
                self._events.emit(about_resource(resource), reason=reason, message=message, warning=True)
