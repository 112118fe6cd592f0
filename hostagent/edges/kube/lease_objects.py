"""Leases to and from sessions and claims: pure, and shaped so that `kubectl get leases` reads well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import Any

import msgspec

from hostagent.edges.kube.decode import Meta
from hostagent.model.names import IP, Instant, InterfaceName, Labels, Mac, NodeName
from hostagent.model.ownership import CLAIM_PREFIX, SESSION_PREFIX, Claim, Segment, Session

PREFIX = "hostagent.io/"
VERSION = PREFIX + "version"
SEGMENTS = PREFIX + "segments"
MAY_ALLOCATE = PREFIX + "may-allocate"
PREDECESSOR = PREFIX + "predecessor"
REPLACED = PREFIX + "replaced"
"""Whose silence the holder took the VIP for."""
SERVICES = PREFIX + "services"
INTERFACE = PREFIX + "interface"
MAC = PREFIX + "mac"
WHY = PREFIX + "why"
WRITTEN_BY = PREFIX + "written-by"
"""Which writer (node and process) wrote the present content: how a write whose reply was lost is known again."""
SUSPECTED_BY = PREFIX + "suspected-by"
"""On a session: who found its host's VIPs silent. Written by that other host, taken off by the next renewal."""
DRAINING = PREFIX + "draining"
KIND_LABEL = PREFIX + "kind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A coordination.k8s.io/v1 Lease."""

    name: str
    resource_version: str
    holder: str = ""
    duration_s: float = 0.0
    transitions: int = 0
    renew_time: str = ""
    """Wall time of some other host: for people, and to tell one renewal from another."""
    annotations: Labels = field(default_factory=dict)


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None
    renew_time: str | None = None


class _Lease(msgspec.Struct):
    metadata: Meta
    spec: _Spec | None = None


class _Segment(msgspec.Struct):
    interface: str
    mac: str
    subnets: list[str] = []


_leases = msgspec.json.Decoder(_Lease)
_segments = msgspec.json.Decoder(list[_Segment])


def to_lease(raw: bytes | msgspec.Raw) -> Lease:
    """Decode a Lease; raises msgspec.DecodeError."""
    found = _leases.decode(raw)
    spec = found.spec or _Spec()
    return Lease(
        name=found.metadata.name,
        resource_version=found.metadata.resource_version,
        holder=spec.holder_identity or "",
        duration_s=float(spec.lease_duration_seconds or 0),
        transitions=spec.lease_transitions or 0,
        renew_time=spec.renew_time or "",
        annotations=found.metadata.annotations or {},
    )


def session_name(node: NodeName) -> str:
    return SESSION_PREFIX + node


def claim_name(vip: IP) -> str:
    """IPv6 in full, so that a VIP has one name; dashes, as object names take no colons."""
    return CLAIM_PREFIX + (str(vip) if vip.version == 4 else vip.exploded.replace(":", "-"))


def vip_of(name: str) -> IP | None:
    """The VIP of a claim's name; None for any other name, and for one that claim_name would not give."""
    text = name.removeprefix(CLAIM_PREFIX)
    if text == name:
        return None
    try:
        vip = ip_address(text.replace("-", ":"))
    except ValueError:
        return None
    return vip if claim_name(vip) == name else None


def to_session(lease: Lease, *, seen_at: Instant) -> Session:
    """A session as its host wrote it. Segments that cannot be read are left out: a sign of life stays one."""
    node, _, instance = lease.holder.rpartition("/")
    return Session(
        node=NodeName(node or lease.name.removeprefix(SESSION_PREFIX)),
        instance=instance,
        resource_version=lease.resource_version,
        renewed=lease.renew_time,
        seen_at=seen_at,
        duration_s=lease.duration_s,
        version=lease.annotations.get(VERSION, ""),
        segments=to_segments(lease.annotations.get(SEGMENTS, "")),
        allocator=lease.annotations.get(MAY_ALLOCATE, "true") == "true",
        draining=lease.annotations.get(DRAINING) == "true",
        suspected_by=suspecter(lease),
    )


def suspecter(lease: Lease) -> NodeName | None:
    """Who noted in this session that its host's VIPs are silent."""
    by = lease.annotations.get(SUSPECTED_BY)
    return NodeName(by) if by else None


def to_claim(lease: Lease, *, seen_at: Instant) -> Claim:
    predecessor, replaced = lease.annotations.get(PREDECESSOR), lease.annotations.get(REPLACED)
    return Claim(
        holder=NodeName(lease.holder) if lease.holder else None,
        predecessor=NodeName(predecessor) if predecessor else None,
        replaced=NodeName(replaced) if replaced else None,
        resource_version=lease.resource_version,
        transitions=lease.transitions,
        seen_at=seen_at,
    )


def to_segments(text: str) -> tuple[Segment, ...]:
    """The segments annotation; empty when it is not readable."""
    try:
        return tuple(
            Segment(
                interface=InterfaceName(entry.interface),
                mac=Mac(entry.mac),
                subnets=tuple(ip_interface(subnet) for subnet in entry.subnets),
            )
            for entry in _segments.decode(text or "[]")
        )
    except (msgspec.DecodeError, ValueError):
        return ()


def from_segments(segments: Iterable[Segment]) -> str:
    return msgspec.json.encode(
        [{"interface": s.interface, "mac": s.mac, "subnets": [str(subnet) for subnet in s.subnets]} for s in segments]
    ).decode()


def session_object(session: Session, *, writer: str, renew_time: str) -> dict[str, Any]:
    """The Lease of a session, as its host writes it: without any rival's note.

    An ended one names no holder, so that people see it and others need not wait for it.
    """
    spec: dict[str, Any] = {
        "leaseDurationSeconds": max(1, math.ceil(session.duration_s)),
        "renewTime": renew_time,
    }
    if not session.ended:
        spec["holderIdentity"] = f"{session.node}/{session.instance}"
    annotations = {
        VERSION: session.version,
        SEGMENTS: from_segments(session.segments),
        MAY_ALLOCATE: "true" if session.allocator else "false",
        WRITTEN_BY: writer,
    }
    if session.draining:
        annotations[DRAINING] = "true"
    return _object(session_name(session.node), "session", session.resource_version, annotations, spec)


def suspicion_patch(by: NodeName, *, expected_version: str) -> dict[str, Any]:
    """A merge patch (RFC 7396) that notes `by` in a session, and nothing else, if it is still of that version."""
    return {"metadata": {"resourceVersion": expected_version, "annotations": {SUSPECTED_BY: by}}}


def claim_object(
    name: str,
    *,
    holder: NodeName | None,
    predecessor: NodeName | None,
    replaced: NodeName | None = None,
    expected_version: str,
    transitions: int,
    writer: str,
    notes: Mapping[str, str],
    acquire_time: str,
) -> dict[str, Any]:
    """The Lease of a claim: written when it changes hands, never renewed, hence without a duration."""
    spec: dict[str, Any] = {"acquireTime": acquire_time, "leaseTransitions": transitions}
    if holder is not None:
        spec["holderIdentity"] = holder
    annotations = {**notes, WRITTEN_BY: writer}
    if predecessor is not None:
        annotations[PREDECESSOR] = predecessor
    if replaced is not None:
        annotations[REPLACED] = replaced
    return _object(name, "claim", expected_version, annotations, spec)


def _object(
    name: str, kind: str, resource_version: str, annotations: Mapping[str, str], spec: dict[str, Any]
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "labels": {"app.kubernetes.io/name": "hostagent", KIND_LABEL: kind},
        "annotations": dict(annotations),
    }
    if resource_version:
        metadata["resourceVersion"] = resource_version
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
