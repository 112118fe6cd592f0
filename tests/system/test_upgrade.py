"""upgrade.yml when the new release, or a host, is not fit. What it costs clients when all is well: molecule/upgrade."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fabric.command import FabricError
from tests.fabric.deploy import deploy
from tests.fabric.hosts import Host
from tests.fabric.previous import renamed_tree
from tests.fault.scene import claim_name
from tests.system.cluster import Cluster

pytestmark = pytest.mark.timeout(1200)  # several runs of a playbook each, on a machine that may be busy
CANARY_FIRST = ("-e", json.dumps({"hostagent_serial": [1, 2]}))
MARK = "/opt/hostagent/drained-for-upgrade"


def running(host: Host) -> str:
    """The release that the agent's process was started from; empty: it does not run."""
    pid = host.run(["systemctl", "show", "--property=MainPID", "--value", "hostagent"]).stdout.strip()
    if pid == "0":
        return ""
    words = host.run(["cat", f"/proc/{pid}/cmdline"]).stdout
    return words.removeprefix("/opt/hostagent/releases/").split("/")[0]


def broken_release(folder: Path) -> Path:
    """A release that can be installed, says its version, and ends as soon as it is to serve."""
    renamed_tree(folder, "0.0.2")
    path = folder / "hostagent/cli/run.py"
    text = path.read_text()
    begin = '    set_up("info")\n'
    assert text.count(begin) == 1
    path.write_text(text.replace(begin, f'{begin}    error("agent.failed", "broken on purpose")\n    sys.exit(1)\n'))
    return folder


def served(cluster: Cluster) -> list[str]:
    cluster.pool()
    cluster.advertise()
    for name in ("web", "shop", "mail"):
        cluster.serve(name)
    vips = [cluster.given(name)[0] for name in ("web", "shop", "mail")]
    for vip in vips:
        cluster.answered(vip)
    return vips


@pytest.mark.parametrize("mode", ["drain", "restart"])
def test_a_release_that_does_not_start_stops_at_the_canary_and_the_way_back_is_an_upgrade(
    cluster: Cluster, tmp_path: Path, mode: str
) -> None:
    vips = served(cluster)
    hosts = cluster.lab.hosts
    canary, others = hosts["h1"], [hosts["h2"], hosts["h3"]]
    good = running(canary)
    source = broken_release(tmp_path / "broken")
    settings = ("-e", f"hostagent_upgrade_mode={mode}", *CANARY_FIRST)
    moved_before = cluster.transitions()
    try:
        with cluster.lab.client.pinging(*vips) as pinger:
            with pytest.raises(FabricError, match="broken on purpose"):
                deploy(cluster.lab, "-e", f"hostagent_source={source}", *settings, playbook="upgrade")
            assert running(canary) != good  # systemd tries again some times, and gives up
            assert [running(host) for host in others] == [good, good]
            assert [vip for vip in vips if cluster.held(vip) is canary] == []

            deploy(cluster.lab, *settings, playbook="upgrade")
    finally:
        canary.run(["rm", "-f", MARK])
        deploy(cluster.lab)

    assert [running(host) for host in hosts.values()] == [good] * len(hosts)
    assert cluster.status(canary)["draining"] is None
    if mode == "drain":  # a host that was not drained loses its VIPs when the new agent does not come up
        moved = {vip: cluster.transitions()[claim_name(vip)] - moved_before[claim_name(vip)] for vip in vips}
        assert [(vip, lost.lost, moved[vip]) for vip, lost in pinger.results.items() if lost.lost > moved[vip]] == []


def test_within_the_error_budget_others_go_on_and_the_next_run_finishes(cluster: Cluster, tmp_path: Path) -> None:
    vips = served(cluster)
    hosts = cluster.lab.hosts
    good = running(hosts["h1"])
    renamed_tree(tmp_path / "newer", "0.0.3")
    settings = ("-e", f"hostagent_source={tmp_path / 'newer'}", "-e", "hostagent_upgrade_mode=restart", *CANARY_FIRST)
    full = "/opt/hostagent/releases"
    hosts["h2"].run(["sh", "-c", f"mount --bind {full} {full} && mount -o remount,bind,ro {full}"])
    try:
        with cluster.lab.client.pinging(*vips) as pinger:
            try:
                with pytest.raises(FabricError, match="Read-only file system"):
                    deploy(cluster.lab, "-e", "hostagent_upgrade_error_budget=50", *settings, playbook="upgrade")
            finally:
                hosts["h2"].run(["umount", full])
            upgraded = [host.name for host in hosts.values() if running(host).startswith("0.0.3-")]
            assert upgraded == ["h1", "h3"]
            assert running(hosts["h2"]) == good

            deploy(cluster.lab, *settings, playbook="upgrade")
            assert all(running(host).startswith("0.0.3-") for host in hosts.values())
    finally:
        deploy(cluster.lab)
    assert {vip: result.lost for vip, result in pinger.results.items()} == dict.fromkeys(vips, 0)
