"""Custom resources into one configuration, object by object.

A faulty object is set aside with its reason and everything else applies. Where an earlier version of it was good, that
version stays in force, so that a typo in an edit changes nothing that works. Rules between objects follow the same
idea: whoever was good before keeps what it has. What heals by itself (a pool that comes later) needs no act here: the
set is built anew from all resources whenever one of them changes.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from hostagent.core.config import schema
from hostagent.core.config.advertisements import to_l2_advertisement
from hostagent.core.config.bgp import KINDS as BGP_KINDS
from hostagent.core.config.bgp import Secrets, settle_bgp
from hostagent.core.config.decode import Finding
from hostagent.core.config.objects import STATUS_KINDS, Judged, fault, is_ours, judge
from hostagent.core.config.pools import to_pool
from hostagent.core.config.selectors import to_selectors
from hostagent.core.config.switches import PARTNER
from hostagent.model.bgp import BgpConfig
from hostagent.model.cluster import AddressRange, ConfigSet, Fault, L2Advertisement, Pool, Resource, any_matches
from hostagent.model.names import Labels

Key = tuple[str, str, str]

KEPT = "; until then the version before this edit stays in force"


def build(
    resources: Iterable[Resource],
    *,
    namespace: str,
    previous: ConfigSet | None = None,
    secrets: Secrets | None = None,
) -> ConfigSet:
    """Build the configuration that these resources describe. Never fails: what is wrong becomes a fault.

    Promises: the order of `resources` does not matter (where one object is given twice, the last is taken); building
    again on top of the result changes nothing; an object without error is never worse off for another one's error.
    Among pools that overlap, the one that was in force before wins; among new ones, the first by name.

    Resources of other groups are passed over. Those of ours outside `namespace` are ignored with a warning. Without
    `secrets` nothing is said about passwords.
    """
    ours = {resource.key: resource for resource in resources if is_ours(resource)}
    current = {key: judge(ours[key]) for key in sorted(ours) if key[0] not in STATUS_KINDS and key[1] == namespace}
    good = previous.good if previous else ()
    earlier = {resource.key: judge(resource) for resource in good if resource.key in current}

    found: dict[Key, list[Fault]] = {key: list(judged.faults) for key, judged in current.items()}
    in_force = {key: judged for key in current if (judged := _usable(current[key], earlier.get(key)))}

    pools, clashes = _settle_pools(_pools(current), _pools(earlier))
    for key in [key for key in in_force if key[0] == "IPAddressPool" and key not in pools]:
        del in_force[key]
    in_force |= {key: holding.judged for key, holding in pools.items()}
    _note(found, current, clashes)

    known = {
        key[2]: pools[key].pool.labels if key in pools else ours[key].labels for key in _of(current, "IPAddressPool")
    }
    for key in (*_of(current, "L2Advertisement"), *_of(current, "BGPAdvertisement")):
        findings = list(_dangling(current[key].spec, known, namespace))
        _note(found, current, {key: findings})
        if any(not finding.warning for finding in findings):
            before = earlier.get(key)
            if before and _reach(before.spec, known):
                in_force[key] = before
            else:
                in_force.pop(key, None)

    bgp = settle_bgp(
        in_force,
        earlier,
        reach=lambda spec: _reach(spec, known),
        pools={key[2]: pools[key].pool for key in pools},
        before=previous.bgp if previous else BgpConfig(),
        secrets=secrets,
    )
    for key in [key for key in in_force if key[0] in BGP_KINDS]:
        del in_force[key]
    in_force |= bgp.in_force
    _note(found, current, bgp.findings)

    advertised = {key: _reach(in_force[key].spec, known) for key in in_force if key[0].endswith("Advertisement")}
    covered = frozenset().union(*advertised.values())
    _note(found, current, {key: _unadvertised(key[2], covered) for key in pools})
    by_name = {key[2]: pools[key].pool for key in pools}
    _note(found, current, {key: _unpaired(pools[key].pool, by_name, namespace) for key in pools})

    return ConfigSet(
        pools=tuple(pools[key].pool for key in sorted(pools)),
        l2_advertisements=tuple(_l2_advertisements(in_force, advertised, frozenset(key[2] for key in pools))),
        bgp=bgp.config,
        faults=(*_elsewhere(ours.values(), namespace), *_told(found, current, in_force)),
        good=tuple(in_force[key].resource for key in sorted(in_force)),
    )


def same_content(a: Resource, b: Resource) -> bool:
    """Whether two versions of an object say the same: a new resource version or status alone is no edit."""
    return (a.api_version, a.labels, a.annotations, a.spec) == (b.api_version, b.labels, b.annotations, b.spec)


# --- one object: the version that applies -----------------------------------------------------------------------------


def _usable(current: Judged, earlier: Judged | None) -> Judged | None:
    if current.spec is not None:
        return current
    return earlier if earlier and earlier.spec is not None else None


def _told(
    found: Mapping[Key, list[Fault]], current: Mapping[Key, Judged], in_force: Mapping[Key, Judged]
) -> Iterator[Fault]:
    """The faults, each error saying so where an earlier version of its object applies in its stead."""
    for key in sorted(found):
        applied = in_force.get(key)
        kept = applied is not None and not same_content(applied.resource, current[key].resource)
        for each in found[key]:
            yield replace(each, message=each.message + KEPT) if kept and not each.warning else each


def _elsewhere(resources: Iterable[Resource], namespace: str) -> Iterator[Fault]:
    for resource in sorted(resources, key=lambda r: r.key):
        if resource.namespace != namespace and resource.kind not in STATUS_KINDS:
            message = (
                f'"{resource.namespace}" is not the configuration namespace, so this object is ignored; '
                f"create it in {namespace}"
            )
            yield fault(resource, Finding("metadata.namespace", message, warning=True))


def _note(
    found: dict[Key, list[Fault]], current: Mapping[Key, Judged], findings: Mapping[Key, Iterable[Finding]]
) -> None:
    for key, each in findings.items():
        found[key].extend(fault(current[key].resource, finding) for finding in each)


def _of(judged: Mapping[Key, Judged], kind: str) -> tuple[Key, ...]:
    return tuple(key for key in judged if key[0] == kind)


# --- pools against each other -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Holding:
    """A version of a pool that is good by itself."""

    judged: Judged
    spec: schema.IPAddressPool
    pool: Pool


class _Ground:
    """Which addresses are taken, by which pool; ranges in it never overlap."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int, float, str, str]] = []
        """Family, first and last address; then the pool and the entry as written."""

    def take(self, holding: _Holding) -> None:
        for text, r in zip(holding.spec.addresses, holding.pool.ranges, strict=True):
            bisect.insort(self._taken, (r.first.version, int(r.first), int(r.last), holding.pool.name, text))

    def clashes(self, holding: _Holding) -> Iterator[Finding]:
        for index, (text, addresses) in enumerate(zip(holding.spec.addresses, holding.pool.ranges, strict=True)):
            if taken := self._taken_of(addresses):
                other, its_text = taken
                message = f'"{text}" overlaps "{its_text}" of IPAddressPool {other}; leave each address to one pool'
                yield Finding(f"spec.addresses[{index}]", message)

    def _taken_of(self, addresses: AddressRange) -> tuple[str, str] | None:
        """As nothing in the ground overlaps, only the last range that starts before our end can."""
        version: int = addresses.first.version
        start, end = int(addresses.first), int(addresses.last)
        at = bisect.bisect_right(self._taken, (version, end, float("inf"), "", ""))
        if at == 0:
            return None
        its_version, _, its_end, name, text = self._taken[at - 1]
        return (name, text) if its_version == version and its_end >= start else None


_Holdings = dict[Key, _Holding]
_Clashes = dict[Key, tuple[Finding, ...]]


def _pools(judged: Mapping[Key, Judged]) -> _Holdings:
    return {
        key: _Holding(each, each.spec, to_pool(each.resource, each.spec))
        for key, each in judged.items()
        if isinstance(each.spec, schema.IPAddressPool)
    }


def _settle_pools(current: _Holdings, earlier: _Holdings) -> tuple[_Holdings, _Clashes]:
    """Say which version of which pool applies, and why each of the others does not.

    Repeated until nothing changes, so that the same resources give the same answer next time: a version once taken
    stays taken, hence there are at most as many rounds as pools.
    """
    while True:
        settled, clashes = _settle_once(current, earlier)
        if {key: each.judged.resource for key, each in settled.items()} == {
            key: each.judged.resource for key, each in earlier.items()
        }:
            return settled, clashes
        earlier = settled


def _settle_once(current: _Holdings, earlier: _Holdings) -> tuple[_Holdings, _Clashes]:
    """First come those whose version in force is not being replaced, then new versions and new pools by name.

    A new version that loses leaves its pool with the earlier one, which was there before all that is new: so the
    round starts again with that one among the first.
    """
    coming = sorted(
        key
        for key, holding in current.items()
        if key not in earlier or not same_content(holding.judged.resource, earlier[key].judged.resource)
    )
    lost: _Clashes = {}
    while True:
        settled = {
            key: current.get(key, holding) if key not in coming else holding
            for key, holding in earlier.items()
            if key not in coming or key in lost
        }
        ground = _Ground()
        for holding in settled.values():
            ground.take(holding)
        clashes: _Clashes = {}
        for key in coming:
            if key in settled:
                continue
            if found := tuple(ground.clashes(current[key])):
                clashes[key] = found
            else:
                settled[key] = current[key]
                ground.take(current[key])
        falling = {key: found for key, found in clashes.items() if key in earlier}
        if not falling:  # what is told names the versions in force, where those are in the way
            told = {key: tuple(ground.clashes(current[key])) or found for key, found in lost.items()}
            return settled, clashes | told
        lost |= falling


# --- advertisements against pools -------------------------------------------------------------------------------------


def _reach(spec: schema.Spec | None, pools: Mapping[str, Labels]) -> frozenset[str]:
    """The pools that an advertisement means: named or selected; all of them only where it neither names nor selects."""
    if not isinstance(spec, schema.L2Advertisement | schema.BGPAdvertisement):
        return frozenset()
    if not spec.ip_address_pools and not spec.ip_address_pool_selectors:
        return frozenset(pools)
    named = frozenset(spec.ip_address_pools) & pools.keys()
    selectors = to_selectors(spec.ip_address_pool_selectors)
    return named | {name for name, labels in pools.items() if selectors and any_matches(selectors, labels)}


def _dangling(spec: schema.Spec | None, pools: Mapping[str, Labels], namespace: str) -> Iterator[Finding]:
    """What an advertisement means but does not find: an error if it finds nothing at all, for then it does nothing."""
    if not isinstance(spec, schema.L2Advertisement | schema.BGPAdvertisement):
        return
    nothing = not _reach(spec, pools) and bool(spec.ip_address_pools or spec.ip_address_pool_selectors)
    so = ", so this advertises nothing" if nothing else ""
    for index, name in enumerate(spec.ip_address_pools):
        if name not in pools:
            message = f'there is no IPAddressPool "{name}" in {namespace}{so}; correct the name or create the pool'
            yield Finding(f"spec.ipAddressPools[{index}]", message, warning=not nothing)
    if nothing and not spec.ip_address_pools:
        message = f"no IPAddressPool in {namespace} has such labels{so}; correct the selectors or label a pool"
        yield Finding("spec.ipAddressPoolSelectors", message)


def _unadvertised(pool: str, covered: frozenset[str]) -> Iterator[Finding]:
    if pool not in covered:
        message = (
            "no L2Advertisement or BGPAdvertisement includes this pool, so no host answers for its addresses; add one"
        )
        yield Finding("metadata.name", message, warning=True)


def _unpaired(pool: Pool, pools: Mapping[str, Pool], namespace: str) -> Iterator[Finding]:
    """A partner that cannot give the other family: it may come or change later, so this is no error."""
    field, partner = f"metadata.annotations[{PARTNER}]", pools.get(pool.partner)
    if not pool.partner:
        return
    if pool.partner == pool.name:
        yield Finding(field, "names this pool itself; name the one that has the other family", warning=True)
    elif partner is None:
        message = f'there is no IPAddressPool "{pool.partner}" in {namespace}; correct the name or create the pool'
        yield Finding(field, message, warning=True)
    elif not partner.families - pool.families and not pool.families - partner.families:
        message = f"IPAddressPool {partner.name} has the same families as this one, so neither adds to the other"
        yield Finding(field, message, warning=True)


def _l2_advertisements(
    in_force: Mapping[Key, Judged], reach: Mapping[Key, frozenset[str]], pools: frozenset[str]
) -> Iterator[L2Advertisement]:
    for key in sorted(in_force):
        judged = in_force[key]
        if isinstance(judged.spec, schema.L2Advertisement):
            yield to_l2_advertisement(judged.resource, judged.spec, reach[key] & pools)
