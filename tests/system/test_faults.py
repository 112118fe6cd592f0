"""What happens to VIPs when agents, hosts and the API server do what they do in real life.

Outages are counted by a client that pings every 10 ms, and who answers by a listener on the segment. Bounds are those
of the protocol (lifetimes, session duration), never of this machine's speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.fabric.client import PingResult
from tests.fabric.hosts import Host
from tests.system.cluster import Cluster

LIFETIME_S = 10  # hang_timeout_s
LATE_S = 2.0  # the kernel ends an address up to 1.3 s after its lifetime
SESSION_S = 15
RELAPSE_MS = 200.0  # a host that answers again so soon after another one did: two hold the address
ONE_PING_MS = 20.0  # 10 ms apart: a single lost one is a gap of two intervals


@pytest.fixture
def vip(cluster: Cluster) -> str:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web")
    [vip] = cluster.given("web")
    cluster.answered(vip)
    return vip


def under_pings(cluster: Cluster, vip: str, act: Callable[[], object], *, until: Callable[[], bool]) -> PingResult:
    """Do something while a client pings; the pings go on until it is over and then for a second."""
    with cluster.lab.client.pinging(vip) as pinger:
        time.sleep(0.5)
        act()
        cluster.until(until, "the fault's end", timeout_s=60)
        time.sleep(1.0)
    return pinger.result


def moved_from(cluster: Cluster, vip: str, host: Host) -> Callable[[], bool]:
    return lambda: cluster.holders(vip) not in ([], [host.name])


def test_agents_restarted_one_after_another_lose_nothing_and_move_nothing(cluster: Cluster, vip: str) -> None:
    moves, holders = cluster.transitions(), cluster.claims()

    def restart_all() -> None:
        for host in cluster.lab.hosts.values():
            host.run(["systemctl", "restart", "hostagent"])

    result = under_pings(cluster, vip, restart_all, until=lambda: True)
    assert result.lost == 0
    assert (cluster.transitions(), cluster.claims()) == (moves, holders)


def test_a_killed_agent_is_started_again_and_nothing_is_lost(cluster: Cluster, vip: str) -> None:
    host = cluster.held(vip)
    before = host.run(["systemctl", "show", "--value", "--property=MainPID", "hostagent"]).stdout

    def again() -> bool:
        now = host.run(["systemctl", "show", "--value", "--property=MainPID", "hostagent"]).stdout
        return now not in (before, "0\n") and cluster.alive(host)

    kill = ["systemctl", "kill", "--signal=KILL", "hostagent"]
    result = under_pings(cluster, vip, lambda: host.run(kill), until=again)
    assert result.lost == 0
    assert cluster.holders(vip) == [host.name]


def test_stopping_the_holders_agent_moves_the_vip_and_loses_a_ping_at_most(cluster: Cluster, vip: str) -> None:
    host = cluster.held(vip)
    with cluster.lab.listening(ask=[vip]) as listener:
        result = under_pings(
            cluster, vip, lambda: host.run(["systemctl", "stop", "hostagent"]),
            until=moved_from(cluster, vip, host),
        )  # fmt: skip
    assert result.lost <= 1
    assert result.longest_gap_ms <= ONE_PING_MS
    assert listener.relapses(vip, window_ms=RELAPSE_MS) == []
    assert vip not in cluster.kernel_addresses(host)
    guard = host.run(["nft", "list", "table", "inet", "hostagent"], check=False)
    assert guard.returncode != 0, "a stopped agent leaves no table behind"


def test_a_hung_agent_loses_the_address_within_its_lifetime_and_another_host_serves(cluster: Cluster, vip: str) -> None:
    host = cluster.held(vip)
    with cluster.lab.listening(ask=[vip]) as listener:
        began = time.monotonic()
        host.run(["systemctl", "kill", "--signal=STOP", "hostagent"])
        cluster.until(lambda: vip not in cluster.kernel_addresses(host), "the kernel to drop it", timeout_s=30)
        assert time.monotonic() - began < LIFETIME_S + LATE_S + 1.0
        cluster.until(moved_from(cluster, vip, host), "another host to serve", timeout_s=SESSION_S + 10)
        assert cluster.answered(vip)
    assert listener.relapses(vip, window_ms=RELAPSE_MS) == []


def test_a_host_that_loses_power_is_replaced_once_its_session_expired(cluster: Cluster, vip: str) -> None:
    host = cluster.held(vip)
    with cluster.lab.listening(ask=[vip]) as listener:
        host.power_off()
        cluster.until(moved_from(cluster, vip, host), "another host to serve", timeout_s=SESSION_S + 10)
        assert cluster.answered(vip)
        successor = cluster.held(vip)
    assert listener.relapses(vip, window_ms=RELAPSE_MS) == []
    [claimed] = [
        entry["MESSAGE"]
        for entry in successor.journal("hostagent", f"HOSTAGENT_VIP={vip}", "HOSTAGENT_EVENT=claim.written")[-1:]
    ]
    assert "holder-expired" in claimed
    assert host.name in claimed


def test_a_host_whose_cable_comes_back_does_not_answer_for_what_has_moved(cluster: Cluster, vip: str) -> None:
    host = cluster.held(vip)
    with cluster.lab.listening(ask=[vip]) as listener:
        host.cable_pull()
        try:
            cluster.until(lambda: len(set(cluster.holders(vip)) - {host.name}) == 1, "another host to serve", 30)
            assert cluster.answered(vip)
            cluster.until(lambda: vip not in cluster.kernel_addresses(host), "the unplugged host to let go")
        finally:
            host.cable_plug()
        cluster.until(lambda: cluster.alive(host), f"{host.name} to be back")
        assert cluster.answered(vip)
    assert host.name not in cluster.holders(vip)
    assert listener.relapses(vip, window_ms=RELAPSE_MS) == []
    successor = cluster.lab.hosts[cluster.holders(vip)[0]]
    assert listener.holders(vip)[-1].host == successor.name


def test_an_api_outage_moves_nothing(cluster: Cluster, vip: str) -> None:
    plane, moves = cluster.lab.control_plane, cluster.transitions()
    host = cluster.held(vip)

    def outage() -> None:
        plane.pause()
        time.sleep(SESSION_S + LIFETIME_S)
        plane.resume()

    try:
        result = under_pings(cluster, vip, outage, until=lambda: all(map(cluster.alive, cluster.lab.hosts.values())))
    finally:
        plane.resume()
    assert result.lost == 0
    assert cluster.holders(vip) == [host.name]
    assert cluster.transitions() == moves
    said = [entry.get("HOSTAGENT_EVENT") for entry in host.journal("hostagent")]
    assert "api.unreachable" in said
    assert "api.reachable" in said


def test_an_address_that_somebody_removes_is_put_back_at_once_and_the_culprit_named(cluster: Cluster, vip: str) -> None:
    host = cluster.held(vip)
    result = under_pings(
        cluster, vip, lambda: host.run(["ip", "address", "delete", f"{vip}/32", "dev", "eth0"]),
        until=lambda: vip in cluster.kernel_addresses(host),
    )  # fmt: skip
    assert result.longest_gap_ms < 500
    entry = host.journal("hostagent", f"HOSTAGENT_VIP={vip}", "HOSTAGENT_EVENT=vip.removed-by-other")[-1]
    assert "pid" in entry["HOSTAGENT_BY"]


def test_a_vip_that_a_stranger_answers_for_is_not_taken(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    client = cluster.lab.client
    client.run(["ip", "address", "add", "198.51.100.64/32", "dev", "eth0"])
    try:
        cluster.serve("web")
        assert cluster.given("web") == ["198.51.100.64"]
        cluster.until(
            lambda: any(event["reason"] == "AddressConflict" for event in cluster.events("web")),
            "an event that names the stranger",
        )
        assert cluster.holders("198.51.100.64") == []
    finally:
        client.run(["ip", "address", "delete", "198.51.100.64/32", "dev", "eth0"])
    cluster.held("198.51.100.64")
    assert cluster.answered("198.51.100.64")
