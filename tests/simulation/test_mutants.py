"""Rules taken out one at a time: the simulation must notice each, else its promises promise nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hostagent.core import hosts, situation, watching
from hostagent.core import judge as rules
from hostagent.core import ownership as machine
from hostagent.core.hosts import Hosts
from hostagent.core.situation import Situation
from hostagent.core.view import Probed, Standing, Verdict, View
from hostagent.core.vip import Vip
from hostagent.core.watching import Watching
from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import (
    Act,
    AddAddress,
    Announce,
    Claim,
    DeleteClaim,
    ReadSession,
    Refute,
    Session,
    Why,
    Write,
    WriteClaim,
)
from tests.simulation.api import Api
from tests.simulation.schedules import BROKEN, drawn, hard, perform

Mutate = Callable[[pytest.MonkeyPatch], None]
TRIES = 600
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


def skips_the_probe(patch: pytest.MonkeyPatch) -> None:
    """Whoever's turn it is claims at once."""

    def mutant(view: View, now: Instant) -> Verdict:
        return judge(replace(view, probed=Probed(at=now, by=None, witnessed=True)), now)

    _judges(patch, mutant)


def never_yields(patch: pytest.MonkeyPatch) -> None:
    """A claim that names another is not obeyed."""

    def mutant(view: View, now: Instant) -> Verdict:
        another = view.claim is not None and view.claim.holder not in (None, view.me)
        return Verdict(why=Why.HOLDS) if view.held and another and view.wanted else judge(view, now)

    _judges(patch, mutant)


def writes_without_compare_and_swap(patch: pytest.MonkeyPatch) -> None:
    """The API takes whatever is written."""
    commit = Api.commit

    def mutant(api: Api, act: WriteClaim | DeleteClaim, by: NodeName) -> tuple[Write, Claim | None]:
        current = api.claims.get(act.vip)
        return commit(api, act if current is None else replace(act, expected=current), by)

    patch.setattr(Api, "commit", mutant)


def expires_without_freshness(patch: pytest.MonkeyPatch) -> None:
    """Silence counts from the last sign, also when no sign could have come."""

    def mutant(known: Hosts, now: Instant) -> bool:
        known.fresh_since, known.stream_at = Instant(0.0), now
        return False

    patch.setattr(Hosts, "stream_alive", mutant)


def expires_on_the_holders_clock(patch: pytest.MonkeyPatch) -> None:
    """When a session was renewed is taken from its host's wall clock."""
    seen = Hosts.seen

    def mutant(known: Hosts, node: NodeName, session: Session | None, now: Instant) -> bool:
        if session is not None and session.renewed:
            # As if all clocks had been set alike once: what is left is how they have run since.
            session = replace(session, seen_at=Instant(now - 1.7e9 - 20 + float(session.renewed) % 40))
        return seen(known, node, session, now)

    patch.setattr(Hosts, "seen", mutant)


def holds_on_after_a_hand_over(patch: pytest.MonkeyPatch) -> None:
    """The successor is neither heard nor waited for."""
    patch.setattr(rules, "HAND_OVER_S", 60.0)
    patch.setattr(Vip, "heard_successor", lambda *_: False)


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
        silence = Probed(at=now, by=None)
        return judge(replace(view, standing=standing, probed=silence), now)

    _judges(patch, mutant)


def lets_go_before_the_heir_is_named(patch: pytest.MonkeyPatch) -> None:
    """Not entitled, hence off at once and for ever: the claim stays with who does not answer."""

    def mutant(view: View, now: Instant) -> Verdict:
        verdict = judge(view, now)
        if verdict.why not in (Why.NOT_ENTITLED, Why.STOPPING, Why.DRAINING):
            return verdict
        return replace(verdict, acts=tuple(act for act in verdict.acts if not isinstance(act, WriteClaim)))

    _judges(patch, mutant)


def never_looks_at_the_expired(patch: pytest.MonkeyPatch) -> None:
    """A standby does not wake when the holder's time is over."""
    _judges(patch, lambda view, now: replace(judge(view, now), wake_at=None))


def counts_the_silence_of_the_api(patch: pytest.MonkeyPatch) -> None:
    """A holder expires though nothing at all could be heard of it, and nobody gets new time after an outage."""
    patch.setattr(Hosts, "passed", lambda _, expires_at, now: expires_at is None or now >= expires_at)
    stream_alive = Hosts.stream_alive

    def mutant(known: Hosts, now: Instant) -> bool:
        fresh_since = known.fresh_since
        gap = stream_alive(known, now)
        known.fresh_since = now if fresh_since is None else fresh_since
        return gap

    patch.setattr(Hosts, "stream_alive", mutant)


def leaves_the_claims_of_dead_holders(patch: pytest.MonkeyPatch) -> None:
    """Nobody sweeps."""
    _judges(patch, lambda view, now: judge(replace(view, sweeps=False), now))


def forgets_to_refute(patch: pytest.MonkeyPatch) -> None:
    """A host that lives, and is suspected, does not say so before its next renewal."""
    turn = Hosts.turn
    patch.setattr(Hosts, "turn", lambda known, now: [a for a in turn(known, now) if not isinstance(a, Refute)])


def suspects_without_a_pause(patch: pytest.MonkeyPatch) -> None:
    """Whoever was refuted suspects again at once, and as often as it likes."""
    patch.setattr(watching, "CALM_S", (0.2,))
    patch.setattr(watching, "NOTES", 1000)


def does_not_wait_for_a_refutation(patch: pytest.MonkeyPatch) -> None:
    """Who is suspected is asked for in the same moment."""
    patch.setattr(hosts, "REFUTE_S", 0.0)


def claims_without_reading_the_session_again(patch: pytest.MonkeyPatch) -> None:
    """The watch has not told of a refutation: that is taken for an answer."""
    turn = Hosts.turn

    def mutant(known: Hosts, now: Instant) -> list[Act]:
        acts = turn(known, now)
        for act in acts:
            if isinstance(act, ReadSession):
                known.read(act.node, known.sessions.get(act.node))
        return [act for act in acts if not isinstance(act, ReadSession)]

    patch.setattr(Hosts, "turn", mutant)


def takes_a_note_for_a_sign_of_life(patch: pytest.MonkeyPatch) -> None:
    """Whoever is suspected by two counts as refuted: its session has changed."""
    read = Hosts.read

    def mutant(known: Hosts, node: NodeName, session: Session | None) -> bool:
        noted = session is not None and session.suspected_by != known.me
        return read(known, node, replace(session, suspected_by=None) if noted and session is not None else session)

    patch.setattr(Hosts, "read", mutant)


def watches_nobody(patch: pytest.MonkeyPatch) -> None:
    """Nobody is ever suspected."""
    patch.setattr(Watching, "choose", lambda *_, **__: None)


def ignores_a_challenge(patch: pytest.MonkeyPatch) -> None:
    """Another of our hosts announces what this one holds, and it does not care."""
    patch.setattr(Vip, "rival_is", lambda *_, **__: None)


def says_nothing_while_it_leaves(patch: pytest.MonkeyPatch) -> None:
    """A host that is about to hand over does not tell a rival whose VIP it still is."""

    def mutant(view: View, now: Instant) -> Verdict:
        verdict = judge(view, now)
        if not (view.stopping or view.draining or not view.entitled):
            return verdict
        return replace(verdict, acts=tuple(act for act in verdict.acts if not isinstance(act, Announce)))

    _judges(patch, mutant)


def arbitrates_without_witnesses(patch: pytest.MonkeyPatch) -> None:
    """A host that hears nobody takes everything, once the API is away."""

    def mutant(view: View, now: Instant) -> Verdict:
        probed = replace(view.probed, witnessed=True) if view.probed is not None else None
        return judge(replace(view, probed=probed), now)

    _judges(patch, mutant)


def never_arbitrates(patch: pytest.MonkeyPatch) -> None:
    """A host that dies while the API is away is not replaced."""
    _judges(patch, lambda view, now: judge(replace(view, alone_at=None), now))


def does_not_settle_what_was_arbitrated(patch: pytest.MonkeyPatch) -> None:
    """The claim goes on naming the dead."""
    _judges(patch, lambda view, now: judge(replace(view, api_lost=view.api_lost or view.arbitrated), now))


def hands_over_to_a_draining_host(patch: pytest.MonkeyPatch) -> None:
    """Who drains is a candidate like any other."""
    patch.setattr(Hosts, "fit", Hosts.sound)


def counts_a_suspected_host_as_well(patch: pytest.MonkeyPatch) -> None:
    """The dead holder ranks first among those who could take its place."""
    patch.setattr(Hosts, "sound", Hosts.alive)


def holds_on_without_a_carrier(patch: pytest.MonkeyPatch) -> None:
    """Nobody hears it, so why let go?"""
    patch.setattr(situation, "CARRIER_S", 1e9)


def puts_back_on_an_interface_that_was_away(patch: pytest.MonkeyPatch) -> None:
    """The address is tried again until the interface is there, whoever took over meanwhile."""
    in_doubt = Situation._in_doubt
    patch.setattr(Situation, "_in_doubt", lambda self, *of: in_doubt(replace(self, down_since={}), *of))


def believes_a_late_reply(patch: pytest.MonkeyPatch) -> None:
    """A claim that was asked for before the host let go lets it answer again."""
    won = Vip.won
    patch.setattr(Vip, "won", lambda self, wrote_at: won(self, max(wrote_at, self.let_go_at or wrote_at)))


MUTANTS: tuple[Mutate, ...] = (
    takes_what_somebody_answers_for,
    skips_the_probe,
    never_yields,
    writes_without_compare_and_swap,
    expires_without_freshness,
    expires_on_the_holders_clock,
    holds_on_after_a_hand_over,
    adds_after_a_lapse_without_asking,
    adds_before_the_claim_is_written,
    takes_a_living_holders_claim,
    lets_go_before_the_heir_is_named,
    never_looks_at_the_expired,
    counts_the_silence_of_the_api,
    leaves_the_claims_of_dead_holders,
    forgets_to_refute,
    suspects_without_a_pause,
    does_not_wait_for_a_refutation,
    claims_without_reading_the_session_again,
    takes_a_note_for_a_sign_of_life,
    watches_nobody,
    ignores_a_challenge,
    says_nothing_while_it_leaves,
    arbitrates_without_witnesses,
    never_arbitrates,
    does_not_settle_what_was_arbitrated,
    hands_over_to_a_draining_host,
    counts_a_suspected_host_as_well,
    holds_on_without_a_carrier,
    puts_back_on_an_interface_that_was_away,
    believes_a_late_reply,
)


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_the_simulation_notices_a_missing_rule(mutate: Mutate, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    with pytest.raises(BROKEN):
        play_all()


def play_all() -> None:
    for schedule in (*hard(), *map(drawn, range(TRIES))):
        perform(schedule)
