"""The rules for one VIP on one host, at one moment: what is known in, what to do out.

The order in which the rules stand is the order in which they are asked. Letting go comes first and needs nobody's
leave; taking comes last and needs a compare-and-swap.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hostagent.model.names import IP, Instant, Mac, NodeName
from hostagent.model.ownership import (
    Act,
    AddAddress,
    Claim,
    DeleteClaim,
    Probe,
    RemoveAddress,
    ReportConflict,
    Why,
    WriteClaim,
)

HAND_OVER_S = 0.2
"""How long a predecessor waits to hear its successor's announcement before it lets go anyway."""
SILENCE_VALID_S = 1.0
"""A probe that found silence permits a claim for this long; afterwards it is asked again."""
PROBE_AGAIN_S = 1.0
"""Pause before a VIP that somebody answered for is probed again."""
RANK_STEP_S = 2.0
"""How much longer each further standby waits, in case a better-ranked one is alive but does not act."""


class Standing(StrEnum):
    """What is known of the holder that a claim names."""

    LIVE = "live"
    EXPIRED = "expired"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What the last probe of a VIP found: silence, or the MAC that answered."""

    at: Instant
    by: Mac | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that one host knows about one VIP at one moment."""

    vip: IP
    me: NodeName
    wanted: bool
    """Some Service has this address."""
    stopping: bool
    entitled: bool
    """`me` is a candidate."""
    position: int | None
    """Place of `me` among the candidates that are alive, 0 the best; None when `me` may not claim now."""
    heir: NodeName | None
    """The best candidate that is alive and is not `me`."""
    claim: Claim | None
    standing: Standing | None
    """Of the claim's holder; None when there is none."""
    last_sign_at: Instant | None
    """When the holder's session was last seen to change."""
    expires_at: Instant | None
    """When the holder will count as expired, unless it is heard of before."""
    held: bool
    """The address is on an interface of this host."""
    placed: bool
    """It is on the interface where it should be."""
    lapsed: bool
    """The address expired under a claim of this host: what is known of the claim may be as old as that."""
    in_doubt: bool
    """What is known of the claim may be old: the agent stalled a moment ago, or this host took the address off under a
    claim of its own and has not yet heard that the claim was released."""
    writing: bool
    probing: bool
    probed: Probed | None
    heard_successor: bool
    """Another host announced the VIP since the claim last changed."""
    open_since: Instant | None
    """Since when the VIP has been seen free to claim by a candidate."""
    sweeps: bool
    """This host is the allocator and clears claims away that nobody needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do now, why, and when to ask again even if nothing happens."""

    acts: tuple[Act, ...] = ()
    why: Why
    wake_at: Instant | None = None


def judge(view: View, now: Instant) -> Verdict:
    """Decide about one VIP.

    Keeps promise P1 (never two hosts answering): an address is added only under a claim that names this host, and a
    claim that names another is obeyed at once, or, after a hand-over, on hearing the successor and within
    `HAND_OVER_S` at the latest. Keeps P6: nothing here removes an address because the API is silent.
    """
    claim = view.claim
    if not view.wanted:
        return _forget(view)
    if claim is None or claim.holder is None:
        return _free(view, now)
    if claim.holder == view.me:
        return _ours(view, claim)
    return _anothers(view, claim, now)


def _forget(view: View) -> Verdict:
    """No Service uses the address: off the interface first, then out of the API."""
    acts: list[Act] = []
    if view.held:
        acts.append(RemoveAddress(vip=view.vip, why=Why.NOT_WANTED))
    claim = view.claim
    dead = claim is not None and (claim.holder is None or view.standing is not Standing.LIVE)
    if claim is not None and not view.writing and (claim.holder == view.me or (view.sweeps and dead)):
        acts.append(DeleteClaim(vip=view.vip, expected=claim))
    # A holder that lives clears up after itself; one that falls silent cannot, and its silence is no event.
    waits = view.sweeps and claim is not None and claim.holder != view.me and not dead
    return Verdict(acts=tuple(acts), why=Why.NOT_WANTED, wake_at=view.expires_at if waits else None)


def _ours(view: View, claim: Claim) -> Verdict:
    """The claim names this host: answer, or pass it on if this host may not or will not."""
    why = Why.STOPPING if view.stopping else Why.NOT_ENTITLED
    if view.entitled and not view.stopping:
        if view.held and view.placed:
            return Verdict(why=Why.HOLDS)
        if (view.lapsed or view.in_doubt) and not view.held:
            return _ask_before_adding(view, claim)
        handed = claim.predecessor is not None
        detail = f"handed over by {claim.predecessor}" if handed else ""
        return Verdict(
            acts=(AddAddress(vip=view.vip, why=Why.HANDED_OVER if handed else Why.CLAIMED, detail=detail),),
            why=Why.HOLDS,
        )
    if view.writing:
        return Verdict(why=why)
    if view.heir is not None:  # make before break: the heir answers before this host lets go
        hand_over = WriteClaim(
            vip=view.vip,
            holder=view.heir,
            predecessor=view.me if view.held else None,
            expected=claim,
            why=why,
            detail=f"handed over to {view.heir}",
        )
        return Verdict(acts=(hand_over,), why=why)
    acts: tuple[Act, ...] = (
        WriteClaim(vip=view.vip, holder=None, expected=claim, why=why, detail="released: no other host is a candidate"),
    )
    if view.held:
        acts = (RemoveAddress(vip=view.vip, why=why, detail="no other host is a candidate"), *acts)
    return Verdict(acts=acts, why=Why.NO_SUCCESSOR)


def _ask_before_adding(view: View, claim: Claim) -> Verdict:
    """The address was off this host for a while. Others may have moved on, so nothing is added on old knowledge.

    Only a fresh compare-and-swap tells. After a hang the VIP goes to another host if there is one: this one just
    failed at it. Else this host shows first that it lives: a claim of one that counts as expired could be taken from
    it before it has the reply.
    """
    if view.writing or (view.position is None and not (view.lapsed and view.heir is not None)):
        return Verdict(why=Why.WAITS)
    if view.lapsed:
        target = view.heir if view.heir is not None else view.me
        why, detail = Why.LAPSED, f"the address was off {view.me} for a while: its agent hung, or its cable was out"
    else:
        target, why, detail = view.me, Why.RETURNS, f"{view.me} makes sure that the claim is still its own"
    act = WriteClaim(
        vip=view.vip,
        holder=target,
        predecessor=claim.predecessor if target == view.me else None,
        expected=claim,
        why=why,
        detail=detail,
    )
    return Verdict(acts=(act,), why=why)


def _free(view: View, now: Instant) -> Verdict:
    """Nobody is named: whoever answers already claims at once; otherwise the best candidate, after a probe."""
    if view.held and view.entitled and not view.stopping:
        if view.writing:
            return Verdict(why=Why.RECLAIMED)
        return Verdict(acts=(_claim(view, Why.RECLAIMED, "this host still answers for it"),), why=Why.RECLAIMED)
    if view.held:
        why = Why.STOPPING if view.stopping else Why.NOT_ENTITLED
        return Verdict(acts=(RemoveAddress(vip=view.vip, why=why),), why=why)
    return _take(view, Why.FREE, "nobody held it", now)


def _anothers(view: View, claim: Claim, now: Instant) -> Verdict:
    """The claim names another host: obey it, and stand by until that host is known to be gone."""
    if view.held:
        let_go_at = Instant(claim.seen_at + HAND_OVER_S)
        if claim.predecessor == view.me and not view.heard_successor and now < let_go_at:
            return Verdict(why=Why.HANDED_OVER, wake_at=let_go_at)
        why = Why.HANDED_OVER if claim.predecessor == view.me else Why.YIELDS
        return Verdict(acts=(RemoveAddress(vip=view.vip, why=why, detail=f"the claim names {claim.holder}"),), why=why)
    match view.standing:
        case Standing.ENDED:
            return _take(view, Why.ENDED, f"{claim.holder} ended its session", now)
        case Standing.EXPIRED:
            silent_s = now - (view.last_sign_at if view.last_sign_at is not None else claim.seen_at)
            detail = f"no sign of {claim.holder} for {silent_s:.1f} s, and nobody answered the probe"
            return _take(view, Why.EXPIRED, detail, now)
        case _:
            return Verdict(why=Why.STANDS_BY, wake_at=view.expires_at if view.position is not None else None)


def _take(view: View, why: Why, detail: str, now: Instant) -> Verdict:
    """Probe, then claim, when it is this host's turn. A probe is a brake on taking over, never a permission."""
    if view.position is None or view.stopping:
        return Verdict(why=Why.STANDS_BY)
    open_since = view.open_since if view.open_since is not None else now
    turn_at = Instant(open_since + view.position * RANK_STEP_S)
    if now < turn_at:
        return Verdict(why=Why.STANDS_BY, wake_at=turn_at)
    if view.writing or view.probing:
        return Verdict(why=Why.WAITS)
    if view.probed is not None:
        again_at = Instant(view.probed.at + PROBE_AGAIN_S)
        if view.probed.by is not None and now < again_at:
            conflict = ReportConflict(vip=view.vip, mac=view.probed.by)
            return Verdict(acts=(conflict,), why=Why.ANSWERED, wake_at=again_at)
        if view.probed.by is None and now <= view.probed.at + SILENCE_VALID_S:
            return Verdict(acts=(_claim(view, why, detail),), why=why)
    return Verdict(acts=(Probe(vip=view.vip),), why=Why.WAITS)


def _claim(view: View, why: Why, detail: str) -> WriteClaim:
    return WriteClaim(vip=view.vip, holder=view.me, expected=view.claim, why=why, detail=detail)
