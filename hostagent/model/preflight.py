"""What is looked at before a rollout, and what is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from hostagent.model.names import IP, NodeName


class Severity(StrEnum):
    ERROR = "error"
    """It will not work."""
    WARNING = "warning"
    """It may not work as meant."""
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, and what to do about it."""

    check: str
    """Its short name, by which it can be passed over."""
    severity: Severity
    says: str
    remedy: str
    host: str = ""
    """Node name; empty for what concerns the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeProxy:
    """As its ConfigMap says, where kubeadm or the like made one."""

    mode: str
    strict_arp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What the API server tells a cluster admin."""

    version: str
    """As the server writes it, such as v1.35.4."""
    rights_missing: tuple[str, ...]
    """What the asker may not do and `hostagent access` has to."""
    nodes: Mapping[NodeName, tuple[IP, ...]]
    """With their addresses of type InternalIP."""
    kube_proxy: KubeProxy | None
    metallb: tuple[str, ...]
    """Pods of a MetalLB that runs."""
    pools: Mapping[str, tuple[str, ...]]
    """What the API holds already, the addresses as they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host told of itself."""

    node: NodeName
    addresses: tuple[IP, ...]
    gateways: tuple[IP, ...]
    passing: tuple[IP, ...] = ()
    """Those of `addresses` that look like VIPs which it has for now: of a pool by right."""
