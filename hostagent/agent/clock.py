"""The one clock that decisions are made by."""

from __future__ import annotations

import time

from hostagent.model.names import Instant


def now() -> Instant:
    """CLOCK_BOOTTIME in seconds: counts through a suspend, so that a host that slept knows it."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))
