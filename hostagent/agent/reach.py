"""Whether the API answers this host, and whether what the watch tells is fresh: noticed, told, and acted on."""

from __future__ import annotations

from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.core.ownership import Ownership
from hostagent.edges.kube.transport import Api
from hostagent.model.names import Instant
from hostagent.telemetry.journal import say, warn

PATIENCE_S = 1.0
"""A failed request or two are everyday life; the API counts as unreachable after this long without an answer."""
RECONNECT_S = 10.0
"""A watch that was connected anew is given this long to catch up."""


class Reach:
    """Looks at each turn of the loop; tells the ownership rules and, once, the journal."""

    def __init__(self, api: Api, *, ownership: Ownership, cluster: Cluster) -> None:
        self._api = api
        self._ownership = ownership
        self._cluster = cluster
        self._lost_at: Instant | None = None
        self._reconnected_at = Instant(0)

    def look(self) -> bool:
        """True when the API has just been lost."""
        since = self._api.unreachable_since
        lost = since is not None and now() - since > PATIENCE_S
        self._ownership.api_reach(reachable=not lost, now=now())
        self._doubt_watch()
        if since is not None and lost and self._lost_at is None:
            self._lost_at = since
            held = len(self._ownership.held)
            warn("api.unreachable", f"the API does not answer ({self._api.server}): {held} VIPs stay where they are")
            return True
        if since is None and self._lost_at is not None:
            say("api.reachable", f"the API answers again after {now() - self._lost_at:.1f} s")
            self._lost_at = None
        return False

    def _doubt_watch(self) -> None:
        """An own renewal that does not come back: the watch hangs, or the API is slow. A fresh connection tells."""
        if self._ownership.hosts.stale(now()) and now() - self._reconnected_at > RECONNECT_S:
            self._reconnected_at = now()
            warn("watch.stale", "this host's own renewal does not come back on the watch of Leases: connecting anew")
            self._cluster.leases.reconnect()
