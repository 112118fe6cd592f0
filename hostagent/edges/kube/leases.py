"""Sessions and claims written: each with one compare-and-swap, and no doubt about its outcome that can be resolved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

import msgspec

from hostagent.edges.kube.clock import Clock, boottime, micro_time
from hostagent.edges.kube.lease_objects import (
    SUSPECTED_BY,
    WHY,
    Lease,
    claim_name,
    claim_object,
    session_name,
    session_object,
    suspecter,
    suspicion_patch,
    to_claim,
    to_lease,
    to_session,
)
from hostagent.edges.kube.transport import MERGE_PATCH, WRITE_TIMEOUT_S, Api, ApiError
from hostagent.edges.kube.wire import Lane
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, NodeName
from hostagent.model.ownership import ALLOCATOR_LEASE, Claim, DeleteClaim, Session, Write, WriteClaim

READ_TIMEOUT_S = 1.0
"""For what a decision waits for, and for reading back: per API endpoint that is tried."""
SUSPECT_TIMEOUT_S = 1.0
ATTEMPTS = 4
"""Writes of our own session in a row, as long as only rivals' notes come in between: at most two hosts watch one."""


class Leases:
    """Leases in the agent's namespace.

    Nothing is read before it is written: the resourceVersion that the caller saw goes along, and the API refuses when
    it is not the present one. A write without a reply is read back. Methods raise EdgeError only when the API refuses
    for another reason than a conflict (403, 422, namespace missing, …): then nothing was written.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        node: NodeName,
        timeout_s: float = WRITE_TIMEOUT_S,
        now: Clock = boottime,
        wall: Callable[[], str] = micro_time,
    ) -> None:
        self._api = api
        self.path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        """Where they are: for an Informer."""
        self._node = node
        self._writer = f"{node}/{uuid4().hex[:8]}"
        self._timeout_s = timeout_s
        self._now = now
        self._wall = wall

    async def renew_session(self, session: Session) -> tuple[Write, Session | None]:
        """Write this host's session once more; `resource_version` '' creates it.

        WON: the session as written, `seen_at` before it was sent (others count from later: we never outlive ourselves).
        A rival's note on it, also one that came in between, is gone: it is written again until it is.
        LOST: somebody else's, as it is now: another instance or none. At start the one before our reboot, later a
        second host under this name.
        UNKNOWN: no reply; the session as read back, if that worked. It may yet happen.
        """
        return await self._write_session(session, session)

    async def end_session(self, session: Session) -> tuple[Write, Session | None]:
        """Say that this host left on purpose: others may take its VIPs at once."""
        return await self._write_session(session, replace(session, instance=""))

    async def suspect(self, expected: Session, *, by: NodeName) -> tuple[Write, Session | None]:
        """Note in another host's session that `by` finds its VIPs silent; everything else in it stays as it is.

        WON: the session with the note. LOST: it is no longer as expected (None: there is none), most likely renewed,
        or noted by another. UNKNOWN: no reply; the session as read back, if that worked: the note may yet arrive.
        """
        name, version = session_name(expected.node), expected.resource_version
        body = msgspec.json.encode(suspicion_patch(by, expected_version=version))
        try:
            reply = await self._api.request(
                "PATCH",
                f"{self.path}/{name}",
                body=body,
                content_type=MERGE_PATCH,
                timeout_s=SUSPECT_TIMEOUT_S,
                lane=Lane.CLAIMS,
            )
        except ApiError as error:
            refused = error.status in (404, 409)
            if not (refused or error.unanswered):
                raise
            answered, found = await self._read_back(name, Lane.CLAIMS)
        else:
            return Write.WON, to_session(to_lease(reply), seen_at=self._now())
        session = to_session(found, seen_at=self._now()) if found else None
        if session is not None and session.suspected_by == by and session.renewed == expected.renewed:
            return Write.WON, session
        changed = session is None or session.resource_version != version
        return (Write.LOST if answered and (refused or changed) else Write.UNKNOWN), session

    async def write_claim(
        self, act: WriteClaim, *, notes: Mapping[str, str] | None = None
    ) -> tuple[Write, Claim | None]:
        """Make `act.holder` the holder if the claim is still as `act.expected` was.

        `leaseTransitions` counts how often it came to another holder; `notes` are annotations for people
        (lease_objects.SERVICES, INTERFACE, MAC). WON and LOST come with the claim as it is now (None: there is none);
        UNKNOWN with what was read back, the old state, which a write still on its way may yet change, or with None
        if reading failed too.
        """
        return await self._write_claim(
            claim_name(act.vip),
            holder=act.holder,
            predecessor=act.predecessor,
            replaced=act.replaced,
            expected=act.expected,
            notes={**(notes or {}), WHY: f"{act.why}: {act.detail}" if act.detail else act.why.value},
        )

    async def write_allocator(self, holder: NodeName | None, *, expected: Claim | None) -> tuple[Write, Claim | None]:
        """The same for the Lease that says who allocates addresses; its holder lives as long as its session does."""
        return await self._write_claim(
            ALLOCATOR_LEASE,
            holder=holder,
            predecessor=None,
            expected=expected,
            notes={},
        )

    async def delete_claim(self, act: DeleteClaim) -> Write:
        """Delete the claim if it is still as expected. One that is gone already counts as won."""
        name = claim_name(act.vip)
        body = msgspec.json.encode({"preconditions": {"resourceVersion": act.expected.resource_version}})
        try:
            await self._api.request(
                "DELETE", f"{self.path}/{name}", body=body, timeout_s=self._timeout_s, lane=Lane.CLAIMS
            )
        except ApiError as error:
            if error.status == 404:
                return Write.WON
            if error.status == 409:
                return Write.LOST
            if not error.unanswered:
                raise
            answered, found = await self._read_back(name, Lane.CLAIMS)
            if answered and found is None:
                return Write.WON
            changed = found is not None and found.resource_version != act.expected.resource_version
            return Write.LOST if changed else Write.UNKNOWN
        return Write.WON

    async def read_claim(self, vip: IP, *, timeout_s: float = READ_TIMEOUT_S) -> Claim | None:
        """The claim as the API has it now; raises EdgeError when it does not answer."""
        lease = await self._get(claim_name(vip), Lane.CLAIMS, timeout_s)
        return to_claim(lease, seen_at=self._now()) if lease else None

    async def read_session(self, node: NodeName, *, timeout_s: float = READ_TIMEOUT_S) -> Session | None:
        """The session as the API has it now; raises EdgeError when it does not answer.

        `seen_at` is when the answer was there: it may tell of a renewal that was sent after the question.
        """
        lease = await self._get(session_name(node), self._lane_of(node), timeout_s)
        return to_session(lease, seen_at=self._now()) if lease else None

    def _lane_of(self, node: NodeName) -> Lane:
        """Other hosts' sessions are looked at when those die, many at once: our own renewal does not queue for that."""
        return Lane.SESSION if node == self._node else Lane.CLAIMS

    async def _write_session(self, ours: Session, wanted: Session) -> tuple[Write, Session | None]:
        """Write `wanted` in place of `ours`, again when only a rival's note came in between or stayed on it."""
        outcome, found = await self._write_session_once(wanted)
        for _ in range(ATTEMPTS - 1):
            if found is None:
                break
            noted = outcome is Write.WON and found.suspected_by is not None
            stale = outcome is Write.LOST and _identity(found) == _identity(ours)
            if not (noted or stale):
                break
            outcome, found = await self._write_session_once(replace(wanted, resource_version=found.resource_version))
        return outcome, found

    async def _write_session_once(self, session: Session) -> tuple[Write, Session | None]:
        sent_at, renew_time = self._now(), self._wall()
        wanted = session_object(session, writer=self._writer, renew_time=renew_time)
        outcome, lease = await self._write(session_name(session.node), wanted, session.resource_version, Lane.SESSION)
        if outcome is Write.WON and lease is not None:
            return outcome, replace(
                session,
                resource_version=lease.resource_version,
                renewed=lease.renew_time,
                seen_at=sent_at,
                suspected_by=suspecter(lease),
            )
        return outcome, to_session(lease, seen_at=self._now()) if lease else None

    async def _write_claim(
        self,
        name: str,
        *,
        holder: NodeName | None,
        predecessor: NodeName | None,
        replaced: NodeName | None = None,
        expected: Claim | None,
        notes: Mapping[str, str],
    ) -> tuple[Write, Claim | None]:
        expected_version = expected.resource_version if expected else ""
        wanted = claim_object(
            name,
            holder=holder,
            predecessor=predecessor,
            replaced=replaced,
            expected_version=expected_version,
            transitions=_transitions(expected, holder),
            writer=self._writer,
            notes=notes,
            acquire_time=self._wall(),
        )
        outcome, lease = await self._write(name, wanted, expected_version, Lane.CLAIMS)
        return outcome, to_claim(lease, seen_at=self._now()) if lease else None

    async def _write(
        self, name: str, wanted: dict[str, Any], expected_version: str, lane: Lane
    ) -> tuple[Write, Lease | None]:
        method, path = ("PUT", f"{self.path}/{name}") if expected_version else ("POST", self.path)
        body = msgspec.json.encode(wanted)
        try:
            reply = await self._api.request(method, path, body=body, timeout_s=self._timeout_s, lane=lane)
        except ApiError as error:
            # 404 for a PUT: somebody deleted it. For a POST: the namespace is missing, which only a person can mend.
            if error.status == 409 or (error.status == 404 and expected_version):
                return await self._after_conflict(name, wanted, lane)
            if not error.unanswered:
                raise
            answered, found = await self._read_back(name, lane)
            if found is not None and _is(found, wanted):
                return Write.WON, found
            unchanged = (found.resource_version if found else "") == expected_version
            return (Write.LOST if answered and not unchanged else Write.UNKNOWN), found
        return Write.WON, to_lease(reply)

    async def _after_conflict(self, name: str, wanted: dict[str, Any], lane: Lane) -> tuple[Write, Lease | None]:
        """Refused, which is also what the second copy of a write meets whose first reply was lost on the way."""
        answered, found = await self._read_back(name, lane)
        if found is not None and _is(found, wanted):
            return Write.WON, found
        return (Write.LOST if answered else Write.UNKNOWN), found

    async def _read_back(self, name: str, lane: Lane) -> tuple[bool, Lease | None]:
        """Whether the API answered, and the Lease if there is one."""
        try:
            return True, await self._get(name, lane, READ_TIMEOUT_S)
        except EdgeError:
            return False, None

    async def _get(self, name: str, lane: Lane, timeout_s: float) -> Lease | None:
        try:
            reply = await self._api.request("GET", f"{self.path}/{name}", timeout_s=timeout_s, lane=lane)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return to_lease(reply)


def _identity(session: Session) -> tuple[NodeName, str]:
    return session.node, session.instance


def _transitions(expected: Claim | None, holder: NodeName | None) -> int:
    if expected is None:
        return 0
    return expected.transitions + (holder is not None and holder != expected.holder)


def _is(found: Lease, wanted: dict[str, Any]) -> bool:
    """Whether this is what our own process wrote: same content, and WRITTEN_BY among its annotations.

    A rival's note that was added since does not count.
    """
    spec = wanted["spec"]
    annotations = {name: text for name, text in found.annotations.items() if name != SUSPECTED_BY}
    same: bool = (
        found.holder == spec.get("holderIdentity", "")
        and found.transitions == spec.get("leaseTransitions", 0)
        and found.renew_time == spec.get("renewTime", "")
        and annotations == wanted["metadata"]["annotations"]
    )
    return same
