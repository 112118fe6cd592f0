"""Accounts of a Service: each sentence from a fact, each "no" with its remedy."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from hostagent.core.advertised import Routes
from hostagent.core.candidates import Placement, Use, WhyNot
from hostagent.core.explain import TEXTS, AddressAccount, account_for, not_ours, to_document
from hostagent.model.cluster import Endpoints, Node, Service, ServiceAllocation, TrafficPolicy
from hostagent.model.names import NodeName
from tests.unit.builders import a_config, a_node, a_pool, a_service, a_session, an_advertisement, serving_on

VIP = ip_address("198.51.100.64")
NO_ROUTES = Routes(advertised={}, excluded={}, set_aside={})
POOL = a_pool("pool", "198.51.100.64/30")


def account(
    *services: Service,
    nodes: tuple[Node, ...] = (a_node("h1"), a_node("h2")),
    endpoints: Endpoints | None = None,
    holder: str | None = None,
    **config: Any,
) -> AddressAccount:
    pools = config.pop("pools", (POOL,))
    fields = {"ads": [an_advertisement()], **config}
    uses = [Use(service=each, endpoints=endpoints or serving_on("h1")) for each in services]
    settings = a_config(*pools, **fields)
    placement = Placement(
        config=settings,
        nodes={node.name: node for node in nodes},
        sessions={node.name: a_session(node.name) for node in nodes},
    )
    return account_for(
        services[0],
        VIP,
        uses=uses,
        config=settings,
        placement=placement,
        holder=NodeName(holder) if holder else None,
        routes=NO_ROUTES,
    )


@pytest.mark.parametrize(
    ("service", "says"),
    [
        (a_service(annotations={"loadBalancerIPs": "198.51.100.64"}), "annotation loadBalancerIPs"),
        (a_service(load_balancer_ip="198.51.100.64"), "spec.loadBalancerIP"),
        (a_service(annotations={"address-pool": "pool"}), "asks for pool pool"),
        (a_service(), "first common pool by name"),
        (a_service(annotations={"loadBalancerIPs": "nonsense"}), "cannot be followed"),
    ],
    ids=["address", "field", "pool", "automatic", "nonsense"],
)
def test_why_this_address(service: Service, says: str) -> None:
    assert says in account(service).why


def test_a_pinned_pool_says_that_it_is_pinned() -> None:
    pinned = a_pool("pool", "198.51.100.64/30", allocation=ServiceAllocation(priority=5))
    assert "serviceAllocation, priority 5" in account(a_service(), pools=(pinned,)).why


def test_an_address_of_no_pool_says_so() -> None:
    assert "no pool has it any more" in account(a_service(), pools=()).why


def test_sharing_is_told_with_its_key() -> None:
    shared = {"allow-shared-ip": "key"}
    told = account(a_service("web", annotations=shared), a_service("api", annotations=shared))
    assert [str(key) for key in told.shared_with] == ["default/api"]
    assert "allow-shared-ip: key" in told.why


def test_the_best_candidate_and_one_that_had_it_before_are_told_apart() -> None:
    [first, second] = [node.node for node in account(a_service()).nodes]
    assert "the best of 2 candidates" in account(a_service(), holder=first).why_holder
    stayed = account(a_service(), holder=second).why_holder
    assert "had it already (2nd of 2 candidates)" in stayed
    assert f"rebalance` moves it to {first}" in stayed


def test_a_holder_that_is_no_candidate_any_more_is_about_to_go() -> None:
    labelled = a_node("h1", labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""})
    told = account(a_service(), nodes=(labelled, a_node("h2")), holder="h1")
    assert told.why_holder == "it had it, is no candidate now (excluded-by-label), and h2 is to take over"


def test_where_nobody_may_answer_each_node_says_what_to_change() -> None:
    local = a_service(traffic_policy=TrafficPolicy.LOCAL)
    told = account(local, endpoints=serving_on("h9"))
    assert {node.reason for node in told.nodes} == {"no-serving-endpoint-on-the-node"}
    assert told.changes == ("run a ready Pod on the node, or use externalTrafficPolicy: Cluster",)


def test_where_somebody_answers_there_is_nothing_to_change() -> None:
    told = account(a_service(traffic_policy=TrafficPolicy.LOCAL), holder="h1")
    assert [node.rank for node in told.nodes] == [1, None]
    assert told.changes == ()


def test_a_node_that_cannot_serve_the_service_it_shares_with_says_so() -> None:
    uses = (
        Use(service=a_service("web", traffic_policy=TrafficPolicy.LOCAL), endpoints=serving_on("h1", "h2")),
        Use(service=a_service("api", traffic_policy=TrafficPolicy.LOCAL), endpoints=serving_on("h1")),
    )
    config = a_config(POOL, ads=[an_advertisement()])
    nodes = {NodeName(name): a_node(name) for name in ("h1", "h2")}
    placement = Placement(config=config, nodes=nodes, sessions={name: a_session(name) for name in nodes})
    told = account_for(
        uses[0].service, VIP, uses=uses, config=config, placement=placement, holder=None, routes=NO_ROUTES
    )
    assert [(node.node, node.reason) for node in told.nodes] == [("h1", ""), ("h2", "shared-address")]


def test_every_reason_has_a_meaning_and_a_remedy() -> None:
    assert set(TEXTS) == set(WhyNot)
    assert all(why and change for why, change in TEXTS.values())


def test_the_exclude_labels_remedy_names_the_node() -> None:
    labelled = a_node("h1", labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""})
    [h1] = account(a_service(), nodes=(labelled,)).nodes
    assert h1.change.startswith("`kubectl label node h1 ")


@pytest.mark.parametrize(
    ("service", "says"),
    [
        (a_service(), ""),
        (a_service(type="ClusterIP"), "its type is ClusterIP"),
        (a_service(load_balancer_class="other"), "its loadBalancerClass is other, and ours is none"),
        (a_service(deleted=True), "being deleted"),
    ],
)
def test_services_that_are_not_ours_say_why(service: Service, says: str) -> None:
    assert says in not_ours(service, None)
    assert bool(says) is bool(not_ours(service, None))


def test_the_document_has_nothing_but_json() -> None:
    document = to_document(account(a_service(), holder="h1"))
    assert document["address"] == "198.51.100.64"
    assert document["advertised"] == []
    assert document["nodes"][0].keys() == {"node", "rank", "weight", "interface", "reason", "why", "change"}
