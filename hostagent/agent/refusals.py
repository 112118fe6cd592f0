"""Tells, for all hosts, that nobody may announce an address: the allocator does, as no host feels concerned itself."""

from __future__ import annotations

from collections.abc import Mapping

from hostagent.agent.cluster import Cluster
from hostagent.core.candidates import Ranking, WhyNot
from hostagent.core.ownership import Ownership
from hostagent.core.tellings import unannounced
from hostagent.edges.kube.events import Events, about_service
from hostagent.model.names import IP, Instant, NodeName
from hostagent.telemetry.journal import say, warn

TURN_S = 1.0
TOLD_AT_ONCE = 50
"""Addresses in one turn: an advertisement that ten thousand need and that is gone must not drown the journal."""
TELL_AFTER_S = 10.0
"""A new Service has no endpoints for a moment, and nobody needs to hear of that."""


class Refusals:
    """Which addresses nobody may announce, and of which of them was told."""

    def __init__(self, *, ownership: Ownership, cluster: Cluster, events: Events) -> None:
        self._ownership = ownership
        self._cluster = cluster
        self._events = events
        self._turned_at = Instant(0)
        self._since: dict[IP, Instant] = {}
        self._told: dict[IP, tuple[Mapping[NodeName, WhyNot], str]] = {}

    def turn(self, at: Instant, *, leads: bool) -> None:
        """Look again, about once a second; on a host that does not allocate there is nothing to tell."""
        if at < self._turned_at + TURN_S:
            return
        self._turned_at = at
        if not leads:
            self._since.clear()
            self._told.clear()
            return
        refused = {
            vip: ranking
            for vip in self._cluster.vips
            if (ranking := self._ownership.ranking(vip)) is not None and self._refused(ranking)
        }
        for vip in self._since.keys() - refused.keys():
            del self._since[vip]
            if self._told.pop(vip, None) is not None:
                say("vip.candidate-again", f"{vip} may be announced again", vip=vip)
        told = 0
        for vip, ranking in refused.items():
            if at >= self._since.setdefault(vip, at) + TELL_AFTER_S and told < TOLD_AT_ONCE:
                told += self._tell(vip, ranking)

    def _refused(self, ranking: Ranking) -> bool:
        """Whether nobody may answer that should: a pool that only BGP advertises needs nobody on the segment."""
        if ranking.ranked:
            return False
        by_bgp = bool(self._cluster.config.bgp.advertisements)
        return not (by_bgp and set(ranking.excluded.values()) <= {WhyNot.NO_ADVERTISEMENT})

    def _tell(self, vip: IP, ranking: Ranking) -> bool:
        """True if that is news."""
        reasons, message = self._told.get(vip, (None, ""))
        if reasons == ranking.excluded:  # cheaper than its sentence
            return False
        telling = unannounced(vip, ranking.excluded)
        self._told[vip] = (ranking.excluded, telling.message)
        if telling.message == message:
            return False
        uses = self._cluster.uses(vip)
        services = " ".join(str(use.service.key) for use in uses)
        warn("vip.no-candidate", telling.message, vip=vip, service=services)
        for use in uses:
            self._events.emit(
                about_service(use.service), reason=telling.reason, message=telling.message, warning=telling.warning
            )
        return True
