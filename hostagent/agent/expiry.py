"""When this host's certificate ends: told early, as only people can have it renewed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from hostagent.edges.kube.certificate import Validity
from hostagent.telemetry.journal import error, say, warn

SOON = timedelta(days=14)
LAST_PART = 4
"""A certificate that lives for a day is told of in its last quarter, not two weeks before it was made."""
LOOK_S = 60.0
AGAIN = timedelta(days=1)
REMEDY = "run playbooks/rotate-credentials.yml"


def wall() -> datetime:
    return datetime.now(UTC)


class Expiry:
    """Follows the certificate in force, which a reload replaces."""

    def __init__(self, certificate: Callable[[], Validity | None], *, now: Callable[[], datetime] = wall) -> None:
        self._certificate = certificate
        self._now = now
        self._told: tuple[datetime, str] | None = None
        """Which certificate was told of (by its end), and at what stage."""
        self._told_at: datetime | None = None

    @property
    def ends(self) -> datetime | None:
        """None where the credential is no certificate."""
        found = self._certificate()
        return found.ends if found else None

    @property
    def stage(self) -> str:
        """Empty while there is nothing to worry about; else "soon" or "ended"."""
        found = self._certificate()
        if found is None:
            return ""
        left = found.ends - self._now()
        if left <= timedelta(0):
            return "ended"
        return "soon" if left < min(SOON, (found.ends - found.begins) / LAST_PART) else ""

    @property
    def trouble(self) -> str:
        """For people: what will happen, and what to do. Empty while all is well."""
        stage, ends = self.stage, self.ends
        if not stage or ends is None:
            return ""
        until = f"{ends:%Y-%m-%d %H:%M} UTC"
        if stage == "ended":
            return f"this host's certificate ended at {until}, the API refuses it: {REMEDY}"
        return f"this host's certificate ends at {until}, and its access to the API with it: {REMEDY}"

    def look(self) -> None:
        """Tell what changed, and once a day what has not."""
        ends, stage, at = self.ends, self.stage, self._now()
        if ends is None:
            return
        before, self._told = self._told, (ends, stage)
        if before is not None and before[0] != ends:
            say("credentials.renewed", f"this host's certificate is good until {ends:%Y-%m-%d %H:%M} UTC")
        again = self._told_at is None or at >= self._told_at + AGAIN
        if not stage or (before == self._told and not again):
            return
        self._told_at = at
        if stage == "ended":
            error("credentials.expired", self.trouble)
        else:
            warn("credentials.expiring", self.trouble)

    async def run(self) -> None:
        """Look each minute until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)
