"""IPAddressPool: what one object alone can tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostagent.core.config import schema
from hostagent.core.config.decode import Finding
from hostagent.core.config.selectors import check_selectors, to_selectors
from hostagent.core.config.switches import switches_of
from hostagent.core.config.values import never_answered, parse_range, repeated
from hostagent.model.cluster import AddressRange, Pool, Resource, ServiceAllocation


def check_pool(spec: schema.IPAddressPool) -> Iterator[Finding]:
    """Find what is wrong in the pool itself; overlaps with other pools are for the whole configuration to find."""
    if not spec.addresses:
        yield Finding("spec.addresses", "is empty; add at least one CIDR or range, such as 192.0.2.0/24")
    good: list[tuple[int, AddressRange]] = []
    for index, text in enumerate(spec.addresses):
        field = f"spec.addresses[{index}]"
        try:
            addresses = parse_range(text)
        except ValueError as exc:
            yield Finding(field, str(exc))
            continue
        good.append((index, addresses))
        if why := never_answered(addresses):
            yield Finding(field, f'"{text}" holds addresses that no client can reach: {why}', warning=True)
    yield from _overlaps(spec.addresses, good)
    if allocation := spec.service_allocation:
        field = "spec.serviceAllocation"
        yield from repeated(allocation.namespaces, f"{field}.namespaces")
        yield from check_selectors(allocation.namespace_selectors, f"{field}.namespaceSelectors")
        yield from check_selectors(allocation.service_selectors, f"{field}.serviceSelectors")


def to_pool(resource: Resource, spec: schema.IPAddressPool) -> Pool:
    """The pool that a spec without errors describes; its ranges are in the order of `spec.addresses`."""
    switches = switches_of(resource.annotations)
    return Pool(
        name=resource.name,
        labels=resource.labels,
        ranges=tuple(parse_range(text) for text in spec.addresses),
        auto_assign=spec.auto_assign,
        avoid_buggy_ips=spec.avoid_buggy_ips,
        allocation=_to_allocation(spec.service_allocation) if spec.service_allocation else None,
        exclusive=switches.exclusive,
        sharing_within_namespace=switches.sharing_within_namespace,
        partner=switches.partner,
        quarantine_s=switches.quarantine_s,
        allow_overlap=switches.allow_overlap,
    )


def _to_allocation(allocation: schema.ServiceAllocation) -> ServiceAllocation:
    return ServiceAllocation(
        priority=allocation.priority,
        namespaces=frozenset(allocation.namespaces),
        namespace_selectors=to_selectors(allocation.namespace_selectors),
        service_selectors=to_selectors(allocation.service_selectors),
    )


def _overlaps(texts: Sequence[str], ranges: Sequence[tuple[int, AddressRange]]) -> Iterator[Finding]:
    """One finding for each entry that shares an address with an entry before it in address order.

    In address order it suffices to remember the entry that reaches furthest, so a long list stays cheap.
    """
    furthest: tuple[int, AddressRange] | None = None
    for index, addresses in sorted(ranges, key=lambda r: (r[1].first.version, int(r[1].first), r[0])):
        if furthest and addresses.first in furthest[1]:
            early, late = sorted((index, furthest[0]))
            yield Finding(
                f"spec.addresses[{late}]",
                f'"{texts[late]}" overlaps "{texts[early]}" (spec.addresses[{early}]) of the same pool; '
                "remove one of them or make them apart",
            )
        if (
            furthest is None
            or addresses.last.version != furthest[1].last.version
            or (int(addresses.last) > int(furthest[1].last))
        ):
            furthest = (index, addresses)
