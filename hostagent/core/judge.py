"""The rules for one VIP on one host, at one moment: what is known in, what to do out.

The order in which the rules stand is the order in which they are asked. Letting go comes first and needs nobody's
leave; taking comes last and needs a compare-and-swap, or, when nobody reaches the API, the consent of the segment.
"""

from __future__ import annotations

from dataclasses import replace

from hostagent.core.arbitrate import PROBE_AGAIN_S, RANK_STEP_S, SILENCE_VALID_S, arbitrate, claim_it, settle
from hostagent.core.view import GONE, Rival, Standing, Verdict, View
from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import (
    Act,
    AddAddress,
    Announce,
    Claim,
    DeleteClaim,
    Probe,
    ReadClaim,
    RemoveAddress,
    ReportConflict,
    Why,
    WriteClaim,
)

HAND_OVER_S = 0.2
"""How long a predecessor waits to hear its successor's announcement before it lets go anyway."""
RIVAL_S = 1.0
"""Who has not been heard for so long does not answer now."""
DEFEND_S = 10.0
"""Between two announcements against a stranger's."""
TELL_AGAIN_S = 0.5
"""Between two announcements against one of our hosts': the last may have been lost."""
HANDING_S = 1.0
"""For so long after a hand-over the predecessor may still be heard, and is no conflict to report."""
CONFIRM_S = 0.1
"""How long a holder that hears one of our hosts announce its VIP waits for the API's word that it is still its own."""


def judge(view: View, now: Instant) -> Verdict:
    """Decide about one VIP.

    Keeps promise P1 (never two hosts answering): an address is added only under a claim that names this host, and a
    claim that names another is obeyed at once, or, after a hand-over, on hearing the successor and within
    `HAND_OVER_S` at the latest. The only addition without a claim is arbitration, when nobody reaches the API.
    Keeps P6: nothing here removes an address because the API is silent, unless the operator chose `fence`.
    """
    claim = view.claim
    if not view.wanted:
        return _forget(view)
    if view.held and (verdict := _must_let_go(view, now)) is not None:
        return verdict
    if claim is None or claim.holder is None:
        return _free(view, now)
    if claim.holder == view.me:
        return _ours(view, claim, now)
    return _anothers(view, claim, now)


def _forget(view: View) -> Verdict:
    """No Service uses the address: off the interface first, then out of the API."""
    acts: list[Act] = []
    if view.held:
        acts.append(RemoveAddress(vip=view.vip, why=Why.NOT_WANTED))
    claim = view.claim
    dead = claim is not None and (claim.holder is None or view.standing in GONE)
    if claim is not None and not view.writing and (claim.holder == view.me or (view.sweeps and dead)):
        acts.append(DeleteClaim(vip=view.vip, expected=claim))
    # A holder that lives clears up after itself; one that falls silent cannot, and its silence is no event.
    waits = view.sweeps and claim is not None and claim.holder != view.me and not dead
    return Verdict(acts=tuple(acts), why=Why.NOT_WANTED, wake_at=view.expires_at if waits else None)


def _must_let_go(view: View, now: Instant) -> Verdict | None:
    """What ends an answer whatever the claim says: nobody hears it, or somebody else may answer rightly."""
    rival = view.rival
    if view.unplugged:
        why, detail = Why.NO_CARRIER, "the interface has no carrier"
    elif view.fenced:
        why, detail = Why.FENCED, "the API has been away for so long that others may take over"
    elif rival is not None and rival.node is not None and view.api_lost and now < rival.heard_at + RIVAL_S:
        why, detail = Why.CHALLENGED, f"{rival.node} announces it, and the API cannot be asked who is right"
    else:
        return None
    return Verdict(acts=(RemoveAddress(vip=view.vip, why=why, detail=detail),), why=why)


def _ours(view: View, claim: Claim, now: Instant) -> Verdict:
    """The claim names this host: answer, or pass it on if this host may not or will not."""
    rival = view.rival if view.held else None
    if rival is not None and rival.node is not None and not rival.confirmed:
        return _challenged(view, claim, rival, now)  # perhaps the heir, before the reply to our own write
    if view.entitled and not view.stopping and not view.draining:
        return _stay(view, claim, now)
    verdict = _leave(view, claim)
    if rival is None or now >= rival.heard_at + RIVAL_S:
        return verdict
    # Still its own until the hand-over is written, which the API may take its time for.
    return replace(verdict, acts=(*_challenged(view, claim, rival, now).acts, *verdict.acts))


def _leave(view: View, claim: Claim) -> Verdict:
    """This host may not or will not answer any more: its heir first, or nobody."""
    why = Why.STOPPING if view.stopping else Why.DRAINING if view.draining else Why.NOT_ENTITLED
    if view.writing:
        return Verdict(why=why)
    if view.heir is not None:  # make before break: the heir answers before this host lets go
        return Verdict(acts=(_hand_over(view, claim, view.heir, why),), why=why)
    if view.draining and not view.stopping and view.held:
        return Verdict(why=Why.NO_SUCCESSOR)  # better answered here than nowhere; a stop does not ask
    acts: tuple[Act, ...] = (
        WriteClaim(vip=view.vip, holder=None, expected=claim, why=why, detail="released: no other host is a candidate"),
    )
    if view.held:
        acts = (RemoveAddress(vip=view.vip, why=why, detail="no other host is a candidate"), *acts)
    return Verdict(acts=acts, why=Why.NO_SUCCESSOR)


def _stay(view: View, claim: Claim, now: Instant) -> Verdict:
    """This host may answer, and its claim says that it does."""
    if view.held and view.placed:
        if view.rival is not None and now < view.rival.heard_at + RIVAL_S:
            return _challenged(view, claim, view.rival, now)
        if view.target is not None and not view.writing:
            return Verdict(acts=(_hand_over(view, claim, view.target, view.target_why),), why=view.target_why)
        return Verdict(why=Why.HOLDS, wake_at=view.target_at)
    if (view.lapsed or view.in_doubt) and not view.held:
        if view.alone_at is not None:
            return arbitrate(view, now)
        return _ask_before_adding(view, claim)
    handed = claim.predecessor is not None
    detail = f"handed over by {claim.predecessor}" if handed else ""
    return Verdict(
        acts=(AddAddress(vip=view.vip, why=Why.HANDED_OVER if handed else Why.CLAIMED, detail=detail),),
        why=Why.HOLDS,
    )


def _hand_over(view: View, claim: Claim, heir: NodeName, why: Why) -> WriteClaim:
    return WriteClaim(
        vip=view.vip,
        holder=heir,
        predecessor=view.me if view.held else None,
        replaced=claim.replaced if claim.replaced != heir else None,
        expected=claim,
        why=why,
        detail=f"handed over to {heir}",
    )


def _challenged(view: View, claim: Claim, rival: Rival, now: Instant) -> Verdict:
    """Somebody else announces what this host holds. One of ours may be right; a stranger never is."""
    if rival.node is not None and not rival.confirmed:
        let_go_at = Instant(rival.since + CONFIRM_S)
        if now >= let_go_at:
            detail = f"{rival.node} announces it, and the API did not confirm that it is still ours"
            return Verdict(acts=(RemoveAddress(vip=view.vip, why=Why.CHALLENGED, detail=detail),), why=Why.CHALLENGED)
        acts = () if view.reading else (ReadClaim(vip=view.vip),)
        return Verdict(acts=acts, why=Why.CHALLENGED, wake_at=let_go_at)
    handing = rival.node is not None and rival.node == claim.predecessor and rival.since < claim.seen_at + HANDING_S
    if handing:  # it has not let go yet
        return Verdict(why=Why.HOLDS, wake_at=view.target_at)
    conflict = ReportConflict(vip=view.vip, mac=rival.mac)
    # One of ours lets go when it hears it; a stranger may not care (RFC 5227, 2.4 c).
    pause_s = DEFEND_S if rival.node is None else TELL_AGAIN_S
    last = view.defended_at
    if last is not None and (now < last + pause_s or rival.heard_at <= last):
        return Verdict(acts=(conflict,), why=Why.HOLDS, wake_at=view.target_at)
    return Verdict(acts=(conflict, Announce(vip=view.vip)), why=Why.HOLDS, wake_at=view.target_at)


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
        why, detail = Why.LAPSED, f"the address was off {view.me} for a while: its agent hung"
    else:
        target, why, detail = view.me, Why.RETURNS, f"{view.me} makes sure that the claim is still its own"
    act = WriteClaim(
        vip=view.vip,
        holder=target,
        predecessor=claim.predecessor if target == view.me else None,
        replaced=claim.replaced if claim.replaced != target else None,
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
        return Verdict(acts=(claim_it(view, Why.RECLAIMED, "this host still answers for it"),), why=Why.RECLAIMED)
    if view.held:
        why = Why.STOPPING if view.stopping else Why.NOT_ENTITLED
        return Verdict(acts=(RemoveAddress(vip=view.vip, why=why),), why=why)
    return _take(view, Why.FREE, "nobody held it", now)


def _anothers(view: View, claim: Claim, now: Instant) -> Verdict:
    """The claim names another host: obey it, and stand by until that host is known to be gone."""
    if view.held:
        return settle(view, claim, now) if view.arbitrated else _obey(view, claim, now)
    if view.alone_at is not None:
        return arbitrate(view, now)
    silent_s = now - (view.last_sign_at if view.last_sign_at is not None else claim.seen_at)
    match view.standing:
        case Standing.ENDED:
            return _take(view, Why.ENDED, f"{claim.holder} ended its session", now)
        case Standing.DEAD:
            return _take(view, Why.DEAD, f"{claim.holder} was suspected and did not refute, and nobody answered", now)
        case Standing.EXPIRED:
            detail = f"no sign of {claim.holder} for {silent_s:.1f} s, and nobody answered the probe"
            return _take(view, Why.EXPIRED, detail, now)
        case Standing.SUSPECTED:
            return _foresee(view, now)
        case _:
            return _stand_by(view, claim, now)


def _obey(view: View, claim: Claim, now: Instant) -> Verdict:
    """Let go of what another host's claim covers; after a hand-over, when that host is heard to answer."""
    let_go_at = Instant(claim.seen_at + HAND_OVER_S)
    handed = claim.predecessor == view.me
    if handed and not view.heard_successor and now < let_go_at:
        # Its announcement may be lost on the way, but not the answers to three questions.
        asked = view.probing or (view.probed is not None and view.probed.at >= claim.seen_at)
        return Verdict(acts=() if asked else (Probe(vip=view.vip),), why=Why.HANDED_OVER, wake_at=let_go_at)
    why = Why.HANDED_OVER if handed else Why.YIELDS
    return Verdict(acts=(RemoveAddress(vip=view.vip, why=why, detail=f"the claim names {claim.holder}"),), why=why)


def _stand_by(view: View, claim: Claim, now: Instant) -> Verdict:
    """The holder lives. Only one that may not answer any more, and does not let go in time, is overruled."""
    if view.position is None or view.stopping:
        return Verdict(why=Why.STANDS_BY)
    if view.barred_at is None:
        return Verdict(why=Why.STANDS_BY, wake_at=view.expires_at)
    turn_at = Instant(view.barred_at + view.position * RANK_STEP_S)
    if now < turn_at:
        return Verdict(why=Why.STANDS_BY, wake_at=turn_at)
    if view.writing:
        return Verdict(why=Why.OVERRULES)
    act = WriteClaim(
        vip=view.vip,
        holder=view.me,
        predecessor=claim.holder,
        expected=claim,
        why=Why.OVERRULES,
        detail=f"{claim.holder} is no candidate and did not let go",
    )
    return Verdict(acts=(act,), why=Why.OVERRULES)


def _foresee(view: View, now: Instant) -> Verdict:
    """The holder is suspected. The probe needs as long as the refutation may take, so it is sent meanwhile."""
    if view.position != 0 or view.stopping or view.probing:
        return Verdict(why=Why.SUSPECTED)
    if view.probed is not None and now < view.probed.at + PROBE_AGAIN_S:
        return Verdict(why=Why.SUSPECTED)
    return Verdict(acts=(Probe(vip=view.vip),), why=Why.SUSPECTED)


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
            return Verdict(acts=(claim_it(view, why, detail),), why=why)
    return Verdict(acts=(Probe(vip=view.vip),), why=Why.WAITS)
