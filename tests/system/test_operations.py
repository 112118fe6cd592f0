"""Playbooks for the day before and the days after a rollout."""

from __future__ import annotations

import pytest

from tests.fabric.command import FabricError
from tests.fabric.deploy import deploy
from tests.fabric.hosts import Host
from tests.system.cluster import Cluster


def test_credentials_are_rotated_without_a_restart(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web")
    [vip] = cluster.given("web")
    cluster.held(vip)
    hosts = cluster.lab.hosts.values()
    before = {host.name: (digest(host), restarts(host)) for host in hosts}

    deploy(cluster.lab, playbook="rotate-credentials")  # waits until each agent says that it uses the new certificate

    for host in hosts:
        old, restarted = before[host.name]
        assert digest(host) != old
        assert restarts(host) == restarted
        assert sorted(host.run(["ls", "-A", "/etc/hostagent/tls"]).stdout.split()) == ["ca.crt", "client.pem"]
    assert cluster.answered(vip) in cluster.lab.hosts


def digest(host: Host) -> str:
    return host.run(["sha256sum", "/etc/hostagent/tls/client.pem"]).stdout


def restarts(host: Host) -> int:
    """How often somebody had systemd restart the agent; not how often it ended by itself, as on a starved machine."""
    return host.journal_text("hostagent").count("being restarted")


def test_preflight_names_what_stands_in_the_way_and_passes_what_does_not(cluster: Cluster) -> None:
    host = cluster.lab.hosts["h2"]
    cluster.pool(f"{host.addresses[0]}/32", name="taken")

    with pytest.raises(FabricError, match=r"pool taken holds 198\.51\.100\.12, an address of h2") as refused:
        deploy(cluster.lab, playbook="preflight")
    assert "take it out of the pool's addresses" in str(refused.value)

    said = deploy(cluster.lab, "-e", '{"hostagent_preflight_pass_over": ["address-overlap"]}', playbook="preflight")
    assert "changed=0" in said
