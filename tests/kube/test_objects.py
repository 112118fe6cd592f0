"""Services, their status and Events, on a real API server."""

from __future__ import annotations

import asyncio
import gc
import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from hostagent.edges.kube.decode import (
    node_name,
    object_key,
    service_key,
    to_namespace_labels,
    to_node,
    to_service,
)
from hostagent.edges.kube.endpoints import EndpointIndex, to_slice
from hostagent.edges.kube.events import QUIET_S, Events, about_service
from hostagent.edges.kube.informer import Informer
from hostagent.edges.kube.status import ServiceStatus
from hostagent.edges.kube.transport import Api, ApiError
from hostagent.model.cluster import POOL_ANNOTATION, Family, Port, Service
from hostagent.model.names import Instant, NodeName, ServiceKey
from hostagent.model.ownership import Write
from tests.fabric.controlplane import ControlPlane
from tests.kube.conftest import Kubeconfig, Line, beside, play, until

pytestmark = [pytest.mark.kube, pytest.mark.netns]

V4, V6 = IPv4Address("198.51.100.80"), IPv6Address("2001:db8:51:0:1::80")


def a_service(plane: ControlPlane, name: str) -> None:
    plane.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {
                "type": "LoadBalancer",
                "ipFamilyPolicy": "PreferDualStack",
                "ports": [{"name": "t", "port": 80, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}],
            },
        }
    )


async def read(api: Api, name: str) -> Service:
    return to_service(await api.request("GET", f"/api/v1/namespaces/default/services/{name}"))


def test_a_service_as_the_api_has_it(plane: ControlPlane, kubeconfig: Kubeconfig) -> None:
    a_service(plane, "dual")

    async def body(api: Api) -> None:
        service = await read(api, "dual")
        assert service.families == (Family.V4, Family.V6)
        assert [ip.version for ip in service.cluster_ips] == [4, 6]
        assert service.ports == (Port("tcp", 80), Port("udp", 53))
        assert service.assigned == ()
        assert service.labels == {"app": "dual"}

    play(kubeconfig, body)


def test_addresses_are_given_and_taken_in_one_write(plane: ControlPlane, kubeconfig: Kubeconfig) -> None:
    a_service(plane, "given")

    async def body(api: Api) -> None:
        status = ServiceStatus(api)
        before = await read(api, "given")
        outcome, given = await status.write(before, [V4, V6], pool="lab")
        assert outcome is Write.WON
        assert given is not None
        assert given == await read(api, "given")
        assert given.assigned == (str(V4), str(V6))
        assert given.ip_modes == ("VIP", "VIP")
        assert given.annotations[POOL_ANNOTATION] == "lab"
        outcome, found = await status.write(before, [V4], pool="other")
        assert outcome is Write.LOST
        assert found == given
        outcome, cleared = await status.write(given, [], pool=None)
        assert outcome is Write.WON
        assert cleared is not None
        assert cleared.assigned == ()
        assert POOL_ANNOTATION not in cleared.annotations
        plane.delete("service", "given")
        assert await status.write(cleared, [V4], pool="lab") == (Write.LOST, None)

    play(kubeconfig, body)


def test_a_namesake_does_not_inherit_the_address(plane: ControlPlane, kubeconfig: Kubeconfig) -> None:
    a_service(plane, "twin")

    async def body(api: Api) -> None:
        old = await read(api, "twin")
        plane.delete("service", "twin")
        a_service(plane, "twin")
        new = await read(api, "twin")
        outcome, found = await ServiceStatus(api).write(old, [V4], pool="lab")
        assert outcome is Write.LOST
        assert found == new

    play(kubeconfig, body)


def test_a_status_write_whose_reply_was_lost_is_known_to_have_happened(
    plane: ControlPlane, kubeconfig: Kubeconfig, line: Line
) -> None:
    a_service(plane, "lost")

    async def body(api: Api) -> None:
        service = await read(api, "lost")
        line.swallow_replies.set()
        write = asyncio.create_task(ServiceStatus(api).write(service, [V4], pool="lab"))
        await asyncio.sleep(0.3)
        line.cut()
        line.swallow_replies.clear()
        outcome, found = await write
        assert outcome is Write.WON
        assert found is not None
        assert found.assigned == (str(V4),)

    play(kubeconfig, body)


def test_events_are_told_once_and_counted(plane: ControlPlane, kubeconfig: Kubeconfig) -> None:
    a_service(plane, "told")
    clock = [Instant(1000.0)]

    def stored() -> list[dict[str, Any]]:
        shown = json.loads(plane.kubectl("get", "events", "-o", "json"))["items"]
        return [each for each in shown if each["involvedObject"]["name"] == "told"]

    async def body(api: Api) -> None:
        events = Events(api, node="h1", now=lambda: clock[0])
        subject = about_service(await read(api, "told"))
        for _ in range(3):
            events.emit(subject, reason="AllocationFailed", message="pool lab is full", warning=True)

        async def act() -> None:
            await until(lambda: len(stored()) == 1)
            clock[0] = Instant(clock[0] + QUIET_S + 1)
            events.emit(subject, reason="AllocationFailed", message="pool lab is full", warning=True)
            await until(lambda: stored()[0]["count"] == 4)

        await beside(events.run(), act)
        assert (events.failed, events.dropped) == (0, 0)
        assert "pool lab is full" in plane.kubectl("describe", "service", "told")

    play(kubeconfig, body)


def test_an_informer_lives_through_a_cut_line_and_misses_nothing(
    plane: ControlPlane, kubeconfig: Kubeconfig, line: Line
) -> None:
    for name in ("watched-1", "watched-2"):
        a_service(plane, name)

    async def body(api: Api) -> None:
        informer = Informer(api, "/api/v1/services", decode=to_service, key=service_key)
        told: list[tuple[ServiceKey, bool]] = []

        async def act() -> None:
            await until(lambda: informer.synced)
            assert ServiceKey("default", "watched-1") in informer.items
            line.cut()
            plane.delete("service", "watched-1")
            await until(lambda: (ServiceKey("default", "watched-1"), False) in told)
            a_service(plane, "watched-3")
            await until(lambda: ServiceKey("default", "watched-3") in informer.items)

        await beside(informer.run(lambda key, value: told.append((key, value is not None))), act)
        assert informer.trouble is None

    play(kubeconfig, body)


def test_nodes_namespaces_and_endpoints_as_the_api_has_them(plane: ControlPlane, kubeconfig: Kubeconfig) -> None:
    plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "h1", "labels": {"rack": "a"}}})
    plane.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "web-1",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "tests"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["198.51.100.11"], "nodeName": "h1"}],
            "ports": [{"port": 8080}],
        }
    )

    async def body(api: Api) -> None:
        nodes = Informer(api, "/api/v1/nodes", decode=to_node, key=node_name)
        spaces = Informer(api, "/api/v1/namespaces", decode=to_namespace_labels, key=object_key)
        slices = Informer(api, "/apis/discovery.k8s.io/v1/endpointslices", decode=to_slice, key=object_key)
        index = EndpointIndex()

        async def everything() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(nodes.run(lambda *_: None))
                tasks.create_task(spaces.run(lambda *_: None))
                tasks.create_task(slices.run(index.apply))

        await beside(everything(), lambda: until(lambda: nodes.synced and spaces.synced and slices.synced))
        assert nodes.items[NodeName("h1")].labels["rack"] == "a"
        assert spaces.items[("", "default")] == {"kubernetes.io/metadata.name": "default"}
        assert index.get(ServiceKey("default", "web")).nodes == {NodeName("h1")}

    play(kubeconfig, body)


def test_watches_go_on_at_once_after_credentials_were_loaded_anew(
    plane: ControlPlane, kubeconfig: Kubeconfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, as a file that is being edited is read twice. A watch that hung would be noticed after 100 s only."""
    monkeypatch.setattr("hostagent.edges.kube.informer.STEADY_S", 0.0)  # no back-off: only a hang can be late

    async def body(api: Api) -> None:
        services = Informer(api, "/api/v1/services", decode=to_service, key=service_key)

        async def act() -> None:
            await until(lambda: services.synced)
            for name in ("reload-one", "reload-two"):
                await asyncio.sleep(0.3)  # for the watch to be open: what is tested is the cutting of an open one
                await api.reload()
                await asyncio.to_thread(a_service, plane, name)
                await until(lambda name=name: ServiceKey("default", name) in services.items)  # type: ignore[misc]
                assert api.unreachable_since is None

        await beside(services.run(lambda _, __: None), act)

    play(kubeconfig, body)


def test_credentials_loaded_anew_in_the_midst_of_a_watchs_handshake_leave_no_connection_open(
    kubeconfig: Kubeconfig, line: Line
) -> None:
    async def body(api: Api) -> None:
        line.flowing.clear()
        watch = asyncio.create_task(anext(api.stream("/api/v1/services", query={"watch": "1"}, idle_s=10)))
        await asyncio.sleep(0.2)  # it waits for the server's part of the handshake
        await api.reload()
        asyncio.get_running_loop().call_later(0.05, line.flowing.set)
        with pytest.raises(ApiError, match="cut, as the credentials were replaced"):
            await watch

    play(kubeconfig, body)
    gc.collect()  # what nobody closed says so now, and fails this test
