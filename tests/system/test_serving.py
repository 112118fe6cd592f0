"""Services get addresses, hosts answer for them, clients reach backends through them."""

from __future__ import annotations

import json

import pytest

from tests.fabric.hosts import Host
from tests.system.cluster import Cluster


@pytest.mark.parametrize(
    ("families", "policy"),
    [(["IPv4"], "SingleStack"), (["IPv6"], "SingleStack"), (["IPv4", "IPv6"], "RequireDualStack")],
    ids=["v4", "v6", "dual"],
)
def test_a_service_is_reachable_through_its_vip(cluster: Cluster, families: list[str], policy: str) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web", families=families, ipFamilyPolicy=policy)
    for vip in cluster.given("web", len(families)):
        assert cluster.answered(vip) in cluster.lab.hosts
        host = cluster.held(vip)
        assert cluster.status(host)["vips"]
    found = cluster.lab.control_plane.get("service", "web", cluster.namespace)
    assert found is not None
    assert {entry["ipMode"] for entry in found["status"]["loadBalancer"]["ingress"]} == {"VIP"}
    assert found["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"] == "pool"
    assert {event["reason"] for event in cluster.events("web")} >= {"IPAllocated", "nodeAssigned"}


def test_with_policy_local_only_hosts_with_endpoints_answer(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web", local=True, hosts=["h2"])
    [vip] = cluster.given("web")
    assert cluster.held(vip).name == "h2"
    assert cluster.answered(vip) == "h2"
    cluster.serve("web", local=True, hosts=["h3"])  # the pod moves
    cluster.until(lambda: cluster.holders(vip) == ["h3"], f"{vip} to follow its endpoint to h3")
    # A client that asks h2 once more is answered there, until kube-proxy knows too (a second, of itself).
    cluster.until(lambda: cluster.answered(vip) == "h3", "an answer from the endpoint on h3")


def test_without_endpoints_nobody_answers(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web", hosts=[])
    [vip] = cluster.given("web")
    assert cluster.holders(vip) == []
    cluster.serve("web")
    assert cluster.answered(vip)


def test_an_excluded_node_hands_over(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web")
    [vip] = cluster.given("web")
    holder = cluster.held(vip)
    label = "node.kubernetes.io/exclude-from-external-load-balancers"
    plane = cluster.lab.control_plane
    plane.kubectl("label", "node", holder.name, f"{label}=")
    try:
        cluster.until(lambda: cluster.holders(vip) not in ([], [holder.name]), f"{vip} to leave {holder.name}")
        assert cluster.answered(vip)
    finally:
        plane.kubectl("label", "node", holder.name, f"{label}-")


def test_node_selectors_and_interfaces_of_an_advertisement_are_obeyed(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise(nodeSelectors=[{"matchLabels": {"kubernetes.io/hostname": "h3"}}], interfaces=["eth0"])
    cluster.serve("web")
    [vip] = cluster.given("web")
    assert cluster.held(vip).name == "h3"
    cluster.advertise(interfaces=["eth7"])  # no host has it
    cluster.until(lambda: cluster.holders(vip) == [], f"{vip} to be answered by nobody")
    excluded = cluster.status(cluster.lab.hosts["h1"])["vips"][0]["excluded"]
    assert set(excluded.values()) == {"no-interface-for-the-address"}


def test_a_pool_that_is_exhausted_keeps_services_waiting_until_an_address_is_freed(cluster: Cluster) -> None:
    cluster.pool("198.51.100.64/32")
    cluster.advertise()
    cluster.serve("first")
    [vip] = cluster.given("first")
    cluster.serve("second")
    cluster.until(
        lambda: any(event["reason"] == "AllocationFailed" for event in cluster.events("second")),
        "an event that tells why second is pending",
    )
    assert cluster.addresses("second") == []
    cluster.delete("first")
    assert cluster.given("second") == [vip]
    assert cluster.answered(vip)


def test_requested_addresses_pools_and_classes(cluster: Cluster) -> None:
    cluster.pool("198.51.100.64/30")
    cluster.pool("198.51.100.72/30", name="manual", autoAssign=False)
    cluster.advertise()
    cluster.serve("asks", annotations={"metallb.io/loadBalancerIPs": "198.51.100.66"})
    cluster.serve("manual", annotations={"metallb.io/address-pool": "manual"})
    cluster.serve("foreign", loadBalancerClass="example.com/other")
    cluster.serve("outside", annotations={"metallb.io/loadBalancerIPs": "198.51.100.99"})
    assert cluster.given("asks") == ["198.51.100.66"]
    assert cluster.given("manual") == ["198.51.100.72"]
    cluster.until(lambda: cluster.events("outside"), "an event for the impossible request")
    assert cluster.addresses("outside") == cluster.addresses("foreign") == []


def test_deleting_a_service_removes_address_claim_and_guard_everywhere(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web")
    [vip] = cluster.given("web")
    cluster.answered(vip)
    hosts = cluster.lab.hosts.values()
    cluster.until(lambda: all(vip in _guard(host) for host in hosts), "the guard on every host")
    cluster.delete("web")
    cluster.until(lambda: cluster.holders(vip) == [], f"{vip} to leave the interfaces")
    cluster.until(lambda: f"vip.{vip}" not in cluster.claims(), "the claim to be deleted")
    cluster.until(lambda: not any(vip in _guard(host) for host in hosts), "the guard to forget the VIP")
    assert not cluster.lab.client.pings(vip)


def test_on_a_vip_only_the_services_ports_are_reachable(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web", families=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack")
    for vip in cluster.given("web", 2):
        assert cluster.answered(vip)
        host = cluster.held(vip)
        assert not _connects(cluster, vip, 22), "the host's sshd must not be reachable on the VIP"
        assert _connects(cluster, host.addresses[0], 22), "sshd itself must be there, or the test proves nothing"


def test_addresses_survive_a_restart_of_every_agent_at_once(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    given = {}
    for name in ("a", "b", "c"):
        cluster.serve(name)
        given[name] = cluster.given(name)
    for host in cluster.lab.hosts.values():
        host.run(["systemctl", "restart", "--no-block", "hostagent"])
    cluster.serve("d")
    assert cluster.given("d")[0] not in {vip for vips in given.values() for vip in vips}
    assert {name: cluster.addresses(name) for name in given} == given


def test_an_address_that_metallb_or_an_older_allocator_gave_is_kept(cluster: Cluster) -> None:
    """Re-adoption: the Service's status is the store, whoever wrote it, and whatever mode it lacked is added."""
    cluster.pool()
    cluster.advertise()
    for host in cluster.lab.hosts.values():
        host.run(["systemctl", "stop", "hostagent"])
    cluster.serve("old")
    patch = {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.70"}]}}}
    cluster.lab.control_plane.kubectl(
        "patch", "service", "old", "--namespace", cluster.namespace,
        "--subresource=status", "--type=merge", f"--patch={json.dumps(patch)}",
    )  # fmt: skip
    cluster.everybody_runs()
    assert cluster.answered("198.51.100.70")
    assert cluster.addresses("old") == ["198.51.100.70"]
    assert cluster.claims()["vip.198.51.100.70"] in cluster.lab.hosts


def _guard(host: Host) -> str:
    return host.run(["nft", "list", "table", "inet", "hostagent"], check=False).stdout


def _connects(cluster: Cluster, address: str, port: int) -> bool:
    shell = f"exec 3<>/dev/tcp/{address}/{port}"
    return cluster.lab.client.run(["timeout", "2", "bash", "-c", shell], check=False).returncode == 0
