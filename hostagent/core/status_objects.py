"""What a host, and the allocator, tell in status objects: the facts in, the objects as they should be out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from hostagent.model.cluster import ConfigSet, Family, Fault, Pool, family_of
from hostagent.model.names import IP, InterfaceName, NodeName, ServiceKey
from hostagent.model.status_objects import NODE_LABEL, STATE_NODE_LABEL, StatusObject

INT64_MAX = 2**63 - 1
"""An IPv6 pool may have more addresses than the field can say."""
POOL_KINDS = ("IPAddressPool", "Community")
"""What the allocator's verdict is about, as MetalLB's controller's was."""


def object_name(prefix: str, node: NodeName, service: ServiceKey) -> str:
    """One name per node and Service, so that an object made twice is one object: `l2-3f2c…`."""
    digest = hashlib.sha256(f"{node}/{service}".encode()).hexdigest()
    return f"{prefix}-{digest[:16]}"


def service_labels(node: NodeName, service: ServiceKey) -> dict[str, str]:
    """By which people and tools find a ServiceL2Status or ServiceBGPStatus; MetalLB's."""
    return {
        NODE_LABEL: node,
        "metallb.io/service-name": service.name,
        "metallb.io/service-namespace": service.namespace,
    }


def l2_statuses(node: NodeName, answered: Mapping[ServiceKey, Collection[InterfaceName]]) -> Iterator[StatusObject]:
    """A ServiceL2Status for each Service that this host answers for, and on which interfaces."""
    for service, interfaces in answered.items():
        status = {
            "node": node,
            "serviceName": service.name,
            "serviceNamespace": service.namespace,
            "interfaces": [{"name": name} for name in sorted(interfaces)],
        }
        yield StatusObject(name=object_name("l2", node, service), labels=service_labels(node, service), status=status)


def bgp_status_name(node: NodeName, service: ServiceKey) -> str:
    """Of its ServiceBGPStatus."""
    return object_name("bgp", node, service)


def bgp_statuses(node: NodeName, heard_by: Mapping[ServiceKey, Collection[str]]) -> Iterator[StatusObject]:
    """A ServiceBGPStatus for each Service that this host advertises: to which peers, whether their sessions are up or
    not.
    """
    for service, peers in heard_by.items():
        status = {
            "node": node,
            "serviceName": service.name,
            "serviceNamespace": service.namespace,
            "peers": sorted(peers),
        }
        yield StatusObject(name=bgp_status_name(node, service), labels=service_labels(node, service), status=status)


def host_state(node: NodeName, faults: Iterable[Fault]) -> StatusObject:
    """What this host thinks of the configuration. Warnings are none of its business: what they are about works."""
    errors = [fault for fault in faults if not fault.warning]
    return _state(
        f"speaker-{node}",
        {"metallb.io/component-type": "speaker", STATE_NODE_LABEL: node},
        "configReconcilerValid",
        errors,
    )


def allocator_state(faults: Iterable[Fault]) -> StatusObject:
    """What the allocator thinks of what it allocates by."""
    errors = [fault for fault in faults if not fault.warning and fault.kind in POOL_KINDS]
    return _state("controller", {"metallb.io/component-type": "controller"}, "poolReconcilerValid", errors)


def _state(name: str, labels: dict[str, str], condition: str, errors: Collection[Fault]) -> StatusObject:
    summary = "\n".join(sorted({str(fault) for fault in errors}))
    verdict = {
        "type": condition,
        "status": "False" if errors else "True",
        "reason": "ConfigurationError" if errors else "Reconciled",
        "message": _shortened(summary),
    }
    status = {
        "result": "Invalid" if errors else "Valid",
        "errorSummary": _shortened(summary),
        "conditions": [verdict],
    }
    return StatusObject(name=name, labels=labels, status=status)


def _shortened(text: str) -> str:
    """A condition's message takes 32 768 characters."""
    return text if len(text) <= 32_000 else f"{text[:32_000]}…"


def pool_statuses(config: ConfigSet, in_use: AbstractSet[IP]) -> Iterator[StatusObject]:
    """The counters of every pool; an address that several Services share counts once."""
    used = {pool.name: dict.fromkeys(Family, 0) for pool in config.pools}
    for ip in in_use:
        pool = config.pool_of(ip)
        if pool is not None:
            used[pool.name][family_of(ip)] += 1
    for pool in config.pools:
        assigned = used[pool.name]
        usable = {family: _usable(pool, family) for family in Family}
        status = {
            f"{word}{family}": min(INT64_MAX, count)
            for family in Family
            for word, count in (
                ("assigned", assigned[family]),
                ("available", max(0, usable[family] - assigned[family])),
            )
        }
        yield StatusObject(name=pool.name, status=status)


def _usable(pool: Pool, family: Family) -> int:
    total = 0
    for each in pool.ranges:
        if family_of(each.first) is family:
            first, last = int(each.first), int(each.last)
            total += last - first + 1
            if pool.avoid_buggy_ips and family is Family.V4:
                total -= _endings(last) - _endings(first - 1)
    return total


def _endings(last: int) -> int:
    """How many numbers from 0 to `last` end in .0 or .255."""
    return (last // 256 + 1) + (last + 1) // 256
