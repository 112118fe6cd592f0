"""upgrade.yml when the new release is not fit. What it costs clients when all is well: molecule/upgrade."""

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


def test_a_release_that_does_not_start_stops_at_the_canary_and_the_way_back_is_an_upgrade(
    cluster: Cluster, tmp_path: Path
) -> None:
    vips = served(cluster)
    hosts = cluster.lab.hosts
    canary, others = hosts["h1"], [hosts["h2"], hosts["h3"]]
    good = running(canary)
    source = broken_release(tmp_path / "broken")
    moved_before = cluster.transitions()
    try:
        with cluster.lab.client.pinging(*vips) as pinger:
            with pytest.raises(FabricError, match="broken on purpose"):
                deploy(cluster.lab, "-e", f"hostagent_source={source}", *CANARY_FIRST, playbook="upgrade")
            assert running(canary) != good  # systemd tries again some times, and gives up
            assert [running(host) for host in others] == [good, good]
            assert [vip for vip in vips if cluster.held(vip) is canary] == []

            deploy(cluster.lab, *CANARY_FIRST, playbook="upgrade")
    finally:
        canary.run(["rm", "-f", MARK])
        deploy(cluster.lab)

    assert [running(host) for host in hosts.values()] == [good] * len(hosts)
    assert cluster.status(canary)["draining"] is None
    moved = {vip: cluster.transitions()[claim_name(vip)] - moved_before[claim_name(vip)] for vip in vips}
    assert [(vip, lost.lost, moved[vip]) for vip, lost in pinger.results.items() if lost.lost > moved[vip]] == []
