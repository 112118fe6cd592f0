"""The rules about one VIP, one row each, in the order in which they are asked."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from hostagent.core.arbitrate import PROBE_AGAIN_S, RANK_STEP_S, SILENCE_VALID_S
from hostagent.core.candidates import Candidate, Ranking
from hostagent.core.hosts import RETRY_S
from hostagent.core.judge import CONFIRM_S, HAND_OVER_S, judge
from hostagent.core.ownership import STALL_S, Ownership
from hostagent.core.situation import CATCH_UP_S
from hostagent.core.view import Probed, Rival, Standing, Verdict, View
from hostagent.model.names import Instant, InterfaceName, Mac, NodeName
from hostagent.model.ownership import (
    AddAddress,
    Announce,
    DeleteClaim,
    Probe,
    ReadClaim,
    RemoveAddress,
    ReportConflict,
    Why,
    Write,
    WriteClaim,
)
from tests.unit.builders import a_claim, a_session

VIP = ip_address("198.51.100.64")
ME, HEIR, OTHER = NodeName("me"), NodeName("heir"), NodeName("other")
MAC = Mac("02:00:00:00:00:99")
NOW = Instant(100.0)
MINE, THEIRS, RELEASED = a_claim(ME, seen_at=90), a_claim(OTHER, seen_at=90), a_claim(None, seen_at=90)
HANDED = a_claim(OTHER, predecessor=ME, seen_at=99.9)
SILENCE = Probed(at=Instant(99.8), by=None)
ANSWER = Probed(at=Instant(99.8), by=MAC)
LATER = Instant(115.0)

IDLE = View(
    vip=VIP,
    me=ME,
    wanted=True,
    stopping=False,
    entitled=True,
    position=0,
    heir=HEIR,
    claim=None,
    standing=None,
    last_sign_at=None,
    expires_at=None,
    held=False,
    placed=False,
    lapsed=False,
    in_doubt=False,
    writing=False,
    probing=False,
    probed=None,
    heard_successor=False,
    open_since=NOW,
    sweeps=False,
)
OURS = replace(IDLE, claim=MINE, standing=Standing.LIVE, open_since=None)
HELD = replace(OURS, held=True, placed=True)
STANDBY = replace(IDLE, claim=THEIRS, standing=Standing.LIVE, last_sign_at=Instant(98.0), expires_at=LATER)
BACK = Rival(mac=MAC, node=OTHER, since=NOW, heard_at=NOW, confirmed=True)
UNWANTED = replace(IDLE, wanted=False, entitled=False, position=None, heir=None)


def row(name: str, view: View, why: Why, *acts: object, wake_at: float | None = None) -> object:
    """Acts are told by type and, for a claim, by whom it names: `("claim", holder, predecessor)`."""
    return pytest.param(view, why, acts, wake_at, id=name.replace(" ", "-"))


def told(verdict: Verdict) -> tuple[object, ...]:
    return tuple(
        ("claim", act.holder, act.predecessor) if isinstance(act, WriteClaim) else type(act) for act in verdict.acts
    )


NOT_WANTED = [
    row("unwanted and nothing there", UNWANTED, Why.NOT_WANTED),
    row(
        "unwanted, held, ours",
        replace(UNWANTED, held=True, claim=MINE, standing=Standing.LIVE),
        Why.NOT_WANTED,
        RemoveAddress,
        DeleteClaim,
    ),
    row(
        "unwanted, being written",
        replace(UNWANTED, held=True, claim=MINE, standing=Standing.LIVE, writing=True),
        Why.NOT_WANTED,
        RemoveAddress,
    ),
    row("unwanted, another's", replace(UNWANTED, claim=THEIRS, standing=Standing.LIVE), Why.NOT_WANTED),
    row("unwanted, of a dead host", replace(UNWANTED, claim=THEIRS, standing=Standing.EXPIRED), Why.NOT_WANTED),
    row(
        "swept, of a dead host",
        replace(UNWANTED, claim=THEIRS, standing=Standing.EXPIRED, sweeps=True),
        Why.NOT_WANTED,
        DeleteClaim,
    ),
    row(
        "swept, of one that left",
        replace(UNWANTED, claim=THEIRS, standing=Standing.ENDED, sweeps=True),
        Why.NOT_WANTED,
        DeleteClaim,
    ),
    row("swept, released", replace(UNWANTED, claim=RELEASED, sweeps=True), Why.NOT_WANTED, DeleteClaim),
    row(
        "not swept while the holder lives",
        replace(UNWANTED, claim=THEIRS, standing=Standing.LIVE, sweeps=True, expires_at=LATER),
        Why.NOT_WANTED,
        wake_at=LATER,
    ),
]

NAMED = [
    row("holds", HELD, Why.HOLDS),
    row("holds whatever the API says of its session", replace(HELD, standing=Standing.EXPIRED), Why.HOLDS),
    row("named and not there", OURS, Why.HOLDS, AddAddress),
    row("named by a predecessor", replace(OURS, claim=a_claim(ME, predecessor=OTHER)), Why.HOLDS, AddAddress),
    row("on the wrong interface", replace(HELD, placed=False), Why.HOLDS, AddAddress),
    row("on the wrong interface in doubt", replace(HELD, placed=False, in_doubt=True), Why.HOLDS, AddAddress),
    row("expired under us", replace(OURS, lapsed=True), Why.LAPSED, ("claim", HEIR, None)),
    row("expired under us and nobody else", replace(OURS, lapsed=True, heir=None), Why.LAPSED, ("claim", ME, None)),
    row("expired under us, being written", replace(OURS, lapsed=True, writing=True), Why.WAITS),
    row("expired under us, alone, not known to live", replace(OURS, lapsed=True, heir=None, position=None), Why.WAITS),
    row(
        "expired under us, not known to live",
        replace(OURS, lapsed=True, position=None),
        Why.LAPSED,
        ("claim", HEIR, None),
    ),
    row("in doubt and not known to live", replace(OURS, in_doubt=True, position=None), Why.WAITS),
    row("in doubt", replace(OURS, in_doubt=True), Why.RETURNS, ("claim", ME, None)),
    row(
        "in doubt, handed over to us",
        replace(OURS, in_doubt=True, claim=a_claim(ME, predecessor=OTHER)),
        Why.RETURNS,
        ("claim", ME, OTHER),
    ),
    row("in doubt and held", replace(HELD, in_doubt=True), Why.HOLDS),
    row("no candidate", replace(HELD, entitled=False), Why.NOT_ENTITLED, ("claim", HEIR, ME)),
    row("no candidate and not there", replace(OURS, entitled=False), Why.NOT_ENTITLED, ("claim", HEIR, None)),
    row("no candidate, being written", replace(HELD, entitled=False, writing=True), Why.NOT_ENTITLED),
    row(
        "no candidate and no heir",
        replace(HELD, entitled=False, heir=None),
        Why.NO_SUCCESSOR,
        RemoveAddress,
        ("claim", None, None),
    ),
    row("stopping", replace(HELD, stopping=True), Why.STOPPING, ("claim", HEIR, ME)),
    row(
        "stopping, and another comes back to what is still ours",
        replace(HELD, stopping=True, writing=True, rival=BACK),
        Why.STOPPING,
        ReportConflict,
        Announce,
    ),
    row(
        "stopping, and nobody has asked yet whose it is",
        replace(HELD, stopping=True, rival=replace(BACK, confirmed=False)),
        Why.CHALLENGED,
        ReadClaim,
        wake_at=NOW + CONFIRM_S,
    ),
    row("stopping and expired", replace(OURS, stopping=True, lapsed=True), Why.STOPPING, ("claim", HEIR, None)),
    row(
        "stopping and no heir",
        replace(HELD, stopping=True, heir=None),
        Why.NO_SUCCESSOR,
        RemoveAddress,
        ("claim", None, None),
    ),
]

FREE = [
    row("free", IDLE, Why.WAITS, Probe),
    row("free and silent", replace(IDLE, probed=SILENCE), Why.FREE, ("claim", ME, None)),
    row("released and silent", replace(IDLE, claim=RELEASED, probed=SILENCE), Why.FREE, ("claim", ME, None)),
    row(
        "silence is old",
        replace(IDLE, probed=Probed(at=Instant(NOW - SILENCE_VALID_S - 0.01), by=None)),
        Why.WAITS,
        Probe,
    ),
    row("somebody answers", replace(IDLE, probed=ANSWER), Why.ANSWERED, ReportConflict, wake_at=99.8 + PROBE_AGAIN_S),
    row(
        "somebody answered a while ago",
        replace(IDLE, probed=Probed(at=Instant(NOW - PROBE_AGAIN_S), by=MAC)),
        Why.WAITS,
        Probe,
    ),
    row("probing", replace(IDLE, probing=True), Why.WAITS),
    row("writing", replace(IDLE, writing=True, probed=SILENCE), Why.WAITS),
    row("free and second", replace(IDLE, position=1), Why.STANDS_BY, wake_at=NOW + RANK_STEP_S),
    row(
        "free and second, after its time",
        replace(IDLE, position=1, open_since=Instant(NOW - RANK_STEP_S)),
        Why.WAITS,
        Probe,
    ),
    row("free and no candidate", replace(IDLE, position=None, entitled=False), Why.STANDS_BY),
    row("free and stopping", replace(IDLE, stopping=True), Why.STANDS_BY),
    row("claim deleted under us", replace(IDLE, held=True, placed=True), Why.RECLAIMED, ("claim", ME, None)),
    row("claim deleted under us, being written", replace(IDLE, held=True, writing=True), Why.RECLAIMED),
    row(
        "released under us, and we stop",
        replace(IDLE, claim=RELEASED, held=True, stopping=True),
        Why.STOPPING,
        RemoveAddress,
    ),
    row("held by no right", replace(IDLE, held=True, entitled=False, position=None), Why.NOT_ENTITLED, RemoveAddress),
]

ANOTHERS = [
    row("stands by", STANDBY, Why.STANDS_BY, wake_at=LATER),
    row("no candidate does not wait", replace(STANDBY, position=None), Why.STANDS_BY),
    row("yields", replace(STANDBY, held=True), Why.YIELDS, RemoveAddress),
    row(
        "yields also when the other is dead",
        replace(STANDBY, held=True, standing=Standing.EXPIRED),
        Why.YIELDS,
        RemoveAddress,
    ),
    row(
        "waits for its successor",
        replace(STANDBY, claim=HANDED, held=True),
        Why.HANDED_OVER,
        Probe,
        wake_at=99.9 + HAND_OVER_S,
    ),
    row(
        "waits for its successor and has asked for it",
        replace(STANDBY, claim=HANDED, held=True, probing=True),
        Why.HANDED_OVER,
        wake_at=99.9 + HAND_OVER_S,
    ),
    row(
        "heard its successor",
        replace(STANDBY, claim=HANDED, held=True, heard_successor=True),
        Why.HANDED_OVER,
        RemoveAddress,
    ),
    row(
        "waited long enough",
        replace(STANDBY, claim=replace(HANDED, seen_at=Instant(NOW - HAND_OVER_S)), held=True),
        Why.HANDED_OVER,
        RemoveAddress,
    ),
    row("the holder left", replace(STANDBY, standing=Standing.ENDED, probed=SILENCE), Why.ENDED, ("claim", ME, None)),
    row("the holder left, unprobed", replace(STANDBY, standing=Standing.ENDED), Why.WAITS, Probe),
    row(
        "the holder is silent",
        replace(STANDBY, standing=Standing.EXPIRED, probed=SILENCE),
        Why.EXPIRED,
        ("claim", ME, None),
    ),
    row(
        "the holder answers",
        replace(STANDBY, standing=Standing.EXPIRED, probed=ANSWER),
        Why.ANSWERED,
        ReportConflict,
        wake_at=99.8 + PROBE_AGAIN_S,
    ),
    row("the holder is silent and we stop", replace(STANDBY, standing=Standing.EXPIRED, stopping=True), Why.STANDS_BY),
]


@pytest.mark.parametrize(("view", "why", "acts", "wake_at"), [*NOT_WANTED, *NAMED, *FREE, *ANOTHERS])
def test_a_verdict(view: View, why: Why, acts: tuple[object, ...], wake_at: float | None) -> None:
    verdict = judge(view, NOW)
    assert (verdict.why, told(verdict)) == (why, acts)
    assert verdict.wake_at == (None if wake_at is None else pytest.approx(wake_at))
    for act in verdict.acts:  # a compare-and-swap against anything else would be a plain write
        assert not isinstance(act, WriteClaim | DeleteClaim) or act.expected is view.claim


def test_the_reason_tells_for_how_long_the_holder_was_silent() -> None:
    [act] = judge(replace(STANDBY, standing=Standing.EXPIRED, probed=SILENCE, last_sign_at=Instant(82.5)), NOW).acts
    assert isinstance(act, WriteClaim)
    assert act.detail == "no sign of other for 17.5 s, and nobody answered the probe"


# What is remembered between two moments


def an_agent(*ranked: str) -> Ownership:
    """All of these live and are candidates, in this order; the agent has looked once."""
    agent = Ownership(me=ME, duration_s=15.0, renew_s=5.0)
    for node in {ME, *ranked}:
        agent.session_seen(NodeName(node), a_session(node, seen_at=0), Instant(0))
    agent.ranking_is(VIP, ranking(*ranked))
    return agent


def ranking(*ranked: str) -> Ranking:
    eth0 = InterfaceName("eth0")
    return Ranking(ranked=tuple(Candidate(node=NodeName(n), weight=0, interface=eth0) for n in ranked), excluded={})


def test_an_older_claim_does_not_replace_a_newer_one() -> None:
    """The watch may be behind the reply to our own write."""
    agent = an_agent(ME)
    agent.claim_seen(VIP, a_claim(OTHER, version=10), Instant(1))
    agent.claim_seen(VIP, a_claim(ME, version=9), Instant(1))
    assert agent.claims[VIP].holder == OTHER


def test_a_deletion_that_the_watch_brings_late_does_not_revive_older_claims() -> None:
    """After a hang: our own write is answered first, then comes what happened before it, one by one."""
    agent = an_agent(ME)
    agent.claim_seen(VIP, a_claim(OTHER, version=10), Instant(1))
    agent.claim_seen(VIP, None, Instant(1.1))
    agent.claim_seen(VIP, a_claim(ME, version=9), Instant(1.2))
    assert VIP not in agent.claims
    agent.claim_seen(VIP, a_claim(OTHER, version=10), Instant(1.3))
    assert agent.claims[VIP].holder == OTHER


def test_an_echo_of_a_claim_does_not_make_it_younger() -> None:
    agent = an_agent(ME)
    agent.claim_seen(VIP, a_claim(OTHER, version=10, seen_at=1), Instant(1))
    agent.claim_seen(VIP, a_claim(OTHER, version=10, seen_at=2), Instant(2))
    assert agent.claims[VIP].seen_at == Instant(1)


def test_a_conflict_is_reported_once() -> None:
    agent = an_agent(ME)
    assert [type(act) for act in agent.turn(Instant(0))] == [Probe]
    agent.probed(VIP, MAC, Instant(0.1))
    assert [type(act) for act in agent.turn(Instant(0.1))] == [ReportConflict]
    agent.ask_again(VIP, Instant(0.2))
    assert agent.turn(Instant(0.2)) == []


def test_a_probe_that_failed_is_asked_for_again_after_a_pause() -> None:
    agent = an_agent(ME)
    agent.turn(Instant(0))
    agent.probe_failed(VIP, Instant(0.1))
    assert agent.turn(Instant(0.2)) == []
    assert agent.next_wake(Instant(0.1)) == pytest.approx(0.1 + RETRY_S)
    assert [type(act) for act in agent.turn(Instant(0.1 + RETRY_S))] == [Probe]


def test_a_write_without_a_reply_is_asked_for_again_after_a_pause() -> None:
    agent = an_agent(ME)
    agent.turn(Instant(0))
    agent.probed(VIP, None, Instant(0.1))
    assert [type(act) for act in agent.turn(Instant(0.1))] == [WriteClaim]
    agent.wrote(VIP, Write.UNKNOWN, Instant(0.2))
    agent.turn(Instant(0.2))
    agent.probed(VIP, None, Instant(0.3))
    assert agent.turn(Instant(0.3)) == []
    acts = agent.turn(Instant(0.2 + RETRY_S))
    assert [type(act) for act in acts] == [WriteClaim]


def test_a_claim_lost_to_another_is_probed_for_anew() -> None:
    agent = an_agent(ME)
    agent.turn(Instant(0))
    agent.probed(VIP, None, Instant(0.1))
    agent.turn(Instant(0.1))
    agent.claim_seen(VIP, a_claim(None, version=5), Instant(0.2))
    agent.wrote(VIP, Write.LOST, Instant(0.2))
    assert [type(act) for act in agent.turn(Instant(0.2))] == [Probe]


def test_the_reply_that_waited_out_a_hang_does_not_prove_that_the_claim_is_still_ours() -> None:
    agent = an_agent(ME)
    agent.turn(Instant(0))
    agent.probed(VIP, None, Instant(0.1))
    [write] = agent.turn(Instant(0.1))
    assert isinstance(write, WriteClaim)
    woken = Instant(0.1 + STALL_S + 30)
    agent.session_seen(ME, a_session(ME, seen_at=woken, resource_version="2"), woken)
    agent.claim_seen(VIP, a_claim(ME, version=7), woken)
    agent.wrote(VIP, Write.WON, woken)
    acts = agent.turn(woken)
    assert [(type(act), act.why) for act in acts if not isinstance(act, Probe)] == [(WriteClaim, Why.RETURNS)]  # type: ignore[union-attr]


def test_the_probe_that_waited_out_a_hang_does_not_prove_silence() -> None:
    agent = an_agent(ME)
    agent.turn(Instant(0))
    agent.session_seen(ME, a_session(ME, seen_at=30, resource_version="2"), Instant(30))
    agent.probed(VIP, None, Instant(30))
    assert [type(act) for act in agent.turn(Instant(30))] == [Probe]


def test_doubt_ends_with_time() -> None:
    agent = an_agent(ME)
    agent.turn(Instant(0))
    at = STALL_S + 1
    agent.turn(Instant(at))
    while at < 2 * STALL_S + CATCH_UP_S:
        at += 1.0
        agent.turn(Instant(at))
    agent.claim_seen(VIP, a_claim(ME, version=7), Instant(at))
    assert [type(act) for act in agent.turn(Instant(at))] == [AddAddress]


def test_after_an_outage_of_the_api_every_vip_is_looked_at_again() -> None:
    """During it nobody's time ran; from now on everybody has a full duration to be heard again."""
    agent = an_agent(ME, OTHER)
    agent.claim_seen(VIP, a_claim(OTHER), Instant(0))
    for second in range(40):
        agent.turn(Instant(second))
    verdict = agent.verdict(VIP)
    assert verdict is not None
    assert verdict.why is Why.STANDS_BY
    agent.session_seen(ME, a_session(ME, seen_at=40, resource_version="2"), Instant(40))
    agent.turn(Instant(40))
    assert agent.next_wake(Instant(40)) == Instant(40 + 15)


def test_whoever_begins_to_sweep_looks_at_what_is_unwanted() -> None:
    agent = an_agent(ME)
    agent.ranking_is(VIP, None)
    agent.claim_seen(VIP, a_claim(None), Instant(0))
    assert agent.turn(Instant(0)) == []
    agent.sweeps = True
    assert [type(act) for act in agent.turn(Instant(1))] == [DeleteClaim]


def test_a_standby_waits_its_rank_anew_after_the_holder_came_back() -> None:
    agent = an_agent(HEIR, ME)
    agent.claim_seen(VIP, a_claim(OTHER), Instant(0))
    for at, ended in ((0, True), (1, False), (20, True)):
        session = a_session(OTHER, ended=ended, seen_at=at, resource_version=str(at + 2))
        for node in (ME, HEIR):
            agent.session_seen(node, a_session(node, seen_at=at, resource_version=str(at + 2)), Instant(at))
        agent.session_seen(OTHER, session, Instant(at))
        agent.turn(Instant(at))
    verdict = agent.verdict(VIP)
    assert verdict is not None
    assert verdict.wake_at == Instant(20 + RANK_STEP_S)


def test_nothing_is_remembered_of_a_vip_that_is_gone() -> None:
    agent = an_agent(ME)
    agent.turn(Instant(0))
    agent.ranking_is(VIP, None)
    agent.turn(Instant(1))
    assert agent.verdict(VIP) is None
    agent.heard(VIP, MAC, OTHER, Instant(2))
    assert agent.verdict(VIP) is None
