"""Playbooks for the day before and the days after a rollout."""

from __future__ import annotations

import pytest

from tests.fabric.command import FabricError
from tests.fabric.deploy import deploy
from tests.system.cluster import Cluster


def test_credentials_are_rotated_without_a_restart_or_a_move(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web")
    [vip] = cluster.given("web")
    holder = cluster.held(vip)
    hosts = cluster.lab.hosts.values()
    look = [
        "sh",
        "-c",
        "systemctl show --property MainPID --value hostagent; sha256sum < /etc/hostagent/tls/client.pem",
    ]
    before = {host.name: host.run(look).stdout.splitlines() for host in hosts}

    deploy(cluster.lab, playbook="rotate-credentials")  # waits until each agent says that it uses the new certificate

    after = {host.name: host.run(look).stdout.splitlines() for host in hosts}
    assert {name: pid for name, (pid, _) in after.items()} == {name: pid for name, (pid, _) in before.items()}
    assert all(after[name][1] != before[name][1] for name in before)
    assert cluster.holders(vip) == [holder.name]
    assert cluster.answered(vip) in cluster.lab.hosts
    for host in hosts:
        left = host.run(["ls", "-A", "/etc/hostagent/tls"]).stdout.split()
        assert sorted(left) == ["ca.crt", "client.pem"]


def test_preflight_names_what_stands_in_the_way_and_passes_what_does_not(cluster: Cluster) -> None:
    host = cluster.lab.hosts["h2"]
    cluster.pool(f"{host.addresses[0]}/32", name="taken")

    with pytest.raises(FabricError, match=r"pool taken holds 198\.51\.100\.12, an address of h2") as refused:
        deploy(cluster.lab, playbook="preflight")
    assert "take it out of the pool's addresses" in str(refused.value)

    said = deploy(cluster.lab, "-e", '{"hostagent_preflight_pass_over": ["address-overlap"]}', playbook="preflight")
    assert "changed=0" in said
