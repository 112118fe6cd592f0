"""From a kind to its URL, as the API server tells it."""

from __future__ import annotations

from typing import Any

import msgspec

from hostagent.edges.kube.transport import Api, ApiError
from hostagent.model.errors import EdgeError

Object = dict[str, Any]
"""A Kubernetes object as a manifest has it."""

TIMEOUT_S = 15.0


class _Kind(msgspec.Struct):
    name: str
    kind: str
    namespaced: bool


class _Kinds(msgspec.Struct):
    resources: list[_Kind]


_kinds = msgspec.json.Decoder(_Kinds)


def name_of(each: Object) -> str:
    """Namespace and name, for people."""
    meta = each["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


class Discovery:
    """Which kinds the API server has; asked once per group and version, and again for a kind it did not have."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[tuple[str, str], _Kind] = {}

    async def knows(self, each: Object) -> bool:
        wanted = (each["apiVersion"], each["kind"])
        if wanted not in self._known:
            await self._ask(each["apiVersion"])
        return wanted in self._known

    async def path_of(self, each: Object) -> str:
        """The object's URL path. Raises EdgeError for a kind that the API server does not have."""
        if not await self.knows(each):
            version, kind = each["apiVersion"], each["kind"]
            raise EdgeError("discover", f"{kind} {name_of(each)}", f"the API server has no kind {kind} in {version}")
        kind = self._known[(each["apiVersion"], each["kind"])]
        meta = each["metadata"]
        where = f"/namespaces/{meta['namespace']}" if kind.namespaced else ""
        return f"{_root(each['apiVersion'])}{where}/{kind.name}/{meta['name']}"

    async def _ask(self, api_version: str) -> None:
        try:
            reply = await self._api.request("GET", _root(api_version), timeout_s=TIMEOUT_S)
        except ApiError as error:
            if error.status == 404:
                return
            raise
        for kind in _kinds.decode(reply).resources:
            if "/" not in kind.name:  # subresources such as services/status
                self._known[(api_version, kind.kind)] = kind


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
