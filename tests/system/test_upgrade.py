"""upgrade.yml when the new release, or a host, is not fit. What it costs clients when all is well: molecule/upgrade."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fabric.command import FabricError
from tests.fabric.deploy import deploy, recap
from tests.fabric.hosts import Host
from tests.fabric.previous import renamed_tree
from tests.fault.scene import claim_name
from tests.system.cluster import Cluster
from tests.system.releases import RELEASES, running_release

pytestmark = pytest.mark.timeout(1200)  # several runs of a playbook each, on a machine that may be busy
CANARY_FIRST = ("-e", json.dumps({"hostagent_serial": [1, 2]}))
MARKS = ("/opt/hostagent/drained-for-upgrade", "/opt/hostagent/upgrade-begun")
BY_HAND = """
set -eux
ln -sfn /opt/hostagent/releases/{older} /opt/hostagent/venv
systemctl reset-failed hostagent
systemctl restart hostagent
hostagent undrain
rm -f {marks}
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that can be installed, says its version, and ends as soon as it is to serve."""
    folder = tmp_path_factory.mktemp("broken")
    renamed_tree(folder, "0.0.2")
    path = folder / "hostagent/cli/run.py"
    text = path.read_text()
    begin = '    set_up("info")\n'
    assert text.count(begin) == 1
    path.write_text(text.replace(begin, f'{begin}    error("agent.failed", "broken on purpose")\n    sys.exit(1)\n'))
    return folder


@pytest.fixture
def good(cluster: Cluster) -> Iterator[str]:
    """The release that all hosts run, before the test and after it."""
    hosts = cluster.lab.hosts
    good = running_release(hosts["h1"])
    yield good
    if {running_release(host) for host in hosts.values()} != {good}:
        for host in hosts.values():
            host.run(["rm", "-f", *MARKS, "/var/lib/hostagent/drained"])
        deploy(cluster.lab)


@pytest.fixture
def vips(cluster: Cluster) -> list[str]:
    """The first of them is the canary's."""
    cluster.pool()
    cluster.advertise()
    names = ("web", "shop", "mail")
    for name in names:
        cluster.serve(name)
    vips = [cluster.given(name)[0] for name in names]
    for vip in vips:
        cluster.answered(vip)
    if (holder := cluster.held(vips[0])).name != "h1":
        holder.run(["hostagent", "move", vips[0], "h1", "--wait"])
    return vips


def by_playbook(cluster: Cluster, _good: str, *settings: str) -> None:
    deploy(cluster.lab, *settings, playbook="upgrade")


def by_hand(cluster: Cluster, good: str, *_settings: str) -> None:
    """As docs/upgrade.md has it. The playbook then finds nothing to do."""
    cluster.lab.hosts["h1"].run(["sh", "-c", BY_HAND.format(older=good, marks=" ".join(MARKS))])
    assert [*recap(deploy(cluster.lab)).values()] == [("0", "0")] * len(cluster.lab.hosts)


@pytest.mark.parametrize(("mode", "go_back"), [("drain", by_playbook), ("drain", by_hand), ("restart", by_playbook)])
def test_a_release_that_does_not_start_stops_at_the_canary_and_there_is_a_way_back(
    cluster: Cluster, broken: Path, good: str, *, vips: list[str], mode: str, go_back: Callable[..., None]
) -> None:
    """In `restart` mode the canary's VIPs fail over, as it was not emptied before. The others' notice nothing."""
    canary, *others = cluster.lab.hosts.values()
    settings = ("-e", f"hostagent_upgrade_mode={mode}", *CANARY_FIRST)
    canarys = [vip for vip in vips if cluster.held(vip) is canary]
    moved_before = cluster.transitions()
    with cluster.lab.client.pinging(*vips) as pinger:
        with pytest.raises(FabricError, match="broken on purpose"):
            deploy(cluster.lab, "-e", f"hostagent_source={broken}", *settings, playbook="upgrade")
        cluster.until(lambda: gave_up(canary), "systemd to start it no more")
        cluster.until(lambda: not any(canary.name in cluster.holders(vip) for vip in vips), "its VIPs to be gone there")
        assert {cluster.held(vip).name for vip in vips} <= {host.name for host in others}
        assert [running_release(host) for host in others] == [good, good]

        go_back(cluster, good, *settings)

    assert running_release(canary) == good
    assert cluster.status(canary)["draining"] is None
    moved = {vip: cluster.transitions()[claim_name(vip)] - moved_before[claim_name(vip)] for vip in vips}
    counted = vips if mode == "drain" else [vip for vip in vips if vip not in canarys]
    lost = {vip: pinger.results[vip].lost for vip in counted}
    assert [(vip, lost[vip], moved[vip]) for vip in counted if lost[vip] > moved[vip]] == []


def gave_up(host: Host) -> bool:
    return host.run(["systemctl", "is-failed", "hostagent"], check=False).stdout.strip() == "failed"


def test_within_the_error_budget_others_go_on_and_the_next_run_finishes(
    cluster: Cluster, tmp_path: Path, good: str, vips: list[str]
) -> None:
    hosts = cluster.lab.hosts
    renamed_tree(tmp_path / "newer", "0.0.3")
    settings = ("-e", f"hostagent_source={tmp_path / 'newer'}", "-e", "hostagent_upgrade_mode=restart", *CANARY_FIRST)
    with cluster.lab.client.pinging(*vips) as pinger:
        hosts["h2"].run(["sh", "-c", f"mount --bind {RELEASES} {RELEASES} && mount -o remount,bind,ro {RELEASES}"])
        try:
            with pytest.raises(FabricError) as failed:
                deploy(cluster.lab, "-e", "hostagent_upgrade_error_budget=50", *settings, playbook="upgrade")
        finally:
            hosts["h2"].run(["umount", RELEASES])
        assert {host: failures for host, (_, failures) in recap(str(failed.value)).items()} == {
            "h1": "0",
            "h2": "1",
            "h3": "0",
        }
        assert [host.name for host in hosts.values() if running_release(host).startswith("0.0.3-")] == ["h1", "h3"]
        assert running_release(hosts["h2"]) == good

        deploy(cluster.lab, *settings, playbook="upgrade")

    assert [host.name for host in hosts.values() if not running_release(host).startswith("0.0.3-")] == []
    assert {vip: result.lost for vip, result in pinger.results.items()} == dict.fromkeys(vips, 0)
