"""Of `make bench-bgp`: the ways of announcing that are compared."""

from __future__ import annotations

import time
from contextlib import closing
from ipaddress import ip_address, ip_network
from typing import Any, Protocol

from tests.bench.allocation import Desk
from tests.bgp.routers import HOSTS_ASN, TOR_ASN, TOR_V4, load, until, vtysh
from tests.bgp.speaker import PLAIN, Edges, Speaker
from tests.bgp.test_sessions import a_peer
from tests.fabric.admin import Session
from tests.fabric.backends import endpoint_slices, service
from tests.fabric.hosts import Host
from tests.fabric.lab import Lab

TIMEOUT_S = 300.0
AGENT_NETWORK = "100.64.0.0/16"
_MERGE_PATCH = "application/merge-patch+json"


class Way(Protocol):
    """One way of announcing."""

    name: str
    made_of: tuple[str, ...]
    host: Host
    events: tuple[str, ...]
    """What can happen to one prefix, in turn: it comes by the first, goes by the second, and so on."""

    def begin(self) -> None: ...
    def fill(self, count: int) -> None: ...
    def end(self) -> None: ...
    def prefix(self, run: int) -> str: ...
    def act(self, event: str, run: int) -> float:
        """Have it happen to the prefix of this run; returns when it began (monotonic, s)."""
        ...


class Ours:
    """Our edges without an agent: kernel routes, picked up by the host's FRR."""

    made_of: tuple[str, ...] = (
        *("hostagent/edges/frr", "hostagent/edges/netlink", "hostagent/model"),
        *("hostagent/core/frr_diff.py", "hostagent/core/frr_text.py"),
    )
    events: tuple[str, ...] = ("added", "withdrawn")

    def __init__(self, name: str, host: Host) -> None:
        self.name, self.host, self._present = name, host, 0
        self._speaker = Speaker(host=host)

    def begin(self) -> None:
        self._speaker.peer_with(a_peer(dual_stack=True))

    def fill(self, count: int) -> None:
        self._present = count
        self._speaker.announce([_prefix(n) for n in range(count)])

    def end(self) -> None:
        self.fill(0)
        self._speaker.clear()

    def prefix(self, run: int) -> str:
        return _prefix(self._present + run)

    def act(self, event: str, run: int) -> float:
        network, of = ip_network(self.prefix(run)), self._speaker.number(PLAIN)

        async def change(edges: Edges) -> float:
            await edges.routes.present()  # an agent has looked before it changes something
            began = time.monotonic()
            if event == "added":
                await edges.routes.change(add={network: of}, remove=frozenset())
            else:
                await edges.routes.change(add={}, remove=frozenset({network}))
            return began

        return self._speaker.run(change)


class Reload:
    """What MetalLB's FRR mode does for each change, without the three seconds that it waits before."""

    made_of: tuple[str, ...] = ()
    events: tuple[str, ...] = ("added", "withdrawn")

    def __init__(self, name: str, host: Host) -> None:
        self.name, self.host = name, host
        self._numbers: set[int] = set()
        self._present = 0

    def begin(self) -> None:
        self.fill(0)

    def fill(self, count: int) -> None:
        """Into an FRR that is started with nothing: one that is started with a thousand is stopped by watchfrr after
        20 s, in the middle of its file.
        """
        self._present, self._numbers = count, set(range(count))
        self.host.write_file("/etc/frr/frr.conf", "frr defaults traditional\n", mode=0o644)
        self.host.run(["systemctl", "reset-failed", "frr"])  # or systemd finds that it is restarted too often
        self.host.run(["systemctl", "restart", "frr"], timeout_s=TIMEOUT_S)
        self._write()
        load(self.host, self._text())

    def end(self) -> None:
        vtysh(self.host, "configure terminal", f"no router bgp {HOSTS_ASN}")

    def prefix(self, run: int) -> str:
        return _prefix(self._present + run)

    def act(self, event: str, run: int) -> float:
        (self._numbers.add if event == "added" else self._numbers.discard)(self._present + run)
        began = time.monotonic()
        self._write()
        program, file = "/usr/lib/frr/frr-reload.py", "/etc/frr/frr.conf"
        for options in (["--test"], ["--reload", "--overwrite"]):
            self.host.run(["python3", program, *options, "--stdout", file], timeout_s=TIMEOUT_S)
        return began

    def _write(self) -> None:
        self.host.write_file("/etc/frr/frr.conf", self._text(), mode=0o644)

    def _text(self) -> str:
        """As MetalLB writes it for one neighbour and one community (internal/bgp/frr/templates, since 0.13.11): each
        prefix in the list of the community, in the list of what the neighbour may get, and as a network; all sorted as
        text, and the lists' entries numbered one after the other. So a prefix that comes between others gives all
        after it another number.
        """
        prefixes = sorted(_prefix(number) for number in self._numbers)
        of_community, allowed = f"{TOR_V4}-65001:1-ip-community-prefixes", f"{TOR_V4}-allowed-ip"
        lines = ["frr defaults traditional", "service integrated-vtysh-config", "ip nht resolve-via-default"]
        lines += ["ipv6 nht resolve-via-default", f"route-map {TOR_V4}-in deny 20", "exit"]
        for name in (of_community, f"{allowed}v4"):
            lines += [f"ip prefix-list {name} seq {at} permit {prefix}" for at, prefix in enumerate(prefixes, start=1)]
        if not prefixes:
            lines.append(f"ip prefix-list {allowed}v4 seq 1 deny any")
        lines.append(f"ipv6 prefix-list {allowed}v6 seq 1 deny any")
        lines += [f"route-map {TOR_V4}-out permit 1", f" match ip address prefix-list {of_community}"]
        lines += [" set community 65001:1 additive", " on-match next", "exit"]
        for number, (family, version) in enumerate((("ip", "v4"), ("ipv6", "v6")), start=2):
            lines += [f"route-map {TOR_V4}-out permit {number}"]
            lines += [f" match {family} address prefix-list {allowed}{version}", "exit"]
        lines += [f"router bgp {HOSTS_ASN}", " no bgp ebgp-requires-policy", " no bgp network import-check"]
        lines += [" no bgp default ipv4-unicast", " bgp graceful-restart preserve-fw-state"]
        lines += [f" neighbor {TOR_V4} remote-as {TOR_ASN}", f" neighbor {TOR_V4} timers connect 1"]
        lines += [" address-family ipv4 unicast", f"  neighbor {TOR_V4} activate"]
        lines += [f"  neighbor {TOR_V4} route-map {TOR_V4}-{way} {way}" for way in ("in", "out")]
        lines += [f"  network {prefix}" for prefix in prefixes]
        return "\n".join([*lines, " exit-address-family", "exit", ""])


class Whole:
    """A whole agent: the clock starts when a change is sent to the API server."""

    made_of: tuple[str, ...] = ("hostagent", "roles/hostagent_frr")
    events: tuple[str, ...] = (
        "Service created, address included",
        "last endpoint gone",
        "endpoint ready",
        "Service deleted",
    )
    _VIP = "100.64.255.7"

    def __init__(self, lab: Lab, host: Host) -> None:
        self.name, self.host = "hostagent, agent and API", host
        self._lab = lab
        self._desk = Desk(lab=lab, host=host)
        self._api: Session | None = None
        # An address that is asked for costs the allocator what any other does, and is known beforehand.
        self._service = service("probe", namespace="probe", loadBalancerIP=self._VIP)
        (self._slice,) = endpoint_slices(self._service, [host])

    def begin(self) -> None:
        peer = {"myASN": HOSTS_ASN, "peerASN": TOR_ASN, "peerAddress": TOR_V4, "connectTime": "1s"}
        for version, kind, spec in (
            ("v1beta1", "IPAddressPool", {"addresses": [AGENT_NETWORK]}),
            ("v1beta2", "BGPPeer", peer),
            ("v1beta1", "BGPAdvertisement", {"ipAddressPools": ["load"], "communities": ["65001:42"]}),
        ):
            meta = {"name": "load", "namespace": "metallb-system"}
            made = {"apiVersion": f"metallb.io/{version}", "kind": kind, "metadata": meta, "spec": spec}
            self._lab.control_plane.apply(made)
        for name in ("load", "probe"):
            self._desk.namespace(name)
        with closing(self._lab.control_plane.admin.session()) as api:
            api.send("POST", self._path(self._slice), self._slice)

    def fill(self, count: int) -> None:
        """With addresses in their status, as an allocator gave them before; the agent starts, and is at rest again."""
        self.host.run(["systemctl", "stop", "hostagent"])
        behind = f"--behind={self.host.name}={self.host.addresses[0]}"
        if count:
            self._desk.load("create", "load", count, "--no-wait", f"--network={AGENT_NETWORK}", behind)
        self.host.run(["systemctl", "start", "hostagent"], timeout_s=TIMEOUT_S)
        until(lambda: "allocates addresses" in self._desk.status_line(), "an allocator", TIMEOUT_S)
        self._desk.calm()
        self.end()
        self._api = self._lab.control_plane.admin.session()  # one that was idle for long is closed by the server

    def end(self) -> None:
        if self._api is not None:
            self._api.close()

    def prefix(self, run: int) -> str:  # noqa: ARG002  the same again and again
        return f"{self._VIP}/32"

    def act(self, event: str, run: int) -> float:  # noqa: ARG002
        match event:
            case "last endpoint gone" | "endpoint ready":
                ready = event == "endpoint ready"
                conditions = {"ready": ready, "serving": ready, "terminating": False}
                endpoints = [{**each, "conditions": conditions} for each in self._slice["endpoints"]]
                return self._send("PATCH", f"{self._path(self._slice)}/probe-ipv4", {"endpoints": endpoints})
            case "Service deleted":
                return self._send("DELETE", f"{self._path(self._service)}/probe", None)
            case _:
                return self._send("POST", self._path(self._service), self._service)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> float:
        assert self._api is not None
        began = time.monotonic()
        self._api.send(method, path, body, kind=_MERGE_PATCH if method == "PATCH" else "application/json")
        return began

    @staticmethod
    def _path(of: dict[str, Any]) -> str:
        group = "/api/v1" if of["kind"] == "Service" else "/apis/discovery.k8s.io/v1"
        return f"{group}/namespaces/probe/{of['kind'].lower()}s"


def _prefix(number: int) -> str:
    return f"{ip_address('10.64.0.0') + number}/32"
