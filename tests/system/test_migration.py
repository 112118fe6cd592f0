"""A cluster that ran MetalLB is taken over by the playbook: no address changes, and clients notice little.

MetalLB is here as the API server knows it: its workloads (nobody runs their Pods), its webhooks, whose Pods do not
answer, and Services with status, annotation and status objects as it writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fabric.admin import KubectlError
from tests.fabric.command import FabricError
from tests.fabric.deploy import deploy, recap
from tests.system.cluster import CONFIG, Cluster

LABELS = {"app": "metallb"}
V4, V6, SHARED = "198.51.100.70", "2001:db8:51:0:1::7", "198.51.100.71"
TIMEOUT_S = 900
"""For three runs of the playbook, on a machine that has other things to do."""
HOOK = {
    "clientConfig": {"service": {"name": "metallb-webhook-service", "namespace": CONFIG, "path": "/validate"}},
    "admissionReviewVersions": ["v1"],
    "sideEffects": "None",
    "failurePolicy": "Fail",
    "name": "ipaddresspoolvalidationwebhook.metallb.io",
    "rules": [
        {
            "apiGroups": ["metallb.io"], "apiVersions": ["v1beta1"],
            "operations": ["CREATE", "UPDATE"], "resources": ["ipaddresspools"],
        },
    ],
}  # fmt: skip
CONVERSION = {
    "strategy": "Webhook",
    "webhook": {
        "conversionReviewVersions": ["v1beta1", "v1beta2"],
        "clientConfig": {"service": {"name": "metallb-webhook-service", "namespace": CONFIG, "path": "/convert"}},
    },
}


def workload(kind: str, name: str) -> dict[str, Any]:
    labels = {**LABELS, "component": name}
    pods = {"containers": [{"name": name, "image": f"quay.io/metallb/{name}:v0.16.1"}]}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pods}}
    meta = {"name": name, "namespace": CONFIG, "labels": labels}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec}


@pytest.fixture
def metallb(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster that MetalLB serves: hostagent runs nowhere yet."""
    plane = cluster.lab.control_plane
    for host in cluster.lab.hosts.values():
        host.run(["systemctl", "stop", "hostagent"])
    cluster.pool()
    cluster.advertise()
    webhooks = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "metallb-webhook-configuration", "labels": LABELS},
        "webhooks": [HOOK],
    }
    try:
        plane.apply([workload("Deployment", "controller"), workload("DaemonSet", "speaker"), webhooks])
        patch = json.dumps({"spec": {"conversion": CONVERSION}})
        plane.kubectl("patch", "crd", "bgppeers.metallb.io", "--type=merge", "-p", patch)
        yield cluster
    finally:
        plane.kubectl("delete", "validatingwebhookconfiguration", "metallb-webhook-configuration", "--ignore-not-found")
        for kind, name in (("deployment", "controller"), ("daemonset", "speaker")):
            plane.kubectl("delete", kind, name, "--namespace", CONFIG, "--ignore-not-found")
        back = json.dumps({"spec": {"conversion": {"strategy": "None", "webhook": None}}})
        plane.kubectl("patch", "crd", "bgppeers.metallb.io", "--type=merge", "-p", back)


def as_metallb_wrote_it(cluster: Cluster, name: str, *addresses: str) -> None:
    """Status without `ipMode`, the pool's annotation, and a ServiceL2Status of its speaker."""
    plane = cluster.lab.control_plane
    ingress = [{"ip": each} for each in addresses]
    patch = {
        "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "pool"}},
        "status": {"loadBalancer": {"ingress": ingress}},
    }
    plane.kubectl(
        "patch", "service", name, "--namespace", cluster.namespace,
        "--subresource=status", "--type=merge", f"--patch={json.dumps(patch)}",
    )  # fmt: skip


@pytest.mark.timeout(TIMEOUT_S)
def test_a_metallb_clusters_addresses_are_taken_over_without_changing_one(metallb: Cluster) -> None:
    cluster, plane = metallb, metallb.lab.control_plane
    share = {"metallb.io/allow-shared-ip": "key"}
    cluster.serve("dual", families=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack")
    cluster.serve("one", annotations={**share, "metallb.universe.tf/loadBalancerIPs": SHARED})
    cluster.serve("two", annotations=share, ports=(8081,))
    before = {"dual": [V4, V6], "one": [SHARED], "two": [SHARED]}
    for name, addresses in before.items():
        as_metallb_wrote_it(cluster, name, *addresses)
    with pytest.raises(KubectlError, match="webhook"):
        cluster.pool("198.51.100.96/30", name="refused")

    deploy(cluster.lab, "--check", playbook="migrate-from-metallb")
    assert plane.get("deployment", "controller", CONFIG)["spec"]["replicas"] == 1  # type: ignore[index]

    deploy(cluster.lab, playbook="migrate-from-metallb")
    assert {name: cluster.addresses(name) for name in before} == before
    for address in (V4, V6, SHARED):
        assert cluster.answered(address)
        assert len(cluster.holders(address)) == 1
    assert plane.get("deployment", "controller", CONFIG)["spec"]["replicas"] == 0  # type: ignore[index]
    assert plane.get("daemonset", "speaker", CONFIG)["spec"]["template"]["spec"]["nodeSelector"]  # type: ignore[index]
    cluster.pool("198.51.100.96/30", name="now-possible")
    plane.kubectl("get", "bgppeers.v1beta1.metallb.io", "--namespace", CONFIG)

    again = deploy(cluster.lab, "--limit", "h1", playbook="migrate-from-metallb")  # the others are as it is
    assert recap(again) == {"h1": ("0", "0")}, again[-3000:]
    assert {name: cluster.addresses(name) for name in before} == before


def test_an_address_that_would_be_lost_stops_the_migration_before_anything_is_touched(metallb: Cluster) -> None:
    cluster = metallb
    cluster.serve("outside")
    as_metallb_wrote_it(cluster, "outside", "198.51.100.99")  # in no pool: somebody edited the pools since
    with pytest.raises(FabricError, match=r"outside would lose 198\.51\.100\.99: .*no pool has 198\.51\.100\.99"):
        deploy(cluster.lab, playbook="migrate-from-metallb")
    found = cluster.lab.control_plane.get("deployment", "controller", CONFIG)
    assert found is not None
    assert found["spec"]["replicas"] == 1
    assert cluster.addresses("outside") == ["198.51.100.99"]
