"""L2Advertisement and BGPAdvertisement: what one object alone can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hostagent.core.config import schema
from hostagent.core.config.decode import Finding
from hostagent.core.config.selectors import check_selector, check_selectors, to_selector, to_selectors
from hostagent.core.config.values import check_community, repeated
from hostagent.model.cluster import L2Advertisement, Preference, Resource
from hostagent.model.names import InterfaceName

_INTERFACE = re.compile(r"[^/:\s]{1,15}")
"""The kernel's dev_valid_name(): 15 characters (IFNAMSIZ less one), no slash, colon or white space."""


def check_l2_advertisement(spec: schema.L2Advertisement) -> Iterator[Finding]:
    yield from _check_scope(spec)
    for index, name in enumerate(spec.interfaces):
        field = f"spec.interfaces[{index}]"
        if not _INTERFACE.fullmatch(name) or name in (".", ".."):
            yield Finding(field, f'"{name}" can be no interface; write a name as `ip link` shows it', warning=True)
        elif any(sign in name for sign in "*?["):
            message = f'"{name}" is taken literally, not as a pattern; list the interfaces one by one'
            yield Finding(field, message, warning=True)
    for index, preferred in enumerate(spec.preferred_node_selectors):
        yield from check_selector(preferred.preference, f"spec.preferredNodeSelectors[{index}].preference")


def to_l2_advertisement(resource: Resource, spec: schema.L2Advertisement, pools: frozenset[str]) -> L2Advertisement:
    """The advertisement that a spec without errors describes, for the pools that it was found to mean."""
    return L2Advertisement(
        name=resource.name,
        pools=pools,
        node_selectors=to_selectors(spec.node_selectors),
        service_selectors=to_selectors(spec.service_selectors),
        interfaces=frozenset(map(InterfaceName, spec.interfaces)),
        preferences=tuple(
            Preference(weight=each.weight, selector=to_selector(each.preference))
            for each in spec.preferred_node_selectors
        ),
    )


def check_bgp_advertisement(spec: schema.BGPAdvertisement) -> Iterator[Finding]:
    yield from _check_scope(spec)
    yield from repeated(spec.peers, "spec.peers")
    yield from _check_communities(spec.communities)
    if spec.service_selectors and (spec.aggregation_length != 32 or spec.aggregation_length_v6 != 128):
        yield Finding(
            "spec.serviceSelectors",
            "cannot be combined with aggregationLength or aggregationLengthV6, because one aggregate speaks for "
            "Services that the selectors may tell apart; remove either",
        )


def _check_scope(spec: schema.L2Advertisement | schema.BGPAdvertisement) -> Iterator[Finding]:
    yield from repeated(spec.ip_address_pools, "spec.ipAddressPools")
    yield from check_selectors(spec.ip_address_pool_selectors, "spec.ipAddressPoolSelectors")
    yield from check_selectors(spec.node_selectors, "spec.nodeSelectors")
    yield from check_selectors(spec.service_selectors, "spec.serviceSelectors")


def _check_communities(communities: Sequence[str]) -> Iterator[Finding]:
    """Check those written as numbers; a word is an alias, which a Community object explains."""
    yield from repeated(communities, "spec.communities")
    for index, text in enumerate(communities):
        if ":" in text:
            try:
                check_community(text)
            except ValueError as exc:
                yield Finding(f"spec.communities[{index}]", str(exc))
