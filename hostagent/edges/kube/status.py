"""A Service's status: where assignments are kept. Written by the allocator only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hostagent.edges.kube import rights
from hostagent.edges.kube.decode import to_service
from hostagent.edges.kube.transport import STRATEGIC_PATCH, WRITE_TIMEOUT_S, Api, ApiError
from hostagent.model.cluster import OLD_POOL_ANNOTATION, POOL_ANNOTATION, Service
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP
from hostagent.model.ownership import Write


class ServiceStatus:
    """Writes addresses into Services."""

    def __init__(self, api: Api, *, timeout_s: float = WRITE_TIMEOUT_S) -> None:
        self._api = api
        self._timeout_s = timeout_s

    async def write(
        self, service: Service, addresses: Sequence[IP], *, pool: str | None
    ) -> tuple[Write, Service | None]:
        """Give a Service its addresses and name their pool; no addresses and no pool clear both.

        One request, refused when the Service changed since `service` was read (LOST). Comes with the Service as it is
        now; None: it is gone (LOST) or could not be read back (UNKNOWN). Raises EdgeError when the API refuses for
        another reason, or stores something else than what was asked.
        """
        body = msgspec.json.encode(status_patch(service, addresses, pool=pool))
        path = _path(service)
        try:
            reply = await self._api.request(
                "PATCH", f"{path}/status", body=body, content_type=STRATEGIC_PATCH, timeout_s=self._timeout_s
            )
        except ApiError as error:
            if error.status == 404:
                return Write.LOST, None
            if error.status != 409 and not error.unanswered:
                raise
            return await self._read_back(service, addresses, pool, refused=error.status == 409)
        stored = to_service(reply)
        if not has(stored, addresses, pool=pool):
            asked = ", ".join(map(str, addresses)) or "no address"
            cause = f"asked for {asked}, the API stored {', '.join(stored.assigned) or 'none'}: an admission webhook?"
            raise EdgeError("service.status", service.key, cause)
        return Write.WON, stored

    async def may_write(self) -> bool:
        """Whether this host may write any Service's addresses: a 403 for one of them may be about that one alone.

        Raises EdgeError when that cannot be asked.
        """
        return await rights.may(self._api, "patch", "services/status", timeout_s=self._timeout_s)

    async def _read_back(
        self, service: Service, addresses: Sequence[IP], pool: str | None, *, refused: bool
    ) -> tuple[Write, Service | None]:
        try:
            found = to_service(await self._api.request("GET", _path(service), timeout_s=self._timeout_s))
        except ApiError as error:
            if error.status == 404:
                return Write.LOST, None
            return (Write.LOST if refused else Write.UNKNOWN), None
        if found.uid == service.uid and has(found, addresses, pool=pool):
            return Write.WON, found
        unchanged = found.resource_version == service.resource_version
        return (Write.UNKNOWN if unchanged and not refused else Write.LOST), found


def status_patch(service: Service, addresses: Sequence[IP], *, pool: str | None) -> dict[str, Any]:
    """A strategic merge patch: null removes, the list is replaced as a whole (the API has no key to merge it by)."""
    annotations: dict[str, str | None] = {POOL_ANNOTATION: pool}
    if OLD_POOL_ANNOTATION in service.annotations:
        annotations[OLD_POOL_ANNOTATION] = None
    ingress = [{"ip": str(ip), "ipMode": "VIP"} for ip in addresses]
    return {
        "metadata": {
            "resourceVersion": service.resource_version,  # of one object's life: a namesake made since has another
            "annotations": annotations,
        },
        "status": {"loadBalancer": {"ingress": ingress or None}},
    }


def has(service: Service, addresses: Sequence[IP], *, pool: str | None) -> bool:
    """Whether the Service is as a write of these would leave it. (An API server before 1.29 drops ipMode.)"""
    return service.assigned == tuple(str(ip) for ip in addresses) and service.annotations.get(POOL_ANNOTATION) == pool


def _path(service: Service) -> str:
    return f"/api/v1/namespaces/{service.key.namespace}/services/{service.key.name}"
