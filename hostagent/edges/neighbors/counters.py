"""What happened on the segments, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Since the agent started, in frames where nothing else is said."""

    sent: int = 0
    received: int = 0
    """Answers and announcements of other machines."""
    foreign: int = 0
    """Those of them that were for a VIP that is announced here: of the other host in a hand-over, else of a rival."""
    probes: int = 0
    watch_questions: int = 0
    watch_unanswered: int = 0
    """Questions of the watch that nobody answered in time; of those that fell into a stall nothing is known."""
    watch_silences: int = 0
    """How many times a watched VIP fell silent."""
    watch_skipped: int = 0
    """Not asked: the holder's MAC is one of this host's own or no MAC at all, or the interface is not open."""
    failed: int = 0
    """Could not be sent: the interface was down or gone."""
