"""The cluster is told what hosts do: status objects, events, and an account of each Service."""

from __future__ import annotations

import json
from typing import Any

from tests.fabric.hosts import Host
from tests.system.cluster import CONFIG, Cluster


def test_a_service_is_told_of_from_its_address_to_the_death_of_its_host(cluster: Cluster) -> None:
    cluster.pool("198.51.100.64/30")
    cluster.advertise()
    cluster.serve("web")
    [vip] = cluster.given("web")
    holder = cluster.held(vip)
    cluster.until(lambda: _answers(cluster, "web") == [(holder.name, ["eth0"])], "a ServiceL2Status by the holder")
    cluster.until(lambda: _counters(cluster) == (1, 3), "the pool to count its addresses")
    cluster.until(
        lambda: (
            _states(cluster) == {"controller": "Valid", **{f"speaker-{name}": "Valid" for name in cluster.lab.hosts}}
        ),
        "a verdict of every host and of the allocator",
    )

    account = _explain(cluster, holder)
    assert account["addresses"][0]["holder"] == holder.name
    assert {each["node"] for each in account["addresses"][0]["nodes"]} == set(cluster.lab.hosts)

    holder.run(["/opt/hostagent/venv/bin/hostagent", "drain", "--wait"])
    try:
        heir = cluster.held(vip)
        cluster.until(lambda: _answers(cluster, "web") == [(heir.name, ["eth0"])], "the heir's ServiceL2Status alone")
        cluster.until(lambda: _told(cluster, "nodeWithdrawn"), "an event that the drained host withdrew")
        assert f'"{heir.name}" takes over' in _told(cluster, "nodeWithdrawn")[0]
        assert "draining" in _told(cluster, "nodeWithdrawn")[0]
    finally:
        holder.run(["/opt/hostagent/venv/bin/hostagent", "undrain"])

    heir.power_off()
    cluster.until(lambda: cluster.holders(vip) not in ([], [heir.name]), "another host to take over")
    cluster.until(
        lambda: (
            heir.name not in {node for node, _ in _answers(cluster, "web")}
            and f"speaker-{heir.name}" not in _states(cluster)
        ),
        "what the dead host said to be deleted",
        timeout_s=60,
    )


def test_nobody_being_able_to_announce_is_told_and_explained(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web", local=True, hosts=[])
    [vip] = cluster.given("web")
    cluster.until(lambda: _told(cluster, "announceFailed"), "an event that nobody announces", timeout_s=40)
    assert vip in _told(cluster, "announceFailed")[0]
    account = _explain(cluster, cluster.lab.hosts["h1"])
    assert account["addresses"][0]["holder"] is None
    assert "Pod" in account["change"][0]


def _explain(cluster: Cluster, host: Host) -> dict[str, Any]:
    command = ["/opt/hostagent/venv/bin/hostagent", "explain", f"{cluster.namespace}/web", "--output", "json"]
    account: dict[str, Any] = json.loads(host.run(command, check=False).stdout)
    return account


def _answers(cluster: Cluster, name: str) -> list[tuple[str, list[str]]]:
    found = [each.get("status", {}) for each in cluster.lab.control_plane.admin.list_all("servicel2statuses", CONFIG)]
    return sorted(
        (each["node"], [one["name"] for one in each["interfaces"]])
        for each in found
        if (each.get("serviceNamespace"), each.get("serviceName")) == (cluster.namespace, name)
    )


def _states(cluster: Cluster) -> dict[str, str]:
    found = cluster.lab.control_plane.admin.list_all("configurationstates", CONFIG)
    return {each["metadata"]["name"]: each.get("status", {}).get("result", "") for each in found}


def _counters(cluster: Cluster) -> tuple[int, int]:
    status = (cluster.lab.control_plane.get("ipaddresspool", "pool", CONFIG) or {}).get("status", {})
    return status.get("assignedIPv4", -1), status.get("availableIPv4", -1)


def _told(cluster: Cluster, reason: str) -> list[str]:
    return [each["message"] for each in cluster.events("web") if each["reason"] == reason]
