"""What an API server tells a cluster admin before a rollout. Reads only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

from hostagent.edges.kube import rights
from hostagent.edges.kube.access import get
from hostagent.edges.kube.discovery import Object
from hostagent.edges.kube.signing import SIGNER
from hostagent.edges.kube.transport import Api, ApiError
from hostagent.model.names import IP, NodeName
from hostagent.model.preflight import ClusterFacts, KubeProxy

TIMEOUT_S = 15.0
_CSR = "certificates.k8s.io"
NEEDED = (
    ("patch", "apiextensions.k8s.io", "customresourcedefinitions", ""),
    ("patch", "admissionregistration.k8s.io", "validatingadmissionpolicies", ""),
    ("patch", "rbac.authorization.k8s.io", "clusterroles", ""),
    ("bind", "rbac.authorization.k8s.io", "clusterroles", "hostagent:node"),
    ("create", _CSR, "certificatesigningrequests", ""),
    ("update", _CSR, "certificatesigningrequests/approval", ""),
    ("approve", _CSR, "signers", SIGNER),
)
"""What `hostagent access apply` and `sign` do: verb, group, resource, name."""
_METALLB = ("app.kubernetes.io/name=metallb", "app=metallb")
"""Labels of its chart and of its manifests."""


async def look(api: Api, *, namespace: str) -> ClusterFacts:
    """Ask for all that is judged; what may not be read counts as a right that is missing.

    Raises EdgeError when the API does not answer.
    """
    reads = _Reads(api)
    version, rights, nodes, proxy, metallb, pools = await asyncio.gather(
        reads.get("/version"),
        _rights_missing(api),
        reads.list("/api/v1/nodes"),
        reads.get("/api/v1/namespaces/kube-system/configmaps/kube-proxy"),
        asyncio.gather(*(reads.list(f"/api/v1/pods?labelSelector={quote(each)}") for each in _METALLB)),
        reads.list(f"/apis/metallb.io/v1beta1/namespaces/{namespace}/ipaddresspools"),
    )
    pods = (each["metadata"] for items in metallb for each in items)
    return ClusterFacts(
        version=str((version or {}).get("gitVersion", "")),
        rights_missing=(*rights, *sorted(reads.refused)),
        nodes={NodeName(each["metadata"]["name"]): _internal(each) for each in nodes},
        kube_proxy=_kube_proxy(proxy) if proxy else None,
        metallb=tuple(sorted({f"{meta['namespace']}/{meta['name']}" for meta in pods})),
        pools={each["metadata"]["name"]: tuple(each.get("spec", {}).get("addresses") or ()) for each in pools},
    )


class _Reads:
    """What the API server lets us read, and what not."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.refused: set[str] = set()

    async def get(self, path: str) -> Object | None:
        """None: it is not there, or not for us."""
        try:
            return await get(self._api, path)
        except ApiError as error:
            if error.status != 403:
                raise
            self.refused.add(f"read {path.partition('?')[0].rpartition('/')[2]}")
            return None

    async def list(self, path: str) -> Sequence[Object]:
        """The objects; none where the API server does not know the kind yet."""
        return (await self.get(path) or {}).get("items") or ()


async def _rights_missing(api: Api) -> tuple[str, ...]:
    async def may(verb: str, group: str, resource: str, name: str) -> str:
        allowed = await rights.may(api, verb, resource, group=group, name=name, timeout_s=TIMEOUT_S)
        return "" if allowed else f"{verb} {resource}.{group}" + (f" {name}" if name else "")

    return tuple(filter(None, await asyncio.gather(*(may(*each) for each in NEEDED))))


def _internal(node: Mapping[str, Any]) -> tuple[IP, ...]:
    addresses = node.get("status", {}).get("addresses") or ()
    return tuple(ip_address(each["address"]) for each in addresses if each["type"] == "InternalIP")


def _kube_proxy(config_map: Mapping[str, Any]) -> KubeProxy:
    import yaml  # noqa: PLC0415  # only people's commands need it

    text = (config_map.get("data") or {}).get("config.conf") or ""
    config = yaml.safe_load(text) or {}
    ipvs = config.get("ipvs") or {}
    return KubeProxy(mode=str(config.get("mode") or ""), strict_arp=bool(ipvs.get("strictARP")))
