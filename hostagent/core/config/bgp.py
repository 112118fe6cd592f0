"""BGPPeer, BFDProfile, Community and BGPAdvertisement against each other and against pools.

Whoever was in force before keeps what it has; among new ones, the first by name. What is missing is asked for, and
heals when it comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from hostagent.core.config import schema
from hostagent.core.config.bgp_advertisements import Ground, Reach, contradiction, to_advertisement, unknown_peers
from hostagent.core.config.decode import Finding
from hostagent.core.config.objects import Judged
from hostagent.core.config.selectors import to_selectors
from hostagent.core.config.values import parse_duration_s
from hostagent.model.bgp import BfdProfile, BgpAdvertisement, BgpConfig, Peer, Secret
from hostagent.model.cluster import Pool, Resource
from hostagent.model.names import InterfaceName

Key = tuple[str, str, str]

Secrets = Mapping[str, Secret | str]
"""By name; a text says why there is no password in it."""


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
        Ground(aliases={name: value for name, (value, _) in aliases.items()}, reach=reach, pools=pools, before=before),
    )  # fmt: skip
    known = {key[2] for key in of_kind["BGPPeer"]}
    for key in of_kind["BGPAdvertisement"]:
        settled.note(key, *unknown_peers(in_force[key], known))
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


def _settle_advertisements(
    keys: Sequence[Key],
    in_force: Mapping[Key, Judged],
    earlier: Mapping[Key, Judged],
    settled: Settled,
    ground: Ground,
) -> None:
    before = {ad.name: ad for ad in ground.before.advertisements}
    for key in keys:
        current = in_force[key]
        unchanged = _unchanged(key, in_force, earlier)
        ad, found = to_advertisement(current, ground)
        if ad is None and unchanged and key[2] in before:
            ad = before[key[2]]  # an alias that went away does not take a community, or the prefix, with it
        if ad is not None and (conflict := contradiction(ad, settled.advertisements, ground.pools)):
            found, ad = [*found, conflict], None
        settled.note(key, *found)
        if ad is None and key in earlier and not unchanged:
            ad, _ = to_advertisement(earlier[key], ground)
            current = earlier[key]
            if ad is not None and contradiction(ad, settled.advertisements, ground.pools):
                ad = None
        if ad is not None:
            settled.advertisements.append(ad)
            settled.in_force[key] = current
