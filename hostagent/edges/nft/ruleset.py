"""The guard's table as text for nft, and back from what nft lists. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from hostagent.model.cluster import Port
from hostagent.model.names import IP, Network
from hostagent.model.shared import shared

TABLE = "inet hostagent"

Wanted = Mapping[IP, frozenset[Port]]

# Priority: before the filter chains of kube-proxy, kubelet and the host's own firewall, which go on judging what we
# accept (an accept ends this table only). After conntrack and kube-proxy's DNAT, both in prerouting: traffic that
# kube-proxy sends to a pod has another destination by then and is never seen here. IPVS takes its traffic at the end of
# this same hook (NF_IP_PRI_NAT_SRC - 2), hence the Service's own ports are accepted rather than left alone.
#
# A packet to an advertised pool that is forwarded was sent to no pod: the default route would take it back to the
# router that it came from, and round and round. IPVS has its VIPs as addresses of the host and never comes here.
#
# ICMP: errors are part of TCP (path MTU), echo is what people test with. NDP must stay open: neighbours' reachability
# checks are sent to the VIP itself.
_RULES = """\
	counter refused { comment "packets to a VIP, to a port that no Service has" }
	chain input {
		type filter hook input priority filter - 10; policy accept;
		ip daddr @vips4 goto vip4
		ip6 daddr @vips6 goto vip6
	}
	chain forward {
		type filter hook forward priority filter - 10; policy accept;
		ip daddr @routed4 counter name refused drop
		ip6 daddr @routed6 counter name refused drop
	}
	chain vip4 {
		ct state established,related accept
		icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept
		ip daddr . meta l4proto . th dport @services4 accept
		counter name refused drop
	}
	chain vip6 {
		ct state established,related accept
		icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
		icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept
		ip6 daddr . meta l4proto . th dport @services6 accept
		counter name refused drop
	}
"""
_SETS = (
    ("vips4", "ipv4_addr"),
    ("vips6", "ipv6_addr"),
    ("services4", "ipv4_addr . inet_proto . inet_service"),
    ("services6", "ipv6_addr . inet_proto . inet_service"),
    ("routed4", "ipv4_addr; flags interval"),
    ("routed6", "ipv6_addr; flags interval"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The table as the kernel has it."""

    wanted: Wanted
    routed: frozenset[Network] = frozenset()
    """Of these this host may draw traffic from routers; none is within another."""
    shape: bytes
    """Everything but the sets' elements and the counter's value: equal when nobody changed chains or rules."""
    refused: int = 0
    """Packets dropped since the table was made."""
    stray: frozenset[str] = field(default_factory=frozenset)
    """Elements that we never write, such as a port of an address that is not among the VIPs."""


class _Element(msgspec.Struct):
    """Of a set, where it is more than a word. Ten thousand VIPs are thirty thousand of these: no dictionaries."""

    concat: tuple[Any, ...] | None = None
    prefix: dict[str, Any] | None = None


class _Listing(msgspec.Struct):
    nftables: list[dict[str, msgspec.Raw]]


_listings = msgspec.json.Decoder(_Listing)
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements_of = msgspec.json.Decoder(list[str | _Element])


def disjoint(prefixes: Iterable[Network]) -> frozenset[Network]:
    """The same addresses in as few prefixes as can be, as an interval set takes them and lists them."""
    prefixes = tuple(prefixes)
    v4 = ipaddress.collapse_addresses(p for p in prefixes if isinstance(p, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(p for p in prefixes if isinstance(p, ipaddress.IPv6Network))
    return frozenset((*v4, *v6))


def rebuild_text(wanted: Wanted, routed: frozenset[Network] = frozenset()) -> str:
    """One transaction that makes the whole table, whatever was there before. `routed` are disjoint."""
    elements = _elements(wanted, routed)
    sets = "".join(f"\tset {name} {{\n\t\ttype {type_}\n{_inline(elements[name])}\t}}\n" for name, type_ in _SETS)
    # Adding first, as deleting what is not there fails and `destroy` needs nft 1.0.8 and Linux 6.3.
    return f"add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n{sets}{_RULES}}}\n"


def update_text(
    present: Wanted,
    wanted: Wanted,
    *,
    was_routed: frozenset[Network] = frozenset(),
    routed: frozenset[Network] = frozenset(),
) -> str:
    """One transaction with the elements that differ; empty if none do. Routed prefixes are disjoint."""
    before, after = _elements(present, was_routed), _elements(wanted, routed)
    lines = []
    for name, _ in _SETS:
        for verb, elements in (("delete", before[name] - after[name]), ("add", after[name] - before[name])):
            if elements:
                lines.append(f"{verb} element {TABLE} {name} {{ {', '.join(sorted(elements))} }}\n")
    return "".join(lines)


def remove_text() -> str:
    return f"add table {TABLE}\ndelete table {TABLE}\n"


def parse_listing(listing: bytes) -> Listed:
    """Read `nft --json list table`.

    Raises:
        ValueError: not such a listing.
    """
    try:
        return _parse(_listings.decode(listing).nftables)
    except (KeyError, TypeError, AttributeError, msgspec.DecodeError) as exc:
        raise ValueError(f"not a listing of nft: {exc!r}") from exc


def _parse(objects: list[dict[str, msgspec.Raw]]) -> Listed:
    vips: dict[str, set[Port]] = {}
    services: list[tuple[str, Port]] = []
    stray: set[str] = set()
    routed: set[Network] = set()
    shape: list[Any] = []
    refused = 0
    for kind, raw in (item for entry in objects for item in entry.items() if item[0] != "metainfo"):
        fields = _objects.decode(raw)
        elements = fields.pop("elem", None) if kind == "set" else None
        each: dict[str, Any] = {key: msgspec.json.decode(value) for key, value in fields.items()}
        prefixes = str(each.get("name", "")).startswith("routed")
        for element in _elements_of.decode(elements) if elements is not None else ():
            match element:
                case str(address) if prefixes:
                    routed.add(ipaddress.ip_network(address))
                case _Element(prefix={"addr": str(address), "len": int(length)}) if prefixes:
                    routed.add(ipaddress.ip_network(f"{address}/{length}"))
                case str(address):
                    vips[address] = set()
                case _Element(concat=(str(address), str(protocol), int(number))):
                    services.append((address, _port(protocol, number)))
                case _:  # a prefix, a range, a timeout, a protocol without a name
                    stray.add(f"an element of {each.get('name')} that is neither address nor port")
        if kind == "counter":
            refused += each.pop("packets", 0)
            each.pop("bytes", None)
        shape.append((kind, _without_handles(each)))
    for address, port in services:
        if address in vips:
            vips[address].add(port)
        else:
            stray.add(f"{address} {port.protocol} {port.number}")
    return Listed(
        wanted={ipaddress.ip_address(address): shared(frozenset(ports)) for address, ports in vips.items()},
        routed=frozenset(routed),
        shape=msgspec.json.encode(shape, order="deterministic"),
        refused=refused,
        stray=frozenset(stray),
    )


@lru_cache(maxsize=1024)
def _port(protocol: str, number: int) -> Port:
    return Port(protocol, number)


def _without_handles(each: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in each.items() if key != "handle"}


def _elements(wanted: Wanted, routed: frozenset[Network]) -> dict[str, set[str]]:
    elements: dict[str, set[str]] = {name: set() for name, _ in _SETS}
    for prefix in routed:
        elements[f"routed{prefix.version}"].add(str(prefix))
    for ip, ports in wanted.items():
        elements[f"vips{ip.version}"].add(str(ip))
        elements[f"services{ip.version}"].update(f"{ip} . {port.protocol} . {port.number}" for port in ports)
    return elements


def _inline(elements: Iterable[str]) -> str:
    listed = ",\n\t\t\t".join(sorted(elements))
    return f"\t\telements = {{\n\t\t\t{listed}\n\t\t}}\n" if listed else ""
