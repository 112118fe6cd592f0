"""Sessions and claims written: each with one compare-and-swap, and no doubt about its outcome that can be resolved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

import msgspec

from hostagent.edges.kube.clock import Clock, boottime, micro_time
from hostagent.edges.kube.lease_objects import (
    WHY,
    Lease,
    claim_name,
    claim_object,
    session_name,
    session_object,
    to_claim,
    to_lease,
    to_session,
)
from hostagent.edges.kube.transport import WRITE_TIMEOUT_S, Api, ApiError
from hostagent.edges.kube.wire import Lane
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, NodeName
from hostagent.model.ownership import ALLOCATOR_LEASE, Claim, DeleteClaim, Session, Write, WriteClaim

READ_BACK_TIMEOUT_S = 1.0


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
        self._writer = f"{node}/{uuid4().hex[:8]}"
        self._timeout_s = timeout_s
        self._now = now
        self._wall = wall

    async def renew_session(self, session: Session) -> tuple[Write, Session | None]:
        """Write this host's session once more; `resource_version` '' creates it.

        WON: the session as written, `seen_at` before it was sent (others count from later: we never outlive ourselves).
        LOST: somebody wrote in between, and the session as it is now; written again by us already if it is still
        this instance's (a rival's note on it is thereby answered), so a loss means another instance or none:
        at start the one before our reboot, later a second host under this name.
        UNKNOWN: no reply; the session as read back, if that worked. It may yet happen.
        """
        outcome, found = await self._write_session(session)
        if outcome is Write.LOST and found is not None and (found.node, found.instance) == _identity(session):
            outcome, found = await self._write_session(replace(session, resource_version=found.resource_version))
        return outcome, found

    async def end_session(self, session: Session) -> tuple[Write, Session | None]:
        """Say that this host left on purpose: others may take its VIPs at once."""
        ended = replace(session, instance="")
        outcome, found = await self._write_session(ended)
        if outcome is Write.LOST and found is not None and (found.node, found.instance) == _identity(session):
            outcome, found = await self._write_session(replace(ended, resource_version=found.resource_version))
        return outcome, found

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

    async def read_claim(self, vip: IP) -> Claim | None:
        """The claim as the API has it now; raises EdgeError when it does not answer."""
        seen_at = self._now()
        lease = await self._get(claim_name(vip), Lane.CLAIMS)
        return to_claim(lease, seen_at=seen_at) if lease else None

    async def read_session(self, node: NodeName) -> Session | None:
        """The session as the API has it now; raises EdgeError when it does not answer."""
        seen_at = self._now()
        lease = await self._get(session_name(node), Lane.SESSION)
        return to_session(lease, seen_at=seen_at) if lease else None

    async def _write_session(self, session: Session) -> tuple[Write, Session | None]:
        sent_at, renew_time = self._now(), self._wall()
        wanted = session_object(session, writer=self._writer, renew_time=renew_time)
        outcome, lease = await self._write(session_name(session.node), wanted, session.resource_version, Lane.SESSION)
        if outcome is Write.WON and lease is not None:
            return outcome, replace(session, resource_version=lease.resource_version, seen_at=sent_at)
        return outcome, to_session(lease, seen_at=self._now()) if lease else None

    async def _write_claim(
        self,
        name: str,
        *,
        holder: NodeName | None,
        predecessor: NodeName | None,
        expected: Claim | None,
        notes: Mapping[str, str],
    ) -> tuple[Write, Claim | None]:
        expected_version = expected.resource_version if expected else ""
        wanted = claim_object(
            name,
            holder=holder,
            predecessor=predecessor,
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
            return True, await self._get(name, lane)
        except EdgeError:
            return False, None

    async def _get(self, name: str, lane: Lane) -> Lease | None:
        try:
            reply = await self._api.request("GET", f"{self.path}/{name}", timeout_s=READ_BACK_TIMEOUT_S, lane=lane)
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
    """Whether this is what our own process wrote: same content, and WRITTEN_BY among its annotations."""
    spec = wanted["spec"]
    same: bool = (
        found.holder == spec.get("holderIdentity", "")
        and found.transitions == spec.get("leaseTransitions", 0)
        and found.renew_time == spec.get("renewTime", "")
        and found.annotations == wanted["metadata"]["annotations"]
    )
    return same
