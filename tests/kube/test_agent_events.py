"""A whole agent at a real API server: each change is told in one Event, and a new life of the agent repeats none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostagent.edges.kube import access
from tests.fabric.admin import wait_for
from tests.fabric.backends import service
from tests.fabric.controlplane import ControlPlane
from tests.fabric.processes import in_namespace

pytestmark = [pytest.mark.kube, pytest.mark.netns]

CONFIG = "metallb-system"
NODE = "h1"
POOL = "192.0.2.64/30"
WITHIN_S = 40.0
Object = dict[str, Any]
Told = tuple[str, str, int]
"""Type, reason, count."""


class Agent:
    """One host's agent, in the control plane's namespace, on an interface of its own."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "kubeconfig").write_text(
            plane.kubeconfig_for(f"hostagent:node:{NODE}", ("hostagent:nodes", "hostagent:allocators"))
        )
        (folder / "config.toml").write_text(f'node = "{NODE}"\n[kubernetes]\nkubeconfig = "{folder}/kubeconfig"\n')

    def start(self) -> None:
        folders = {"RUNTIME_DIRECTORY": str(self._folder), "STATE_DIRECTORY": str(self._folder)}
        argv = in_namespace(
            self.plane.netns, [sys.executable, "-m", "hostagent", "run", "--config", self._folder / "config.toml"]
        )
        with (self._folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(argv, env=os.environ | folders, stdout=log, stderr=log)

    def end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def told(self, name: str, kind: str = "Service") -> list[Told]:
        """What the API has of an object's Events."""
        fields = f"involvedObject.name={name},involvedObject.kind={kind}"
        listed = json.loads(self.plane.kubectl("get", "events", "-A", f"--field-selector={fields}", "--output=json"))
        return sorted((each["type"], each["reason"], each["count"]) for each in listed["items"])

    def await_told(self, wanted: list[Told], name: str, kind: str = "Service") -> None:
        """Wait until these have been told; that nothing else was, the caller asks when there was time for it."""
        self.until(lambda: set(wanted) <= set(self.told(name, kind)), f"{wanted} about {name}")

    def until(self, met: Callable[[], bool], what: str) -> None:
        wait_for(met, WITHIN_S, lambda: f"{what}; {(self._folder / 'agent.log').read_text()[-3000:]}")

    def settle(self, marker: str) -> None:
        """All that was to be told has been: Events are sent in order, and this one is the last."""
        self.plane.apply(service(marker))
        self.await_told([("Normal", "IPAllocated", 1)], marker)
        self.plane.delete("service", marker)


@pytest.fixture(scope="module")
def agent(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    ip = ["ip", "-n", plane.netns]
    for words in (
        "link add events0 type veth peer name events1",
        "link set events1 up",
        "link set events0 up",
        "address add 192.0.2.10/24 dev events0",
    ):
        subprocess.run([*ip, *words.split()], check=True)
    plane.apply(access.objects(text for _, text in access.manifests()))
    plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
    made = Agent(plane, tmp_path_factory.mktemp("agent"))
    objects = [POOL_OBJECT, configured("L2Advertisement", "events")]
    plane.apply(objects)
    made.start()
    try:
        yield made
    finally:
        made.end(signal.SIGTERM)
        for each in objects:
            plane.kubectl("delete", each["kind"], each["metadata"]["name"], f"--namespace={CONFIG}")
        plane.delete("node", NODE)
        plane.kubectl("delete", "leases", "--all", f"--namespace={CONFIG}")
        others = "--field-selector=metadata.name!=kubernetes"
        plane.kubectl("delete", "services,endpointslices", "--namespace=default", others)
        subprocess.run([*ip, "link", "delete", "events0"], check=False)
        subprocess.run(in_namespace(plane.netns, ["nft", "delete", "table", "inet", "hostagent"]), check=False)


def configured(kind: str, name: str, **spec: Any) -> Object:
    meta = {"name": name, "namespace": CONFIG}
    return {"apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": meta, "spec": spec}


def endpoints(name: str, *, ready: bool = True) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http-80", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["192.0.2.10"], "nodeName": NODE, "conditions": {"ready": ready}}],
    }


def labelled(made: Object, look: str) -> Object:
    return {**made, "metadata": {**made["metadata"], "labels": {"look": look}}}


POOL_OBJECT = configured("IPAddressPool", "events", addresses=[POOL])
GIVEN = [("Normal", "IPAllocated", 1), ("Normal", "nodeAssigned", 1)]


def test_an_address_that_is_given_announced_withdrawn_and_released_is_told_once_each(agent: Agent) -> None:
    agent.plane.apply([service("life"), endpoints("life")])
    agent.await_told(GIVEN, "life")
    assert agent.told("life") == GIVEN
    agent.plane.apply(endpoints("life", ready=False))
    withdrawn = ("Warning", "nodeWithdrawn", 1)  # nobody goes on
    agent.await_told([withdrawn, ("Warning", "announceFailed", 1)], "life")
    agent.plane.kubectl("patch", "service", "life", "--patch", '{"spec": {"type": "ClusterIP"}}')
    released = ("Normal", "ClearAssignment", 1)
    agent.await_told([released], "life")
    assert agent.told("life") == sorted([*GIVEN, withdrawn, ("Warning", "announceFailed", 1), released])


def test_a_refusal_is_told_once_however_often_it_is_looked_at(agent: Agent) -> None:
    agent.plane.apply(service("refused", annotations={"metallb.io/loadBalancerIPs": "203.0.113.99"}))
    refused = [("Warning", "AllocationFailed", 1)]
    agent.await_told(refused, "refused")
    for number in range(3):  # each makes the allocator decide about all Services anew
        agent.plane.apply(labelled(POOL_OBJECT, str(number)))
        agent.settle(f"refused-{number}")
    assert agent.told("refused") == refused


def test_a_faulty_object_is_told_of_on_the_object(agent: Agent) -> None:
    lost = configured("L2Advertisement", "lost", ipAddressPools=["nowhere"])
    agent.plane.apply(lost)
    try:
        agent.until(lambda: agent.told("lost", "L2Advertisement") != [], "an event about it")
        agent.settle("faulty")
        [(_, reason, count)] = agent.told("lost", "L2Advertisement")
        assert (reason.startswith("Configuration"), count) == (True, 1)
    finally:
        agent.plane.kubectl("delete", "l2advertisement", "lost", f"--namespace={CONFIG}")


def test_a_new_life_of_the_agent_tells_nothing_again(agent: Agent) -> None:
    agent.plane.apply([service("twice"), endpoints("twice")])
    agent.plane.apply(service("twice-refused", annotations={"metallb.io/address-pool": "nowhere"}))
    lost = configured("L2Advertisement", "lost-too", ipAddressPools=["nowhere"])
    agent.plane.apply(lost)
    subjects = (("twice", "Service"), ("twice-refused", "Service"), ("lost-too", "L2Advertisement"))
    try:
        agent.await_told(GIVEN, "twice")
        agent.until(lambda: all(agent.told(*subject) for subject in subjects), "an event about each")
        before = [agent.told(*subject) for subject in subjects]
        agent.end(signal.SIGKILL)
        agent.start()
        agent.settle("twice-marker")
        assert [agent.told(*subject) for subject in subjects] == before
    finally:
        agent.plane.kubectl("delete", "l2advertisement", "lost-too", f"--namespace={CONFIG}")
