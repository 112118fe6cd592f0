"""`hostagent simulate`: the rules on manifests alone, in order of appearance."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from hostagent.cli.simulate import simulate

NAMESPACE = "metallb-system"
Manifest = dict[str, Any]


def custom(kind: str, name: str, **spec: Any) -> Manifest:
    return {"apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def pool(name: str = "pool", *addresses: str, **spec: Any) -> Manifest:
    return custom("IPAddressPool", name, addresses=list(addresses or ("198.51.100.64/30",)), **spec)


def advertisement(name: str = "ad", **spec: Any) -> Manifest:
    return custom("L2Advertisement", name, **spec)


def node(name: str, *addresses: str, **labels: str) -> Manifest:
    status = {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}


def service(name: str = "web", *, annotations: dict[str, str] | None = None, **spec: Any) -> Manifest:
    meta = {"name": name, "namespace": "shop", "annotations": annotations or {}}
    ports = [{"port": 80}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"type": "LoadBalancer", "ports": ports, **spec},
    }


def endpoints(name: str, *nodes: str) -> Manifest:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": each} for each in nodes],
    }


def lease(name: str, holder: str, **annotations: str) -> Manifest:
    meta = {
        "name": name,
        "namespace": NAMESPACE,
        "annotations": {f"hostagent.io/{k}": v for k, v in annotations.items()},
    }
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": meta,
        "spec": {"holderIdentity": holder},
    }


def deleted(manifest: Manifest) -> Manifest:
    meta = {**manifest["metadata"], "annotations": {"hostagent.io/simulate": "delete"}}
    return {**manifest, "metadata": meta}


def run(manifests: Iterable[Manifest], *options: str) -> Result:
    text = yaml.safe_dump_all(list(manifests))
    return CliRunner().invoke(simulate, ["-", *options], input=text, env={"COLUMNS": "200"})


def played(manifests: Iterable[Manifest], *options: str) -> Manifest:
    result = run(manifests, "--output", "json", *options)
    assert result.exit_code in (0, 1), result.output
    told: Manifest = json.loads(result.stdout)
    assert told["ok"] is (result.exit_code == 0)
    return told


def given(told: Manifest) -> dict[str, list[str]]:
    return {each["service"]: [address["address"] for address in each["addresses"]] for each in told["services"]}


def address(told: Manifest) -> Manifest:
    """The one address of the one Service."""
    [only] = told["services"]
    [account] = only["addresses"]
    found: Manifest = account
    return found


def reasons(told: Manifest) -> list[str]:
    return [each["reason"] for each in told["events"]]


CLUSTER = [pool(), advertisement(), node("h1"), node("h2")]
WEB = [service("web"), endpoints("web", "h1")]


def test_a_service_gets_an_address_and_a_holder() -> None:
    told = played([*CLUSTER, *WEB])
    assert told["ok"]
    assert address(told)["address"] == "198.51.100.64"
    assert address(told)["holder"] in ("h1", "h2")
    assert [each["rank"] for each in address(told)["nodes"]] == [1, 2]
    assert reasons(told) == ["IPAllocated", "nodeAssigned"]
    assert told["pools"] == [
        {"name": "pool", "assignedIPv4": 1, "availableIPv4": 3, "assignedIPv6": 0, "availableIPv6": 0}
    ]


def test_each_other_node_says_why_not() -> None:
    manifests = [*CLUSTER, service("web", externalTrafficPolicy="Local"), endpoints("web", "h1")]
    found = {each["node"]: each for each in address(played(manifests))["nodes"]}
    assert found["h1"]["rank"] == 1
    assert found["h2"]["reason"] == "no-serving-endpoint-on-the-node"
    assert "Pod" in found["h2"]["change"]


def test_without_endpoints_nobody_answers_and_that_is_a_problem() -> None:
    told = played([*CLUSTER, service("web")])
    assert not told["ok"]
    assert address(told)["holder"] is None
    assert "no endpoint" in told["problems"][0]
    assert reasons(told) == ["IPAllocated", "announceFailed"]


def test_endpoints_may_be_assumed() -> None:
    told = played([*CLUSTER, service("web", externalTrafficPolicy="Local")], "--assume-ready")
    assert told["ok"]
    assert address(told)["holder"] is not None


def test_a_later_document_replaces_an_earlier_one() -> None:
    told = played([*CLUSTER, *WEB, pool("pool", "198.51.100.80/30")])
    assert given(told) == {"shop/web": ["198.51.100.80"]}
    assert reasons(told) == ["IPAllocated", "nodeAssigned", "IPAllocated", "nodeAssigned"]
    assert "in place of 198.51.100.64" in told["events"][2]["message"]


def test_a_deleted_service_frees_its_address_for_one_that_waits() -> None:
    small = [pool("pool", "198.51.100.64/32"), advertisement(), node("h1")]
    waiting = [*small, *WEB, service("late"), endpoints("late", "h1")]
    told = played(waiting)
    assert not told["ok"]
    assert "AllocationFailed" in reasons(told)
    told = played([*waiting, deleted(service("web"))])
    assert told["ok"]
    assert given(told) == {"shop/late": ["198.51.100.64"]}


def test_an_address_in_status_is_kept_as_metallb_gave_it() -> None:
    held = {**service("web"), "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.66"}]}}}
    told = played([*CLUSTER, held, endpoints("web", "h1"), service("new"), endpoints("new", "h1")])
    assert given(told) == {"shop/new": ["198.51.100.64"], "shop/web": ["198.51.100.66"]}


def test_a_drained_node_hands_over_and_says_so() -> None:
    holder = address(played([*CLUSTER, *WEB]))["holder"]
    told = played([*CLUSTER, *WEB], "--drain", holder)
    assert told["ok"]
    [move] = told["moved"]
    assert move["from"] == holder
    assert move["to"] == address(told)["holder"] != holder
    assert reasons(told)[-2:] == ["nodeWithdrawn", "nodeAssigned"]
    assert "draining" in told["events"][-2]["message"]


def test_the_only_candidate_keeps_its_address_through_a_drain() -> None:
    told = played([pool(), advertisement(), node("h1"), *WEB], "--drain", "h1")
    assert address(told)["holder"] == "h1"
    assert told["moved"] == []


def test_a_node_that_is_down_says_nothing_and_is_replaced() -> None:
    holder = address(played([*CLUSTER, *WEB]))["holder"]
    told = played([*CLUSTER, *WEB], "--down", holder)
    assert address(told)["holder"] not in (holder, None)
    assert "nodeWithdrawn" not in reasons(told)


def test_when_all_are_down_nobody_answers() -> None:
    told = played([*CLUSTER, *WEB], "--down", "h1", "--down", "h2")
    assert not told["ok"]
    assert told["moved"][0]["to"] is None


def test_a_holder_stays_when_a_better_node_comes_and_goes_when_one_is_preferred() -> None:
    alone = [pool(), advertisement(), node("h1"), *WEB]
    moved = [*alone, deleted(node("h9")), node("h2"), node("h3"), node("h4")]  # h1 had it before they came
    assert address(played(moved))["holder"] == "h1"
    preferred = advertisement(
        preferredNodeSelectors=[{"weight": 10, "preference": {"matchLabels": {"edge": "yes"}}}]
    )  # fmt: skip
    told = played([*alone, node("h2", edge="yes"), preferred])
    assert address(told)["holder"] == "h2"
    assert "preferred" in address(told)["why_holder"]


def test_sessions_tell_which_interfaces_there_are() -> None:
    segments = json.dumps([{"interface": "eth9", "mac": "02:00:00:00:00:09", "subnets": ["198.51.100.9/24"]}])
    told = played([*CLUSTER, lease("host.h1", "h1/boot", segments=segments), *WEB])
    found = {each["node"]: each for each in address(told)["nodes"]}
    assert found["h1"]["interface"] == "eth9"
    assert found["h2"]["reason"] == "no-agent-session"


def test_a_claim_says_who_holds_already() -> None:
    for holder in ("h1", "h2"):
        told = played([lease("vip.198.51.100.64", holder), *CLUSTER, *WEB])
        assert address(told)["holder"] == holder


def test_a_faulty_object_is_a_problem_and_everything_else_goes_on() -> None:
    told = played([*CLUSTER, pool("bad", "198.51.100.300/24"), *WEB])
    assert not told["ok"]
    assert address(told)["holder"] is not None
    assert [each["name"] for each in told["faults"] if not each["warning"]] == ["bad"]
    assert "ConfigurationInvalid" in reasons(told)


def test_families_are_those_of_the_nodes_as_the_api_server_would_give_them() -> None:
    dual = pool("pool", "198.51.100.64/30", "2001:db8::/126")
    prefer = [service("web", ipFamilyPolicy="PreferDualStack"), endpoints("web", "h1")]
    single = played([dual, advertisement(), node("h1", "192.0.2.1"), *prefer])
    assert given(single) == {"shop/web": ["198.51.100.64"]}
    both = played([dual, advertisement(), node("h1", "192.0.2.1", "2001:db8:1::1"), *prefer])
    assert given(both) == {"shop/web": ["198.51.100.64", "2001:db8::"]}


def test_a_list_is_its_items_and_foreign_kinds_are_passed_over() -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [*CLUSTER, *WEB]}
    told = played([listed, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}])
    assert told["ok"]
    assert told["ignored"] == ["Deployment default/web"]


def test_services_of_another_class_are_left_alone() -> None:
    foreign = [service("web", loadBalancerClass="example.com/other"), endpoints("web", "h1")]
    assert played([*CLUSTER, *foreign])["services"] == []
    ours = played([*CLUSTER, *foreign], "--load-balancer-class", "example.com/other")
    assert list(given(ours)) == ["shop/web"]


def test_the_same_input_gives_the_same_answer_and_feeding_it_back_changes_nothing() -> None:
    told = played([*CLUSTER, *WEB])
    assert told == played([*CLUSTER, *WEB])
    found = address(told)
    fed_back = {**service("web"), "status": {"loadBalancer": {"ingress": [{"ip": found["address"], "ipMode": "VIP"}]}}}
    claim = lease(f"vip.{found['address']}", found["holder"])
    again = played([*CLUSTER, claim, fed_back, endpoints("web", "h1")])
    assert address(again) == found
    assert reasons(again) == []


ROUTER = {
    "apiVersion": "metallb.io/v1beta2",
    "kind": "BGPPeer",
    "metadata": {"name": "router"},
    "spec": {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1"},
}
BGP = [
    pool(),
    custom("BGPAdvertisement", "ad", communities=["64512:100"], localPref=200),
    ROUTER,
    node("h1"),
    node("h2"),
]


def routes(told: Manifest) -> list[tuple[str, str, str]]:
    return [(each["node"], each["peer"], each["prefix"]) for each in address(told)["advertised"]]


def test_over_bgp_every_node_advertises_with_the_attributes_of_the_advertisement() -> None:
    told = played([*BGP, *WEB])
    assert told["ok"]
    assert routes(told) == [("h1", "router", "198.51.100.64/32"), ("h2", "router", "198.51.100.64/32")]
    assert address(told)["advertised"][0]["communities"] == ["64512:100"]
    assert address(told)["advertised"][0]["local_pref"] == 200
    assert reasons(told) == ["IPAllocated", "nodeAssigned", "nodeAssigned"]
    assert 'with protocol "bgp"' in told["events"][1]["message"]


def test_over_bgp_a_node_that_does_not_advertise_says_why() -> None:
    local = [service("web", externalTrafficPolicy="Local"), endpoints("web", "h1")]
    told = played([*BGP, *local])
    assert [node for node, _, _ in routes(told)] == ["h1"]
    assert "Local" in address(told)["not_advertised"]["h2"]


def test_over_bgp_an_advertisement_that_contradicts_another_is_set_aside_for_the_address() -> None:
    some = {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}
    told = played([*BGP, custom("BGPAdvertisement", "more", localPref=100, serviceSelectors=[some]), *WEB])
    assert {each["local_pref"] for each in address(told)["advertised"]} == {200}
    (said,) = address(told)["set_aside"]
    assert "BGPAdvertisement more for 198.51.100.64/32" in said
    assert "100 contradicts 200 of BGPAdvertisement ad" in said


def test_over_bgp_a_drained_node_withdraws() -> None:
    told = played([*BGP, *WEB], "--drain", "h1")
    assert [node for node, _, _ in routes(told)] == ["h2"]
    assert told["events"][-1]["reason"] == "nodeWithdrawn"
    assert 'with protocol "bgp": it is being drained; "h2" goes on' in told["events"][-1]["message"]


def test_over_bgp_without_a_peer_nobody_announces() -> None:
    told = played([each for each in BGP if each is not ROUTER] + WEB)
    assert not told["ok"]
    assert "BGPPeer" in address(told)["not_advertised"]["h1"]


@pytest.mark.parametrize(
    ("arguments", "text", "says"),
    [
        (["-", "--drain", "h9"], yaml.safe_dump_all([*CLUSTER]), "no Node h9 is given"),
        (["/no/such/file.yml"], "", "cannot be read"),
        (["-"], "kind: Service\n", "apiVersion is missing"),
        (["-"], yaml.safe_dump({**service("web"), "spec": {"type": 7}}), "Service web"),
        (
            ["-"],
            yaml.safe_dump(service("web", annotations={"hostagent.io/simulate": "remove"})),
            'the only word for it is "delete"',
        ),
        ([], "", "Missing argument"),
    ],
)
def test_what_cannot_be_read_ends_with_2_and_says_why(arguments: list[str], text: str, says: str) -> None:
    result = CliRunner().invoke(simulate, arguments, input=text)
    assert result.exit_code == 2
    assert says in result.output


def test_for_people_it_is_a_table_and_the_events(tmp_path: Path) -> None:
    file = tmp_path / "all.yml"
    file.write_text(yaml.safe_dump_all([*CLUSTER, *WEB]))
    result = CliRunner().invoke(simulate, [str(file)], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "198.51.100.64" in result.output
    assert "event    Service shop/web: IPAllocated: assigned 198.51.100.64 from pool pool" in result.output


def test_a_thousand_services_are_played_in_seconds() -> None:
    many = [*CLUSTER[1:], pool("pool", "198.51.96.0/22")]
    for number in range(1000):
        many += [service(f"s{number}"), endpoints(f"s{number}", "h1")]
    told = played(many)
    assert told["ok"]
    assert len({each for [each] in given(told).values()}) == 1000
