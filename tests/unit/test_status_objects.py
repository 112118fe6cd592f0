"""Status objects: what they say, and what is written when they do not."""

from __future__ import annotations

import pytest

from hostagent.core.status_objects import (
    INT64_MAX,
    allocator_state,
    bgp_statuses,
    host_state,
    l2_statuses,
    object_name,
    pool_statuses,
)
from hostagent.edges.kube.status_objects import status_patch
from hostagent.model.cluster import Fault
from hostagent.model.names import InterfaceName, NodeName
from tests.unit.builders import a_config, a_key, a_pool

H1 = NodeName("h1")
POOL = Fault(kind="IPAddressPool", namespace="metallb-system", name="p", field="spec.addresses[0]", message="no range")
PEER = Fault(kind="BGPPeer", namespace="metallb-system", name="r", field="spec.myASN", message="must not be 0")
HINT = Fault(kind="IPAddressPool", namespace="metallb-system", name="p", field="spec", message="unused", warning=True)


def counters(*ranges: str, used: tuple[str, ...] = (), buggy: bool = False) -> dict[str, int]:
    pool = a_pool("pool", *ranges, avoid_buggy_ips=buggy)
    in_use = [a_pool("x", each).ranges[0].first for each in used]
    [one] = pool_statuses(a_config(pool), set(in_use))
    return one.status


def test_a_shared_address_counts_once() -> None:
    assert counters("198.51.100.64/30", used=("198.51.100.65", "198.51.100.65"))["assignedIPv4"] == 1


def test_addresses_in_no_pool_count_nowhere() -> None:
    assert counters("198.51.100.64/30", used=("203.0.113.1",)) == {
        "assignedIPv4": 0, "availableIPv4": 4, "assignedIPv6": 0, "availableIPv6": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ranges", "usable"),
    [("198.51.100.0/24", 254), ("198.51.100.0-198.51.101.255", 508), ("198.51.100.1-198.51.100.254", 254)],
)
def test_what_avoid_buggy_ips_rules_out_is_not_available(ranges: str, usable: int) -> None:
    assert counters(ranges, buggy=True)["availableIPv4"] == usable


def test_an_ipv6_pool_larger_than_the_field_does_not_overflow() -> None:
    told = counters("2001:db8::/48", "2001:db8:1::/126", used=("2001:db8::1",))
    assert told["availableIPv6"] == INT64_MAX
    assert told["assignedIPv6"] == 1


def test_a_host_is_invalid_for_errors_and_not_for_warnings() -> None:
    assert host_state(H1, [HINT]).status["result"] == "Valid"
    told = host_state(H1, [POOL, PEER, HINT]).status
    assert told["result"] == "Invalid"
    assert told["errorSummary"].splitlines() == sorted([str(POOL), str(PEER)])


def test_the_allocators_verdict_is_about_pools_only() -> None:
    assert allocator_state([PEER]).status["result"] == "Valid"
    assert allocator_state([POOL]).status["result"] == "Invalid"


def test_one_object_per_node_and_service_whoever_makes_it() -> None:
    one, other = l2_statuses(H1, {a_key("a/web"): {InterfaceName("eth0")}, a_key("b/web"): {InterfaceName("eth0")}})
    assert one.name == object_name("l2", H1, a_key("a/web"))
    assert one.name != other.name != object_name("l2", NodeName("h2"), a_key("b/web"))


def test_a_service_is_told_with_the_peers_that_it_is_meant_for() -> None:
    [one] = bgp_statuses(H1, {a_key("a/web"): ("tor2", "tor1")})
    assert one.labels["metallb.io/node"] == "h1"
    assert one.status == {"node": "h1", "serviceName": "web", "serviceNamespace": "a", "peers": ["tor1", "tor2"]}


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    have = {"result": "Valid", "conditions": [{"type": "t", "status": "True", "lastTransitionTime": "then"}]}
    kept = status_patch(have, {"result": "Valid", "conditions": [{"type": "t", "status": "True"}]}, at="now")
    assert kept["conditions"][0]["lastTransitionTime"] == "then"
    turned = status_patch(have, {"conditions": [{"type": "t", "status": "False"}]}, at="now")
    assert turned["conditions"][0]["lastTransitionTime"] == "now"
    assert turned["result"] is None
