"""What is found before a rollout: in the cluster, and on the hosts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from hostagent.core.preflight import examine
from hostagent.model.names import NodeName
from hostagent.model.preflight import ClusterFacts, HostFacts, KubeProxy, Severity

LOOK = Path(__file__).parents[2] / "roles" / "hostagent_preflight" / "files" / "look.py"
H1, H2 = NodeName("h1"), NodeName("h2")
HERE = ip_address("198.51.100.11")
CLUSTER = ClusterFacts(
    version="v1.35.4",
    rights_missing=(),
    nodes={H1: (HERE,), H2: ()},
    kube_proxy=KubeProxy(mode="iptables", strict_arp=False),
    metallb=(),
    pools={"public": ("198.51.100.64/28", "not a range")},
)
HOST = HostFacts(node=H1, addresses=(HERE,), gateways=(ip_address("198.51.100.1"),))


def found(cluster: ClusterFacts, *hosts: HostFacts) -> list[tuple[str, Severity, str]]:
    return [(each.check, each.severity, each.host) for each in examine(cluster, hosts or [HOST])]


def test_a_cluster_and_hosts_that_are_fit_give_no_finding() -> None:
    assert found(CLUSTER, HOST, replace(HOST, node=H2, addresses=())) == []


@pytest.mark.parametrize(
    ("cluster", "check", "severity"),
    [
        (replace(CLUSTER, version="v1.30.9"), "kubernetes-version", Severity.ERROR),
        (replace(CLUSTER, rights_missing=("patch clusterroles",)), "admin-rights", Severity.ERROR),
        (replace(CLUSTER, metallb=("metallb-system/speaker-x",)), "metallb", Severity.WARNING),
        (replace(CLUSTER, kube_proxy=KubeProxy(mode="ipvs", strict_arp=False)), "strict-arp", Severity.WARNING),
    ],
)
def test_what_is_wrong_with_the_cluster_is_found(cluster: ClusterFacts, check: str, severity: Severity) -> None:
    assert found(cluster) == [(check, severity, "")]


def test_ipvs_with_strict_arp_is_well() -> None:
    assert found(replace(CLUSTER, kube_proxy=KubeProxy(mode="ipvs", strict_arp=True))) == []


@pytest.mark.parametrize(
    ("host", "check"),
    [
        (replace(HOST, node=NodeName("h9")), "node-name"),
        (replace(HOST, addresses=(ip_address("198.51.100.12"),)), "node-address"),
        (replace(HOST, addresses=(HERE, ip_address("198.51.100.70"))), "address-overlap"),
        (replace(HOST, gateways=(ip_address("198.51.100.64"),)), "address-overlap"),
    ],
)
def test_what_is_wrong_with_a_host_is_found(host: HostFacts, check: str) -> None:
    assert found(CLUSTER, host) == [(check, Severity.ERROR, host.node)]


def test_a_vip_that_a_host_has_for_now_is_of_the_pool_by_right() -> None:
    vip = ip_address("198.51.100.70")
    assert found(CLUSTER, replace(HOST, addresses=(HERE, vip), passing=(vip,))) == []


@pytest.mark.parametrize(
    ("entry", "link", "passes"),
    [
        ({"family": "inet", "prefixlen": 32, "valid_life_time": 9}, "eth0", True),
        ({"family": "inet6", "prefixlen": 128, "valid_life_time": 9}, "eth0", True),
        ({"family": "inet", "prefixlen": 24, "valid_life_time": 3600}, "eth0", False),  # DHCP
        ({"family": "inet", "prefixlen": 32, "valid_life_time": 4294967295}, "eth0", False),
        ({"family": "inet", "prefixlen": 32, "valid_life_time": 4294967295}, "kube-ipvs0", True),
    ],
)
def test_a_vip_is_known_by_its_lifetime(entry: dict[str, Any], link: str, passes: bool) -> None:
    assert load().passes(entry, {"ifname": link}) is passes


def test_two_hosts_of_one_name_are_found() -> None:
    assert found(CLUSTER, HOST, HOST) == [("node-name", Severity.ERROR, "h1")]


# The script that runs on hosts


def load() -> Any:
    spec = importlib.util.spec_from_file_location("look", LOOK)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def a_link(name: str = "eth0", **changes: Any) -> dict[str, Any]:
    link = {
        "name": name,
        "ethernet": True,
        "member": False,
        "carrier": True,
        "addresses": ["198.51.100.11"],
        "arp": True,
        "rp_filter": "0",
        "arp_ignore": "0",
    }
    return link | changes


def facts(*links: dict[str, Any], **changes: Any) -> dict[str, Any]:
    so = {
        "links": list(links) or [a_link()],
        "tools": ["ip", "nft", "openssl", "systemctl"],
        "sysctls": {"net.ipv4.conf.all.arp_ignore": "0", "net.ipv4.conf.all.rp_filter": "0"},
        "proxy_mode": "iptables",
        "managers": [],
        "clock_synchronized": True,
        "api": {"error": "", "ahead_s": 0.2},
    }
    return so | changes


def host_cases() -> Iterator[Any]:
    yield pytest.param(facts(), [], id="fit")
    yield pytest.param(facts(tools=["ip", "openssl", "systemctl"]), [("tools", "warning")], id="no-nft")
    yield pytest.param(facts(a_link(carrier=False)), [("interfaces", "error")], id="no-carrier")
    yield pytest.param(facts(a_link(addresses=[])), [("interfaces", "error")], id="no-address")
    bond = a_link("bond0")
    yield pytest.param(facts(bond, a_link(member=True, addresses=[])), [], id="a-bond-and-its-member")
    yield pytest.param(facts(a_link(arp_ignore="8")), [("arp-ignore", "error")], id="no-arp")
    yield pytest.param(facts(a_link(rp_filter="1")), [], id="strict-with-one-interface")
    two = facts(a_link(rp_filter="1"), a_link("eth1"))
    yield pytest.param(two, [("rp-filter", "warning")], id="strict-with-two")
    loose = facts(a_link(rp_filter="1"), a_link("eth1"))
    loose["sysctls"] = loose["sysctls"] | {"net.ipv4.conf.all.rp_filter": "2"}
    yield pytest.param(loose, [], id="loose-for-all")
    yield pytest.param(facts(proxy_mode=""), [("kube-proxy", "note")], id="no-kube-proxy")
    yield pytest.param(facts(proxy_mode="ipvs"), [("kube-proxy", "error")], id="ipvs-without-arp-ignore")
    watched = facts(managers=["NetworkManager"])
    yield pytest.param(watched, [("network-manager", "note")], id="somebody-watches-over-addresses")
    yield pytest.param(facts(clock_synchronized=False), [("clock", "warning")], id="no-ntp")
    yield pytest.param(facts(clock_synchronized=None), [], id="nobody-knows-of-ntp")
    yield pytest.param(facts(api={"error": "", "ahead_s": 90.0}), [("clock", "error")], id="clock-behind")
    yield pytest.param(facts(api={"error": "timed out", "ahead_s": 0.0}), [("api", "error")], id="api-silent")


@pytest.mark.parametrize(("so", "expected"), list(host_cases()))
def test_a_host_is_judged_by_what_it_tells(so: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    findings = list(load().judge(so, {"server": "https://198.51.100.1:6443", "max_skew_s": 30}))
    assert [(each["check"], each["severity"]) for each in findings] == expected
    assert all(each["remedy"] for each in findings)


def test_settings_that_the_role_will_make_count_as_made() -> None:
    asked = {"sysctls": {"net.ipv4.conf.all.arp_ignore": 1}}
    assert list(load().judge(facts(proxy_mode="ipvs"), asked)) == []


def test_the_script_runs_anywhere_and_needs_no_packages() -> None:
    done = subprocess.run(
        [sys.executable, "-IS", str(LOOK), json.dumps({"server": "https://127.0.0.1:1"})],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(done.stdout)) == {"addresses", "passing", "gateways", "findings"}
    assert "does not answer this host" in done.stdout
