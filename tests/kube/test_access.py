"""A bare cluster is made ready, and a host gets its credential, by the command line."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from hostagent.cli.access import EXIT_API, EXIT_CONFIG, EXIT_REFUSED, access
from hostagent.edges.kube.transport import Api, ApiError
from tests.fabric.controlplane import ControlPlane
from tests.kube.conftest import ADDRESS, Kubeconfig

pytestmark = [pytest.mark.kube, pytest.mark.netns]


def call(*args: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(access, list(args), input=stdin)


def outcomes(result: Result) -> set[str]:
    assert result.exit_code == 0, result.output
    return {each["outcome"] for each in json.loads(result.stdout)["objects"]}


def request_for(folder: Path, subject: str) -> tuple[bytes, bytes]:
    """A key and its certificate request, as the role makes them on a host."""
    key = folder / "host.key"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    made = subprocess.run(["openssl", "req", "-new", "-key", key, "-subj", subject], check=True, capture_output=True)
    return key.read_bytes(), made.stdout


def test_apply_is_idempotent_and_a_dry_run_changes_nothing(plane: ControlPlane, kubeconfig: Kubeconfig) -> None:
    admin = str(kubeconfig())
    options = ("--kubeconfig", admin, "--namespace", "lb-apply", "--output", "json")
    assert outcomes(call("apply", "--dry-run", *options)) == {"created"}
    assert plane.get("namespace", "lb-apply", None) is None
    assert outcomes(call("apply", *options)) == {"created"}
    again = call("apply", *options)
    assert outcomes(again) == {"unchanged"}
    assert json.loads(again.stdout)["changed"] is False
    assert outcomes(call("apply", "--dry-run", *options)) == {"unchanged"}

    plane.kubectl("patch", "clusterrole", "hostagent:node", "--type=json", "-p", '[{"op":"remove","path":"/rules/0"}]')
    tried = call("apply", "--dry-run", "--kubeconfig", admin, "--namespace", "lb-apply")
    assert "ClusterRole hostagent:node: would be changed" in tried.output
    assert "rules" in tried.output
    assert outcomes(call("apply", *options)) == {"changed", "unchanged"}

    removed = call("remove", *options)
    assert outcomes(removed) == {"deleted", "kept"}


def test_a_signed_host_can_do_what_it_must_and_nothing_else(kubeconfig: Kubeconfig, tmp_path: Path) -> None:
    admin = kubeconfig()
    applied = call("apply", "--kubeconfig", str(admin))
    assert applied.exit_code == 0, applied.output
    key, request = request_for(tmp_path, "/O=hostagent:nodes/CN=hostagent:node:h1")
    result = call("sign", "--node", "h1", "--days", "30", "--kubeconfig", str(admin), stdin=request)
    assert result.exit_code == 0, result.output
    signed = json.loads(result.stdout)
    assert set(signed) == {"certificate", "ca", "servers", "expires"}
    assert signed["expires"].endswith("Z")

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "host",
        "contexts": [{"name": "host", "context": {"cluster": "lab", "user": "host"}}],
        "clusters": [
            {
                "name": "lab",
                "cluster": {
                    "server": signed["servers"][0],
                    "tls-server-name": ADDRESS,
                    "certificate-authority-data": base64.b64encode(signed["ca"].encode()).decode(),
                },
            }
        ],
        "users": [{"name": "host", "user": {"client-certificate": "host.crt", "client-key": "host.key"}}],
    }
    (tmp_path / "host.crt").write_text(signed["certificate"])
    (tmp_path / "host.key").write_bytes(key)
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))

    async def as_host() -> None:
        api = await Api.open(path)
        try:
            assert set(api.credentials.files) == {path, tmp_path / "host.crt", tmp_path / "host.key"}
            await api.request("GET", "/api/v1/services")
            await api.request("GET", "/apis/coordination.k8s.io/v1/namespaces/metallb-system/leases")
            with pytest.raises(ApiError, match=r"hostagent:node:h1.*cannot list resource .secrets") as caught:
                await api.request("GET", "/api/v1/secrets")
            assert caught.value.status == 403
        finally:
            await api.close()

    asyncio.run(as_host())


@pytest.mark.parametrize(
    "subject",
    [
        "/O=hostagent:nodes/CN=hostagent:node:h2",
        "/O=system:masters/CN=hostagent:node:h1",
        "/O=hostagent:nodes/O=system:masters/CN=hostagent:node:h1",
        "/CN=hostagent:node:h1",
        "/O=hostagent:nodes/CN=hostagent:node:h1,CN=x",
    ],
)
def test_a_request_for_another_name_is_refused(
    plane: ControlPlane, kubeconfig: Kubeconfig, tmp_path: Path, subject: str
) -> None:
    _, request = request_for(tmp_path, subject)
    result = call("sign", "--node", "h1", "--kubeconfig", str(kubeconfig()), stdin=request)
    assert result.exit_code == EXIT_REFUSED
    assert "must be 'CN=hostagent:node:h1,O=hostagent:nodes'" in result.stderr
    assert "hostagent-h1" not in plane.kubectl("get", "csr")


def test_what_is_not_a_request_is_refused(kubeconfig: Kubeconfig) -> None:
    result = call("sign", "--node", "h1", "--kubeconfig", str(kubeconfig()), stdin=b"hello")
    assert result.exit_code == EXIT_REFUSED
    assert "not a valid PEM certificate request" in result.stderr


def test_an_unusable_kubeconfig_and_a_forbidden_user_exit_differently(kubeconfig: Kubeconfig, tmp_path: Path) -> None:
    missing = call("apply", "--kubeconfig", str(tmp_path / "none"))
    assert missing.exit_code == EXIT_CONFIG
    assert "no such file" in missing.stderr
    forbidden = call("apply", "--kubeconfig", str(kubeconfig("nobody", ())))
    assert forbidden.exit_code == EXIT_API
    assert "forbidden" in forbidden.stderr


def test_manifests_are_printed_for_the_namespace_asked_for() -> None:
    printed = call("manifests", "--namespace", "lb").stdout
    found: list[dict[str, Any]] = [each for each in yaml.safe_load_all(printed) if each]
    assert {"kind": "Namespace", "name": "lb"} in [{"kind": e["kind"], "name": e["metadata"]["name"]} for e in found]
    assert "metallb-system" not in printed


def test_a_host_is_forgotten_once_it_has_ended_its_session(plane: ControlPlane, kubeconfig: Kubeconfig) -> None:
    """A session that was not ended may belong to a host that serves: only --force deletes it."""
    options = ("--kubeconfig", str(kubeconfig()), "--namespace", "lb-forget", "--output", "json")
    outcomes(call("apply", *options))
    for name, holder in (("host.gone", ""), ("host.serves", "serves/1"), ("vip.198.51.100.64", "serves")):
        meta = {"name": name, "namespace": "lb-forget", "labels": {"app.kubernetes.io/name": "hostagent"}}
        spec = {"holderIdentity": holder} if holder else {}
        plane.apply({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec})

    assert outcomes(call("forget", "gone", "never-was", *options)) == {"deleted", "absent"}
    refused = call("forget", "serves", *options)
    assert refused.exit_code == EXIT_API
    assert "stop the agent on serves first" in refused.output
    assert plane.get("lease", "host.serves", "lb-forget")
    assert outcomes(call("forget", "serves", "--force", *options)) == {"deleted"}

    assert call("remove", *options).exit_code == 0
    assert plane.get("lease", "vip.198.51.100.64", "lb-forget") is None, "what hosts wrote goes with their rights"
