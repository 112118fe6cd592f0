"""What hosts tell in objects of their own, on a real API server and with the rights of a host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from importlib.resources import files
from typing import Any

import pytest

from hostagent.agent.reports import AllocatorReports
from hostagent.core.status_objects import host_state, l2_statuses, pool_statuses
from hostagent.edges.kube.status_objects import StatusObjects, owners, remove_of
from hostagent.edges.kube.transport import Api, ApiError
from hostagent.model.cluster import Fault
from hostagent.model.names import InterfaceName, NodeName
from hostagent.model.status_objects import CONFIGURATION_STATE, IP_ADDRESS_POOL, NODE_LABEL, SERVICE_L2_STATUS
from tests.fabric.controlplane import ControlPlane
from tests.kube.conftest import Kubeconfig, beside, until
from tests.unit.builders import a_config, a_key, a_pool

pytestmark = [pytest.mark.kube, pytest.mark.netns, pytest.mark.usefixtures("cluster")]

NAMESPACE = "metallb-system"
PATH = f"/apis/metallb.io/v1beta1/namespaces/{NAMESPACE}"
ETH0 = InterfaceName("eth0")
BROKEN = Fault(kind="IPAddressPool", namespace=NAMESPACE, name="broken", field="spec.addresses", message="no range")


@pytest.fixture(scope="module")
def cluster(plane: ControlPlane) -> Iterator[ControlPlane]:
    for file in sorted((files("hostagent") / "manifests").iterdir(), key=lambda file: file.name):
        plane.kubectl("apply", "--server-side", "-f", "-", input=file.read_text(encoding="utf-8"))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    yield plane
    for plural in ("servicel2statuses", "configurationstates", "ipaddresspools"):
        plane.kubectl("delete", plural, "--all", "-n", NAMESPACE)


def play_as(node: str, kubeconfig: Kubeconfig, body: Callable[[Api], Coroutine[Any, Any, None]]) -> None:
    """With the rights of the host `node`."""

    async def run() -> None:
        api = await Api.open(kubeconfig(f"hostagent:node:{node}", ("hostagent:nodes", "hostagent:allocators")))
        try:
            await body(api)
        finally:
            await api.close()

    asyncio.run(asyncio.wait_for(run(), 120))


async def stored(api: Api, plural: str) -> dict[str, dict[str, Any]]:
    try:
        items = json.loads(await api.request("GET", f"{PATH}/{plural}", timeout_s=10))["items"]
    except ApiError as error:
        if error.status not in (429, 503):
            raise
        return {}  # a kind that has just been made: its storage is not ready yet
    return {each["metadata"]["name"]: each for each in items}


async def comes_to(read: Callable[[], Awaitable[object]], expected: object) -> None:
    async with asyncio.timeout(40):
        while await read() != expected:  # noqa: ASYNC110  # it happens at the API, which tells nobody here
            await asyncio.sleep(0.05)


def l2_of(api: Api, node: str) -> StatusObjects:
    return StatusObjects(api, SERVICE_L2_STATUS, namespace=NAMESPACE, selector={NODE_LABEL: node})


async def while_running(objects: StatusObjects, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def to_the_end() -> None:
        await act()
        await until(lambda: objects.at_rest, within_s=40)

    await beside(objects.run(), to_the_end)


def test_a_host_tells_what_it_answers_for_and_takes_it_back(kubeconfig: Kubeconfig) -> None:
    async def body(api: Api) -> None:
        mine = l2_of(api, "h1")

        async def seen() -> list[tuple[str, list[dict[str, str]]]]:
            found = (await stored(api, "servicel2statuses")).values()
            return sorted((o["status"]["serviceName"], o["status"]["interfaces"]) for o in found if "status" in o)

        async def act() -> None:
            mine.want(l2_statuses(NodeName("h1"), {a_key("shop/web"): {ETH0}, a_key("shop/api"): {ETH0}}))
            await comes_to(seen, [("api", [{"name": "eth0"}]), ("web", [{"name": "eth0"}])])
            mine.want(l2_statuses(NodeName("h1"), {a_key("shop/web"): {InterfaceName("eth1")}}))
            await comes_to(seen, [("web", [{"name": "eth1"}])])
            (also,) = l2_statuses(NodeName("h1"), {a_key("shop/db"): {ETH0}})
            mine.want_also({also.name: also})
            await comes_to(seen, [("db", [{"name": "eth0"}]), ("web", [{"name": "eth1"}])])
            mine.want_also({also.name: None})
            await comes_to(seen, [("web", [{"name": "eth1"}])])
            [one] = (await stored(api, "servicel2statuses")).values()
            assert one["metadata"]["labels"] == {
                "metallb.io/node": "h1",
                "metallb.io/service-name": "web",
                "metallb.io/service-namespace": "shop",
            }
            mine.want([])
            await mine.settle()
            assert await seen() == []

        await while_running(mine, act)

    play_as("h1", kubeconfig, body)


def test_what_is_as_it_should_be_is_not_written_again(kubeconfig: Kubeconfig) -> None:
    async def body(api: Api) -> None:
        first, second = l2_of(api, "h2"), l2_of(api, "h2")
        wanted = list(l2_statuses(NodeName("h2"), {a_key("shop/web"): {ETH0}}))

        async def begin() -> None:
            first.want(wanted)
            await until(lambda: first.written == 2, within_s=40)

        async def again() -> None:
            await until(lambda: second._informer.synced, within_s=40)
            second.want(wanted)
            await second.settle()

        await while_running(first, begin)
        await while_running(second, again)  # the agent was restarted
        assert second.written == 0
        assert second.trouble == ""

    play_as("h2", kubeconfig, body)


def test_somebodys_edit_or_deletion_is_put_back(cluster: ControlPlane, kubeconfig: Kubeconfig) -> None:
    async def body(api: Api) -> None:
        mine = l2_of(api, "h3")
        [wanted] = l2_statuses(NodeName("h3"), {a_key("shop/web"): {ETH0}})

        async def interfaces() -> object:
            return (await stored(api, "servicel2statuses")).get(wanted.name, {}).get("status", {}).get("interfaces")

        async def act() -> None:
            mine.want([wanted])
            await comes_to(interfaces, [{"name": "eth0"}])
            edit = '{"status": {"interfaces": [{"name": "wrong"}]}}'
            await asyncio.to_thread(
                cluster.kubectl, "patch", "servicel2status", wanted.name, "-n", NAMESPACE,
                "--subresource=status", "--type=merge", "-p", edit,
            )  # fmt: skip
            await comes_to(interfaces, [{"name": "eth0"}])
            await asyncio.to_thread(cluster.kubectl, "delete", "servicel2status", wanted.name, "-n", NAMESPACE)
            await comes_to(interfaces, [{"name": "eth0"}])

        await while_running(mine, act)

    play_as("h3", kubeconfig, body)


def test_the_verdict_on_the_configuration_turns_and_says_since_when(kubeconfig: Kubeconfig) -> None:
    async def body(api: Api) -> None:
        mine = StatusObjects(
            api, CONFIGURATION_STATE, namespace=NAMESPACE, selector={"metallb.io/node-name": "h1"}
        )  # fmt: skip

        async def state() -> dict[str, Any]:
            found = (await stored(api, "configurationstates")).get("speaker-h1", {})
            status: dict[str, Any] = found.get("status", {})
            return status

        async def result() -> object:
            return (await state()).get("result")

        async def summary() -> list[str]:
            return sorted((await state())["errorSummary"].splitlines())

        async def act() -> None:
            mine.want([host_state(NodeName("h1"), [BROKEN])])
            await comes_to(result, "Invalid")
            assert (await state())["errorSummary"] == str(BROKEN)
            [condition] = (await state())["conditions"]
            assert (condition["type"], condition["status"]) == ("configReconcilerValid", "False")
            assert condition["reason"] == "ConfigurationError"
            assert condition["lastTransitionTime"]
            other = Fault(kind="BGPPeer", namespace=NAMESPACE, name="p", field="spec", message="no ASN")
            mine.want([host_state(NodeName("h1"), [BROKEN, other])])
            await comes_to(summary, sorted([str(BROKEN), str(other)]))
            assert (await state())["conditions"][0]["lastTransitionTime"] == condition["lastTransitionTime"]
            mine.want([host_state(NodeName("h1"), [])])
            await comes_to(result, "Valid")
            assert (await state())["conditions"][0]["reason"] == "Reconciled"

        await while_running(mine, act)

    play_as("h1", kubeconfig, body)


def test_pools_say_how_much_of_them_is_used_and_a_hand_edited_counter_is_put_back(
    cluster: ControlPlane, kubeconfig: Kubeconfig
) -> None:
    pool = a_pool("counted", "198.51.100.64-198.51.100.67", "2001:db8::/126")
    cluster.apply(
        {
            "apiVersion": "metallb.io/v1beta1",
            "kind": "IPAddressPool",
            "metadata": {"name": "counted", "namespace": NAMESPACE},
            "spec": {"addresses": ["198.51.100.64-198.51.100.67", "2001:db8::/126"]},
        }
    )
    expected = {"assignedIPv4": 1, "availableIPv4": 3, "assignedIPv6": 0, "availableIPv6": 4}

    async def body(api: Api) -> None:
        pools = StatusObjects(api, IP_ADDRESS_POOL, namespace=NAMESPACE, owned=False)

        async def counters() -> object:
            return (await stored(api, "ipaddresspools"))["counted"].get("status")

        async def act() -> None:
            pools.want(pool_statuses(a_config(pool), {pool.ranges[0].first}))
            await comes_to(counters, expected)
            await asyncio.to_thread(
                cluster.kubectl, "patch", "ipaddresspool", "counted", "-n", NAMESPACE,
                "--subresource=status", "--type=merge", "-p", '{"status": {"assignedIPv4": 77}}',
            )  # fmt: skip
            await comes_to(counters, expected)

        await while_running(pools, act)

    play_as("h1", kubeconfig, body)


def test_the_allocator_clears_up_after_hosts_that_are_gone(kubeconfig: Kubeconfig) -> None:
    for node in ("gone", "here"):
        play_as(node, kubeconfig, lambda api, node=node: _tell(api, node))  # type: ignore[misc]

    async def body(api: Api) -> None:
        assert await owners(api, SERVICE_L2_STATUS, namespace=NAMESPACE) >= {"gone", "here"}
        term = AllocatorReports(api, namespace=NAMESPACE, alive=lambda: frozenset({NodeName("here")}))

        async def nodes() -> set[str]:
            found = (await stored(api, "servicel2statuses")).values()
            return {each["metadata"]["labels"]["metallb.io/node"] for each in found}

        await beside(term.run(), lambda: comes_to(nodes, {"here"}))
        assert await remove_of(api, SERVICE_L2_STATUS, "here", namespace=NAMESPACE) == 1
        assert await nodes() == set()

    play_as("allocator", kubeconfig, body)


async def _tell(api: Api, node: str) -> None:
    """What this host has to tell, once: a host writes of itself only."""
    theirs = l2_of(api, node)

    async def told() -> None:
        theirs.want(l2_statuses(NodeName(node), {a_key("shop/web"): {ETH0}}))
        await until(lambda: theirs.written == 2, within_s=40)

    await while_running(theirs, told)
