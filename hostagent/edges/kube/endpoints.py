"""EndpointSlices: where a Service's traffic can go now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from hostagent.edges.kube.decode import Meta, ObjectKey, service_key
from hostagent.model.cluster import NO_ENDPOINTS, Endpoints
from hostagent.model.names import NodeName, ServiceKey
from hostagent.model.shared import shared

SERVICE_LABEL = "kubernetes.io/service-name"


class _Conditions(msgspec.Struct):
    ready: bool | None = None
    serving: bool | None = None


class _Endpoint(msgspec.Struct, rename="camel"):
    conditions: _Conditions | None = None
    node_name: str | None = None


class _Slice(msgspec.Struct):
    metadata: Meta
    endpoints: list[_Endpoint] | None = None


_slices = msgspec.json.Decoder(_Slice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One EndpointSlice, reduced: most of their changes (one pod more on a node that has one) leave it equal."""

    service: ServiceKey | None
    """None: the slice belongs to no Service."""
    serving: bool
    nodes: frozenset[NodeName]


def to_slice(raw: bytes | msgspec.Raw) -> Slice:
    """A discovery.k8s.io/v1 EndpointSlice."""
    found = _slices.decode(raw)
    name = (found.metadata.labels or {}).get(SERVICE_LABEL)
    usable = [endpoint for endpoint in found.endpoints or () if _usable(endpoint.conditions)]
    return Slice(
        service=service_key(found.metadata.namespace, name) if name else None,
        serving=bool(usable),
        nodes=shared(frozenset(NodeName(endpoint.node_name) for endpoint in usable if endpoint.node_name)),
    )


def _usable(conditions: _Conditions | None) -> bool:
    """Ready, where unset means ready; else serving: a terminating pod that still serves keeps the announcement."""
    if conditions is None or conditions.ready is None or conditions.ready:
        return True
    return conditions.serving is True


def fold_endpoints(slices: Iterable[Slice]) -> Endpoints:
    """All slices of one Service as one. An endpoint without a node counts as serving, for no node in particular."""
    known = list(slices)
    return Endpoints(
        serving=any(piece.serving for piece in known),
        nodes=frozenset().union(*(piece.nodes for piece in known)),
    )


class EndpointIndex:
    """The Endpoints of every Service, kept up slice by slice; work is proportional to what changed."""

    def __init__(self) -> None:
        self._slices: dict[ObjectKey, Slice] = {}
        self._of: dict[ServiceKey, tuple[ObjectKey, ...]] = {}

    def apply(self, key: ObjectKey, piece: Slice | None) -> frozenset[ServiceKey]:
        """Take in what an informer reports; returns the Services whose Endpoints may have changed."""
        old = self._slices.pop(key, None)
        if old is not None and old.service is not None:
            left = tuple(each for each in self._of.pop(old.service) if each != key)
            if left:
                self._of[old.service] = left
        if piece is not None:
            self._slices[key] = piece
            if piece.service is not None:
                self._of[piece.service] = (*self._of.get(piece.service, ()), key)
        return frozenset(s.service for s in (old, piece) if s is not None and s.service is not None)

    def get(self, service: ServiceKey) -> Endpoints:
        keys = self._of.get(service)
        return fold_endpoints(self._slices[key] for key in keys) if keys else NO_ENDPOINTS
