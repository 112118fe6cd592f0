"""What a host does with VIPs while it does not reach the API, and when others claim them on the segment."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from hostagent.core.arbitrate import PROBE_AGAIN_S, RANK_STEP_S
from hostagent.core.judge import CONFIRM_S, DEFEND_S, judge
from hostagent.core.ownership import Ownership
from hostagent.core.reach import FENCE_MARGIN_S
from hostagent.core.situation import CARRIER_S
from hostagent.core.view import Probed, Rival, Standing
from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import (
    AddAddress,
    Announce,
    Probe,
    ReadClaim,
    RemoveAddress,
    ReportConflict,
    Why,
    Write,
    WriteClaim,
)
from tests.unit.builders import a_claim
from tests.unit.test_judge import HELD, MAC, NOW, OTHER, OURS, STANDBY, VIP, row, told
from tests.unit.test_suspicion import AT, ETH0, HOLDER, ME, THIRD, a_standby, kinds, mac_of, ranking, session_of

STRANGER = Rival(mac=MAC, node=None, since=Instant(99.99), heard_at=Instant(99.99))
ONE_OF_US = Rival(mac=MAC, node=OTHER, since=Instant(99.95), heard_at=Instant(99.95))
ALONE = replace(STANDBY, api_lost=True, alone_at=Instant(90), order=0, silent_since=Instant(90), open_since=Instant(90))
SILENCE = Probed(at=Instant(99.8), by=None, witnessed=True)
TAKEN = replace(ALONE, held=True, placed=True, arbitrated=True)


@pytest.mark.parametrize(
    ("view", "why", "acts", "wake_at"),
    [
        row("api away", replace(HELD, api_lost=True), Why.HOLDS),
        row("fence and others may act", replace(HELD, api_lost=True, fenced=True), Why.FENCED, RemoveAddress),
        row("no carrier", replace(HELD, unplugged=True), Why.NO_CARRIER, RemoveAddress),
        row(
            "stranger heard",
            replace(HELD, rival=STRANGER),
            Why.HOLDS,
            ReportConflict,
            Announce,
        ),
        row(
            "stranger heard again soon",
            replace(HELD, rival=STRANGER, defended_at=Instant(NOW - 5)),
            Why.HOLDS,
            ReportConflict,
        ),
        row(
            "one of us heard",
            replace(HELD, rival=ONE_OF_US),
            Why.CHALLENGED,
            ReadClaim,
            wake_at=ONE_OF_US.since + CONFIRM_S,
        ),
        row(
            "one of us heard and the api is being asked",
            replace(HELD, rival=ONE_OF_US, reading=True),
            Why.CHALLENGED,
            wake_at=ONE_OF_US.since + CONFIRM_S,
        ),
        row(
            "one of us heard and the api confirms nothing",
            replace(HELD, rival=replace(ONE_OF_US, since=Instant(NOW - CONFIRM_S)), reading=True),
            Why.CHALLENGED,
            RemoveAddress,
        ),
        row(
            "one of us heard and the api confirms",
            replace(HELD, rival=replace(ONE_OF_US, confirmed=True)),
            Why.HOLDS,
            ReportConflict,
            Announce,
        ),
        row("heard, api away", replace(HELD, rival=ONE_OF_US, api_lost=True), Why.CHALLENGED, RemoveAddress),
        row("alone, holder answers", replace(ALONE, silent_since=None), Why.STANDS_BY),
        row("alone, first standby", ALONE, Why.WAITS, Probe),
        row("alone, second standby", replace(ALONE, order=6), Why.STANDS_BY, wake_at=90 + 6 * RANK_STEP_S),
        row("alone, no candidate", replace(ALONE, order=None), Why.STANDS_BY),
        row("alone, draining", replace(ALONE, draining=True), Why.STANDS_BY),
        row("alone, silence and witnesses", replace(ALONE, probed=SILENCE), Why.ARBITRATED, AddAddress),
        row(
            "alone, silence of everybody",
            replace(ALONE, probed=replace(SILENCE, witnessed=False)),
            Why.ALONE,
            wake_at=99.8 + PROBE_AGAIN_S,
        ),
        row(
            "alone, somebody answers",
            replace(ALONE, probed=replace(SILENCE, by=MAC)),
            Why.ANSWERED,
            wake_at=99.8 + PROBE_AGAIN_S,
        ),
        row(
            "alone, own claim let go of",
            replace(ALONE, claim=OURS.claim, standing=Standing.LIVE, in_doubt=True, probed=SILENCE),
            Why.ARBITRATED,
            AddAddress,
        ),
        row("taken, api away", TAKEN, Why.ARBITRATED),
        row("taken, holder back", replace(TAKEN, silent_since=None), Why.YIELDS, RemoveAddress),
        row(
            "taken, api back, the holder heard in the middle of the question",
            replace(TAKEN, api_lost=False, alone_at=None, probing=True, rival=ONE_OF_US),
            Why.YIELDS,
            RemoveAddress,
        ),
        row("taken, api back, asking", replace(TAKEN, api_lost=False, alone_at=None, probing=True), Why.ARBITRATED),
        row("taken, api back", replace(TAKEN, api_lost=False, alone_at=None), Why.ARBITRATED, Probe),
        row(
            "taken, api back, silence",
            replace(TAKEN, api_lost=False, alone_at=None, probed=SILENCE),
            Why.ARBITRATED,
            ("claim", "me", None),
        ),
        row(
            "taken, api back, answered",
            replace(TAKEN, api_lost=False, alone_at=None, probed=replace(SILENCE, by=MAC)),
            Why.YIELDS,
            RemoveAddress,
        ),
        row(
            "holder not a candidate for long",
            replace(STANDBY, barred_at=Instant(NOW - 1)),
            Why.OVERRULES,
            ("claim", "me", "other"),
        ),
        row("barred a moment ago", replace(STANDBY, barred_at=Instant(NOW + 1)), Why.STANDS_BY, wake_at=NOW + 1),
        row("suspected", replace(STANDBY, standing=Standing.SUSPECTED), Why.SUSPECTED, Probe),
        row("suspected, second standby", replace(STANDBY, standing=Standing.SUSPECTED, position=1), Why.SUSPECTED),
    ],
)  # fmt: skip
def test_a_verdict(view: object, why: Why, acts: tuple[object, ...], wake_at: float | None) -> None:
    verdict = judge(view, NOW)  # type: ignore[arg-type]
    assert verdict.why is why
    assert told(verdict) == acts
    assert verdict.wake_at == (None if wake_at is None else pytest.approx(wake_at))


def test_a_stranger_is_answered_once_in_ten_seconds_and_reported_once() -> None:
    agent = a_standby()
    agent.claim_seen(VIP, a_claim(ME, version=9), Instant(AT))
    agent.held_is(VIP, ETH0)
    agent.turn(Instant(AT))
    said = []
    for tenth in range(250):
        at = Instant(AT + tenth / 10)
        for node in (ME, HOLDER):
            agent.session_seen(node, session_of(node, version=1000 + tenth, renewed=str(at), seen_at=at), at)
        agent.heard(VIP, MAC, None, at)
        said += kinds(agent.turn(at))
    assert said.count(ReportConflict) == 1
    assert said.count(Announce) == 1 + int(24.9 / DEFEND_S)


def test_a_predecessor_that_still_answers_is_no_conflict() -> None:
    agent = a_standby()
    agent.claim_seen(VIP, a_claim(ME, predecessor=HOLDER, version=9, seen_at=AT), Instant(AT))
    agent.held_is(VIP, ETH0)
    agent.heard(VIP, mac_of(HOLDER), HOLDER, Instant(AT + 0.1))
    assert kinds(agent.turn(Instant(AT + 0.1))) == [ReadClaim]
    agent.claim_read(VIP, ok=True, now=Instant(AT + 0.11))
    assert agent.turn(Instant(AT + 0.11)) == []


def an_unplugged_holder() -> Ownership:
    """From `AT` on, without carrier."""
    agent = a_standby()
    agent.claim_seen(VIP, a_claim(ME, version=9), Instant(AT))
    agent.held_is(VIP, ETH0)
    agent.turn(Instant(AT))
    agent.carrier_is(ETH0, up=False, now=Instant(AT))
    return agent


def test_without_carrier_for_long_the_address_goes_and_comes_back_only_after_a_write() -> None:
    agent = an_unplugged_holder()
    assert agent.turn(Instant(AT + CARRIER_S / 2)) == []
    wake = agent.next_wake(Instant(AT + CARRIER_S / 2))
    assert wake is not None
    assert wake <= AT + CARRIER_S
    [gone] = [act for act in agent.turn(Instant(AT + CARRIER_S)) if isinstance(act, RemoveAddress)]
    assert gone.why is Why.NO_CARRIER
    agent.held_is(VIP, None)
    agent.carrier_is(ETH0, up=True, now=Instant(AT + 1))
    [write] = [act for act in agent.turn(Instant(AT + 1)) if isinstance(act, WriteClaim)]
    assert (write.holder, write.why) == (ME, Why.RETURNS)


def test_an_address_that_went_with_its_interface_is_put_back_at_once_or_after_a_write_and_never_in_between() -> None:
    """Others may have taken over while this host could hear nobody. That the kernel takes the address says nothing."""
    agent = an_unplugged_holder()
    agent.held_is(VIP, None)
    assert kinds(agent.turn(Instant(AT + CARRIER_S / 2))) == [AddAddress]
    agent.ask_again(VIP, Instant(AT + CARRIER_S))  # the interface was gone
    assert agent.turn(Instant(AT + CARRIER_S)) == []
    agent.carrier_is(ETH0, up=True, now=Instant(AT + 1))
    [write] = [act for act in agent.turn(Instant(AT + 1)) if isinstance(act, WriteClaim)]
    assert (write.holder, write.why) == (ME, Why.RETURNS)


def test_a_late_reply_to_a_write_from_before_it_let_go_does_not_bring_an_address_back() -> None:
    agent = a_standby()
    agent.ranking_is(VIP, ranking(ME))
    agent.claim_seen(VIP, None, Instant(AT))
    agent.turn(Instant(AT))
    agent.probed(VIP, None, Instant(AT + 0.1))
    [write] = [act for act in agent.turn(Instant(AT + 0.1)) if isinstance(act, WriteClaim)]
    agent.claim_seen(VIP, a_claim(ME, version=9), Instant(AT + 0.2))  # by the watch: the reply to the write is lost
    assert AddAddress in kinds(agent.turn(Instant(AT + 0.2)))
    agent.held_is(VIP, ETH0)
    agent.carrier_is(ETH0, up=False, now=Instant(AT + 0.3))
    assert RemoveAddress in kinds(agent.turn(Instant(AT + 0.3 + CARRIER_S)))
    agent.held_is(VIP, None)
    agent.carrier_is(ETH0, up=True, now=Instant(AT + 0.6))
    agent.wrote(VIP, Write.WON, Instant(AT + 2))  # it was read back
    [write] = [act for act in agent.turn(Instant(AT + 2)) if isinstance(act, WriteClaim)]
    assert write.why is Why.RETURNS
    agent.claim_seen(VIP, a_claim(ME, version=10), Instant(AT + 2.1))
    agent.wrote(VIP, Write.WON, Instant(AT + 2.1))
    assert AddAddress in kinds(agent.turn(Instant(AT + 2.1)))


def test_a_short_loss_of_carrier_changes_nothing() -> None:
    agent = an_unplugged_holder()
    agent.turn(Instant(AT + 0.1))
    agent.carrier_is(ETH0, up=True, now=Instant(AT + 0.2))
    assert agent.turn(Instant(AT + 1)) == []


def test_fence_lets_go_before_others_may_count_this_host_as_gone() -> None:
    agent = a_standby(on_api_loss="fence")
    agent.claim_seen(VIP, a_claim(ME, version=9), Instant(AT))
    agent.held_is(VIP, ETH0)
    agent.renewed("100", Instant(AT), Instant(AT + 0.5))
    ends_at = AT + 15 - FENCE_MARGIN_S
    assert agent.lifetime_ends_at == ends_at
    assert agent.turn(Instant(AT + 1)) == []
    assert agent.next_wake(Instant(AT + 1)) is not None
    acts = [act for act in agent.turn(Instant(ends_at)) if isinstance(act, RemoveAddress)]
    assert [act.why for act in acts] == [Why.FENCED]


def test_alone_a_standby_asks_the_others_whether_it_is_they_or_itself_that_is_missing() -> None:
    agent = a_standby(third=True)
    agent.api_reach(reachable=False, now=Instant(AT))
    agent.turn(Instant(AT))
    agent.turn(Instant(AT + 15))
    agent.watch_found(VIP, silent=True, now=Instant(AT + 15.05))
    [probe] = agent.turn(Instant(AT + 15.1))
    assert isinstance(probe, Probe)
    assert probe.witnesses == (session_of(THIRD, version=1, renewed="").segments[0].subnets[0].ip,)
    agent.probed(VIP, None, Instant(AT + 15.2), 0)
    assert agent.turn(Instant(AT + 15.2)) == []
    agent.turn(Instant(AT + 16.3))
    agent.probed(VIP, None, Instant(AT + 16.4), 1)
    [add] = agent.turn(Instant(AT + 16.4))
    assert isinstance(add, AddAddress)
    assert add.why is Why.ARBITRATED


def test_two_hosts_ask_the_gateway() -> None:
    agent = a_standby()
    agent.api_reach(reachable=False, now=Instant(AT))
    agent.turn(Instant(AT))
    agent.turn(Instant(AT + 15))
    agent.watch_found(VIP, silent=True, now=Instant(AT + 15.05))
    [probe] = agent.turn(Instant(AT + 15.1))
    assert isinstance(probe, Probe)
    assert probe.witnesses == ()
    agent.probed(VIP, None, Instant(AT + 15.2), 0)
    agent.turn(Instant(AT + 15.2))
    verdict = agent.verdict(VIP)
    assert verdict is not None
    assert verdict.why is Why.ALONE
    agent.gateways = {ETH0: ip_address("198.51.100.1")}
    [probe] = agent.turn(Instant(AT + 16.5))
    assert isinstance(probe, Probe)
    assert probe.witnesses == (ip_address("198.51.100.1"),)


def test_who_fences_never_arbitrates() -> None:
    agent = a_standby(third=True, on_api_loss="fence")
    agent.api_reach(reachable=False, now=Instant(AT))
    agent.watch_found(VIP, silent=True, now=Instant(AT))
    agent.turn(Instant(AT))
    agent.watch_found(VIP, silent=True, now=Instant(AT))
    assert AddAddress not in kinds(agent.turn(Instant(AT + 60)))


@pytest.mark.parametrize("quicker", [THIRD, HOLDER])
def test_what_a_claim_gives_to_another_after_the_outage_is_not_kept_from_it(quicker: NodeName) -> None:
    """Arbitrated by this host, whose own claim is under way; meanwhile another reached the API first: a third one, or
    the holder itself, which this host cannot hear."""
    agent = a_standby(third=True)
    agent.api_reach(reachable=False, now=Instant(AT))
    agent.turn(Instant(AT + 15))
    agent.watch_found(VIP, silent=True, now=Instant(AT + 15.05))
    agent.turn(Instant(AT + 15.1))
    agent.probed(VIP, None, Instant(AT + 15.2), 1)
    assert kinds(agent.turn(Instant(AT + 15.2))) == [AddAddress]
    agent.held_is(VIP, ETH0)
    agent.turn(Instant(AT + 15.3))
    agent.api_reach(reachable=True, now=Instant(AT + 20))
    assert kinds(agent.turn(Instant(AT + 20))) == [Probe]
    agent.probed(VIP, None, Instant(AT + 20.1), 1)
    assert WriteClaim in kinds(agent.turn(Instant(AT + 20.1)))
    agent.claim_seen(VIP, a_claim(quicker, version=50, seen_at=AT + 20), Instant(AT + 20.2))
    [gone] = [act for act in agent.turn(Instant(AT + 20.2)) if isinstance(act, RemoveAddress)]
    assert gone.why is Why.YIELDS
