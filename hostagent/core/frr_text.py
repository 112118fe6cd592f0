"""The FRR configuration that we own: peers, BFD profiles and attribute classes as FRR prints them. Pure.

What is written here is in the form in which `show running-config` shows it, so that reading it back compares equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hostagent.model.bgp import LARGEST_CLASS, SMALLEST_CLASS, AttributeClass, BfdProfile, Grant, Line, Peer

PREFIX = "hostagent-"
MARK = "hostagent "
"""What the description of a neighbour of ours begins with; one without it is the site's."""
IN = f"{PREFIX}in"
CLASS = f"{PREFIX}class"
NETWORK = f"{PREFIX}network-"
"""Route-maps for `network` lines: a VIP that is on an interface too has a connected route, which hides ours from
FRR. The lines are the edge's."""

V4, V6 = "address-family ipv4 unicast", "address-family ipv6 unicast"
TABLE_DIRECT = (10, 1)
"""From here on FRR redistributes any kernel table as it is, both families (10.0: IPv4 alone)."""

Pair = tuple[tuple[str, ...], str]
"""The contexts that a line stands in, outermost first, and the line. The first line of a context is one too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What FRR shall do for us on this host."""

    peers: Sequence[Peer] = ()
    profiles: Sequence[BfdProfile] = ()
    """Those that `peers` name are enough."""
    classes: Mapping[int, AttributeClass]
    table: int
    """The kernel table with our routes."""


def digest(of: AttributeClass) -> str:
    """Tells classes apart in FRR's configuration, for every life of the agent."""
    return hashlib.sha256(repr([_plain(grant) for grant in of.grants]).encode()).hexdigest()[:16]


def _plain(grant: Grant) -> tuple[object, ...]:
    return (
        grant.peers, grant.communities, grant.large_communities, grant.local_pref, grant.med, grant.prepend,
    )  # fmt: skip


def number_classes(classes: Iterable[AttributeClass], *, taken: Mapping[int, str]) -> dict[int, AttributeClass]:
    """A number for each class: the one that it has already, or the next free one from its hash.

    `taken` is what runs: number to digest. Numbers are not reused while FRR has them, so that no prefix is given the
    attributes of another class for a moment.
    """
    known = {each: number for number, each in taken.items()}
    used = set(taken)
    numbers: dict[int, AttributeClass] = {}
    for name, each in sorted((digest(each), each) for each in set(classes)):
        number = known.get(name)
        if number is None:
            number = SMALLEST_CLASS + int(name[:8], 16) % (LARGEST_CLASS + 1 - SMALLEST_CLASS)
            while number in used:
                number = number + 1 if number < LARGEST_CLASS else SMALLEST_CLASS
            used.add(number)
        numbers[number] = each
    return numbers


def render(wanted: Wanted, *, version: tuple[int, int], unicast: Mapping[str, bool] | None = None) -> tuple[Pair, ...]:
    """The configuration for these, in an order in which FRR can take it.

    `unicast` tells, by `router` line, whether neighbours there are IPv4 neighbours unless told otherwise (FRR's
    default, which a site can turn off).
    """
    lines: list[Pair] = []
    used = {peer.bfd_profile for peer in wanted.peers}
    for profile in wanted.profiles:
        if profile.name in used:
            lines += _within(("bfd",), [f"profile {PREFIX}{profile.name}"])
            lines += _within(("bfd", f"profile {PREFIX}{profile.name}"), _profile(profile))
    if wanted.peers:
        lines.append(((), f"route-map {IN} deny 10"))
        for number, each in sorted(wanted.classes.items()):
            lines += _class(number, each)
        for peer in wanted.peers:
            for number, each in sorted(wanted.classes.items()):
                grant = each.toward(peer.name)
                if grant is not None:
                    lines += _within((f"route-map {out_map(peer)} permit {number}",), _toward(number, grant, peer))
        if version < TABLE_DIRECT:
            lines.append(((), f"ip import-table {wanted.table}"))
    for header in dict.fromkeys(map(router, wanted.peers)):
        peers = [peer for peer in wanted.peers if router(peer) == header]
        lines += _router(header, peers, wanted, version=version, v4=(unicast or {}).get(header, True))
    return tuple(dict.fromkeys(_with_headers(lines)))


def router(peer: Peer) -> str:
    """The `router` line that a peer stands under."""
    return f"router bgp {peer.my_asn}" + (f" vrf {peer.vrf}" if peer.vrf else "")


def out_map(peer: Peer) -> str:
    return f"{PREFIX}out-{peer.name}"


def carries(peer: Peer, version: tuple[int, int]) -> bool:
    """Whether prefixes reach this peer: FRR before 10.3 picks up no kernel table in a VRF."""
    return not peer.vrf or version >= (10, 3)


def to_lines(pairs: Iterable[Pair]) -> tuple[Line, ...]:
    """For FRR: without the first lines of contexts that a later line enters anyway."""
    pairs = tuple(pairs)
    entered = {context for context, _ in pairs}
    return tuple(Line(context, text) for context, text in pairs if (*context, text) not in entered)


def to_text(pairs: Iterable[Pair]) -> str:
    """A configuration file, as FRR would write it."""
    out = ["! Made by hostagent, from BGPPeers and advertisements; what is changed here is overwritten.\n"]
    stack: list[str] = []
    for context, text in pairs:
        while stack and tuple(stack) != context[: len(stack)]:
            out.append(_leave(stack))
        for each in context[len(stack) :]:
            out.append(f"{' ' * len(stack)}{each}\n")
            stack.append(each)
        out.append(f"{' ' * len(stack)}{text}\n")
        if _opens(text, context):
            stack.append(text)
    while stack:
        out.append(_leave(stack))
    return "".join(out)


def _leave(stack: list[str]) -> str:
    left = stack.pop()
    return f"{' ' * len(stack)}{'exit-address-family' if left.startswith('address-family ') else 'exit'}\n"


def _opens(text: str, context: tuple[str, ...]) -> bool:
    """Whether FRR goes into a context of its own upon this line of ours."""
    if context in ((), ("bfd",)):
        return text.startswith(("route-map ", "router ", "profile ")) or text == "bfd"
    return text.startswith("address-family ")


def _within(context: tuple[str, ...], texts: Iterable[str]) -> Iterator[Pair]:
    return ((context, text) for text in texts)


def _with_headers(lines: Iterable[Pair]) -> Iterator[Pair]:
    for context, text in lines:
        for depth in range(len(context)):
            yield context[:depth], context[depth]
        yield context, text


# --- the parts --------------------------------------------------------------------------------------------------------


def _profile(profile: BfdProfile) -> Iterator[str]:
    """FRR shows what differs from its defaults (300 ms, 3, 50 ms, 254) and nothing else."""
    if profile.detect_multiplier not in (None, 3):
        yield f"detect-multiplier {profile.detect_multiplier}"
    if profile.transmit_interval_ms not in (None, 300):
        yield f"transmit-interval {profile.transmit_interval_ms}"
    if profile.receive_interval_ms not in (None, 300):
        yield f"receive-interval {profile.receive_interval_ms}"
    if profile.passive_mode:
        yield "passive-mode"
    if profile.echo_mode:
        yield "echo-mode"
        if profile.echo_interval_ms not in (None, 50):
            yield f"echo transmit-interval {profile.echo_interval_ms}"
            yield f"echo receive-interval {profile.echo_interval_ms}"
    if profile.minimum_ttl not in (None, 254):
        yield f"minimum-ttl {profile.minimum_ttl}"


def _class(number: int, each: AttributeClass) -> Iterator[Pair]:
    """The route's metric says the class; it is carried on as tag, so that it does not go out as MED."""
    entry = (f"route-map {CLASS} permit {number}",)
    what = f"description class {digest(each)}"
    # As of a `network` line: the ways over all hosts are alike to a router, whichever of the two announces.
    sets = ["set metric 0", "set origin igp", f"set tag {number}"]
    yield from _within(entry, [what, f"match metric {number}", *sets])
    yield from _within((f"route-map {NETWORK}{number} permit 10",), ["set metric 0", f"set tag {number}"])


def _toward(number: int, grant: Grant, peer: Peer) -> Iterator[str]:
    yield f"match tag {number}"
    if grant.prepend and not peer.internal:
        own = str(peer.local_asn or peer.my_asn)
        yield f"set as-path prepend {' '.join([own] * grant.prepend)}"
    if grant.communities:
        yield f"set community {' '.join(grant.communities)} additive"
    if grant.large_communities:
        yield f"set large-community {' '.join(grant.large_communities)} additive"
    if grant.local_pref:
        yield f"set local-preference {grant.local_pref}"
    if grant.med:
        yield f"set metric {grant.med}"


def _router(
    header: str, peers: Sequence[Peer], wanted: Wanted, *, version: tuple[int, int], v4: bool
) -> Iterator[Pair]:
    for router_id in sorted({peer.router_id for peer in peers if peer.router_id}):
        yield (header,), f"bgp router-id {router_id}"
    if any(peer.graceful_restart for peer in peers):
        yield (header,), "bgp graceful-restart preserve-fw-state"
    for peer in peers:
        told = _neighbor(peer, hops=_hops(peer, wanted.profiles))
        yield from _within((header,), (f"neighbor {peer.neighbor} {each}" for each in told))
    for family, ip_version in ((V4, 4), (V6, 6)):
        mine = [peer for peer in peers if ip_version in peer.versions]
        if any(carries(peer, version) for peer in mine):
            yield (header, family), _redistribute(wanted.table, version, ip_version)
        for peer in peers:
            yield from _within((header, family), _family(peer, ip_version, active=ip_version == 4 and v4))


def _redistribute(table: int, version: tuple[int, int], ip_version: int) -> str:
    if version >= TABLE_DIRECT:
        return f"redistribute table-direct {table} route-map {CLASS}"
    # No table but the main one reaches FRR 8 for IPv6.
    return f"redistribute {'kernel' if ip_version == 6 else f'table {table}'} route-map {CLASS}"


def _hops(peer: Peer, profiles: Iterable[BfdProfile]) -> int:
    """How many hops away a peer may be. By this number bgpd tells bfdd the lowest TTL to take, 256 minus it, and the
    profile's own counts no more (FRR 8.4 and 10.3).
    """
    return 256 - next((each.minimum_ttl or 1 for each in profiles if each.name == peer.bfd_profile), 1)


def _neighbor(peer: Peer, *, hops: int) -> Iterator[str]:
    remote = peer.dynamic_asn or str(peer.peer_asn)
    yield f"interface remote-as {remote}" if peer.interface else f"remote-as {remote}"
    if peer.local_asn and peer.local_asn != peer.my_asn:
        yield f"local-as {peer.local_asn} no-prepend replace-as"
    yield f"description {MARK}{peer.name}"
    if peer.bfd:
        yield "bfd"
    if peer.bfd_profile:
        yield f"bfd profile {PREFIX}{peer.bfd_profile}"
    if peer.password is not None:
        yield f"password {peer.password.value}"
    if peer.port != 179:
        yield f"port {peer.port}"
    if peer.ebgp_multi_hop:
        yield f"ebgp-multihop {hops}"
    elif peer.address is not None and peer.address.version == 6 and not peer.internal:
        yield "disable-connected-check"  # hosts with /128 addresses have no subnet to compare with
    if peer.source_address is not None:
        yield f"update-source {peer.source_address}"
    if peer.hold_time_s is not None:
        yield f"timers {peer.keepalive_time_s} {peer.hold_time_s}"
    if peer.connect_time_s is not None:
        yield f"timers connect {peer.connect_time_s}"
    if peer.dual_stack and peer.address is not None and peer.address.version == 6:
        yield "capability extended-nexthop"  # RFC 8950: IPv4 prefixes over an IPv6 session
    if peer.graceful_restart:
        yield "graceful-restart"


def _family(peer: Peer, ip_version: int, *, active: bool) -> Iterator[str]:
    """Nothing comes in, what goes out is ours. `active`: this family is on unless we say otherwise."""
    x = peer.neighbor
    if ip_version not in peer.versions:
        if active:
            yield f"no neighbor {x} activate"
        return
    if not active:
        yield f"neighbor {x} activate"
    yield f"neighbor {x} route-map {IN} in"
    yield f"neighbor {x} route-map {out_map(peer)} out"
