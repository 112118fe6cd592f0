"""The routers that hosts announce to: one with FRR, one with BIRD; and what is observed at them."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, TypeVar

from hostagent.edges.netlink import route_wire, wire
from tests.fabric.admin import wait_for
from tests.fabric.command import FabricError
from tests.fabric.hosts import Host

T = TypeVar("T")
Object = dict[str, Any]

TOR, TOR2 = "tor", "tor2"
TOR_V4, TOR_V6, TOR2_V4 = "198.51.100.254", "2001:db8:51::254", "198.51.100.253"
TOR_LOOPBACK = "192.0.2.254"
TOR_ASN, HOSTS_ASN, LOCAL_ASN = 65000, 65001, 65010
_LOADED_WITHIN_S = 300.0  # a thousand prefixes in lists that a session uses took a minute
PASSWORD = "correct-horse"  # FRR takes no blanks in one
BIRD_PORT = 1179


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A host, as the routers are configured for it."""

    v4: str
    v6: str
    loopback: str = ""
    """Of a session between loopbacks: multihop, with a password, from LOCAL_ASN."""
    interface: str = ""
    """The router's card on a wire to it, for an unnumbered session."""


def frr_text(neighbours: Mapping[str, Neighbour]) -> str:
    lines = [
        "log syslog debugging",
        "debug bgp updates in",
        "route-map DENY deny 10",
        "exit",
        "bfd",
        " profile fast",
        "  receive-interval 100",
    ]
    lines += ["  transmit-interval 100", "  detect-multiplier 3", " exit", "exit"]
    lines += [f"router bgp {TOR_ASN}", f" bgp router-id {TOR_V4}", " no bgp ebgp-requires-policy"]
    lines += [" bgp bestpath as-path multipath-relax", " bgp graceful-restart"]
    for each in neighbours.values():
        sessions = [each.v4, each.v6, *([each.loopback] if each.loopback else [])]
        for at in sessions:
            lines.append(f" neighbor {at} remote-as {LOCAL_ASN if at == each.loopback else 'external'}")
            lines += [f" neighbor {at} timers connect 1", f" neighbor {at} bfd profile fast"]
        if each.loopback:
            lines += [f" neighbor {each.loopback} ebgp-multihop 5", f" neighbor {each.loopback} password {PASSWORD}"]
            lines += [f" neighbor {each.loopback} update-source {TOR_LOOPBACK}"]
        if each.interface:
            lines.append(f" neighbor {each.interface} interface remote-as external")
            sessions.append(each.interface)
        lines += [f" neighbor {each.v6} capability extended-nexthop"]
        for family in ("ipv4", "ipv6"):
            lines.append(f" address-family {family} unicast")
            lines += [f"  neighbor {at} activate" for at in sessions]
            lines += ["  network 192.0.2.128/25" if family == "ipv4" else "  network 2001:db8:ff::/48"]
            lines += ["  maximum-paths 8", " exit-address-family"]
    return "\n".join([*lines, " no bgp network import-check", "exit", ""])


def bird_text(neighbours: Mapping[str, Neighbour]) -> str:
    """BIRD is an internal neighbour, so that it hears local preferences; it listens on a port of its own."""
    lines = [f"router id {TOR2_V4};", "log syslog all;", "protocol device {}", "protocol bfd {}"]
    lines += [f"protocol kernel {{ {family} {{ export all; }}; merge paths yes; }}" for family in ("ipv4", "ipv6")]
    for name, each in neighbours.items():
        lines.append(
            f"protocol bgp {name} {{ local {TOR2_V4} port {BIRD_PORT} as {HOSTS_ASN};"
            f" neighbor {each.v4} as {HOSTS_ASN}; passive; bfd graceful; graceful restart on;"
            " ipv4 { import all; export none; }; ipv6 { import all; export none; }; }"
        )
    return "\n".join([*lines, ""])


def until(ask: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """The first true answer. Raises TimeoutError that says what was waited for."""
    return wait_for(ask, timeout_s, what)


def vtysh(host: Host, *commands: str) -> str:
    return host.run(["vtysh", *(word for command in commands for word in ("-c", command))]).stdout


def load(host: Host, text: str) -> None:
    """Have FRR take these lines, beside what it has. From a file: FRR 10 reads it once for each daemon."""
    host.write_file("/run/lines.conf", text)
    host.run(["vtysh", "-f", "/run/lines.conf"], timeout_s=_LOADED_WITHIN_S)


def enable_frr(host: Host) -> None:
    """FRR with bgpd and bfdd, as an operator would switch it on."""
    host.run(["sed", "-i", "s/^bgpd=no/bgpd=yes/;s/^bfdd=no/bfdd=yes/", "/etc/frr/daemons"])
    host.run(["systemctl", "enable", "--quiet", "frr"])
    host.run(["systemctl", "restart", "frr"])
    until(lambda: host.run(["vtysh", "-d", "bgpd", "-c", "show version"], check=False).returncode == 0, "bgpd answers")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrrRouterHost:
    """The router with FRR."""

    host: Host

    def neighbour(self, at: str) -> Object:
        said = json.loads(vtysh(self.host, f"show bgp neighbors {at} json") or "{}")
        found: Object = said.get(at, {})
        return found

    def established(self, at: str) -> bool:
        return self.neighbour(at).get("bgpState") == "Established"

    def dropped(self, at: str) -> int:
        return int(self.neighbour(at).get("connectionsDropped", 0))

    def paths(self, prefix: str) -> list[Object]:
        family = "ipv6" if ":" in prefix else "ipv4"
        said = json.loads(vtysh(self.host, f"show bgp {family} unicast {prefix} json") or "{}")
        return list(said.get("paths", []))

    def path(self, prefix: str, at: str) -> Object:
        """Waits for the prefix from the neighbour, and returns its path."""
        return until(lambda: self._path(prefix, at), f"{prefix} from {at}")

    def _path(self, prefix: str, at: str) -> Object:
        return next((each for each in self.paths(prefix) if each.get("peer", {}).get("peerId") == at), {})

    def prefixes(self, at: str, family: str = "ipv4") -> set[str]:
        """What the neighbour announces."""
        said = json.loads(vtysh(self.host, f"show bgp {family} unicast neighbors {at} routes json") or "{}")
        return set(said.get("routes", {}))

    def count(self, at: str) -> int:
        """How many IPv4 prefixes of the neighbour are taken: cheap, whatever their number."""
        family = self.neighbour(at).get("addressFamilyInfo", {}).get("ipv4Unicast", {})
        return int(family.get("acceptedPrefixCounter", 0))

    def kernel(self, family: int = 4) -> dict[str, list[str]]:
        """Destination → gateways, as the router's kernel forwards."""
        shown = json.loads(self.host.run(["ip", "-json", f"-{family}", "route", "show", "proto", "bgp"]).stdout or "[]")
        return {each["dst"]: _gateways(each) for each in shown}

    def withdrawals(self, prefix: str) -> int:
        """How often a neighbour took the prefix back, as bgpd logs it."""
        lines = self.host.journal_text("frr").splitlines()
        return sum(f" {prefix} " in line and "withdrawn" in line for line in lines)

    def bfd(self, at: str) -> Object:
        shown = json.loads(vtysh(self.host, "show bfd peers json"))
        return next((each for each in shown if each["peer"] == at), {})


def _gateways(route: Object) -> list[str]:
    hops = route.get("nexthops") or [route]
    return sorted(hop.get("gateway") or hop.get("via", {}).get("host", "") for hop in hops)


@dataclass(frozen=True, slots=True, kw_only=True)
class BirdRouterHost:
    """The router with BIRD."""

    host: Host

    def say(self, *words: str) -> str:
        return self.host.run(["birdc", "-r", *words]).stdout

    def established(self, name: str) -> bool:
        return "Established" in self.say("show", "protocols", name)

    def hold_timer(self, name: str) -> str:
        """What is left, and of what: `164.2/180`."""
        found = re.search(r"Hold timer:\s+(\S+)", self.say("show", "protocols", "all", name))
        return found[1] if found else ""

    def path(self, prefix: str, name: str) -> dict[str, str]:
        """Waits for the prefix from this protocol; attribute names as BIRD prints them (BGP.local_pref)."""
        text = until(lambda: self._shown(prefix, name), f"{prefix} of {name} at BIRD")
        return dict(re.findall(r"^\s+(BGP\.\w+): (.*)$", text, re.MULTILINE))

    def has(self, prefix: str, name: str) -> bool:
        return bool(self._shown(prefix, name))

    def _shown(self, prefix: str, name: str) -> str:
        family = "6" if ":" in prefix else "4"
        argv = ["birdc", "-r", "show", "route", "all", prefix, "table", f"master{family}", "protocol", name]
        done = self.host.run(argv, check=False)
        text = done.stdout
        if done.returncode and "Network not found" not in text:  # birdc fails, too, for a prefix that is not there yet
            raise FabricError(f"{' '.join(argv)}: {text}{done.stderr}")
        return text if "BGP.origin" in text else ""

    def configure(self, text: str) -> None:
        self.host.write_file("/etc/bird/bird.conf", text)
        self.host.run(["systemctl", "enable", "--quiet", "bird"])
        self.host.run(["systemctl", "restart", "bird"])
        until(lambda: self.host.run(["birdc", "-r", "show", "status"], check=False).returncode == 0, "BIRD answers")


def frr_router(host: Host, neighbours: Mapping[str, Neighbour]) -> FrrRouterHost:
    """Make this host the router with FRR, which spreads flows by their ports."""
    host.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.fib_multipath_hash_policy=1"])
    enable_frr(host)
    load(host, frr_text(neighbours))
    return FrrRouterHost(host=host)


def bird_router(host: Host, neighbours: Mapping[str, Neighbour]) -> BirdRouterHost:
    """Make this host the router with BIRD."""
    bird = BirdRouterHost(host=host)
    bird.configure(bird_text(neighbours))
    return bird


@contextmanager
def counting(host: Host, packets: str) -> Iterator[Callable[[], int]]:
    """How many have come in that match this expression of nftables, while the block runs."""
    chain = f"chain in {{\n type filter hook prerouting priority -350\n {packets} counter\n }}"
    host.run(["nft", "-f", "-"], stdin=f"table inet probe {{\n{chain}\n}}\n")

    def count() -> int:
        listed = json.loads(host.run(["nft", "--json", "list", "table", "inet", "probe"]).stdout)["nftables"]
        (rule,) = [each["rule"] for each in listed if "rule" in each]
        return int(next(part["counter"]["packets"] for part in rule["expr"] if "counter" in part))

    try:
        yield count
    finally:
        host.run(["nft", "delete", "table", "inet", "probe"])


@dataclass(slots=True)
class RouteLog:
    """What a kernel says of its routes while a block runs: when (monotonic, s), came or went, destination."""

    events: list[tuple[float, bool, str]] = field(default_factory=list)

    def of(self, prefix: str) -> list[float]:
        """Every change of it: also one gateway more or less."""
        return [at for at, _, network in self.events if network == prefix]

    def gone(self, prefix: str) -> list[float]:
        return [at for at, came, network in self.events if not came and network == prefix]

    def came(self, prefix: str) -> list[float]:
        return [at for at, came, network in self.events if came and network == prefix]


_RTMGRP_IPV4_ROUTE, _RTMGRP_IPV6_ROUTE = 0x40, 0x400
_RTA_DST = 1


@contextmanager
def watching_routes(host: Host) -> Iterator[RouteLog]:
    """Listen to the host's kernel: the moment at which a route is really there, not when somebody asks."""
    log = RouteLog()

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: bursts of ten thousand
        sock.bind((0, _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE))
        sock.settimeout(0.2)
        return sock

    sock = host.inside(listen)
    over = threading.Event()
    listener = threading.Thread(target=_listen, args=(sock, log, over), name=f"routes of {host.name}")
    listener.start()
    try:
        yield log
    finally:
        over.set()
        listener.join()
        sock.close()


def _listen(sock: socket.socket, log: RouteLog, over: threading.Event) -> None:
    while not over.is_set():
        try:
            data = sock.recv(1 << 18)
        except TimeoutError:
            continue
        at = time.monotonic()
        for message in wire.messages(data):
            if message.kind in (route_wire.RTM_NEWROUTE, route_wire.RTM_DELROUTE):
                family, prefix_len = struct.unpack_from("=BB", message.body)
                packed = wire.attributes(message.body, 12).get(_RTA_DST)
                if family in (2, 10) and packed is not None:
                    network = str(ip_network((packed, prefix_len)))
                    log.events.append((at, message.kind == route_wire.RTM_NEWROUTE, network))
