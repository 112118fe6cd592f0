"""What a simulation takes in and gives out."""

from __future__ import annotations

from dataclasses import dataclass

from hostagent.core.explain import AddressAccount
from hostagent.core.tellings import Telling
from hostagent.model.cluster import ConfigSet, Endpoints, Node, Resource, Service
from hostagent.model.names import IP, Labels, NodeName, ServiceKey
from hostagent.model.ownership import Session
from hostagent.model.status_objects import StatusObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpointed:
    """One EndpointSlice of a Service."""

    service: ServiceKey | None
    endpoints: Endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A claim: who holds an address already."""

    vip: IP
    holder: NodeName | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    name: str
    labels: Labels


Object = Service | Node | Endpointed | Resource | Namespace | Session | Holding


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One object in the order in which they come."""

    key: tuple[str, str, str]
    """Kind, namespace, name."""
    value: Object
    deletes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A Kubernetes Event that would be emitted."""

    kind: str
    namespace: str
    name: str
    telling: Telling


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A Service of ours in the end."""

    service: Service
    pool: str
    pending: str
    """Why it has no address; empty if it has."""
    addresses: tuple[AddressAccount, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Where everything came to rest."""

    config: ConfigSet
    services: tuple[Served, ...]
    pools: tuple[StatusObject, ...]
    events: tuple[Told, ...]
    moved: tuple[tuple[IP, NodeName, NodeName | None], ...]
    """What `drained` and `down` moved: from whom, to whom."""
    nodes: tuple[NodeName, ...]
