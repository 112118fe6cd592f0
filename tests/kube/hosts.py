"""Three hosts at a real API server, each with its own credential: h1 and h2 may allocate, h3 may not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from ipaddress import IPv4Address
from typing import Any

import msgspec
import pytest

from hostagent.edges.kube import access
from hostagent.edges.kube.decode import to_service
from hostagent.edges.kube.leases import Leases
from hostagent.edges.kube.transport import JSON, Api, ApiError
from hostagent.model.cluster import Service
from hostagent.model.names import IP, Instant, NodeName
from hostagent.model.ownership import Claim, Session, Why, Write, WriteClaim

NAMESPACE = access.PACKAGED_NAMESPACE
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
STATUSES = f"/apis/metallb.io/v1beta1/namespaces/{NAMESPACE}"
SERVICES = "/api/v1/namespaces/default/services"
EVENTS = "/api/v1/namespaces/default/events"
H1, H2, H3 = NodeName("h1"), NodeName("h2"), NodeName("h3")
GROUPS = {
    H1: ("hostagent:nodes", "hostagent:allocators"),
    H2: ("hostagent:nodes", "hostagent:allocators"),
    H3: ("hostagent:nodes",),
}
NOTE = "hostagent.io/suspected-by"
ADDRESSES = iter(IPv4Address("203.0.113.1") + n for n in range(200))
IN_FORCE_TRIES = 150


class Hosts:
    """A cluster admin; h1 and h2, which may allocate; h3, which may not."""

    def __init__(self, admin: Api, apis: Mapping[NodeName, Api]) -> None:
        self.admin, self.apis = admin, apis

    def leases(self, node: NodeName) -> Leases:
        return Leases(self.apis[node], namespace=NAMESPACE, node=node)

    async def session(self, node: NodeName) -> Session:
        """A fresh session of the host, written by itself."""
        found = await self.leases(node).read_session(node)
        outcome, written = await self.leases(node).renew_session(
            Session(
                node=node,
                instance="boot-1",
                resource_version=found.resource_version if found else "",
                seen_at=Instant(0.0),
                duration_s=15.0,
                version="1.2.3",
                segments=(),
                allocator=True,
            )
        )
        assert outcome is Write.WON
        assert written is not None
        return written

    async def claim(
        self, by: NodeName, vip: IP, holder: NodeName | None, expected: Claim | None = None, **more: Any
    ) -> Claim:
        act = WriteClaim(vip=vip, holder=holder, expected=expected, why=Why.FREE, **more)
        outcome, claim = await self.leases(by).write_claim(act)
        assert outcome is Write.WON
        assert claim is not None
        return claim


Act = Callable[[Hosts], Coroutine[Any, Any, None]]


async def in_force(api: Api) -> None:
    """New policies take the API server a moment. Each refuses something that RBAC does not."""
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "probe.another", "namespace": NAMESPACE},
        "involvedObject": {"kind": "Lease", "name": "probe", "namespace": NAMESPACE},
    }
    tries = (
        (LEASES, a_lease("probe.another", H2)),
        (f"{STATUSES}/servicel2statuses", a_status("another")),
        (f"/api/v1/namespaces/{NAMESPACE}/events", event),
    )
    said = ""
    for path, body in tries:
        for _ in range(IN_FORCE_TRIES):
            try:
                await api.request("POST", path, query={"dryRun": "All"}, body=msgspec.json.encode(body))
                said = "allowed"
            except ApiError as error:
                said = str(error)
            if "ValidatingAdmissionPolicy" in said:
                break
            await asyncio.sleep(0.2)  # the API server tells nobody when it has read them
        assert "ValidatingAdmissionPolicy" in said, path


async def refused(api: Api, method: str, path: str, body: object = None, *, says: str, kind: str = JSON) -> None:
    """The API server forbids it, and says why."""
    encoded = None if body is None else msgspec.json.encode(body)
    with pytest.raises(ApiError, match=says) as caught:
        await api.request(method, path, body=encoded, content_type=kind)
    assert caught.value.status in (403, 422)


async def read(api: Api, path: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(await api.request("GET", path))
    return found


def a_lease(name: str, holder: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"holderIdentity": holder},
    }


def a_status(node: str, kind: str = "ServiceL2Status", label: str = "metallb.io/node") -> dict[str, Any]:
    return {
        "apiVersion": "metallb.io/v1beta1",
        "kind": kind,
        "metadata": {"generateName": "l2-", "namespace": NAMESPACE, "labels": {label: node}},
    }


def a_service(name: str, kind: str = "LoadBalancer") -> dict[str, Any]:
    meta = {"name": name, "namespace": "default", "labels": {"app": name}}
    spec = {"type": kind, "ports": [{"port": 80, "protocol": "TCP"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


async def the_service(hosts: Hosts, name: str) -> Service:
    return to_service(await hosts.admin.request("GET", f"{SERVICES}/{name}"))
