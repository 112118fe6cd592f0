"""API objects in, model values out."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from typing import Any

import pytest

from hostagent.edges.kube.decode import DecodeError, to_node, to_resource, to_service
from hostagent.edges.kube.endpoints import EndpointIndex, Slice, fold_endpoints, to_slice
from hostagent.model.cluster import NO_ENDPOINTS, Endpoints, Family, FamilyPolicy, Port, TrafficPolicy
from hostagent.model.names import NodeName, ServiceKey

WEB = ServiceKey("default", "web")


def raw(**parts: Any) -> bytes:
    return json.dumps({"metadata": {"name": "web", "namespace": "default", "resourceVersion": "7"}, **parts}).encode()


def a_slice(*endpoints: dict[str, Any], labels: dict[str, str] | None = None) -> Slice:
    meta = {"name": "web-1", "namespace": "default", "labels": labels or {"kubernetes.io/service-name": "web"}}
    return to_slice(json.dumps({"metadata": meta, "endpoints": list(endpoints)}).encode())


def test_a_bare_service_has_the_api_s_defaults() -> None:
    service = to_service(raw(spec={}))
    assert service.key == WEB
    assert (service.type, service.traffic_policy, service.family_policy) == (
        "ClusterIP",
        TrafficPolicy.CLUSTER,
        FamilyPolicy.SINGLE,
    )
    assert (service.cluster_ips, service.ports, service.assigned) == ((), (), ())
    assert not service.deleted


def test_a_full_service() -> None:
    service = to_service(
        raw(
            spec={
                "type": "LoadBalancer",
                "clusterIP": "10.96.0.9",
                "clusterIPs": ["10.96.0.9", "fd00:96::9"],
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack",
                "externalTrafficPolicy": "Local",
                "loadBalancerClass": "example.com/lb",
                "loadBalancerIP": "not an address",
                "selector": {"app": "web"},
                "ports": [{"port": 53, "protocol": "UDP"}, {"port": 80}],
            },
            status={
                "loadBalancer": {"ingress": [{"ip": "198.51.100.7", "ipMode": "VIP"}, {"hostname": "x"}, {"ip": "::1"}]}
            },
        )
    )
    assert service.families == (Family.V4, Family.V6)
    assert service.traffic_policy is TrafficPolicy.LOCAL
    assert service.ports == (Port("udp", 53), Port("tcp", 80))
    assert service.load_balancer_class == "example.com/lb"
    assert service.load_balancer_ip == "not an address"
    assert service.assigned == ("198.51.100.7", "::1")
    assert service.ip_modes == ("VIP", "")


def test_only_what_is_decided_by_is_kept() -> None:
    """`kubectl apply` alone leaves kilobytes in an annotation, and there may be ten thousand Services."""
    asked = {"metallb.io/address-pool": "blue", "metallb.universe.tf/allow-shared-ip": "key"}
    others = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 5000, "metallb.io.example.com/x": "y"}
    meta = {"name": "web", "namespace": "default", "annotations": asked | others}
    spec: dict[str, Any] = {"selector": {"app": "web"}}
    service = to_service(json.dumps({"metadata": meta, "spec": spec}).encode())
    assert (service.annotations, service.selector) == (asked, {})
    spec |= {"externalTrafficPolicy": "Local"}
    assert to_service(json.dumps({"metadata": meta, "spec": spec}).encode()).selector == {"app": "web"}


def test_a_headless_service_has_no_cluster_ip() -> None:
    assert to_service(raw(spec={"clusterIP": "None", "clusterIPs": ["None"]})).cluster_ips == ()


def test_null_is_absent() -> None:
    meta = {"name": "web", "namespace": "default", "labels": None, "annotations": None}
    service = to_service(
        json.dumps({"metadata": meta, "spec": {"ports": None, "selector": None}, "status": None}).encode()
    )
    assert service.labels == service.annotations == service.selector == {}


@pytest.mark.parametrize("spec", [{"clusterIPs": ["10.96"]}, {"ports": "80"}, {"ipFamilies": ["IPv5"]}])
def test_what_a_service_cannot_be_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        to_service(raw(spec=spec))


def test_a_node_s_heartbeat_leaves_it_equal() -> None:
    def beat(at: str, version: str) -> bytes:
        return json.dumps(
            {
                "metadata": {"name": "h1", "resourceVersion": version, "labels": {"rack": "a"}},
                "spec": {"unschedulable": True},
                "status": {
                    "conditions": [
                        {"type": "Ready", "status": "True", "lastHeartbeatTime": at},
                        {"type": "NetworkUnavailable", "status": "True"},
                    ],
                    "addresses": [
                        {"type": "InternalIP", "address": "198.51.100.11"},
                        {"type": "Hostname", "address": "h1"},
                    ],
                },
            }
        ).encode()

    node = to_node(beat("12:00", "1"))
    assert node == to_node(beat("12:01", "2"))
    assert node.network_unavailable
    assert node.unschedulable
    assert node.addresses == (IPv4Address("198.51.100.11"),)


def test_a_custom_resource_keeps_its_spec_as_written() -> None:
    resource = to_resource(raw(apiVersion="metallb.io/v1beta1", kind="IPAddressPool", spec={"addresses": [1, None]}))
    assert resource.key == ("IPAddressPool", "default", "web")
    assert resource.spec == {"addresses": [1, None]}


@pytest.mark.parametrize(
    ("conditions", "usable"),
    [
        ({}, True),
        (None, True),
        ({"ready": None}, True),
        ({"ready": True, "serving": False}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": None}, False),
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": False, "terminating": True}, False),
    ],
)
def test_when_an_endpoint_is_usable(conditions: dict[str, Any] | None, usable: bool) -> None:
    piece = a_slice({"addresses": ["198.51.100.11"], "nodeName": "h1", "conditions": conditions})
    assert piece.serving is usable
    assert piece.nodes == ({NodeName("h1")} if usable else set())


def test_an_endpoint_without_a_node_serves_on_none() -> None:
    assert fold_endpoints([a_slice({"addresses": ["198.51.100.11"]})]) == Endpoints(serving=True)


def test_a_slice_of_no_service_belongs_to_none() -> None:
    assert a_slice(labels={"app": "x"}).service is None


def test_the_index_folds_what_is_there_now() -> None:
    index = EndpointIndex()
    h1, h2 = (a_slice({"addresses": ["198.51.100.1"], "nodeName": name}) for name in ("h1", "h2"))
    assert index.get(WEB) == NO_ENDPOINTS
    assert index.apply(("default", "web-1"), h1) == {WEB}
    assert index.apply(("default", "web-2"), h2) == {WEB}
    assert index.get(WEB).nodes == {"h1", "h2"}
    assert index.apply(("default", "web-1"), None) == {WEB}
    assert index.get(WEB).nodes == {"h2"}
    assert index.apply(("default", "web-2"), None) == {WEB}
    assert index.get(WEB) == NO_ENDPOINTS


def test_a_slice_that_changes_service_changes_both() -> None:
    index = EndpointIndex()
    index.apply(("default", "s"), a_slice({"addresses": ["198.51.100.1"], "nodeName": "h1"}))
    moved = a_slice({"addresses": ["198.51.100.1"], "nodeName": "h1"}, labels={"kubernetes.io/service-name": "other"})
    assert index.apply(("default", "s"), moved) == {WEB, ServiceKey("default", "other")}
    assert index.get(WEB) == NO_ENDPOINTS
