"""Writes at the API what the ownership rules ask for, and tells them how it ended. Everything here waits for the API,
so the agent's loop runs it beside itself.
"""

from __future__ import annotations

from collections.abc import Callable

from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.core.candidates import Candidate
from hostagent.core.hosts import REFUTE_S
from hostagent.core.ownership import Ownership
from hostagent.edges.kube.lease_objects import INTERFACE, MAC, SERVICES
from hostagent.edges.kube.leases import Leases
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, NodeName
from hostagent.model.ownership import Claim, DeleteClaim, Suspect, Why, Write, WriteClaim
from hostagent.telemetry.journal import say, warn

DECIDE_S = 1.0
"""A question whose answer decides about a VIP now is of no use later."""


class Claims:
    """Claims and notes of one host. Every method returns when the rules know how it ended."""

    def __init__(self, *, ownership: Ownership, cluster: Cluster, leases: Leases, wake: Callable[[], None]) -> None:
        self.written: dict[Write, int] = dict.fromkeys(Write, 0)
        """Claim writes by outcome, since the agent started."""
        self.moves: dict[Why, int] = {}
        """Claims that this agent wrote for a holder, by reason, since it started."""
        self.suspected = 0
        """Notes that this agent wrote into other hosts' sessions."""
        self._ownership = ownership
        self._cluster = cluster
        self._leases = leases
        self._wake = wake
        self._unresolved: set[IP] = set()
        """VIPs whose last claim write had no outcome yet."""

    async def write(self, act: WriteClaim) -> None:
        """Compare-and-swap a claim."""
        vip = act.vip
        ranking = self._ownership.ranking(vip)
        target = ranking.of(act.holder) if ranking and act.holder else None
        services = " ".join(str(use.service.key) for use in self._cluster.uses(vip))
        notes = {SERVICES: services} | ({INTERFACE: target.interface} | self._mac_of(target) if target else {})
        try:
            outcome, claim = await self._leases.write_claim(act, notes=notes)
        except EdgeError as error:
            warn("claim.refused", f"the claim of {vip} cannot be written: {error}", vip=vip)
            outcome, claim = Write.UNKNOWN, None
        holder = act.holder or "nobody"
        self._settle(vip, outcome, claim)
        self.written[outcome] += 1
        if outcome is Write.WON:
            self.moves[act.why] = self.moves.get(act.why, 0) + 1
            message = f"{vip} is claimed for {holder}: {act.why}" + (f" ({act.detail})" if act.detail else "")
            say("claim.written", message, vip=vip, lease=holder, reason=act.why, service=services)
        if outcome is not Write.UNKNOWN:
            self._unresolved.discard(vip)
        elif vip not in self._unresolved:  # asked for again each second: told once
            self._unresolved.add(vip)
            warn("claim.unknown", f"no reply to the claim of {vip} for {holder}: asking again", vip=vip)

    async def delete(self, act: DeleteClaim) -> None:
        """Delete a claim that nobody needs any more."""
        try:
            outcome = await self._leases.delete_claim(act)
            claim = None if outcome is Write.WON else await self._leases.read_claim(act.vip)
        except EdgeError as error:
            warn("claim.not-deleted", f"the claim of {act.vip} cannot be deleted: {error}", vip=act.vip)
            outcome, claim = Write.UNKNOWN, None
        self._settle(act.vip, outcome, claim)
        if outcome is Write.WON:
            say("claim.deleted", f"the claim of {act.vip} is gone: no Service uses it", vip=act.vip)

    async def read(self, vip: IP) -> None:
        """Ask whether a claim is still what this host believes."""
        try:
            claim = await self._leases.read_claim(vip, timeout_s=DECIDE_S)
        except EdgeError as error:
            warn("claim.not-read", f"the API does not say who holds {vip}: {error}", vip=vip)
            self._ownership.claim_read(vip, ok=False, now=now())
        else:
            self._ownership.claim_seen(vip, claim, now())
            self._ownership.claim_read(vip, ok=True, now=now())
        self._wake()

    async def suspect(self, act: Suspect) -> None:
        """Note in a host's session that its VIPs are silent."""
        try:
            outcome, _ = await self._leases.suspect(act.expected, by=self._ownership.me)
        except EdgeError as error:
            warn("host.not-suspected", f"{act.node} is silent, and that cannot be written down: {error}")
            outcome = Write.UNKNOWN
        self._ownership.suspected(act.node, outcome, now())
        if outcome is Write.WON:
            self.suspected += 1
            warn(
                "host.suspected",
                f"{act.node} does not answer for its VIPs on the segment: it has {REFUTE_S:g} s to say that it lives",
            )
        self._wake()

    async def read_session(self, node: NodeName) -> None:
        """Ask whether a suspected host has refuted."""
        asked_at = now()
        try:
            session = await self._leases.read_session(node, timeout_s=DECIDE_S)
        except EdgeError as error:
            warn("host.not-read", f"the API does not say whether {node} lives: {error}")
            self._ownership.session_read_failed(node, now())
        else:
            self._ownership.session_read(node, session, asked_at, now())
            if self._ownership.hosts.dead(node):
                warn("host.dead", f"{node} was suspected and gave no sign of life: others take over its VIPs")
        self._wake()

    def _settle(self, vip: IP, outcome: Write, claim: Claim | None) -> None:
        if outcome is not Write.UNKNOWN:
            self._ownership.claim_seen(vip, claim, now())
        self._ownership.wrote(vip, outcome, now())
        self._wake()

    def _mac_of(self, target: Candidate) -> dict[str, str]:
        """The MAC under which the holder will answer: what a packet capture on the segment must show."""
        session = self._ownership.sessions.get(target.node)
        segment = session.on(target.interface) if session else None
        return {MAC: segment.mac} if segment else {}
