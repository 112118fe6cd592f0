"""Bad input gets a clear error that names object, field and remedy, and nothing that works is disturbed."""

from __future__ import annotations

import pytest

from tests.fabric.admin import KubectlError
from tests.system.cluster import CONFIG, Cluster

CONFIG_FILE = "/etc/hostagent/config.toml"


@pytest.fixture
def vip(cluster: Cluster) -> str:
    cluster.pool()
    cluster.advertise("pool")
    cluster.serve("web")
    [vip] = cluster.given("web")
    cluster.answered(vip)
    return vip


def problems(cluster: Cluster) -> list[str]:
    found: list[str] = cluster.status(cluster.lab.hosts["h1"]).get("problems", [])
    return found


def test_a_malformed_pool_is_refused_by_the_api_server(cluster: Cluster, vip: str) -> None:
    with pytest.raises(KubectlError) as refusal:
        cluster.configure("IPAddressPool", "bad", {"addresses": ["198.51.100.300/24"]})
    assert "spec.addresses" in str(refusal.value)
    assert cluster.answered(vip)


def test_a_pool_that_admission_cannot_judge_is_set_aside_with_its_reason(cluster: Cluster, vip: str) -> None:
    """IPv6 ranges inside each other: only the agent can count that far. The pool that was there keeps working."""
    cluster.pool("2001:db8:51:0:1::2-2001:db8:51:0:1::5", name="overlapping")
    cluster.until(lambda: any("overlapping" in each for each in problems(cluster)), "status to name the pool")
    [problem] = [each for each in problems(cluster) if each.startswith("IPAddressPool metallb-system/overlapping")]
    assert "spec.addresses[0]" in problem
    assert "pool" in problem
    cluster.until(lambda: cluster.events("overlapping", "IPAddressPool"), "an event on the pool")
    assert cluster.answered(vip)
    assert cluster.addresses("web") == [vip]


def test_an_edit_that_makes_a_pool_faulty_leaves_its_last_good_version_in_force(cluster: Cluster, vip: str) -> None:
    # Backwards, and the API server cannot compare IPv6 addresses.
    cluster.pool("198.51.100.96/28", "2001:db8:51:0:1::f-2001:db8:51:0:1::1")
    cluster.until(lambda: any("metallb-system/pool" in each for each in problems(cluster)), "status to name the pool")
    for host in cluster.lab.hosts.values():  # also for an agent that starts afresh
        host.run(["systemctl", "restart", "hostagent"])
    cluster.serve("another")
    [other] = cluster.given("another")
    assert other.startswith("198.51.100.6")
    assert cluster.answered(vip)
    assert cluster.answered(other)
    assert cluster.addresses("web") == [vip]


def test_an_advertisement_that_names_no_pool_there_is_says_so(cluster: Cluster, vip: str) -> None:
    cluster.advertise("no-such-pool", name="lost")
    cluster.until(lambda: any("no-such-pool" in each for each in problems(cluster)), "status to name the pool")
    [problem] = [each for each in problems(cluster) if "no-such-pool" in each]
    assert problem.startswith("L2Advertisement metallb-system/lost: spec.ipAddressPools")
    cluster.until(lambda: cluster.events("lost", "L2Advertisement"), "an event on the advertisement")
    assert cluster.answered(vip)
    cluster.pool("198.51.100.96/30", name="no-such-pool")
    cluster.until(lambda: not any("no-such-pool" in each for each in problems(cluster)), "the fault to heal by itself")


def test_a_typo_in_the_hosts_configuration_leaves_the_last_good_one_in_force(cluster: Cluster, vip: str) -> None:
    host = cluster.held(vip)
    text = host.read_file(CONFIG_FILE)
    try:
        host.run(["sed", "-i", "1i hang_timout_s = 20", CONFIG_FILE])
        cluster.until(lambda: cluster.status(host).get("problems"), "status to tell of the file")
        [problem] = cluster.status(host)["problems"]
        assert CONFIG_FILE in problem
        assert "hang_timout_s" in problem
        assert "hang_timeout_s" in problem, "the message lists what would have been right"
        assert cluster.answered(vip)
        assert cluster.holders(vip) == [host.name]
    finally:
        host.run(["tee", CONFIG_FILE], stdin=text)
    cluster.until(lambda: not cluster.status(host)["problems"], "the file to be good again")
    assert CONFIG in text
