"""The playbooks of day two, as operators run them: drain, undrain, verify, support-bundle, upgrade."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.fabric.command import FabricError
from tests.fabric.deploy import deploy, recap
from tests.system.cluster import Cluster


def test_drain_and_undrain_say_what_they_change_and_verify_finds_all_well(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web")
    [vip] = cluster.given("web")
    holder = cluster.held(vip)
    only = ["--limit", holder.name]

    try:
        dry = deploy(cluster.lab, "--check", *only, playbook="drain")
        assert cluster.holders(vip) == [holder.name]
        drained = deploy(cluster.lab, *only, playbook="drain")
        assert cluster.held(vip).name != holder.name
        again = deploy(cluster.lab, *only, playbook="drain")
        deploy(cluster.lab, playbook="verify")
        undrained = deploy(cluster.lab, *only, playbook="undrain")
        assert cluster.status(holder)["draining"] is None
    finally:
        holder.run(["/opt/hostagent/venv/bin/hostagent", "undrain"])

    assert [[*recap(each).values()] for each in (dry, drained, again, undrained)] == [
        [("1", "0")], [("1", "0")], [("0", "0")], [("1", "0")]
    ]  # fmt: skip


def test_nobody_drains_all_hosts_by_forgetting_the_limit(cluster: Cluster) -> None:
    with pytest.raises(FabricError, match="Name those that you mean"):
        deploy(cluster.lab, playbook="drain")


def test_verify_tells_of_an_agent_that_does_not_run(cluster: Cluster) -> None:
    cluster.lab.hosts["h2"].run(["systemctl", "stop", "hostagent"])
    with pytest.raises(FabricError, match=r"hostagent\.service on h2 is inactive"):
        deploy(cluster.lab, playbook="verify")


def test_a_support_bundle_has_every_hosts_story_and_no_secret(cluster: Cluster, tmp_path: Path) -> None:
    deploy(cluster.lab, "-e", f"hostagent_bundle_to={tmp_path}", playbook="support-bundle")
    [archive] = tmp_path.iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    files = [path for path in (tmp_path / "unpacked").rglob("*") if path.is_file()]
    for host in cluster.lab.hosts.values():
        own = {path.name: path.read_text() for path in files if path.parent.name == host.name}
        assert f'"node": "{host.name}"' in own["status.json"]
        assert f"on {host.name}, API https://" in own["journal.txt"]  # the agent's first words
        credential = host.read_file("/etc/hostagent/tls/client.pem").splitlines()
        secret = credential[next(n for n, line in enumerate(credential) if "PRIVATE KEY" in line) + 1]
        assert [name for name, text in own.items() if secret in text or "PRIVATE KEY" in text] == []


def test_an_upgrade_to_the_release_that_hosts_have_drains_nobody_and_changes_nothing(cluster: Cluster) -> None:
    output = deploy(cluster.lab, playbook="upgrade")
    assert [*recap(output).values()] == [("0", "0")] * len(cluster.lab.hosts), output[-3000:]
    assert "PLAY [Hosts and cluster are fit]" in output
