"""What the watches noted, handed over: Leases to the ownership rules and the allocator, custom resources to all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hostagent.agent import last_good
from hostagent.agent.allocator import Allocator
from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.core.hosts import older
from hostagent.core.ownership import Ownership
from hostagent.edges.kube.lease_objects import Lease, claim_name, to_claim, to_session, vip_of
from hostagent.model.cluster import Fault
from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import ALLOCATOR_LEASE, SESSION_PREFIX, Segment, Session
from hostagent.telemetry.journal import say, warn

SETTLE_S = 0.3
"""`kubectl apply` of a file makes its objects one by one: a pool is not judged before its advertisement is there."""


class Intake:
    """Takes over from `Cluster` what changed since the last turn."""

    def __init__(
        self,
        *,
        me: NodeName,
        cluster: Cluster,
        ownership: Ownership,
        allocator: Allocator,
        state_dir: Path,
        session_gone: Callable[[], None],
        routing_changed: Callable[[], None],
    ) -> None:
        """`session_gone`: somebody deleted this host's session; `routing_changed`: BGP may be meant in another way."""
        self._me = me
        self._cluster = cluster
        self._ownership = ownership
        self._allocator = allocator
        self._state_dir = state_dir
        self._session_gone = session_gone
        self._routing_changed = routing_changed
        self._faults: frozenset[Fault] = frozenset()
        self.config_due: Instant | None = None
        """When changed custom resources are to be read."""
        self.suspicions_refuted = 0

    def leases(self) -> bool:
        """Take in the Leases that changed. True if that changes who may answer: a host came, left, or has other
        interfaces.
        """
        cluster = self._cluster
        leases, cluster.changed_leases = cluster.changed_leases, {}
        hosts_changed = False
        for name, lease in leases.items():
            hosts_changed |= self._lease(name, lease)
        if cluster.leases_listed:
            cluster.leases_listed = False
            self._forget_unlisted()
        return hosts_changed

    def config(self, *, at_once: bool) -> bool:
        """Read the custom resources, if they changed and it is time. True if they were read."""
        cluster = self._cluster
        if cluster.config_changed and self.config_due is None:
            self.config_due = Instant(now() + SETTLE_S)
        if self.config_due is None or not (at_once or now() >= self.config_due):
            return False
        cluster.config_changed, self.config_due = False, None
        before = cluster.config
        cluster.read_config()
        config = cluster.config
        if config.good != before.good:
            last_good.save(self._state_dir, config)
        if config.bgp != before.bgp or config.pools != before.pools:
            self._routing_changed()
        self._tell(frozenset(config.faults))
        return True

    def _forget_unlisted(self) -> None:
        """A claim that is known from the reply to our own write, and was deleted while the watch was broken."""
        listed = self._cluster.leases
        for vip, claim in tuple(self._ownership.claims.items()):
            known = older(claim.resource_version, listed.listed_version)
            if known and claim_name(vip) not in listed.items:
                self._ownership.claim_seen(vip, None, now())

    def _lease(self, name: str, lease: Lease | None) -> bool:
        seen_at = now()
        vip = vip_of(name)
        if vip is not None:
            self._ownership.claim_seen(vip, to_claim(lease, seen_at=seen_at) if lease else None, seen_at)
        elif name.startswith(SESSION_PREFIX):
            node = NodeName(name.removeprefix(SESSION_PREFIX))
            session = to_session(lease, seen_at=seen_at) if lease else None
            if node == self._me and lease is None:
                self._session_gone()
            before = self._ownership.sessions.get(node)
            if before and session and before.suspected_by == self._me and session.suspected_by is None:
                self.suspicions_refuted += not session.ended
            self._ownership.session_seen(node, session, seen_at)
            return _abilities(before) != _abilities(session)
        elif name == ALLOCATOR_LEASE:
            self._allocator.claim_seen(to_claim(lease, seen_at=seen_at) if lease else None)
        return False

    def _tell(self, faults: frozenset[Fault]) -> None:
        for fault in sorted(faults - self._faults, key=str):
            warn(
                "config.warning" if fault.warning else "config.set-aside",
                str(fault),
                object=f"{fault.kind}/{fault.name}",
            )
        for fault in sorted(self._faults - faults, key=str):
            say("config.mended", f"no longer wrong: {fault}", object=f"{fault.kind}/{fault.name}")
        self._faults = faults


def _abilities(session: Session | None) -> tuple[tuple[Segment, ...], bool] | None:
    """What of a session decides whether its host is a candidate; None for a host that is not there."""
    return None if session is None or session.ended else (session.segments, session.draining)
