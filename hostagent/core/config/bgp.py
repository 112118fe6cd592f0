"""BGPPeer, BFDProfile, Community and BGPAdvertisement against each other and against pools.

Whoever was in force before keeps what it has; among new ones, the first by name. What is missing is asked for, and
heals when it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, summarize_address_range

from hostagent.core.config import schema
from hostagent.core.config.decode import Finding
from hostagent.core.config.objects import Judged
from hostagent.core.config.selectors import to_selectors
from hostagent.core.config.values import parse_duration_s
from hostagent.model.bgp import BfdProfile, BgpAdvertisement, BgpConfig, Grant, Peer, Secret
from hostagent.model.cluster import AddressRange, Family, Pool, Resource
from hostagent.model.names import InterfaceName, Labels

Key = tuple[str, str, str]

MED = "hostagent.io/med"
PREPEND = "hostagent.io/as-path-prepend"
SHUTDOWN = "hostagent.io/graceful-shutdown"
MOST_PREPENDS = 10
"""Longer paths are filtered by many networks, and by then somebody has mistyped."""

Secrets = Mapping[str, Secret | str]
"""By name; a text says why there is no password in it."""
Reach = Callable[[schema.Spec], frozenset[str]]
"""The names of the pools that an advertisement means."""


@dataclass(slots=True)
class Settled:
    """What applies of BGP, and what was found on the way."""

    peers: list[Peer] = field(default_factory=list)
    profiles: list[BfdProfile] = field(default_factory=list)
    advertisements: list[BgpAdvertisement] = field(default_factory=list)
    in_force: dict[Key, Judged] = field(default_factory=dict)
    """The BGP objects that apply, each in the version that does."""
    findings: dict[Key, list[Finding]] = field(default_factory=dict)

    @property
    def config(self) -> BgpConfig:
        return BgpConfig(
            peers=tuple(sorted(self.peers, key=lambda p: p.name)),
            bfd_profiles=tuple(sorted(self.profiles, key=lambda p: p.name)),
            advertisements=tuple(sorted(self.advertisements, key=lambda a: a.name)),
        )

    def note(self, key: Key, *findings: Finding) -> None:
        self.findings.setdefault(key, []).extend(findings)


def settle_bgp(
    in_force: Mapping[Key, Judged],
    earlier: Mapping[Key, Judged],
    *,
    reach: Reach,
    pools: Mapping[str, Pool],
    before: BgpConfig,
    secrets: Secrets | None,
) -> Settled:
    """Resolve references and settle conflicts.

    `before` is what was in force until now. Without `secrets`
    (a file is being checked) nothing is said about passwords.
    """
    settled = Settled()
    mine = sorted(key for key in in_force if isinstance(in_force[key].spec, _SHAPES))
    mine.sort(key=lambda key: not _unchanged(key, in_force, earlier))  # incumbents first, then by name
    of_kind = {kind: [key for key in mine if key[0] == kind] for kind in KINDS}

    for key in of_kind["BFDProfile"]:
        settled.profiles.append(_to_profile(in_force[key]))
        settled.in_force[key] = in_force[key]
    aliases: dict[str, tuple[str, Key]] = {}
    for key in of_kind["Community"]:
        settled.note(key, *_take_aliases(key, in_force[key], aliases))
        settled.in_force[key] = in_force[key]
    _settle_peers(of_kind["BGPPeer"], in_force, earlier, settled, secrets)
    _settle_advertisements(
        of_kind["BGPAdvertisement"], in_force, earlier, settled,
        _Ground(aliases={name: value for name, (value, _) in aliases.items()}, reach=reach, pools=pools, before=before),
    )  # fmt: skip
    known = {key[2] for key in of_kind["BGPPeer"]}
    for key in of_kind["BGPAdvertisement"]:
        settled.note(key, *_unknown_peers(in_force[key], known))
    return settled


KINDS = ("BFDProfile", "Community", "BGPPeer", "BGPAdvertisement")
_SHAPES = (schema.BFDProfile, schema.Community, schema.BGPPeer, schema.BGPAdvertisement)


def _unchanged(key: Key, in_force: Mapping[Key, Judged], earlier: Mapping[Key, Judged]) -> bool:
    return key in earlier and _same(in_force[key].resource, earlier[key].resource)


def _same(a: Resource, b: Resource) -> bool:
    return (a.api_version, a.annotations, a.spec) == (b.api_version, b.annotations, b.spec)


# --- profiles and aliases ---------------------------------------------------------------------------------------------


def _to_profile(judged: Judged) -> BfdProfile:
    spec = judged.spec
    assert isinstance(spec, schema.BFDProfile)  # noqa: S101  the key says so
    return BfdProfile(
        name=judged.resource.name,
        receive_interval_ms=spec.receive_interval,
        transmit_interval_ms=spec.transmit_interval,
        detect_multiplier=spec.detect_multiplier,
        echo_interval_ms=spec.echo_interval if spec.echo_mode else None,
        echo_mode=spec.echo_mode,
        passive_mode=spec.passive_mode,
        minimum_ttl=spec.minimum_ttl,
    )


def _take_aliases(key: Key, judged: Judged, aliases: dict[str, tuple[str, Key]]) -> Iterator[Finding]:
    spec = judged.spec
    assert isinstance(spec, schema.Community)  # noqa: S101  the key says so
    for index, alias in enumerate(spec.communities):
        value, owner = aliases.setdefault(alias.name, (alias.value, key))
        if owner != key:
            same = value == alias.value
            yield Finding(
                f"spec.communities[{index}].name",
                f'"{alias.name}" is already {value} in Community {owner[2]}'
                + ("; remove one of them" if same else ", which stays in force; give one of them another name"),
                warning=same,
            )


# --- peers ------------------------------------------------------------------------------------------------------------


def _settle_peers(
    keys: Sequence[Key],
    in_force: Mapping[Key, Judged],
    earlier: Mapping[Key, Judged],
    settled: Settled,
    secrets: Secrets | None,
) -> None:
    profiles = {profile.name for profile in settled.profiles}
    for key in keys:
        current = in_force[key]
        chosen, found = None, tuple(_missing(current, profiles, secrets))
        blocking = any(not finding.warning and finding.field == "spec.bfdProfile" for finding in found)
        settled.note(key, *found)
        if not blocking or _unchanged(key, in_force, earlier):
            chosen = current  # a profile that went away costs a session that runs its timing, not its life
        elif key in earlier and not any(f.field == "spec.bfdProfile" for f in _missing(earlier[key], profiles, None)):
            chosen = earlier[key]
        if chosen is None:
            continue
        peer = _to_peer(chosen, profiles, secrets)
        if clash := _clash(peer, settled.peers):
            settled.note(key, clash)
            before = _to_peer(earlier[key], profiles, secrets) if key in earlier else None
            if before is None or _clash(before, settled.peers):
                continue
            chosen, peer = earlier[key], before
        settled.peers.append(peer)
        settled.in_force[key] = chosen


def _missing(judged: Judged, profiles: set[str], secrets: Secrets | None) -> Iterator[Finding]:
    spec, namespace = judged.spec, judged.resource.namespace
    assert isinstance(spec, schema.BGPPeer)  # noqa: S101  the key says so
    if spec.bfd_profile and spec.bfd_profile not in profiles:
        message = f'there is no BFDProfile "{spec.bfd_profile}" in {namespace}; correct the name or create the profile'
        yield Finding("spec.bfdProfile", message)
    if secrets is not None and spec.password_secret and spec.password_secret.name:
        why = secrets.get(spec.password_secret.name)
        if isinstance(why, str):  # one that was not read yet is nobody's fault
            message = (
                f'Secret "{spec.password_secret.name}" in {namespace} {why}; '
                "until there is a password a running session keeps its own, and a new one is not begun"
            )
            yield Finding("spec.passwordSecret", message)


def _to_peer(judged: Judged, profiles: set[str], secrets: Secrets | None) -> Peer:
    spec = judged.spec
    assert isinstance(spec, schema.BGPPeer)  # noqa: S101  the key says so
    hold_s, keepalive_s = _timers(spec)
    password: Secret | None = Secret(spec.password) if spec.password else None
    kept = False
    if spec.password_secret and spec.password_secret.name:
        found = (secrets or {}).get(spec.password_secret.name)
        password, kept = (found, False) if isinstance(found, Secret) else (None, True)
    return Peer(
        name=judged.resource.name,
        my_asn=spec.my_asn,
        peer_asn=spec.peer_asn or None,
        dynamic_asn=spec.dynamic_asn,
        local_asn=spec.local_asn or None,
        address=ip_address(spec.peer_address) if spec.peer_address else None,
        interface=InterfaceName(spec.interface) if spec.interface else None,
        port=spec.peer_port or 179,
        source_address=ip_address(spec.source_address) if spec.source_address else None,
        hold_time_s=hold_s,
        keepalive_time_s=keepalive_s,
        connect_time_s=int(parse_duration_s(spec.connect_time)) if spec.connect_time is not None else None,
        router_id=spec.router_id,
        password=password,
        password_kept=kept,
        bfd=bool(spec.bfd_profile),
        bfd_profile=spec.bfd_profile if spec.bfd_profile in profiles else "",
        graceful_restart=spec.enable_graceful_restart,
        ebgp_multi_hop=spec.ebgp_multi_hop,
        vrf=spec.vrf,
        dual_stack=spec.dual_stack_address_family,
        node_selectors=to_selectors(spec.node_selectors),
    )


def _timers(spec: schema.BGPPeer) -> tuple[int | None, int | None]:
    """Hold and keepalive time in seconds, one telling the other: RFC 4271 suggests a third."""
    hold_s = int(parse_duration_s(spec.hold_time)) if spec.hold_time is not None else None
    keepalive_s = int(parse_duration_s(spec.keepalive_time)) if spec.keepalive_time is not None else None
    if hold_s is None and keepalive_s is not None:
        hold_s = 3 * keepalive_s
    if keepalive_s is None and hold_s is not None:
        keepalive_s = hold_s // 3
    return hold_s, keepalive_s


def _clash(peer: Peer, others: Sequence[Peer]) -> Finding | None:
    """Against peers that this one certainly shares a host with; `core.peering` looks at each host's own."""
    certain = [each for each in others if not each.node_selectors or not peer.node_selectors]
    return clash(peer, [each for each in certain if not (each.node_selectors and peer.node_selectors)])


def clash(peer: Peer, others: Sequence[Peer]) -> Finding | None:
    """Why this peer cannot run on a host that runs the others; None if it can."""
    for other in others:
        if other.vrf == peer.vrf and other.neighbor == peer.neighbor:
            field_name = "spec.peerAddress" if peer.address else "spec.interface"
            return Finding(
                field_name, f"{peer.neighbor} is the peer of BGPPeer {other.name} already; remove one of them"
            )
        if other.vrf == peer.vrf and other.my_asn != peer.my_asn:
            where = f"VRF {peer.vrf}" if peer.vrf else "the default VRF"
            message = (
                f"{peer.my_asn} is not the {other.my_asn} of BGPPeer {other.name}, and {where} of a host has one AS; "
                "use localASN, or select other nodes"
            )
            return Finding("spec.myASN", message)
        if other.vrf == peer.vrf and other.router_id and peer.router_id and other.router_id != peer.router_id:
            message = (
                f"{peer.router_id} is not the {other.router_id} of BGPPeer {other.name}, and a host has one; "
                "make them equal, or select other nodes"
            )
            return Finding("spec.routerID", message)
    return None


# --- advertisements ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    aliases: Mapping[str, str]
    reach: Reach
    pools: Mapping[str, Pool]
    before: BgpConfig


def _settle_advertisements(
    keys: Sequence[Key],
    in_force: Mapping[Key, Judged],
    earlier: Mapping[Key, Judged],
    settled: Settled,
    ground: _Ground,
) -> None:
    before = {ad.name: ad for ad in ground.before.advertisements}
    for key in keys:
        current = in_force[key]
        unchanged = _unchanged(key, in_force, earlier)
        ad, found = _to_advertisement(current, ground)
        if ad is None and unchanged and key[2] in before:
            ad = before[key[2]]  # an alias that went away does not take a community, or the prefix, with it
        if ad is not None and (conflict := _contradiction(ad, settled.advertisements, ground.pools)):
            found, ad = [*found, conflict], None
        settled.note(key, *found)
        if ad is None and key in earlier and not unchanged:
            ad, _ = _to_advertisement(earlier[key], ground)
            current = earlier[key]
            if ad is not None and _contradiction(ad, settled.advertisements, ground.pools):
                ad = None
        if ad is not None:
            settled.advertisements.append(ad)
            settled.in_force[key] = current


def _to_advertisement(judged: Judged, ground: _Ground) -> tuple[BgpAdvertisement | None, list[Finding]]:
    spec, annotations = judged.spec, judged.resource.annotations
    assert isinstance(spec, schema.BGPAdvertisement)  # noqa: S101  the key says so
    findings: list[Finding] = []
    communities: set[str] = set()
    for index, text in enumerate(spec.communities):
        value = text if ":" in text else ground.aliases.get(text)
        if value is None:
            message = f'no Community in {judged.resource.namespace} explains "{text}"; correct the name or create it'
            findings.append(Finding(f"spec.communities[{index}]", message))
        else:
            communities.add(_canonical(value))
    findings += check_annotations(annotations)
    if findings:
        return None, findings
    reached = ground.reach(spec) & ground.pools.keys()
    narrow = {name: finding for name in sorted(reached) if (finding := _too_wide(spec, ground.pools[name]))}
    findings += narrow.values()
    if narrow and not reached - narrow.keys():
        return None, findings
    return BgpAdvertisement(
        name=judged.resource.name,
        pools=reached - narrow.keys(),
        aggregation_length=spec.aggregation_length,
        aggregation_length_v6=spec.aggregation_length_v6,
        grant=Grant(
            peers=tuple(sorted(spec.peers)),
            communities=_sorted(c for c in communities if not c.startswith("large:")),
            large_communities=_sorted(c.removeprefix("large:") for c in communities if c.startswith("large:")),
            local_pref=spec.local_pref,
            med=int(annotations.get(MED, "0")),
            prepend=int(annotations.get(PREPEND, "0")),
        ),
        graceful_shutdown=annotations.get(SHUTDOWN, "true") == "true",
        node_selectors=to_selectors(spec.node_selectors),
        service_selectors=to_selectors(spec.service_selectors),
    ), findings


def _unknown_peers(judged: Judged, known: set[str]) -> Iterator[Finding]:
    spec, namespace = judged.spec, judged.resource.namespace
    assert isinstance(spec, schema.BGPAdvertisement)  # noqa: S101  the key says so
    nothing = ", so this advertises to nobody" if spec.peers and not known & set(spec.peers) else ""
    for index, name in enumerate(spec.peers):
        if name not in known:
            message = f'there is no BGPPeer "{name}" in {namespace}{nothing}; correct the name or create the peer'
            yield Finding(f"spec.peers[{index}]", message, warning=True)


def check_annotations(annotations: Labels) -> Iterator[Finding]:
    """Our extensions, written as annotations on a BGPAdvertisement."""
    for name, most in ((MED, 4_294_967_295), (PREPEND, MOST_PREPENDS)):
        text = annotations.get(name, "0")
        if not (text.isascii() and text.isdigit()) or int(text) > most:
            yield Finding(f"metadata.annotations[{name}]", f'"{text}" is not a number from 0 to {most}; correct it')
    if (text := annotations.get(SHUTDOWN, "true")) not in ("true", "false"):
        yield Finding(f"metadata.annotations[{SHUTDOWN}]", f'is "{text}"; write "true" or "false"')


def _canonical(community: str) -> str:
    """Numbers without leading zeros, as FRR prints them."""
    head = "large:" if community.startswith("large:") else ""
    return head + ":".join(str(int(part)) for part in community.removeprefix("large:").split(":"))


def _sorted(communities: Iterator[str]) -> tuple[str, ...]:
    return tuple(sorted(communities, key=lambda c: tuple(map(int, c.split(":")))))


def _too_wide(spec: schema.BGPAdvertisement, pool: Pool) -> Finding | None:
    """An aggregate must lie within an entry of the pool, or it would draw traffic for addresses of others."""
    for addresses in pool.ranges:
        v4 = addresses.first.version == 4
        length, name = (
            (spec.aggregation_length, "aggregationLength")
            if v4
            else (spec.aggregation_length_v6, "aggregationLengthV6")
        )
        if length < (widest := _widest(addresses)):
            message = (
                f"/{length} is wider than {addresses} of IPAddressPool {pool.name}, so it would attract traffic for "
                f"addresses that are not in it; write at least {widest}. This pool is not advertised"
            )
            return Finding(f"spec.{name}", message)
    return None


def _widest(addresses: AddressRange) -> int:
    return min(network.prefixlen for network in summarize_address_range(addresses.first, addresses.last))


def _contradiction(
    ad: BgpAdvertisement, others: Sequence[BgpAdvertisement], pools: Mapping[str, Pool]
) -> Finding | None:
    """Two advertisements that certainly meet at one prefix, one peer and one host, and give it different values.

    With service or node selectors on both it depends on Services and nodes: `core.advertise` looks at each prefix.
    """
    if ad.service_selectors:
        return None
    for other in others:
        if other.service_selectors or (
            ad.node_selectors and other.node_selectors and ad.node_selectors != other.node_selectors
        ):
            continue
        shared = [name for name in sorted(ad.pools & other.pools) if _meet(ad, other, pools[name])]
        if shared and (what := contradicts(ad.grant, other.grant)):
            field_name, mine, its = what
            message = (
                f"{mine} contradicts {its} of BGPAdvertisement {other.name} for IPAddressPool {shared[0]}; "
                "make them equal, or name different peers, nodes or aggregation lengths"
            )
            return Finding(field_name, message)
    return None


def _meet(a: BgpAdvertisement, b: BgpAdvertisement, pool: Pool) -> bool:
    """Whether both announce the same prefixes of this pool."""
    families = {Family.V4 if r.first.version == 4 else Family.V6 for r in pool.ranges}
    v4 = Family.V4 in families and a.aggregation_length == b.aggregation_length
    return v4 or (Family.V6 in families and a.aggregation_length_v6 == b.aggregation_length_v6)


def contradicts(a: Grant, b: Grant) -> tuple[str, int, int] | None:
    """Where two grants reach one peer with different values: the field, a's and b's value. Communities just add up."""
    if a.peers and b.peers and not set(a.peers) & set(b.peers):
        return None
    for name, mine, its in (
        ("spec.localPref", a.local_pref, b.local_pref),
        (f"metadata.annotations[{MED}]", a.med, b.med),
        (f"metadata.annotations[{PREPEND}]", a.prepend, b.prepend),
    ):
        if mine != its:
            return name, mine, its
    return None
