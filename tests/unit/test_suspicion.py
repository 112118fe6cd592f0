"""Suspicion, refutation, and what follows: who watches whom, when a host counts as gone, who takes over."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from hostagent.core.candidates import Candidate, Ranking
from hostagent.core.hosts import REFUTE_S, RETRY_S, STALE_S
from hostagent.core.ownership import Ownership
from hostagent.core.watching import CALM_S, NOTES, WATCHERS
from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName
from hostagent.model.ownership import (
    Act,
    Announce,
    OnApiLoss,
    Probe,
    ReadClaim,
    ReadSession,
    Refute,
    Segment,
    Session,
    Suspect,
    Why,
    Write,
    WriteClaim,
)
from tests.unit.builders import a_claim, a_session

VIP = ip_address("198.51.100.64")
ETH0 = InterfaceName("eth0")
ME, HOLDER, THIRD = NodeName("me"), NodeName("holder"), NodeName("third")
AT = 100.0
"""Long after the start, so that nothing is young for that reason."""


def mac_of(name: str) -> Mac:
    return Mac(f"02:00:00:00:00:{sum(name.encode()) % 256:02x}")


def session_of(name: str, *, version: int, renewed: str, by: str = "", seen_at: float = AT) -> Session:
    segment = Segment(interface=ETH0, mac=mac_of(name), subnets=a_session("x").segments[0].subnets)
    session = a_session(name, segment, seen_at=seen_at, resource_version=str(version), renewed=renewed)
    return replace(session, suspected_by=NodeName(by) if by else None)


def ranking(*nodes: str) -> Ranking:
    return Ranking(ranked=tuple(Candidate(node=NodeName(n), weight=0, interface=ETH0) for n in nodes), excluded={})


def a_standby(*, vips: tuple[IP, ...] = (VIP,), third: bool = False, on_api_loss: OnApiLoss = "hold") -> Ownership:
    """At `AT`, standing by for VIPs that `holder` has; the stream of Leases has been alive for long."""
    agent = Ownership(me=ME, duration_s=15.0, renew_s=5.0, on_api_loss=on_api_loss)
    nodes = (HOLDER, ME, THIRD) if third else (HOLDER, ME)
    for at in range(80, int(AT), 5):
        for node in nodes:
            agent.session_seen(node, session_of(node, version=at, renewed=str(at), seen_at=at), Instant(at))
        agent.turn(Instant(at))
    for vip in vips:
        agent.ranking_is(vip, ranking(*nodes))
        agent.claim_seen(vip, a_claim(HOLDER, seen_at=80), Instant(AT))
    assert agent.turn(Instant(AT)) == []
    return agent


def suspect(agent: Ownership, at: float, *, by: NodeName = ME) -> None:
    """The note arrives on the watch."""
    agent.session_seen(HOLDER, session_of(HOLDER, version=500, renewed="95", by=by, seen_at=at), Instant(at))


def kinds(acts: list[Act]) -> list[type[Act]]:
    return [type(act) for act in acts]


def test_a_standby_watches_the_holder_by_one_vip() -> None:
    second = ip_address("198.51.100.65")
    agent = a_standby(vips=(VIP, second))
    assert list(agent.watched) == [VIP]
    assert agent.watched[VIP].holder == HOLDER
    assert agent.watched[VIP].mac == mac_of(HOLDER)


def test_nobody_watches_itself_or_what_it_is_no_candidate_for() -> None:
    agent = a_standby()
    agent.ranking_is(VIP, ranking(HOLDER))
    agent.turn(Instant(AT))
    assert agent.watched == {}
    agent.ranking_is(VIP, ranking(HOLDER, ME))
    agent.claim_seen(VIP, a_claim(ME, version=9), Instant(AT))
    agent.turn(Instant(AT))
    assert agent.watched == {}


def test_however_many_hosts_there_are_a_few_watch_each() -> None:
    names = [f"h{i}" for i in range(30)]
    watchers = 0
    for name in names[1:]:
        agent = Ownership(me=NodeName(name), duration_s=15.0, renew_s=5.0)
        for node in names:
            agent.session_seen(NodeName(node), session_of(node, version=1, renewed="1", seen_at=0), Instant(0))
        agent.ranking_is(VIP, ranking(*names))
        agent.claim_seen(VIP, a_claim(names[0]), Instant(0))
        agent.turn(Instant(0))
        watchers += VIP in agent.watched
    assert watchers == WATCHERS


def test_silence_is_noted_in_the_holders_session_once() -> None:
    agent = a_standby()
    agent.watch_found(VIP, silent=True, now=Instant(AT))
    [act] = agent.turn(Instant(AT))
    assert isinstance(act, Suspect)
    assert act.node == HOLDER
    agent.watch_found(VIP, silent=True, now=Instant(AT))
    assert agent.turn(Instant(AT + 0.1)) == []


@pytest.mark.parametrize("outcome", [Write.LOST, Write.UNKNOWN])
def test_a_note_that_was_not_written_is_tried_again_after_a_pause(outcome: Write) -> None:
    agent = a_standby()
    agent.watch_found(VIP, silent=True, now=Instant(AT))
    agent.turn(Instant(AT))
    agent.suspected(HOLDER, outcome, Instant(AT + 0.01))
    assert agent.turn(Instant(AT + 0.1)) == []
    assert agent.next_wake(Instant(AT + 0.1)) == pytest.approx(AT + 0.01 + RETRY_S)
    assert kinds(agent.turn(Instant(AT + 0.02 + RETRY_S))) == [Suspect]


def test_an_unrefuted_holder_is_replaced_after_a_look_at_the_api_and_at_the_segment() -> None:
    agent = a_standby()
    suspect(agent, AT)
    assert kinds(agent.turn(Instant(AT))) == [Probe]
    agent.probed(VIP, None, Instant(AT + 0.12))
    assert agent.turn(Instant(AT + 0.12)) == []
    assert agent.next_wake(Instant(AT + 0.12)) == pytest.approx(AT + REFUTE_S)
    [read] = agent.turn(Instant(AT + REFUTE_S))
    assert read == ReadSession(node=HOLDER)
    still = session_of(HOLDER, version=500, renewed="95", by=ME)
    agent.session_read(HOLDER, still, Instant(AT + REFUTE_S), Instant(AT + 0.31))
    [write] = agent.turn(Instant(AT + 0.31))
    assert isinstance(write, WriteClaim)
    assert (write.holder, write.why) == (ME, Why.DEAD)


def test_a_vip_that_is_answered_is_not_taken_from_a_suspect() -> None:
    agent = a_standby()
    suspect(agent, AT)
    agent.turn(Instant(AT))
    agent.probed(VIP, mac_of(HOLDER), Instant(AT + 0.12))
    agent.turn(Instant(AT + REFUTE_S))
    agent.session_read(
        HOLDER, session_of(HOLDER, version=500, renewed="95", by=ME), Instant(AT + 0.3), Instant(AT + 0.31)
    )
    assert WriteClaim not in kinds(agent.turn(Instant(AT + 0.31)))


def test_a_refutation_on_the_watch_ends_the_suspicion() -> None:
    agent = a_standby()
    agent.watch_found(VIP, silent=True, now=Instant(AT))
    agent.turn(Instant(AT))
    agent.suspected(HOLDER, Write.WON, Instant(AT + 0.01))
    suspect(agent, AT + 0.01)
    agent.turn(Instant(AT + 0.01))
    refuted = AT + 0.03
    agent.session_seen(HOLDER, session_of(HOLDER, version=501, renewed="100"), Instant(refuted))
    agent.probed(VIP, None, Instant(AT + 0.12))
    assert agent.turn(Instant(AT + 1)) == []
    agent.session_seen(HOLDER, session_of(HOLDER, version=502, renewed="104"), Instant(AT + 4))
    assert agent.turn(Instant(AT + 4.9)) == []
    assert kinds(agent.turn(Instant(refuted + CALM_S[0]))) == [Suspect], "still silent: asked again, but not soon"


def test_a_refutation_that_only_the_api_knows_of_counts_too() -> None:
    """The watch is behind."""
    agent = a_standby()
    suspect(agent, AT)
    agent.turn(Instant(AT))
    agent.probed(VIP, None, Instant(AT + 0.12))
    agent.turn(Instant(AT + REFUTE_S))
    agent.session_read(HOLDER, session_of(HOLDER, version=501, renewed="100"), Instant(AT + 0.3), Instant(AT + 0.31))
    assert agent.turn(Instant(AT + 0.31)) == []
    assert not agent.hosts.dead(HOLDER)


def test_a_rivals_note_is_no_sign_of_life() -> None:
    agent = a_standby()
    before = agent.hosts.expires_at(HOLDER)
    suspect(agent, AT + 3)
    assert agent.hosts.expires_at(HOLDER) == before


def test_this_host_refutes_what_is_said_of_it() -> None:
    agent = a_standby()
    agent.session_seen(ME, session_of(ME, version=500, renewed="95", by=THIRD, seen_at=AT), Instant(AT))
    assert agent.turn(Instant(AT)) == [Refute(suspected_by=THIRD)]
    assert agent.turn(Instant(AT)) == []


def test_a_suspicion_from_before_an_outage_leaves_time_to_reach_the_api_again() -> None:
    agent = a_standby()
    suspect(agent, AT)
    agent.turn(Instant(AT))
    back = AT + 60
    agent.session_seen(ME, session_of(ME, version=600, renewed="160", seen_at=back), Instant(back))
    assert ReadSession not in kinds(agent.turn(Instant(back)))
    assert ReadSession not in kinds(agent.turn(Instant(back + 4.9)))
    assert ReadSession in kinds(agent.turn(Instant(back + 5.0)))


def test_no_suspect_becomes_an_heir() -> None:
    agent = a_standby(third=True)
    agent.claim_seen(VIP, a_claim(ME, version=9), Instant(AT))
    agent.held_is(VIP, ETH0)
    suspect(agent, AT)
    agent.stop()
    writes = [act for act in agent.turn(Instant(AT)) if isinstance(act, WriteClaim)]
    assert [act.holder for act in writes] == [THIRD]


def test_a_host_whose_own_renewal_does_not_come_back_on_the_watch_trusts_nothing() -> None:
    agent = a_standby()
    agent.renewed("700", Instant(AT), Instant(AT))
    agent.watch_found(VIP, silent=True, now=Instant(AT))
    suspect(agent, AT + STALE_S)
    assert WriteClaim not in kinds(agent.turn(Instant(AT + STALE_S + 0.1)))
    verdict = agent.verdict(VIP)
    assert verdict is not None
    assert verdict.why is Why.SUSPECTED
    agent.session_seen(ME, session_of(ME, version=700, renewed="100", seen_at=AT), Instant(AT + STALE_S + 0.2))
    assert not agent.hosts.stale(Instant(AT + STALE_S + 0.3))


def test_a_suspicious_host_that_does_not_reach_the_api_stays_quiet() -> None:
    agent = a_standby()
    agent.api_reach(reachable=False, now=Instant(AT))
    agent.watch_found(VIP, silent=True, now=Instant(AT))
    assert agent.turn(Instant(AT + 1)) == []


def test_a_vip_that_stays_silent_though_its_holder_lives_tells_nothing_about_it_any_more() -> None:
    second = ip_address("198.51.100.65")
    agent = a_standby(vips=(VIP, second))
    agent.watch_found(VIP, silent=True, now=Instant(AT))
    agent.turn(Instant(AT))
    agent.suspected(HOLDER, Write.WON, Instant(AT))
    suspect(agent, AT)
    agent.session_seen(HOLDER, session_of(HOLDER, version=501, renewed="100"), Instant(AT + 0.1))
    agent.turn(Instant(AT + 0.1))
    assert list(agent.watched) == [second]


def test_nobody_expires_while_nothing_is_heard_from_the_api() -> None:
    """The holder's time would be over, but whoever hears nobody cannot know."""
    agent = a_standby()
    long_after = Instant(AT + 60)
    assert agent.hosts.alive(HOLDER, long_after)
    assert WriteClaim not in kinds(agent.turn(long_after))


def test_the_api_that_answers_before_its_watch_flows_gives_leave_to_nothing() -> None:
    """The holder's time was over before the outage: what it did through it, and since, was not heard."""
    agent = a_standby()
    for at in range(int(AT), int(AT) + 20, 5):  # the holder alone renews no more
        agent.session_seen(ME, session_of(ME, version=at, renewed=str(at), seen_at=at), Instant(at))
    back = Instant(AT + 60)
    agent.turn(Instant(AT + 20))
    agent.probed(VIP, None, back)
    assert not agent.hosts.alive(HOLDER, back)
    assert WriteClaim not in kinds(agent.turn(back))
    agent.session_seen(ME, session_of(ME, version=900, renewed="900", seen_at=back), back)
    assert agent.hosts.alive(HOLDER, back)


def test_a_host_without_carrier_claims_nothing() -> None:
    agent = a_standby()
    agent.carrier_is(ETH0, up=False, now=Instant(AT))
    agent.claim_seen(VIP, a_claim(None, version=9), Instant(AT))
    agent.ranking_is(VIP, ranking(ME))
    assert kinds(agent.turn(Instant(AT + 1))) == []
    agent.carrier_is(ETH0, up=True, now=Instant(AT + 1))
    assert kinds(agent.turn(Instant(AT + 1))) == [Probe]


def test_silence_that_this_host_cannot_hear_accuses_nobody() -> None:
    agent = a_standby()
    agent.carrier_is(ETH0, up=False, now=Instant(AT))
    agent.watch_found(VIP, silent=True, now=Instant(AT))
    assert kinds(agent.turn(Instant(AT))) == []


def test_five_notes_about_a_host_in_half_a_minute_are_enough() -> None:
    agent = a_standby()
    notes = 0
    for tenth in range(300):
        at = Instant(AT + tenth / 10)
        for node in (ME, HOLDER):
            agent.session_seen(node, session_of(node, version=1000 + tenth, renewed=str(at), seen_at=at), at)
        agent.watch_found(VIP, silent=tenth % 2 == 0, now=at)
        for act in agent.turn(at):
            if isinstance(act, Suspect):
                notes += 1
                agent.suspected(HOLDER, Write.WON, at)
    assert notes == NOTES


def test_a_host_that_comes_back_is_watched_for_by_what_it_had() -> None:
    agent = a_standby()
    agent.claim_seen(VIP, replace(a_claim(ME, version=9), replaced=HOLDER), Instant(AT))
    agent.held_is(VIP, ETH0)
    agent.turn(Instant(AT))
    assert agent.watched[VIP].holder == HOLDER
    agent.heard(VIP, mac_of(HOLDER), HOLDER, Instant(AT + 1))
    assert kinds(agent.turn(Instant(AT + 1))) == [ReadClaim]
    agent.claim_read(VIP, ok=True, now=Instant(AT + 1.01))
    assert Announce in kinds(agent.turn(Instant(AT + 1.01)))
