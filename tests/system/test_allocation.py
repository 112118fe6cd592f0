"""Who allocates may go in the middle of its work: no address is given twice, and no Service is forgotten."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.fabric.deploy import ROOT
from tests.fabric.processes import in_namespace
from tests.system.cluster import Cluster

BURST, BEFORE = 500, 60
WITHIN_S = 240.0


def burst(cluster: Cluster) -> subprocess.Popen[str]:
    """Begin to create Services with all speed; at its end it tells what a watch has seen of their addresses."""
    plane = cluster.lab.control_plane
    argv = [
        sys.executable, "-m", "tests.bench.load", "create", f"--kubeconfig={plane.admin.kubeconfig}",
        f"--namespace={cluster.namespace}", f"--count={BURST}",
    ]  # fmt: skip
    return subprocess.Popen(in_namespace(plane.netns, argv), cwd=ROOT, stdout=subprocess.PIPE, text=True)


def with_address(cluster: Cluster) -> int:
    services = cluster.lab.control_plane.admin.list_all("services", cluster.namespace)
    return sum(bool(each["status"]["loadBalancer"].get("ingress")) for each in services)


def allocator(cluster: Cluster) -> str:
    lease = cluster.lab.control_plane.get("lease", "allocator", "metallb-system") or {}
    return str(lease.get("spec", {}).get("holderIdentity", ""))


def test_an_allocator_that_hangs_in_a_burst_of_500_is_replaced_and_no_address_is_given_twice_or_lost(
    cluster: Cluster,
) -> None:
    """And when it goes on, with writes under way that it had begun, another allocates."""
    cluster.pool("100.64.0.0/22")  # nobody answers for these: what is tried is who gives them
    cluster.until(lambda: allocator(cluster) in cluster.lab.hosts, "an allocator")
    before = cluster.lab.hosts[allocator(cluster)]
    load = burst(cluster)
    try:
        cluster.until(lambda: with_address(cluster) >= BEFORE, f"{BEFORE} addresses", WITHIN_S)
        before.hang()
        try:
            left = BURST - with_address(cluster)
            assert left > 0, "the burst was over before the allocator hung: nothing was tried"
            cluster.until(lambda: allocator(cluster) not in ("", before.name), "another allocator", WITHIN_S)
            cluster.until(lambda: with_address(cluster) > BURST - left, "the other to be at work", WITHIN_S)
        finally:
            before.thaw()
        out, _ = load.communicate(timeout=WITHIN_S)
    finally:
        load.kill()
    seen: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert (seen["addresses"], seen["distinct"]) == (BURST, BURST)
    assert (seen["twice"], seen["changed"]) == (0, 0), "by everything that the watch has told"
