"""A real API server takes what the agent takes, and refuses with a remedy what its rules can tell."""

from __future__ import annotations

import copy
import json
from functools import partial
from importlib.resources import files
from typing import Any

import pytest
import yaml

from hostagent.cli.manifests import read_resources
from hostagent.core.config_set import build
from tests.fabric.admin import KubectlError, wait_for
from tests.fabric.controlplane import ControlPlane
from tests.samples import BAD, GOOD, NAMESPACE, Bad

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def cluster(plane: ControlPlane) -> ControlPlane:
    """The control plane, with everything of hostagent/manifests in it."""
    for file in sorted((files("hostagent") / "manifests").iterdir(), key=lambda file: file.name):
        plane.kubectl("apply", "--server-side", "-f", "-", input=file.read_text(encoding="utf-8"))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for name in ("selector twice", "overlap inside"):  # a policy counts when the API server has noticed it
        wait_for(partial(_is_refused, plane, BAD[name].manifest), 60, f"the policy against: {name}")
    return plane


def _is_refused(cluster: ControlPlane, manifest: dict[str, Any]) -> bool:
    try:
        dry(cluster, manifest)
    except KubectlError:
        return True
    return False


def create(cluster: ControlPlane, manifest: dict[str, Any] | str, *more: str) -> str:
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    return cluster.kubectl("create", *more, "-f", "-", input=text)


def dry(cluster: ControlPlane, manifest: dict[str, Any] | str) -> str:
    return create(cluster, manifest, "--dry-run=server")


def refusal(cluster: ControlPlane, manifest: dict[str, Any]) -> str:
    with pytest.raises(KubectlError) as caught:
        dry(cluster, manifest)
    return str(caught.value)


def test_good_manifests_are_admitted(cluster: ControlPlane) -> None:
    assert len(dry(cluster, GOOD).splitlines()) == 10


@pytest.mark.parametrize(
    "bad", [b for b in BAD.values() if b.admission], ids=[k for k, b in BAD.items() if b.admission]
)
def test_a_faulty_manifest_is_refused_with_a_remedy(cluster: ControlPlane, bad: Bad) -> None:
    assert bad.admission in refusal(cluster, bad.manifest)


@pytest.mark.parametrize(
    "bad", [b for b in BAD.values() if not b.admission], ids=[k for k, b in BAD.items() if not b.admission]
)
def test_what_admission_cannot_tell_is_left_to_the_agent(cluster: ControlPlane, bad: Bad) -> None:
    """If one of these fails one day, the API server has learned to tell: move it to those that are refused."""
    assert "created" in dry(cluster, bad.manifest)


def test_the_server_adds_nothing_that_the_agent_would_not_understand(cluster: ControlPlane) -> None:
    """Defaults are filled in, and what comes back is read as what was written."""
    text = create(cluster, GOOD, "--dry-run=server", "-o", "yaml")

    created = list(read_resources(text, source="server", namespace=NAMESPACE))

    assert len(created) == 10
    assert build(created, namespace=NAMESPACE).faults == ()


def test_a_long_list_is_admitted(cluster: ControlPlane) -> None:
    """The rules stay within the API server's budget at run time too."""
    pool = copy.deepcopy(BAD["no addresses"].manifest)
    pool["spec"] = {"addresses": [f"10.{n // 250}.{n % 250}.1-10.{n // 250}.{n % 250}.9" for n in range(1024)]}

    assert "created" in dry(cluster, pool)


class TestPeerVersions:
    """Without conversion: what is written in one version is read in the other, and no field is lost on the way."""

    def test_a_peer_goes_round(self, cluster: ControlPlane) -> None:
        peer = next(d for d in yaml.safe_load_all(GOOD) if d["metadata"]["name"] == "tor")
        create(cluster, peer)
        try:
            old = json.loads(
                cluster.kubectl("get", "bgppeers.v1beta1.metallb.io", "tor", "-n", NAMESPACE, "-o", "json")
            )
            assert old["apiVersion"] == "metallb.io/v1beta1"
            old["metadata"]["labels"] = {"touched": "yes"}
            cluster.kubectl("replace", "-f", "-", input=json.dumps(old))
            new = json.loads(
                cluster.kubectl("get", "bgppeers.v1beta2.metallb.io", "tor", "-n", NAMESPACE, "-o", "json")
            )
        finally:
            cluster.kubectl("delete", "bgppeer", "tor", "-n", NAMESPACE)

        assert new["metadata"]["labels"] == {"touched": "yes"}
        assert new["spec"] == peer["spec"] | {"disableMP": False}

    def test_an_old_peer_without_timers_has_none_in_the_new_version(self, cluster: ControlPlane) -> None:
        old = next(d for d in yaml.safe_load_all(GOOD) if d["metadata"]["name"] == "old")
        create(cluster, old)
        try:
            new = json.loads(
                cluster.kubectl("get", "bgppeers.v1beta2.metallb.io", "old", "-n", NAMESPACE, "-o", "json")
            )
        finally:
            cluster.kubectl("delete", "bgppeer", "old", "-n", NAMESPACE)

        assert not {"holdTime", "keepaliveTime", "connectTime"} & new["spec"].keys()

    def test_graceful_restart_cannot_be_changed(self, cluster: ControlPlane) -> None:
        peer = next(d for d in yaml.safe_load_all(GOOD) if d["metadata"]["name"] == "tor")
        create(cluster, peer)
        try:
            with pytest.raises(KubectlError, match="delete the peer and create it anew"):
                cluster.kubectl("apply", "-f", "-", input=json.dumps(_with(peer, enableGracefulRestart=False)))
        finally:
            cluster.kubectl("delete", "bgppeer", "tor", "-n", NAMESPACE)


def _with(manifest: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return manifest | {"spec": manifest["spec"] | spec}


def test_columns_show_what_one_looks_for(cluster: ControlPlane) -> None:
    (pool, *_) = read_resources(GOOD, source="good", namespace=NAMESPACE)
    create(cluster, next(iter(yaml.safe_load_all(GOOD))))
    try:
        header, row = cluster.kubectl("get", "ipaddresspool", "-n", NAMESPACE).splitlines()
    finally:
        cluster.kubectl("delete", "ipaddresspool", pool.name, "-n", NAMESPACE)

    assert header.split() == ["NAME", "AUTO", "ASSIGN", "AVOID", "BUGGY", "IPS", "ADDRESSES"]
    assert row.split()[:3] == ["production", "true", "true"]


def test_identity_of_a_service_status_is_fixed(cluster: ControlPlane) -> None:
    status = {
        "apiVersion": "metallb.io/v1beta1",
        "kind": "ServiceL2Status",
        "metadata": {"name": "l2-web", "namespace": NAMESPACE},
    }
    create(cluster, status)
    patch = ("patch", "servicel2status", "l2-web", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p")
    try:
        cluster.kubectl(*patch, '{"status": {"node": "h1", "interfaces": [{"name": "eth0"}]}}')
        cluster.kubectl(*patch, '{"status": {"node": "h1", "interfaces": [{"name": "eth1"}]}}')
        with pytest.raises(KubectlError, match="cannot be changed; write an object of its own"):
            cluster.kubectl(*patch, '{"status": {"node": "h2"}}')
    finally:
        cluster.kubectl("delete", "servicel2status", "l2-web", "-n", NAMESPACE)


@pytest.mark.parametrize(
    ("verb", "resource", "namespace", "may"),
    [
        ("list", "services", "", True),
        ("watch", "endpointslices.discovery.k8s.io", "", True),
        ("patch", "services/status", "default", True),
        ("create", "events", "default", True),
        ("list", "ipaddresspools.metallb.io", NAMESPACE, True),
        ("patch", "ipaddresspools.metallb.io/status", NAMESPACE, True),
        ("delete", "leases.coordination.k8s.io", NAMESPACE, True),
        ("create", "configurationstates.metallb.io", NAMESPACE, True),
        ("patch", "services", "default", False),
        ("list", "secrets", NAMESPACE, False),
        ("update", "nodes", "", False),
        ("create", "leases.coordination.k8s.io", "kube-system", False),
        ("update", "ipaddresspools.metallb.io", NAMESPACE, False),
        ("create", "pods", "default", False),
    ],
)
def test_what_a_host_may(cluster: ControlPlane, verb: str, resource: str, namespace: str, may: bool) -> None:
    name, _, subresource = resource.partition("/")
    where = ("-n", namespace) if namespace else ("--all-namespaces",)
    who = ("--as=hostagent:node:h1", "--as-group=hostagent:nodes", "--as-group=hostagent:allocators")
    command = ("auth", "can-i", verb, name, *where, *who, *([f"--subresource={subresource}"] if subresource else []))
    if may:
        assert cluster.kubectl(*command).strip() == "yes"
    else:
        with pytest.raises(KubectlError):  # kubectl says no by its exit code
            cluster.kubectl(*command)


def test_the_allocator_writes_addresses_and_the_pools_name_through_status_alone(cluster: ControlPlane) -> None:
    """The annotation that says from which pool an address came needs no right to edit Services."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "allocateLoadBalancerNodePorts": False},
    }
    create(cluster, service)
    path = "/api/v1/namespaces/default/services/web"
    try:
        change = json.loads(cluster.kubectl("get", "--raw", path))
        change["metadata"]["annotations"] = {"metallb.io/ip-allocated-from-pool": "production"}
        change["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.64", "ipMode": "VIP"}]}}
        who = ("--as=hostagent:node:h1", "--as-group=hostagent:nodes", "--as-group=hostagent:allocators")
        cluster.kubectl("replace", "--raw", f"{path}/status", *who, "-f", "-", input=json.dumps(change))
        after = json.loads(cluster.kubectl("get", "--raw", path))
    finally:
        cluster.kubectl("delete", "service", "web")

    assert after["status"] == change["status"]
    assert after["metadata"]["annotations"] == change["metadata"]["annotations"]
