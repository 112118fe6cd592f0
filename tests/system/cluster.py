"""What tests of the whole do to a cluster and ask of it: Services, addresses, holders, agents."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.fabric.admin import wait_for
from tests.fabric.backends import BACKEND_PORT, endpoint_slices, service, start_backend
from tests.fabric.backends import namespace as namespace_object
from tests.fabric.hosts import Host
from tests.fabric.lab import Lab

CONFIG = "metallb-system"
V4_POOL, V6_POOL = "198.51.100.64-198.51.100.79", "2001:db8:51:0:1::-2001:db8:51:0:1::f"
Object = dict[str, Any]
SOON_S = 20.0
# After an API outage kube-proxy asks again after up to a minute (client-go's reflector: 30 s, and as much of jitter):
# until then its host has the address of a new Service and refuses connections.
_KUBE_PROXY_KNOWS_WITHIN_S = 75.0
_AGENT_ANSWERS_WITHIN_S = 1.0


@dataclass(kw_only=True)
class Cluster:
    """One test's share of the lab: a namespace for Services, and configuration objects that are removed after it."""

    lab: Lab
    namespace: str
    _config: list[tuple[str, str]] = field(default_factory=list)

    # Before and after

    def begin(self) -> None:
        self.lab.control_plane.apply(namespace_object(self.namespace))
        for host in self.lab.hosts.values():
            start_backend(host, BACKEND_PORT)
        self.everybody_runs()

    def end(self) -> None:
        """Everything is as before: hosts up, agents alive, no Service, no configuration."""
        plane = self.lab.control_plane
        plane.kubectl("delete", "services,endpointslices", "--all", "--namespace", self.namespace, "--wait=false")
        for kind, name in reversed(self._config):
            plane.kubectl("delete", kind, name, "--namespace", CONFIG, "--ignore-not-found")
        self.everybody_runs()
        self.until(lambda: not self.claims(), "all claims to be gone")

    def everybody_runs(self) -> None:
        for host in self.lab.hosts.values():
            if host.system_state() == "off":
                host.boot()
            host.run(["systemctl", "reset-failed", "hostagent"], check=False)
            host.run(["systemctl", "start", "hostagent"])
        for host in self.lab.hosts.values():
            self.until(partial(self.alive, host), f"the session of {host.name} to be alive")

    def show_journals(self) -> None:
        """Print the end of each agent's journal: pytest shows it beside a failure."""
        for host in self.lab.hosts.values():
            lines = host.journal_text("hostagent").splitlines()[-60:]
            sys.stderr.write(f"--- {host.name}\n" + "\n".join(lines) + "\n")

    # Kubernetes

    def pool(self, *addresses: str, name: str = "pool", **spec: Any) -> None:
        self.configure("IPAddressPool", name, {"addresses": list(addresses or (V4_POOL, V6_POOL)), **spec})

    def advertise(self, *pools: str, name: str = "all", **spec: Any) -> None:
        self.configure("L2Advertisement", name, {**({"ipAddressPools": list(pools)} if pools else {}), **spec})

    def configure(self, kind: str, name: str, spec: Object, **more: Object) -> None:
        """`more` are its labels and annotations."""
        meta = {"name": name, "namespace": CONFIG, **more}
        self.lab.control_plane.apply({"apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": meta, "spec": spec})
        if (kind, name) not in self._config:
            self._config.append((kind, name))

    def serve(
        self, name: str, *, hosts: list[str] | None = None, slices: Object | None = None, **kwargs: Any
    ) -> Object:
        """Make a Service with a backend on each of these hosts (all, unless said)."""
        made = service(name, namespace=self.namespace, **kwargs)
        behind = [self.lab.hosts[each] for each in (self.lab.hosts if hosts is None else hosts)]
        self.lab.control_plane.apply([made, *(endpoint_slices(made, behind, **(slices or {})) if behind else [])])
        return made

    def delete(self, name: str) -> None:
        self.lab.control_plane.kubectl("delete", "service", name, "--namespace", self.namespace)

    def addresses(self, name: str) -> list[str]:
        found = self.lab.control_plane.get("service", name, self.namespace) or {}
        ingress = found.get("status", {}).get("loadBalancer", {}).get("ingress") or []
        return [entry["ip"] for entry in ingress]

    def given(self, name: str, count: int = 1) -> list[str]:
        """Wait until the Service has so many addresses, and return them."""
        self.until(lambda: len(self.addresses(name)) == count, f"{count} addresses for {name}")
        return self.addresses(name)

    def events(self, name: str, kind: str = "Service") -> list[Object]:
        listed = json.loads(
            self.lab.control_plane.kubectl(
                "get", "events", "--all-namespaces", "--output=json",
                f"--field-selector=involvedObject.name={name},involvedObject.kind={kind}",
            )
        )  # fmt: skip
        found: list[Object] = listed["items"]
        return found

    def claims(self) -> dict[str, str]:
        """Claim name → holder."""
        return {lease["metadata"]["name"]: lease["spec"].get("holderIdentity", "") for lease in self._claims()}

    def transitions(self) -> dict[str, int]:
        """Claim name → how often it changed hands."""
        return {lease["metadata"]["name"]: lease["spec"].get("leaseTransitions", 0) for lease in self._claims()}

    def _claims(self) -> list[Object]:
        leases = self.lab.control_plane.admin.list_all("leases", CONFIG)
        return [lease for lease in leases if lease["metadata"]["name"].startswith("vip.")]

    # Hosts

    def status(self, host: Host) -> Object:
        """What the agent says about itself; empty if it does not answer.

        Asked at its socket from outside: `hostagent status` on the host takes half a second to start, too long for
        what is asked again and again while something is measured.
        """
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
                agent.settimeout(_AGENT_ANSWERS_WITHIN_S)
                agent.connect(f"/proc/{host.pid}/root/run/hostagent/agent.sock")
                agent.sendall(b'{"verb": "status"}\n')
                said = json.loads(b"".join(iter(lambda: agent.recv(65536), b"")) or b"{}")
        except (OSError, json.JSONDecodeError):  # also: it ended, or its host, in mid-sentence
            return {}
        document: Object = said.get("answer", said)
        return document

    def alive(self, host: Host) -> bool:
        hosts = {each["node"]: each for each in self.status(host).get("hosts", [])}
        return bool(hosts.get(host.name, {}).get("alive"))

    def holders(self, vip: str) -> list[str]:
        """Hosts on whose interfaces the address is: the kernel's word, not the agent's."""
        return [host.name for host in self.lab.hosts.values() if vip in self.kernel_addresses(host)]

    def kernel_addresses(self, host: Host) -> set[str]:
        return host.kernel_addresses()

    def held(self, vip: str) -> Host:
        """Wait until exactly one host has the address, and return it."""
        self.until(lambda: len(self.holders(vip)) == 1, f"one holder of {vip}")
        return self.lab.hosts[self.holders(vip)[0]]

    def answered(self, vip: str, port: int = 80) -> str:
        """Wait until a backend answers at the VIP, and return its name; a dead host's may be asked in between."""
        url = f"http://[{vip}]:{port}/" if ":" in vip else f"http://{vip}:{port}/"
        name = wait_for(
            lambda: self.lab.client.answers(url),
            _KUBE_PROXY_KNOWS_WITHIN_S,
            lambda: f"an answer from {url}; {self._unanswered(vip)}",
        )
        return str(name)

    def _unanswered(self, vip: str) -> str:
        """Why there may be no answer: who has the address, whom the client asks, what kube-proxy says."""
        up = [host for host in self.lab.hosts.values() if host.running and not host.hung]
        macs = ", ".join(f"{host.name} is {host.mac}" for host in self.lab.hosts.values())
        asked = self.lab.client.neighbour(vip)
        lines = [f"{self.holders(vip)} have the address, the client sends to {asked} ({macs})"]
        for host in up:
            lines += [f"--- kube-proxy on {host.name}", *host.journal_text("kube-proxy").splitlines()[-12:]]
        return "\n".join(lines)

    def until(self, predicate: Callable[[], Any], what: str, timeout_s: float = SOON_S) -> Any:
        """Wait for the first true answer, and return it. Raises TimeoutError that says what was waited for."""
        return wait_for(predicate, timeout_s, what)


@contextmanager
def share_for(test: str, lab: Lab) -> Iterator[Cluster]:
    """A namespace and pools for one test; what it made is gone after it, and all agents run again."""
    cluster = Cluster(lab=lab, namespace=re.sub(r"[^a-z0-9]+", "-", test.lower()).strip("-")[:40].strip("-"))
    cluster.begin()
    try:
        yield cluster
    except BaseException:
        cluster.show_journals()
        raise
    finally:
        cluster.end()
