"""The cluster as the agent sees it: local copies of what it watches, and what follows from them.

Watches only take note here and wake the loop; they decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from hostagent.core.candidates import Use
from hostagent.core.config.bgp import Secrets
from hostagent.core.config_set import build
from hostagent.core.reserved import Reserved, reserved_by
from hostagent.edges.kube.decode import (
    ObjectKey,
    node_name,
    object_key,
    service_key,
    to_namespace_labels,
    to_networks,
    to_node,
    to_resource,
    to_service,
)
from hostagent.edges.kube.endpoints import EndpointIndex, Slice, to_slice
from hostagent.edges.kube.informer import Informer
from hostagent.edges.kube.lease_objects import Lease, to_lease
from hostagent.edges.kube.transport import Api
from hostagent.model.cluster import ConfigSet, Node, Resource, Service
from hostagent.model.names import IP, Labels, Network, NodeName, ServiceKey

CONFIG_KINDS = ("ipaddresspools", "l2advertisements", "bgpadvertisements", "bgppeers", "bfdprofiles", "communities")
VERSIONS = {"bgppeers": "v1beta2"}


class Cluster:
    """Services, endpoints, nodes, Leases and configuration, kept up to date by watches.

    What changed since it was last asked is in the `changed_*` sets; `take_*` hands it over and forgets it. `wake` is
    called after every change.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        load_balancer_class: str | None,
        last_good: ConfigSet,
        wake: Callable[[], None],
    ) -> None:
        self._namespace = namespace
        self._class = load_balancer_class
        self._wake = wake
        self.services = Informer(api, "/api/v1/services", decode=to_service, key=service_key)
        self.slices = Informer(api, "/apis/discovery.k8s.io/v1/endpointslices", decode=to_slice, key=object_key)
        self.nodes = Informer(api, "/api/v1/nodes", decode=to_node, key=node_name)
        self.service_networks = Informer(
            api,
            "/apis/networking.k8s.io/v1/servicecidrs",
            decode=to_networks,
            key=lambda _, name: name,
            optional=True,  # since Kubernetes 1.33
        )
        self.namespaces = Informer(api, "/api/v1/namespaces", decode=to_namespace_labels, key=lambda _, name: name)
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self.leases = Informer(api, leases, decode=to_lease, key=lambda _, name: name)
        self.resources: dict[str, Informer[ObjectKey, Resource]] = {
            kind: Informer(
                api,
                f"/apis/metallb.io/{VERSIONS.get(kind, 'v1beta1')}/namespaces/{namespace}/{kind}",
                decode=to_resource,
                key=object_key,
            )
            for kind in CONFIG_KINDS
        }
        self.endpoints = EndpointIndex()
        self.config = last_good
        self.secrets: Secrets = {}
        """The passwords that BGPPeers name, or why there is none."""
        self._reserved: Reserved | None = None
        self._users: dict[IP, tuple[ServiceKey, ...]] = {}
        self._vips_of: dict[ServiceKey, tuple[IP, ...]] = {}
        self.users_version = 0
        """Grows whenever a Service gets or loses a VIP."""
        self.changed_services: set[ServiceKey] = set()
        self.changed_vips: set[IP] = set()
        self.changed_leases: dict[str, Lease | None] = {}
        self.leases_listed = False
        """There was a complete list: what is not in it is not there, whatever a reply once said."""
        self.config_changed = False
        self.nodes_changed = False

    def watches(self) -> Iterator[Coroutine[Any, Any, None]]:
        """All watches, each to be run as a task."""
        yield self.services.run(self._service, self._wake)
        yield self.slices.run(self._slice, self._wake)
        yield self.nodes.run(self._node, self._wake)
        yield self.service_networks.run(self._service_network, self._wake)
        yield self.namespaces.run(self._namespace_labels, self._wake)
        yield self.leases.run(self._lease, self._leases_listed)
        for informer in self.resources.values():
            yield informer.run(self._resource, self._configured)

    @property
    def informers(self) -> tuple[Informer[Any, Any], ...]:
        return (
            self.services,
            self.slices,
            self.nodes,
            self.service_networks,
            self.namespaces,
            self.leases,
            *self.resources.values(),
        )

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """The lists that have not arrived yet, with what is in their way; empty once all have."""
        return tuple(each.trouble or each.path for each in self.informers if not each.synced)

    @property
    def troubles(self) -> tuple[str, ...]:
        """What cannot be followed at the moment, or could not be read."""
        set_aside = [
            f"{each.path}: {'/'.join(key) if isinstance(key, tuple) else key}: {why}"
            for each in self.informers
            for key, why in each.set_aside.items()
        ]
        return (*(each.trouble for each in self.informers if each.trouble), *set_aside)

    def uses(self, vip: IP) -> tuple[Use, ...]:
        """The Services that have this VIP, with where their traffic can go."""
        keys = sorted(self._users.get(vip, ()))
        return tuple(Use(service=self.services.items[key], endpoints=self.endpoints.get(key)) for key in keys)

    @property
    def vips(self) -> AbstractSet[IP]:
        """All addresses that Services of ours have: now, and not as they were when it was asked."""
        return self._users.keys()

    @property
    def reserved(self) -> Reserved:
        """What the cluster itself uses; the same object until that changes."""
        if self._reserved is None:
            networks = [each for cidrs in self.service_networks.items.values() for each in cidrs]
            self._reserved = reserved_by(self.nodes.items.values(), sorted(networks, key=str))
        return self._reserved

    def node(self, name: NodeName) -> Node | None:
        return self.nodes.items.get(name)

    def read_config(self) -> None:
        """Build the configuration anew from all custom resources, the last good one of each standing in for faults."""
        resources = [r for informer in self.resources.values() for r in informer.items.values()]
        self.config = build(resources, namespace=self._namespace, previous=self.config, secrets=self.secrets)

    def bgp_peer(self, name: str) -> Resource | None:
        """A BGPPeer as it is written now."""
        return self.resources["bgppeers"].items.get((self._namespace, name))

    @property
    def secret_names(self) -> frozenset[str]:
        """The Secrets that BGPPeers name, as they are written now or in the version that is in force."""
        written = [*self.resources["bgppeers"].items.values(), *self.config.good]
        references = (r.spec.get("passwordSecret") for r in written if r.kind == "BGPPeer")
        names = (reference.get("name") for reference in references if isinstance(reference, dict))
        return frozenset(name for name in names if isinstance(name, str) and name)

    # What the watches note

    def _service(self, key: ServiceKey, service: Service | None) -> None:
        self.changed_services.add(key)
        before = self._vips_of.pop(key, ())
        after = self._vips(service) if service else ()
        if after:
            self._vips_of[key] = after
        if before != after:
            self.users_version += 1
            for vip in before:
                left = tuple(user for user in self._users.pop(vip) if user != key)
                if left:
                    self._users[vip] = left
            for vip in after:
                self._users[vip] = (*self._users.get(vip, ()), key)
        self.changed_vips.update(before, after)
        self._wake()

    def _vips(self, service: Service) -> tuple[IP, ...]:
        if service.type != "LoadBalancer" or service.deleted or service.load_balancer_class != self._class:
            return ()
        return service.addresses

    def _slice(self, key: ObjectKey, piece: Slice | None) -> None:
        for service in self.endpoints.apply(key, piece):
            self.changed_vips.update(self._vips_of.get(service, ()))
        self._wake()

    def _node(self, _: NodeName, __: Node | None) -> None:
        self.nodes_changed = True
        self._reserved = None
        self._wake()

    def _service_network(self, _: str, __: tuple[Network, ...] | None) -> None:
        self._reserved = None
        self._wake()

    def _namespace_labels(self, _: str, __: Labels | None) -> None:
        self._configured()

    def _resource(self, _: ObjectKey, __: Resource | None) -> None:
        self._configured()

    def _configured(self) -> None:
        self.config_changed = True
        self._wake()

    def _leases_listed(self) -> None:
        self.leases_listed = True
        self._wake()

    def _lease(self, name: str, lease: Lease | None) -> None:
        self.changed_leases[name] = lease
        self._wake()
