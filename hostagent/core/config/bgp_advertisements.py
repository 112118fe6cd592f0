"""BGPAdvertisement beside aliases and pools: what it grants, and when two of them cannot both apply."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import summarize_address_range

from hostagent.core.config import schema
from hostagent.core.config.decode import Finding
from hostagent.core.config.objects import Judged
from hostagent.core.config.selectors import to_selectors
from hostagent.model.bgp import BgpAdvertisement, BgpConfig, Grant
from hostagent.model.cluster import AddressRange, Family, Pool
from hostagent.model.names import Labels

MED = "hostagent.io/med"
PREPEND = "hostagent.io/as-path-prepend"
SHUTDOWN = "hostagent.io/graceful-shutdown"
MOST_PREPENDS = 10
"""Longer paths are filtered by many networks, and by then somebody has mistyped."""

Reach = Callable[[schema.Spec], frozenset[str]]
"""The names of the pools that an advertisement means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    aliases: Mapping[str, str]
    reach: Reach
    pools: Mapping[str, Pool]
    before: BgpConfig


def to_advertisement(judged: Judged, ground: Ground) -> tuple[BgpAdvertisement | None, list[Finding]]:
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


def unknown_peers(judged: Judged, known: set[str]) -> Iterator[Finding]:
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


def contradiction(
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
