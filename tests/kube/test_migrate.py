"""`hostagent migrate` on a real API server, with MetalLB as that server knows it: workloads, webhooks, conversion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hostagent.cli.migrate import CONFIG_KINDS, migrate
from tests.fabric.admin import KubectlError, wait_for
from tests.fabric.controlplane import ControlPlane
from tests.kube.conftest import Kubeconfig

pytestmark = [pytest.mark.kube, pytest.mark.netns]

CONFIG = "metallb-system"
LABELS = {"app": "metallb"}
SERVICE = {"name": "metallb-webhook-service", "namespace": CONFIG}
POOL = {
    "apiVersion": "metallb.io/v1beta1",
    "kind": "IPAddressPool",
    "metadata": {"name": "migrated", "namespace": CONFIG},
    "spec": {"addresses": ["198.51.100.64/30"]},
}


def workload(kind: str, name: str, **labels: str) -> dict[str, Any]:
    marks = {**LABELS, "component": name}
    pods = {"containers": [{"name": name, "image": f"quay.io/metallb/{name}:v0.16.1"}]}
    spec = {"selector": {"matchLabels": marks}, "template": {"metadata": {"labels": marks}, "spec": pods}}
    meta = {"name": name, "namespace": CONFIG, "labels": {**marks, **labels}}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec}


@pytest.fixture(scope="module")
def cluster(plane: ControlPlane) -> Iterator[ControlPlane]:
    for file in sorted((files("hostagent") / "manifests").iterdir(), key=lambda file: file.name):
        plane.kubectl("apply", "--server-side", "-f", "-", input=file.read_text(encoding="utf-8"))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for plural in CONFIG_KINDS:  # a kind that has just been made is not ready at once
        wait_for(lambda plural=plural: listed(plane, plural), 30.0, f"{plural} to be served")  # type: ignore[misc]
    plane.apply(POOL)
    yield plane
    plane.kubectl("delete", "ipaddresspool", "migrated", "-n", CONFIG)


def listed(plane: ControlPlane, plural: str) -> bool:
    try:
        plane.kubectl("get", plural, "-n", CONFIG)
    except KubectlError:
        return False
    return True


@pytest.fixture
def metallb(cluster: ControlPlane) -> Iterator[ControlPlane]:
    hook = {
        "name": "ipaddresspoolvalidationwebhook.metallb.io",
        "clientConfig": {"service": {**SERVICE, "path": "/validate"}},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "rules": [
            {
                "apiGroups": ["metallb.io"], "apiVersions": ["v1beta1"],
                "operations": ["CREATE", "UPDATE"], "resources": ["ipaddresspools"],
            }
        ],
    }  # fmt: skip
    webhooks = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "metallb-webhook-configuration"},
        "webhooks": [hook],
    }
    conversion = {
        "strategy": "Webhook",
        "webhook": {
            "conversionReviewVersions": ["v1beta1", "v1beta2"],
            "clientConfig": {"service": {**SERVICE, "path": "/convert"}},
        },
    }
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    cluster.apply([workload("Deployment", "controller", **labels), workload("DaemonSet", "speaker"), webhooks])
    patch_crd(cluster, {"metadata": {"labels": labels}, "spec": {"conversion": conversion}})
    yield cluster
    for kind, name in (("deployment", "controller"), ("daemonset", "speaker")):
        cluster.kubectl("delete", kind, name, "-n", CONFIG)
    cluster.kubectl("delete", "validatingwebhookconfiguration", "metallb-webhook-configuration", "--ignore-not-found")
    metadata = {"labels": dict.fromkeys(labels), "annotations": {"helm.sh/resource-policy": None}}
    patch_crd(cluster, {"metadata": metadata, "spec": {"conversion": {"strategy": "None", "webhook": None}}})


@pytest.fixture
def service(cluster: ControlPlane) -> Iterator[None]:
    """One that MetalLB has given the address 198.51.100.66."""
    made = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "old", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
    }
    cluster.apply(made)
    give(cluster, "198.51.100.66")
    yield
    cluster.kubectl("delete", "service", "old")


def give(cluster: ControlPlane, address: str) -> None:
    patch = {"status": {"loadBalancer": {"ingress": [{"ip": address}]}}}
    cluster.kubectl("patch", "service", "old", "--subresource=status", "--type=merge", "-p", json.dumps(patch))


def patch_crd(cluster: ControlPlane, patch: dict[str, Any]) -> None:
    cluster.kubectl("patch", "crd", "bgppeers.metallb.io", "--type=merge", "-p", json.dumps(patch))


def run(kubeconfig: Kubeconfig, *arguments: str) -> Result:
    return CliRunner().invoke(migrate, [*arguments, "--kubeconfig", str(kubeconfig()), "--output", "json"])


def crd(cluster: ControlPlane) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.kubectl("get", "crd", "bgppeers.metallb.io", "-o", "json"))
    return found


@pytest.mark.usefixtures("service")
def test_a_look_names_what_is_there_and_who_keeps_what(metallb: ControlPlane, kubeconfig: Kubeconfig) -> None:
    result = run(kubeconfig, "check")
    told = json.loads(result.stdout)
    assert result.exit_code == 0, result.output
    assert told["ready"]
    assert told["addresses"]["default/old"] == ["198.51.100.66"]
    assert [each["name"] for each in told["metallb"]["workloads"]] == ["controller", "speaker"]
    assert told["metallb"]["webhooks"] == ["metallb-webhook-configuration"]
    assert told["metallb"]["converted"] == ["bgppeers.metallb.io"]
    assert any("managed by Helm" in each for each in told["remarks"])
    assert metallb.get("deployment", "controller", CONFIG)["spec"]["replicas"] == 1  # type: ignore[index]


@pytest.mark.usefixtures("service")
def test_a_service_that_would_lose_its_address_is_an_obstacle(metallb: ControlPlane, kubeconfig: Kubeconfig) -> None:
    give(metallb, "203.0.113.9")
    result = run(kubeconfig, "check")
    assert result.exit_code == 1
    [obstacle] = json.loads(result.stdout)["obstacles"]
    assert obstacle.startswith("Service default/old would lose 203.0.113.9")


def test_the_controller_stops_and_pools_can_be_changed_again(metallb: ControlPlane, kubeconfig: Kubeconfig) -> None:
    with pytest.raises(KubectlError, match="webhook"):
        metallb.kubectl("label", "ipaddresspool", "migrated", "-n", CONFIG, "tier=gold")

    dry = run(kubeconfig, "stop-controller", "--dry-run")
    assert json.loads(dry.stdout)["changed"]
    assert crd(metallb)["spec"]["conversion"]["strategy"] == "Webhook"

    done = run(kubeconfig, "stop-controller")
    assert done.exit_code == 0, done.output
    assert metallb.get("deployment", "controller", CONFIG)["spec"]["replicas"] == 0  # type: ignore[index]
    assert crd(metallb)["spec"]["conversion"] == {"strategy": "None"}
    assert crd(metallb)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "nodeSelector" not in metallb.get("daemonset", "speaker", CONFIG)["spec"]["template"]["spec"]  # type: ignore[index]
    metallb.kubectl("label", "ipaddresspool", "migrated", "-n", CONFIG, "tier=gold", "--overwrite")
    metallb.kubectl("get", "bgppeers.v1beta1.metallb.io", "-n", CONFIG)
    assert json.loads(run(kubeconfig, "stop-controller").stdout)["changed"] is False


def test_the_speakers_run_nowhere_and_can_come_back(metallb: ControlPlane, kubeconfig: Kubeconfig) -> None:
    done = run(kubeconfig, "stop-speakers")
    assert done.exit_code == 0, done.output
    found = metallb.get("daemonset", "speaker", CONFIG)
    assert found is not None
    assert found["spec"]["template"]["spec"]["nodeSelector"] == {"hostagent.io/metallb-is-stopped": "true"}
    assert json.loads(run(kubeconfig, "stop-speakers").stdout)["changed"] is False
    way_back = '[{"op": "remove", "path": "/spec/template/spec/nodeSelector/hostagent.io~1metallb-is-stopped"}]'
    metallb.kubectl("patch", "daemonset", "speaker", "-n", CONFIG, "--type=json", "-p", way_back)
    told = json.loads(run(kubeconfig, "check").stdout)
    assert [each["stopped"] for each in told["metallb"]["workloads"]] == [False, False]
