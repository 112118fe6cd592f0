"""Makes Services by the thousand, says when each has an address: `python -m tests.bench.load`, from where the API is.

A program of its own because a lab's API server can be reached from the lab's network namespace only. Prints JSON lines.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hostagent.edges.kube.decode import service_key, to_service
from hostagent.edges.kube.informer import Informer
from hostagent.edges.kube.transport import Api
from hostagent.model.cluster import Service
from hostagent.model.names import ServiceKey
from tests.bench.requests import Request, send_all

GIVE_UP_S = 1800.0
Named = dict[str, Any]


@click.group()
def load() -> None:
    """Load for a lab's API server."""


@load.command()
@click.option("--kubeconfig", required=True)
@click.option("--namespace", required=True)
@click.option("--count", type=int, required=True)
@click.option("--wait/--no-wait", default=True, help="For all to have addresses.")
@click.option("--network", default="", help="Write addresses of it into their status, as an allocator has done before.")
@click.option("--behind", default="", help="NODE=ADDRESS: give each a ready endpoint there, in place of a selector.")
def create(*, kubeconfig: str, namespace: str, count: int, wait: bool, network: str, behind: str) -> None:
    """Create Services with all speed; then wait until all have addresses, and say how long that took."""
    wanted = _Wanted(namespace=namespace, network=network, behind=behind)
    click.echo(json.dumps(asyncio.run(_create(Path(kubeconfig), wanted, count, wait=wait))))


@load.command()
@click.option("--kubeconfig", required=True)
@click.option("--namespace", required=True)
@click.option("--count", type=int, required=True)
def delete(*, kubeconfig: str, namespace: str, count: int) -> None:
    """Delete what `create` made, with all speed: `kubectl delete --all` takes its time for each of them.

    And wait until the cluster has tidied up after them: for seconds its garbage collector has each EndpointSlice to ask
    for and to delete, which is no part of what is measured next.
    """
    click.echo(json.dumps(asyncio.run(_delete(Path(kubeconfig), namespace, count))))


@load.command()
@click.option("--kubeconfig", required=True)
@click.option("--namespace", required=True)
@click.option("--count", type=int, required=True)
def watch(*, kubeconfig: str, namespace: str, count: int) -> None:
    """Say, as wall-clock time, when the first and the last of so many Services got an address."""
    click.echo(json.dumps(asyncio.run(_watch(Path(kubeconfig), namespace, count))))


class Assigned:
    """Which Services of a namespace have addresses, as a watch tells."""

    def __init__(self, api: Api, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/services"
        self._informer: Informer[ServiceKey, Service] = Informer(api, path, decode=to_service, key=service_key)
        self._have: set[ServiceKey] = set()
        self.first_at = 0.0
        self.last_at = 0.0
        self.twice = 0
        """How often a Service was given what another had."""
        self.changed = 0
        """How often a Service was given another address than the one that it had."""
        self._given: dict[str, ServiceKey] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        await self._informer.run(self._note)

    def _note(self, key: ServiceKey, service: Service | None) -> None:
        if service is not None and service.assigned:
            if key not in self._have:
                self._have.add(key)
                self.last_at = time.time()
                self.first_at = self.first_at or self.last_at
            else:
                self.changed += any(self._given.get(ip) != key for ip in service.assigned)
            self.twice += any(self._given.setdefault(ip, key) != key for ip in service.assigned)
        self._changed.set()

    async def all_of(self, count: int) -> None:
        """Raises TimeoutError after ten minutes."""
        async with asyncio.timeout(GIVE_UP_S):
            while len(self._have) < count:
                self._changed.clear()
                await self._changed.wait()

    def addresses(self) -> list[str]:
        return [ip for key in self._have for ip in self._informer.items[key].assigned]


async def _with_api(kubeconfig: Path, act: Callable[[Api], Any]) -> Named:
    api = await Api.open(kubeconfig, user_agent="bench")
    try:
        result: Named = await act(api)
        return result
    finally:
        await api.close()


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What the Services are to be like."""

    namespace: str
    network: str
    behind: str

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/services"


async def _create(kubeconfig: Path, wanted: _Wanted, count: int, *, wait: bool) -> Named:
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{wanted.namespace}/endpointslices"
    before = [Request("POST", slices, _slice(wanted, n)) for n in range(count) if wanted.behind]
    services = [Request("POST", wanted.path, _service(wanted, n)) for n in range(count)]
    after = [
        Request("PATCH", f"{wanted.path}/{_name(n)}/status", _given(wanted, n)) for n in range(count) if wanted.network
    ]

    async def act(api: Api) -> Named:
        assigned = Assigned(api, wanted.namespace)
        watching = asyncio.create_task(assigned.run())
        await send_all(kubeconfig, before)
        began_at = time.time()
        await send_all(kubeconfig, services)
        created_at = time.time()
        await send_all(kubeconfig, after)
        if wait:
            await assigned.all_of(count)
        watching.cancel()
        addresses = assigned.addresses()
        return {
            "began_at": began_at,
            "created_at": created_at,
            "first_at": assigned.first_at,
            "last_at": assigned.last_at,
            "addresses": len(addresses),
            "distinct": len(set(addresses)),
            "twice": assigned.twice,
            "changed": assigned.changed,
        }

    return await _with_api(kubeconfig, act)


async def _watch(kubeconfig: Path, namespace: str, count: int) -> Named:
    async def act(api: Api) -> Named:
        assigned = Assigned(api, namespace)
        watching = asyncio.create_task(assigned.run())
        await assigned.all_of(count)
        watching.cancel()
        addresses = assigned.addresses()
        return {
            "first_at": assigned.first_at,
            "last_at": assigned.last_at,
            "addresses": len(addresses),
            "distinct": len(set(addresses)),
        }

    return await _with_api(kubeconfig, act)


async def _delete(kubeconfig: Path, namespace: str, count: int) -> Named:
    path = f"/api/v1/namespaces/{namespace}/services"
    await send_all(kubeconfig, [Request("DELETE", f"{path}/{_name(n)}") for n in range(count)])
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    await _with_api(kubeconfig, lambda api: _gone(api, slices))
    return {"deleted": count}


async def _gone(api: Api, path: str) -> None:
    """Raises TimeoutError when there are objects after so long."""
    give_up_at = time.monotonic() + GIVE_UP_S
    while json.loads(await api.request("GET", path, query={"limit": "1"}, timeout_s=60.0))["items"]:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{path} are not gone after {GIVE_UP_S:g} s")
        await asyncio.sleep(0.5)


def _name(number: int) -> str:
    return f"load-{number:05}"


def _service(wanted: _Wanted, number: int) -> Named:
    made: Named = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": _name(number),
            "labels": {"app": f"app-{number:05}", "team": f"team-{number % 40}"},
            "annotations": {"example.com/owner": f"team-{number % 40}@example.com"},
        },
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": False,
            "selector": {"app": f"app-{number:05}"},
            "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
        },
    }
    if wanted.behind:
        del made["spec"]["selector"]  # or the cluster's own controller would write another EndpointSlice
    return made


def _given(wanted: _Wanted, number: int) -> Named:
    first, second, third, _ = (int(part) for part in wanted.network.partition("/")[0].split("."))
    address = f"{first}.{second}.{third + number // 256}.{number % 256}"
    return {
        "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "load"}},
        "status": {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}},
    }


def _slice(wanted: _Wanted, number: int) -> Named:
    node, _, address = wanted.behind.partition("=")
    labels = {"kubernetes.io/service-name": f"load-{number:05}"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"load-{number:05}", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "nodeName": node, "conditions": {"ready": True, "serving": True}}],
    }


if __name__ == "__main__":
    load()
