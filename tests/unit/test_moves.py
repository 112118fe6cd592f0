"""Moves that nothing forces: by preference, by an operator, and how often."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostagent.core.candidates import Candidate, Ranking, WhyNot
from hostagent.core.ownership import Ownership
from hostagent.core.vip import DAMPED_MOVES, DAMPED_S
from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import Act, Move, RemoveAddress, Why, WriteClaim
from tests.unit.builders import a_claim
from tests.unit.test_suspicion import AT, ETH0, HOLDER, ME, THIRD, VIP, a_standby, session_of

DELAY_S = 30.0


def a_holder(*weights: tuple[NodeName, int]) -> Ownership:
    """At `AT`, holding the VIP, with these candidates."""
    agent = a_standby(third=True)
    agent.claim_seen(VIP, a_claim(ME, version=100), Instant(AT))
    agent.held_is(VIP, ETH0)
    rank(agent, *weights)
    agent.turn(Instant(AT))
    return agent


def rank(agent: Ownership, *weights: tuple[NodeName, int]) -> None:
    ranked = sorted(
        (Candidate(node=node, weight=weight, interface=ETH0) for node, weight in weights), key=lambda c: -c.weight
    )
    missing = {node: WhyNot.EXCLUDED for node in (HOLDER, ME, THIRD) if node not in dict(weights)}
    agent.ranking_is(VIP, Ranking(ranked=tuple(ranked), excluded=missing))


def later(agent: Ownership, at: float) -> list[Act]:
    """Everybody renews until then; what is to be done meanwhile."""
    moment = agent.sessions[ME].seen_at
    acts: list[Act] = []
    while moment < at:
        moment = Instant(min(at, moment + 4.0))
        for node in (HOLDER, ME, THIRD):
            agent.session_seen(
                node, session_of(node, version=int(moment * 10), renewed=str(moment), seen_at=moment), moment
            )
        acts += agent.turn(moment)
    return acts


def hand_overs(acts: list[Act]) -> list[tuple[NodeName | None, Why]]:
    return [(act.holder, act.why) for act in acts if isinstance(act, WriteClaim)]


def test_a_better_ranked_host_of_the_same_weight_takes_nothing() -> None:
    agent = a_holder((HOLDER, 0), (ME, 0))
    assert hand_overs(later(agent, AT + 2 * DELAY_S)) == []


def test_a_preferred_host_is_handed_the_vip_when_it_has_been_there_for_a_while() -> None:
    agent = a_holder((HOLDER, 10), (ME, 0))
    assert hand_overs(later(agent, AT + DELAY_S - 1)) == []
    assert hand_overs(later(agent, AT + DELAY_S)) == [(HOLDER, Why.PREFERRED)]


def test_the_delay_begins_anew_when_the_preferred_host_was_away() -> None:
    agent = a_holder((HOLDER, 10), (ME, 0))
    later(agent, AT + 20)
    rank(agent, (ME, 0))
    agent.turn(Instant(AT + 20))
    rank(agent, (HOLDER, 10), (ME, 0))
    agent.turn(Instant(AT + 20))
    assert hand_overs(later(agent, AT + DELAY_S + 10)) == []
    assert hand_overs(later(agent, AT + DELAY_S + 20)) == [(HOLDER, Why.PREFERRED)]


def test_a_vip_that_moved_often_is_left_where_it_is_for_a_while() -> None:
    agent = a_holder((HOLDER, 10), (ME, 0))
    holders = (HOLDER, ME) * DAMPED_MOVES
    for nth, holder in enumerate(holders):
        agent.claim_seen(VIP, a_claim(holder, version=200 + nth), Instant(AT + nth))
    assert holders[-1] == ME
    agent.turn(Instant(AT + len(holders)))
    first_of_the_last = AT + len(holders) - DAMPED_MOVES
    assert hand_overs(later(agent, first_of_the_last + DAMPED_S - 1)) == []
    assert hand_overs(later(agent, first_of_the_last + DAMPED_S + 4)) == [(HOLDER, Why.PREFERRED)]


def test_an_operator_moves_a_vip_at_once() -> None:
    agent = a_holder((ME, 0), (HOLDER, 0), (THIRD, 0))
    assert agent.ask_move(VIP, THIRD, Instant(AT)) == ""
    assert hand_overs(agent.turn(Instant(AT))) == [(THIRD, Why.ASKED)]


def test_what_was_asked_for_is_forgotten_when_the_node_is_gone() -> None:
    agent = a_holder((ME, 0), (HOLDER, 0), (THIRD, 0))
    agent.ask_move(VIP, THIRD, Instant(AT))
    rank(agent, (ME, 0), (HOLDER, 0))
    assert hand_overs(agent.turn(Instant(AT))) == []
    rank(agent, (ME, 0), (HOLDER, 0), (THIRD, 0))
    assert hand_overs(agent.turn(Instant(AT))) == []


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (ME, "198.51.100.64 is on me already"),
        (THIRD, "third is no candidate for 198.51.100.64: excluded-by-label"),
        (NodeName("nobody"), "nobody is no candidate for 198.51.100.64: there is no such node"),
    ],
)
def test_a_move_that_cannot_be_is_refused_with_the_reason(node: NodeName, said: str) -> None:
    agent = a_holder((ME, 0), (HOLDER, 0))
    assert agent.ask_move(VIP, node, Instant(AT)) == said
    assert hand_overs(agent.turn(Instant(AT))) == []


def test_only_the_holder_can_be_asked() -> None:
    agent = a_standby()
    assert agent.ask_move(VIP, ME, Instant(AT)) == "198.51.100.64 is held by holder: run this there"


def test_nothing_is_moved_to_a_host_that_drains() -> None:
    agent = a_holder((ME, 0), (HOLDER, 0))
    drains = replace(session_of(HOLDER, version=900, renewed="100"), draining=True)
    agent.session_seen(HOLDER, drains, Instant(AT))
    assert agent.ask_move(VIP, HOLDER, Instant(AT)) == "holder is draining"
    agent.draining = True
    assert hand_overs(agent.turn(Instant(AT))) == []


def test_rebalancing_brings_each_vip_to_its_best_candidate() -> None:
    agent = a_holder((HOLDER, 0), (ME, 0))
    assert agent.plan(Instant(AT)) == (Move(vip=VIP, holder=ME, to=HOLDER),)
    assert agent.rebalance(Instant(AT)) == agent.plan(Instant(AT))
    assert hand_overs(agent.turn(Instant(AT))) == [(HOLDER, Why.ASKED)]


def test_a_draining_host_hands_over_what_it_can_and_keeps_the_rest() -> None:
    agent = a_holder((ME, 0), (HOLDER, 0))
    agent.draining = True
    assert hand_overs(agent.turn(Instant(AT))) == [(HOLDER, Why.DRAINING)]
    alone = a_holder((ME, 0))
    alone.draining = True
    assert [act for act in alone.turn(Instant(AT)) if isinstance(act, WriteClaim | RemoveAddress)] == []
    verdict = alone.verdict(VIP)
    assert verdict is not None
    assert verdict.why is Why.NO_SUCCESSOR
