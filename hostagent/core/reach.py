"""Whether this host reaches the API, and what it does when it does not: hold and settle things alone, or let go."""

from __future__ import annotations

from dataclasses import dataclass

from hostagent.model.names import Instant
from hostagent.model.ownership import OnApiLoss

FENCE_MARGIN_S = 2.0
"""`on_api_loss = "fence"`: let go so long before others may count this host as gone; kernel lifetimes end late."""


@dataclass(slots=True)
class Reach:
    """The API as this host meets it."""

    policy: OnApiLoss
    duration_s: float
    lost_at: Instant | None = None
    """Since when it has not answered; None while it does."""
    renewed_at: Instant | None = None
    """When the last renewal of this host's session that the API took was sent."""

    def alone_at(self) -> Instant | None:
        """From when the hosts of a segment settle things among themselves, unless the API is back.

        A session's duration: whoever still reaches the API has settled them by then.
        """
        if self.lost_at is None or self.policy == "fence":
            return None
        return Instant(self.lost_at + self.duration_s)

    def fence_at(self) -> Instant | None:
        """When others may soon count this host as gone, and it was told to let go before that."""
        if self.policy == "hold" or self.renewed_at is None:
            return None
        return Instant(self.renewed_at + self.duration_s - FENCE_MARGIN_S)

    @property
    def may_extend(self) -> bool:
        """Whether addresses may live on: with `fence`, only under a renewal of this life of the agent."""
        return self.policy == "hold" or self.renewed_at is not None

    def alone(self, now: Instant) -> bool:
        return self.lost_at is not None and (at := self.alone_at()) is not None and now >= at

    def fenced(self, now: Instant) -> bool:
        return (at := self.fence_at()) is not None and now >= at

    def next_at(self, now: Instant) -> Instant | None:
        """When one of these will come true by the mere passing of time."""
        return min((at for at in (self.alone_at(), self.fence_at()) if at is not None and at > now), default=None)
