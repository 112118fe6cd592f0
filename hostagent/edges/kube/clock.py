"""Clocks: one to measure with, one for people's eyes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from hostagent.model.names import Instant

Clock = Callable[[], Instant]


def boottime() -> Instant:
    """Seconds on CLOCK_BOOTTIME: goes on while the host sleeps, never stepped by NTP."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME))


def micro_time() -> str:
    """Wall time as Kubernetes' MicroTime. Written for people who read Leases; nothing is ever decided by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def whole_seconds() -> str:
    """Wall time as Kubernetes' Time (Event timestamps)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
