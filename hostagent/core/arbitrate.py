"""The rules for a VIP while nobody reaches the API: the hosts of a segment settle it among themselves."""

from __future__ import annotations

from hostagent.core.view import Verdict, View
from hostagent.model.names import Instant
from hostagent.model.ownership import AddAddress, Claim, Probe, RemoveAddress, Why, WriteClaim

SILENCE_VALID_S = 1.0
"""A probe that found silence permits a claim for this long; afterwards it is asked again."""
PROBE_AGAIN_S = 1.0
"""Pause before a VIP that somebody answered for is probed again."""
RANK_STEP_S = 2.0
"""How much longer each further standby waits, in case a better-ranked one is alive but does not act."""


def arbitrate(view: View, now: Instant) -> Verdict:
    """Nobody reaches the API. Who sees the VIP silent, and is not alone in being heard, answers: best-ranked first.

    The host that the claim names goes first for what it let go of; others only when the wire says that the holder is
    silent. No majority among the other hosts, no answer: it may be this host that the segment lost.
    """
    mine = view.claim is not None and view.claim.holder == view.me
    silent_since = view.open_since if mine else view.silent_since
    if view.order is None or view.stopping or view.draining or silent_since is None:
        return Verdict(why=Why.STANDS_BY)
    since = max(view.alone_at or now, silent_since)
    turn_at = Instant(since + view.order * RANK_STEP_S)
    if now < turn_at:
        return Verdict(why=Why.STANDS_BY, wake_at=turn_at)
    if view.probing:
        return Verdict(why=Why.WAITS)
    if view.probed is not None and view.probed.at >= since:
        again_at = Instant(view.probed.at + PROBE_AGAIN_S)
        if view.probed.by is None and view.probed.witnessed and now <= view.probed.at + SILENCE_VALID_S:
            detail = "nobody reaches the API, and nobody answered the probe"
            return Verdict(acts=(AddAddress(vip=view.vip, why=Why.ARBITRATED, detail=detail),), why=Why.ARBITRATED)
        if now < again_at:
            return Verdict(why=Why.ANSWERED if view.probed.by else Why.ALONE, wake_at=again_at)
    return Verdict(acts=(Probe(vip=view.vip),), why=Why.WAITS)


def claim_it(view: View, why: Why, detail: str) -> WriteClaim:
    """Compare-and-swap the VIP to this host; whose silence it was taken for stands in the claim."""
    silent = why in (Why.DEAD, Why.EXPIRED, Why.ARBITRATED) and view.claim is not None
    replaced = view.claim.holder if silent and view.claim is not None else None
    return WriteClaim(vip=view.vip, holder=view.me, replaced=replaced, expected=view.claim, why=why, detail=detail)


def settle(view: View, claim: Claim, now: Instant) -> Verdict:
    """Taken by arbitration: hold it while the API is away, then ask once more and write the claim, or let go."""
    if view.api_lost:
        if view.silent_since is None:
            detail = f"{claim.holder} answers again, and the claim names it"
            return Verdict(acts=(RemoveAddress(vip=view.vip, why=Why.YIELDS, detail=detail),), why=Why.YIELDS)
        return Verdict(why=Why.ARBITRATED)
    heard = view.rival is not None and now <= view.rival.heard_at + SILENCE_VALID_S
    fresh = not view.probing and view.probed is not None and now <= view.probed.at + SILENCE_VALID_S
    answered_by = view.rival.mac if view.rival and heard else view.probed.by if view.probed and fresh else None
    if answered_by is not None:  # also in the middle of a question: the holder may be told sooner that the API is back
        detail = f"{answered_by} answers for it, and the claim names {claim.holder}"
        return Verdict(acts=(RemoveAddress(vip=view.vip, why=Why.YIELDS, detail=detail),), why=Why.YIELDS)
    if view.writing or view.probing:
        return Verdict(why=Why.ARBITRATED)
    if fresh:
        detail = "taken while the API was away, and nobody else answers"
        return Verdict(acts=(claim_it(view, Why.ARBITRATED, detail),), why=Why.ARBITRATED)
    return Verdict(acts=(Probe(vip=view.vip),), why=Why.ARBITRATED)
