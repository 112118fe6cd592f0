"""What the hosts' agents announce, as the router's kernel and the cluster's objects tell."""

from __future__ import annotations

from typing import Any

from tests.bgp.routers import FrrRouterHost, until
from tests.fabric.lab import Lab
from tests.system.cluster import CONFIG, Cluster

POOL, POOL6 = "203.0.113.0/24", "2001:db8:64::/112"
MANY_POOL = "10.65.0.0/16"
POOLS = "10.66.0.0/16"
"""Tests take pools of their own out of it."""


def gateways(tor: FrrRouterHost, vip: str) -> list[str]:
    """To an address or, of other lengths, a prefix."""
    return tor.kernel(6 if ":" in vip else 4).get(vip, [])


def everybody(lab: Lab, tor: FrrRouterHost, vip: str) -> bool:
    return len(gateways(tor, vip)) == len(lab.hosts)


def announced(cluster: Cluster, tor: FrrRouterHost, name: str = "web", **service: Any) -> str:
    """A Service whose VIP all hosts announce."""
    cluster.serve(name, **service)
    vip = cluster.given(name)[0]
    until(lambda: everybody(cluster.lab, tor, vip), f"three ways to {vip} at the router")
    return vip


def told(cluster: Cluster) -> list[dict[str, Any]]:
    """What hosts say in ServiceBGPStatus objects of this test's Services."""
    listed = cluster.lab.control_plane.admin.list_all("servicebgpstatuses", CONFIG)
    return [each["status"] for each in listed if each.get("status", {}).get("serviceNamespace") == cluster.namespace]


def errors_of(cluster: Cluster, node: str) -> str:
    """What a host says in its ConfigurationState."""
    found = cluster.lab.control_plane.get("configurationstate", f"speaker-{node}", CONFIG) or {}
    return str(found.get("status", {}).get("errorSummary") or "")
