"""The playbook on hosts that have hostagent already."""

from __future__ import annotations

import re

from tests.fabric.deploy import deploy
from tests.system.cluster import Cluster


def test_a_second_run_changes_nothing_and_check_mode_says_so(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web")
    [vip] = cluster.given("web")
    cluster.answered(vip)
    with cluster.lab.client.pinging(vip) as pinger:
        again = deploy(cluster.lab)
        dry = deploy(cluster.lab, "--check", "--diff")
    for output in (again, dry):
        recap = re.findall(r"^h\d .*changed=(\d+) .*failed=(\d+)", output, re.MULTILINE)
        assert recap == [("0", "0")] * len(cluster.lab.hosts), output[-3000:]
    assert pinger.result.lost == 0
