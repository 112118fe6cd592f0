"""Rules taken out one at a time: the simulation must notice each, else its promises promise nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hostagent.core import judge as rules
from hostagent.core import ownership as machine
from hostagent.core.judge import Standing, Verdict, View
from hostagent.core.ownership import Ownership
from hostagent.model.names import Instant
from hostagent.model.ownership import AddAddress, Claim, DeleteClaim, Session, Why, Write, WriteClaim
from tests.simulation.schedules import UnsettledError, drawn, hard, perform
from tests.simulation.world import Host, PromiseBrokenError, World

Mutate = Callable[[pytest.MonkeyPatch], None]
TRIES = 400
"""Seeds that a mutant may survive; most are caught within the first ten."""

judge = rules.judge


def _judges(patch: pytest.MonkeyPatch, mutant: Callable[[View, Instant], Verdict]) -> None:
    patch.setattr(machine, "judge", mutant)


def takes_what_somebody_answers_for(patch: pytest.MonkeyPatch) -> None:
    """The probe is sent, and what it found does not matter."""

    def mutant(view: View, now: Instant) -> Verdict:
        probed = replace(view.probed, by=None) if view.probed is not None else None
        return judge(replace(view, probed=probed), now)

    _judges(patch, mutant)


def never_yields(patch: pytest.MonkeyPatch) -> None:
    """A claim that names another is not obeyed."""

    def mutant(view: View, now: Instant) -> Verdict:
        another = view.claim is not None and view.claim.holder not in (None, view.me)
        return Verdict(why=Why.HOLDS) if view.held and another and view.wanted else judge(view, now)

    _judges(patch, mutant)


def writes_without_compare_and_swap(patch: pytest.MonkeyPatch) -> None:
    """The API takes whatever is written."""
    commit = World._commit

    def mutant(world: World, act: WriteClaim | DeleteClaim, host: Host) -> Write:
        current = world.claims.get(act.vip)
        if current is None:
            return commit(world, act, host)
        return commit(world, replace(act, expected=current), host)

    patch.setattr(World, "_commit", mutant)


def expires_without_freshness(patch: pytest.MonkeyPatch) -> None:
    """Silence counts from the last sign, also when no sign could have come, and the probe is skipped for it."""
    expires_at = Ownership._expires_at

    def mutant(agent: Ownership, session: Session | None, claim: Claim | None) -> Instant | None:
        agent._fresh_since = Instant(0.0)
        return expires_at(agent, session, claim)

    patch.setattr(Ownership, "_expires_at", mutant)


def holds_on_after_a_hand_over(patch: pytest.MonkeyPatch) -> None:
    """The successor is neither heard nor waited for."""
    patch.setattr(rules, "HAND_OVER_S", 60.0)
    patch.setattr(Ownership, "_heard_successor", lambda *_: False)


def adds_after_a_lapse_without_asking(patch: pytest.MonkeyPatch) -> None:
    """The address comes back on what was known before the hang."""
    _judges(patch, lambda view, now: judge(replace(view, lapsed=False, in_doubt=False), now))


def adds_before_the_claim_is_written(patch: pytest.MonkeyPatch) -> None:
    """Whoever would claim answers at once."""

    def mutant(view: View, now: Instant) -> Verdict:
        verdict = judge(view, now)
        claims = [act for act in verdict.acts if isinstance(act, WriteClaim) and act.holder == view.me]
        early = tuple(AddAddress(vip=view.vip, why=act.why) for act in claims)
        return replace(verdict, acts=(*early, *verdict.acts)) if not view.held else verdict

    _judges(patch, mutant)


def takes_a_living_holders_claim(patch: pytest.MonkeyPatch) -> None:
    """Every holder counts as expired, and nobody is asked."""

    def mutant(view: View, now: Instant) -> Verdict:
        standing = Standing.EXPIRED if view.standing is Standing.LIVE else view.standing
        silence = rules.Probed(at=now, by=None)
        return judge(replace(view, standing=standing, probed=silence), now)

    _judges(patch, mutant)


def lets_go_before_the_heir_is_named(patch: pytest.MonkeyPatch) -> None:
    """Not entitled, hence off at once and for ever: the claim stays with who does not answer."""

    def mutant(view: View, now: Instant) -> Verdict:
        verdict = judge(view, now)
        if verdict.why not in (Why.NOT_ENTITLED, Why.STOPPING):
            return verdict
        return replace(verdict, acts=tuple(act for act in verdict.acts if not isinstance(act, WriteClaim)))

    _judges(patch, mutant)


def never_looks_at_the_expired(patch: pytest.MonkeyPatch) -> None:
    """A standby does not wake when the holder's time is over."""
    _judges(patch, lambda view, now: replace(judge(view, now), wake_at=None))


def forgets_to_look_again_after_an_outage(patch: pytest.MonkeyPatch) -> None:
    """Who had counted as expired during the outage is alive again, and no VIP is judged anew for it."""

    def mutant(agent: Ownership, now: Instant) -> None:
        if agent._stream_at is None or now - agent._stream_at > machine.GAP_OF_RENEW * agent.renew_s:
            agent._fresh_since = now
        agent._stream_at = now

    patch.setattr(Ownership, "lease_stream_alive", mutant)


def leaves_the_claims_of_dead_holders(patch: pytest.MonkeyPatch) -> None:
    """Nobody sweeps."""
    _judges(patch, lambda view, now: judge(replace(view, sweeps=False), now))


MUTANTS: tuple[Mutate, ...] = (
    takes_what_somebody_answers_for,
    never_yields,
    writes_without_compare_and_swap,
    expires_without_freshness,
    holds_on_after_a_hand_over,
    adds_after_a_lapse_without_asking,
    adds_before_the_claim_is_written,
    takes_a_living_holders_claim,
    lets_go_before_the_heir_is_named,
    never_looks_at_the_expired,
    forgets_to_look_again_after_an_outage,
    leaves_the_claims_of_dead_holders,
)


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_the_simulation_notices_a_missing_rule(mutate: Mutate, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    with pytest.raises((PromiseBrokenError, UnsettledError)):
        play_all()


def play_all() -> None:
    for schedule in (*hard(), *map(drawn, range(TRIES))):
        perform(schedule)
