"""One custom resource, judged alone: its spec once decoded, and what was found on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from hostagent.core.config import advertisements, peers, pools, schema, switches
from hostagent.core.config.decode import Finding, decode
from hostagent.model.cluster import Fault, Resource
from hostagent.model.names import Labels

GROUP = "metallb.io"
STATUS_KINDS = frozenset({"ServiceL2Status", "ServiceBGPStatus", "ConfigurationState"})
"""Written by agents, read by people: no configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    versions: tuple[str, ...]
    shape: type[schema.Spec]
    check: Callable[[Any], Iterator[Finding]]
    check_annotations: Callable[[Labels, Any], Iterator[Finding]] | None = None


_KINDS = {
    "IPAddressPool": _Kind(
        versions=("v1beta1",),
        shape=schema.IPAddressPool,
        check=pools.check_pool,
        check_annotations=switches.check_switches,
    ),
    "L2Advertisement": _Kind(
        versions=("v1beta1",), shape=schema.L2Advertisement, check=advertisements.check_l2_advertisement
    ),
    "BGPAdvertisement": _Kind(
        versions=("v1beta1",), shape=schema.BGPAdvertisement, check=advertisements.check_bgp_advertisement
    ),
    "BGPPeer": _Kind(versions=("v1beta2", "v1beta1"), shape=schema.BGPPeer, check=peers.check_bgp_peer),
    "BFDProfile": _Kind(versions=("v1beta1",), shape=schema.BFDProfile, check=peers.check_bfd_profile),
    "Community": _Kind(versions=("v1beta1",), shape=schema.Community, check=peers.check_communities),
}
KINDS = tuple(_KINDS)
"""The kinds of the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A resource with what could be told from it alone."""

    resource: Resource
    spec: schema.Spec | None
    """None: set aside, and at least one of the faults says why."""
    faults: tuple[Fault, ...] = ()


def is_ours(resource: Resource) -> bool:
    """Whether this is of the group that we serve, whatever its kind."""
    return resource.api_version.partition("/")[0] == GROUP


def judge(resource: Resource) -> Judged:
    """Decode one resource and check what needs no other; an error sets it aside, a warning does not."""
    kind = _KINDS.get(resource.kind)
    if kind is None:
        return _refused(resource, Finding("kind", f"there is no {resource.kind} in {GROUP}; write one of {_listed()}"))
    version = resource.api_version.removeprefix(f"{GROUP}/")
    if version not in kind.versions:
        served = f"{GROUP}/{kind.versions[0]}"
        return _refused(resource, Finding("apiVersion", f'"{resource.api_version}" is not served; write {served}'))
    spec = decode(resource.spec, cast("type[Any]", kind.shape))
    if isinstance(spec, Finding):
        return _refused(resource, spec)
    findings = list(kind.check(spec))
    if kind.check_annotations is not None:
        findings += kind.check_annotations(resource.annotations, spec)
    refused = any(not finding.warning for finding in findings)
    return Judged(
        resource=resource,
        spec=None if refused else spec,
        faults=tuple(fault(resource, finding) for finding in findings),
    )


def fault(resource: Resource, finding: Finding) -> Fault:
    return Fault(
        kind=resource.kind,
        namespace=resource.namespace,
        name=resource.name,
        field=finding.field,
        message=finding.message,
        warning=finding.warning,
    )


def _refused(resource: Resource, finding: Finding) -> Judged:
    return Judged(resource=resource, spec=None, faults=(fault(resource, finding),))


def _listed() -> str:
    return ", ".join(KINDS)
