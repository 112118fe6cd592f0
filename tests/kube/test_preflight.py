"""`hostagent access preflight` on a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from hostagent.cli.access import EXIT_REFUSED, access
from tests.fabric.controlplane import ControlPlane
from tests.kube.conftest import Kubeconfig

pytestmark = [pytest.mark.kube, pytest.mark.netns]

KUBE_PROXY = """\
mode: ipvs
ipvs: {strictARP: false}
"""


@pytest.fixture
def _cluster(plane: ControlPlane) -> Iterator[None]:
    """A Node with an address, kube-proxy's configuration, and a pod of MetalLB."""
    meta = {"name": "preflight-metallb", "namespace": "default", "labels": {"app": "metallb"}}
    made: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "preflight-1"}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
            "data": {"config.conf": KUBE_PROXY},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta,
            "spec": {"automountServiceAccountToken": False, "containers": [{"name": "c", "image": "example.com/c"}]},
        },
    ]
    status = {"status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.11"}]}}
    try:
        plane.wait_for(lambda: plane.get("serviceaccount", "default"), 30, "the account of pods")
        plane.apply(made)
        plane.kubectl("patch", "node", "preflight-1", "--subresource=status", "--patch", json.dumps(status))
        yield
    finally:
        for each in made:
            plane.kubectl(
                *("delete", str(each["kind"]), each["metadata"]["name"], "--ignore-not-found", "--grace-period=0"),
                *("--force", "--namespace", each["metadata"].get("namespace", "default")),
            )


@pytest.mark.usefixtures("_cluster")
def test_the_cluster_is_looked_at_and_held_against_what_hosts_tell(kubeconfig: Kubeconfig) -> None:
    hosts = [
        {"node": "preflight-1", "addresses": ["198.51.100.11"], "gateways": ["198.51.100.1"]},
        {"node": "preflight-2", "addresses": ["198.51.100.12"]},
    ]
    argv = ["preflight", "--hosts", "-", "--kubeconfig", str(kubeconfig()), "--output", "json"]
    result = CliRunner().invoke(access, argv, input=json.dumps(hosts))

    assert result.exit_code == EXIT_REFUSED, result.output
    said = json.loads(result.stdout)
    assert said["version"].startswith("v1.")
    assert [(each["check"], each["severity"], each["host"]) for each in said["findings"]] == [
        ("metallb", "warning", ""),
        ("strict-arp", "warning", ""),
        ("node-name", "error", "preflight-2"),
    ]


def test_who_may_do_little_is_told_what_is_missing(kubeconfig: Kubeconfig) -> None:
    result = CliRunner().invoke(access, ["preflight", "--kubeconfig", str(kubeconfig("nobody", ()))])

    assert result.exit_code == EXIT_REFUSED, result.output
    assert "patch validatingadmissionpolicies.admissionregistration.k8s.io" in result.stdout
    assert "approve signers.certificates.k8s.io kubernetes.io/kube-apiserver-client" in result.stdout
    assert "read nodes" in result.stdout


def test_hosts_that_cannot_be_read_are_refused(kubeconfig: Kubeconfig) -> None:
    argv = ["preflight", "--hosts", "-", "--kubeconfig", str(kubeconfig())]
    result = CliRunner().invoke(access, argv, input='[{"node": "h1", "addresses": ["here"]}]')

    assert result.exit_code == EXIT_REFUSED
    assert "--hosts: 'here' does not appear to be an IPv4 or IPv6 address" in result.stderr
