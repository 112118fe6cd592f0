"""The whole: Services of a real API server, agents on three hosts, a router, a client behind it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import pytest

from hostagent.model.cluster import EXCLUDE_LABEL
from tests.bgp.agents.announced import announced, errors_of, everybody, gateways, told
from tests.bgp.playbook import run_role
from tests.bgp.routers import (
    HOSTS_ASN,
    PASSWORD,
    TOR_ASN,
    TOR_V6,
    FrrRouterHost,
    Neighbour,
    counting,
    frr_text,
    until,
    vtysh,
    watching_routes,
)
from tests.fabric.admin import Session
from tests.fabric.backends import endpoint_slices, patch_status, service
from tests.fabric.client import url_of
from tests.fabric.controlplane import ControlPlane
from tests.fabric.hosts import Host
from tests.system.cluster import CONFIG, Cluster

MANY = 1000
_STAYS_AWAY_S = 60
"""Four times as long as a Lease is held (15 s): no other host or clock of ours has a word in it."""
_MANY_WITHIN_S = 400.0
_NO_RESTART = "/run/systemd/system/hostagent.service.d/test.conf"


def test_all_hosts_announce_a_service_and_the_client_reaches_it(cluster: Cluster, tor: FrrRouterHost) -> None:
    vip = announced(cluster, tor)

    assert {path["community"]["string"] for path in tor.paths(f"{vip}/32")} == {"65001:42"}
    assert cluster.answered(vip) in cluster.lab.hosts
    assert [_frr(host) for host in cluster.lab.hosts.values()] == ["8", "8", "10"]
    for host in cluster.lab.hosts.values():
        text = host.run(["hostagent", "status"]).stdout
        assert "Established" in text
        assert vip in text
    cluster.delete("web")
    until(lambda: not gateways(tor, vip), "the route to go")


def test_killed_stopped_and_restarted_agents_change_nothing_at_the_router(cluster: Cluster, tor: FrrRouterHost) -> None:
    vip = announced(cluster, tor)
    drops = {host.name: tor.dropped(host.addresses[0]) for host in cluster.lab.hosts.values()}

    with watching_routes(tor.host) as log:
        for host in cluster.lab.hosts.values():
            host.run(["systemctl", "restart", "hostagent"])
        victim = cluster.lab.hosts["h1"]
        _kill_for_good(victim)
        time.sleep(_STAYS_AWAY_S)
        assert vip in victim.run(["ip", "route", "show", "table", "174"]).stdout
        _bring_back(victim)
        cluster.everybody_runs()

    assert log.of(f"{vip}/32") == []
    assert {host.name: tor.dropped(host.addresses[0]) for host in cluster.lab.hosts.values()} == drops
    assert everybody(cluster.lab, tor, vip)


def test_who_advertises_is_who_serves_and_may(cluster: Cluster, tor: FrrRouterHost) -> None:
    """Traffic policy Local; the exclude label; a node without network; endpoints that are gone; and what people see."""
    plane = cluster.lab.control_plane
    h2 = cluster.lab.hosts["h2"].addresses[0]
    cluster.serve("web", hosts=["h2"], local=True)
    vip = cluster.given("web")[0]
    until(lambda: gateways(tor, vip) == [h2], "the way to the one host that serves")

    (status,) = until(lambda: told(cluster), "a ServiceBGPStatus")
    assert (status["node"], status["serviceName"], status["peers"]) == ("h2", "web", ["tor"])
    plane.kubectl("label", "node", "h2", f"{EXCLUDE_LABEL}=")
    until(lambda: not gateways(tor, vip), "no way to a host that is excluded")
    until(lambda: not told(cluster), "its status object to go")
    plane.kubectl("label", "node", "h2", f"{EXCLUDE_LABEL}-")
    until(lambda: gateways(tor, vip) == [h2], "the way again")
    _network_of(plane, "h2", unavailable=True)
    until(lambda: not gateways(tor, vip), "no way to a host without network")
    _network_of(plane, "h2", unavailable=False)
    until(lambda: gateways(tor, vip) == [h2], "the way once more")
    plane.kubectl("delete", "endpointslices", "--all", "--namespace", cluster.namespace)
    until(lambda: not gateways(tor, vip), "no way to nobody")


def _network_of(plane: ControlPlane, node: str, *, unavailable: bool) -> None:
    condition = {"type": "NetworkUnavailable", "status": str(unavailable), "reason": "Test", "message": "of a test"}
    conditions = [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "lab host"}, condition]
    patch_status(plane, "node", node, {"conditions": conditions})


def test_a_password_comes_from_a_secret_and_what_is_wrong_is_told(cluster: Cluster, tor: FrrRouterHost) -> None:
    plane, h1 = cluster.lab.control_plane, cluster.lab.hosts["h1"]
    at = h1.addresses[1]
    vtysh(tor.host, "configure terminal", f"router bgp {TOR_ASN}", f"neighbor {at} password {PASSWORD}")
    meta = {"name": "tor-password", "namespace": CONFIG}
    selector = {"nodeSelectors": [{"matchLabels": {"kubernetes.io/hostname": "h1"}}]}
    peer = {"myASN": HOSTS_ASN, "peerASN": TOR_ASN, "peerAddress": TOR_V6, "connectTime": "1s", **selector}
    made = {
        "apiVersion": "metallb.io/v1beta2",
        "kind": "BGPPeer",
        "metadata": {"name": "secret", "namespace": CONFIG},
        "spec": {**peer, "passwordSecret": {"name": "tor-password"}},
    }
    try:
        plane.apply(made)
        until(
            lambda: "tor-password" in errors_of(cluster, "h1"),
            "ConfigurationState to say that the Secret is not there",
        )
        plane.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": meta,
                "type": "kubernetes.io/basic-auth",
                "stringData": {"password": PASSWORD},
            }
        )
        until(lambda: tor.established(at), "a session with that password")
        until(lambda: not errors_of(cluster, "h1"), "nothing to be wrong any more")
        until(
            lambda: any("h1: the session" in each["message"] for each in cluster.events("secret", "BGPPeer")),
            "an Event about the session",
        )
        assert PASSWORD not in h1.journal_text()
    finally:
        plane.kubectl("delete", "bgppeer", "secret", "--namespace", CONFIG, "--ignore-not-found")
        plane.kubectl("delete", "secret", "tor-password", "--namespace", CONFIG, "--ignore-not-found")
        vtysh(tor.host, "configure terminal", f"router bgp {TOR_ASN}", f"no neighbor {at} password {PASSWORD}")


def _frr(host: Host) -> str:
    """Its major version."""
    return vtysh(host, "show version").split()[1].split(".")[0]


def _kill_for_good(host: Host) -> None:
    host.write_file(_NO_RESTART, "[Service]\nRestart=no\n")
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "kill", "--signal=KILL", "hostagent"])


def _bring_back(host: Host) -> None:
    host.run(["rm", _NO_RESTART])
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "reset-failed", "hostagent"], check=False)
    host.run(["systemctl", "start", "hostagent"])


def test_services_come_one_by_one_and_no_session_flaps(cluster: Cluster, tor: FrrRouterHost) -> None:
    announced(cluster, tor)
    drops = {host.name: tor.dropped(host.addresses[0]) for host in cluster.lab.hosts.values()}
    before = {name: vtysh(host, "show running-config") for name, host in cluster.lab.hosts.items()}

    api = cluster.lab.control_plane.admin.session()
    try:
        _one_by_one(api, cluster, MANY)
        for host in cluster.lab.hosts.values():
            until(lambda at=host.addresses[0]: tor.count(at) == MANY + 1, f"all of {host.name}", _MANY_WITHIN_S)  # type: ignore[misc]
        for plural in ("services", "endpointslices"):
            api.send("DELETE", _path(plural, cluster.namespace))
        for host in cluster.lab.hosts.values():
            until(lambda at=host.addresses[0]: tor.count(at) == 0, f"none of {host.name}", _MANY_WITHIN_S)  # type: ignore[misc]
    finally:
        api.close()

    assert {host.name: tor.dropped(host.addresses[0]) for host in cluster.lab.hosts.values()} == drops
    assert {name: vtysh(host, "show running-config") for name, host in cluster.lab.hosts.items()} == before


def _one_by_one(api: Session, cluster: Cluster, count: int) -> None:
    annotations = {"metallb.io/address-pool": "many"}
    for number in range(count):
        made = service(f"s{number}", namespace=cluster.namespace, annotations=annotations)
        (its_slice,) = endpoint_slices(made, list(cluster.lab.hosts.values()))
        api.send("POST", _path("endpointslices", cluster.namespace), its_slice)
        api.send("POST", _path("services", cluster.namespace), made)


def _path(plural: str, namespace: str) -> str:
    group = "/api/v1" if plural == "services" else "/apis/discovery.k8s.io/v1"
    return f"{group}/namespaces/{namespace}/{plural}"


@pytest.mark.parametrize("name", ["h1", "h3"])
def test_a_drained_host_gets_no_new_flow_and_no_request_fails(cluster: Cluster, tor: FrrRouterHost, name: str) -> None:
    """But one that was under way when the router spread its flows anew: that is the router's to avoid, see docs."""
    vip = announced(cluster, tor)
    cluster.answered(vip)
    host = cluster.lab.hosts[name]
    with (
        counting(host, f"ip daddr {vip} tcp flags & (syn | ack) == syn") as new_flows,
        watching_routes(tor.host) as log,
        cluster.lab.client.probing(url_of(vip, 80), interval_ms=5, timeout_s=3) as prober,
    ):
        until(lambda: new_flows() > 0, "the host gets its share before")
        try:
            host.run(["hostagent", "drain", "--wait"])
            until(lambda: host.addresses[0] not in gateways(tor, vip), "the host's way to go")
            time.sleep(1)  # what was under way
            at_withdrawal, asked = new_flows(), len(prober.answers)
            until(lambda: len(prober.answers) > asked + 400, "more requests")
            later = new_flows()
        finally:
            host.run(["hostagent", "undrain"])
        until(lambda: everybody(cluster.lab, tor, vip), "the host to be back")

    assert later == at_withdrawal
    spread_anew = log.of(f"{vip}/32")
    assert len(spread_anew) >= 2  # without the host, and with it again
    ends = [at for at, _ in prober.answers[1:]]
    failed = [
        (at, end)
        for (at, backend), end in zip(prober.answers, ends, strict=False)
        if backend is None and not any(at <= when <= end for when in spread_anew)
    ]
    assert failed == []
    lost = sum(backend is None for _, backend in prober.answers)
    sys.stderr.write(f"{host.name}: {lost} of {len(prober.answers)} requests failed, at {len(spread_anew)} respreads\n")


def test_everything_restarted_at_once_comes_to_rest_as_before(
    cluster: Cluster, tor: FrrRouterHost, neighbours: Mapping[str, Neighbour]
) -> None:
    vip = announced(cluster, tor)

    for host in [*cluster.lab.hosts.values(), tor.host]:
        host.run(["systemctl", "restart", "--no-block", "frr"])
    for host in cluster.lab.hosts.values():
        host.run(["systemctl", "restart", "--no-block", "hostagent"])
    until(lambda: _loads(tor.host, frr_text(neighbours)), "the router's FRR to be up")

    until(lambda: everybody(cluster.lab, tor, vip), "three ways again")
    assert cluster.answered(vip) in cluster.lab.hosts


def _loads(host: Host, text: str) -> bool:
    up = host.run(["systemctl", "is-active", "frr"], check=False).stdout.strip() == "active"
    host.write_file("/run/lines.conf", text)
    return up and host.run(["vtysh", "-f", "/run/lines.conf"], check=False).returncode == 0


def _guards(host: Host) -> bool:
    return host.run(["systemctl", "is-active", "--quiet", "hostagent-frr-guard"], check=False).returncode == 0


def test_an_agent_that_stays_away_is_withdrawn_where_the_site_wants_that(cluster: Cluster, tor: FrrRouterHost) -> None:
    vip = announced(cluster, tor)
    victim = cluster.lab.hosts["h3"]
    run_role(cluster.lab, [victim.name], hostagent_frr_on_agent_gone="withdraw", hostagent_frr_withdraw_after=10)
    cluster.everybody_runs()
    drops = tor.dropped(victim.addresses[0])
    try:
        with watching_routes(tor.host) as log:
            victim.run(["systemctl", "restart", "hostagent"])  # is no staying away
            cluster.everybody_runs()
            until(lambda: not _guards(victim), "the guard to have seen the agent come back")
        _kill_for_good(victim)
        until(lambda: victim.addresses[0] not in gateways(tor, vip), "the prefix to be taken back")
    finally:
        _bring_back(victim)

    assert log.of(f"{vip}/32") == []
    assert len(gateways(tor, vip)) == len(cluster.lab.hosts) - 1
    until(lambda: everybody(cluster.lab, tor, vip), "the agent that came back announces")
    assert tor.dropped(victim.addresses[0]) == drops
