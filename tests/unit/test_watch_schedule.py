from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.edges.neighbors.watch_schedule import (
    INTERVAL_S,
    QUESTIONS,
    QUICK_GAP_S,
    REGULAR_PER_S,
    REMIND_S,
    STALL_S,
    WAIT_S,
    WatchSchedule,
)
from hostagent.model.names import IP, InterfaceName, Mac, NodeName
from hostagent.model.ownership import Watched

VIP = ip_address("192.0.2.1")
TARGET = Watched(holder=NodeName("b"), interface=InterfaceName("eth0"), mac=Mac("02:00:00:00:00:0b"))
FOUND_S = 2 * WAIT_S + QUICK_GAP_S[1]  # from the first unanswered question


@dataclass
class Story:
    asked: list[tuple[float, IP, bool]] = field(default_factory=list)
    targets: set[tuple[IP, Watched]] = field(default_factory=set)
    fell_silent: list[tuple[float, IP]] = field(default_factory=list)
    reminded: list[tuple[float, IP]] = field(default_factory=list)
    answered: list[tuple[float, IP]] = field(default_factory=list)
    unanswered: int = 0

    def times(self, vip: IP = VIP) -> list[float]:
        return [at for at, asked, _ in self.asked if asked == vip]


def play(
    schedule: WatchSchedule, until: float, *, now: float = 0.0, answers: Callable[[IP, float], bool], late: float = 0.0
) -> Story:
    """Ask whenever the schedule wants to be asked, `late` by so much; whoever `answers` does so at once."""
    story = Story()
    while (at := schedule.next_at()) is not None and (now := max(at + late, now)) <= until:
        turn = schedule.turn(now)
        story.unanswered += turn.unanswered
        story.fell_silent += [(now, vip) for vip in turn.fell_silent]
        story.reminded += [(now, vip) for vip in turn.still_silent]
        for question in turn.questions:
            story.asked.append((now, question.vip, question.everybody))
            story.targets.add((question.vip, question.target))
            if answers(question.vip, now) and schedule.heard(question.vip):
                story.answered.append((now, question.vip))
    return story


def always(_vip: IP, _now: float) -> bool:
    return True


def never(_vip: IP, _now: float) -> bool:
    return False


def watching(*vips: IP, seed: int = 0) -> WatchSchedule:
    schedule = WatchSchedule(random.Random(seed).random)
    schedule.replace(dict.fromkeys(vips or (VIP,), TARGET), 0.0)
    return schedule


def many(count: int) -> list[IP]:
    return [VIP + n for n in range(count)]


def gaps(times: Collection[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_who_answers_is_asked_at_jittered_intervals() -> None:
    story = play(watching(), 60.0, answers=always)
    assert min(gaps(story.times())) >= INTERVAL_S[0] - 1e-9
    assert max(gaps(story.times())) <= INTERVAL_S[1] + 1e-9
    assert max(gaps(story.times())) - min(gaps(story.times())) > 0.05
    assert not any(everybody for *_, everybody in story.asked)
    assert (story.unanswered, story.fell_silent) == (0, [])


@given(seed=st.integers(), vips=st.integers(min_value=1, max_value=5))
def test_silence_is_three_questions_of_which_the_last_is_for_everybody(seed: int, vips: int) -> None:
    schedule = watching(*many(vips), seed=seed)
    play(schedule, 1.0, answers=always)
    story = play(schedule, 1.4, now=1.0, answers=never)
    for vip in many(vips):
        first, second, third, *_ = story.times(vip)
        assert second - first == pytest.approx(WAIT_S)
        assert QUICK_GAP_S[0] - 1e-9 <= third - second <= QUICK_GAP_S[1] + 1e-9
        assert [everybody for _, asked, everybody in story.asked if asked == vip][:QUESTIONS] == [False, False, True]
        (found,) = (at for at, silent in story.fell_silent if silent == vip)
        assert found - third == pytest.approx(WAIT_S)
        assert found <= 1.0 + INTERVAL_S[1] + FOUND_S + 0.02 * vips


@pytest.mark.parametrize("lost", [{1}, {2}, {1, 2}, {2, 3}, {1, 3}])
def test_an_answer_to_any_of_three_is_an_answer(lost: set[int]) -> None:
    schedule = watching()
    count = itertools.count()
    story = play(schedule, 30.0, answers=lambda _vip, _now: next(count) % QUESTIONS + 1 not in lost)
    assert story.unanswered > 10
    assert story.fell_silent == []


def test_a_late_answer_is_an_answer() -> None:
    schedule = watching()
    at = schedule.next_at()
    assert at is not None
    schedule.turn(at)
    assert schedule.turn(at + WAIT_S).unanswered == 1  # the second question is open
    schedule.heard(VIP)
    assert schedule.next_at() == pytest.approx(at + WAIT_S + 0.15, abs=0.051)
    assert play(schedule, 10.0, now=at + WAIT_S, answers=always).fell_silent == []


def test_lasting_silence_is_asked_at_the_normal_pace_and_told_each_second() -> None:
    story = play(watching(), 20.0, answers=never)
    ((found, _),) = story.fell_silent
    afterwards = [at for at in story.times() if at > found]
    assert min(gaps(afterwards)) >= INTERVAL_S[0] - 1e-9
    assert max(gaps(afterwards)) <= INTERVAL_S[1] + 1e-9
    assert sum(everybody for *_, everybody in story.asked) == 1
    told = [found, *(at for at, _ in story.reminded)]
    assert min(gaps(told)) >= REMIND_S
    assert max(gaps(told)) <= REMIND_S + INTERVAL_S[1]


def test_the_first_answer_ends_a_silence_and_the_next_begins_anew() -> None:
    story = play(watching(), 30.0, answers=lambda _vip, now: 10.0 < now < 20.0)
    assert [round(at) for at, _ in story.answered] == [10]
    assert [round(at) for at, _ in story.fell_silent] == [0, 20]


@pytest.mark.parametrize("answers", [always, never])
@pytest.mark.parametrize("count", [7, 8, 50, 200])
def test_however_many_regular_questions_keep_their_distance(count: int, answers: Callable[[IP, float], bool]) -> None:
    """So there are never more than fifty in a second, and never more than 110 quick ones."""
    schedule = watching(*many(count))
    story = play(schedule, 20.0, answers=answers)
    times = [at for at, *_ in story.asked]
    in_any_second = max(sum(at <= other < at + 1 - 1e-6 for other in times) for at in times)
    if answers is always:
        assert min(gaps(times)) >= 1 / REGULAR_PER_S - 1e-9
        assert in_any_second <= REGULAR_PER_S
    assert in_any_second <= REGULAR_PER_S + 110
    for vip in many(count):
        assert max(gaps(story.times(vip))) <= max(count / REGULAR_PER_S, INTERVAL_S[1]) + INTERVAL_S[1]


def test_after_everything_died_at_once_the_pace_is_the_regular_one() -> None:
    schedule = watching(*many(50))
    assert len(play(schedule, 2.0, answers=never).fell_silent) == 50
    assert len(play(schedule, 12.0, now=2.0, answers=never).asked) <= 10 * REGULAR_PER_S + 1


def test_questions_that_fell_into_a_stall_are_asked_anew() -> None:
    schedule = watching()
    first = schedule.next_at()
    assert first is not None
    assert schedule.turn(first).questions
    for stalls in range(1, 100):  # a machine so starved that it is late each time accuses nobody
        at = schedule.next_at()
        assert at is not None
        turn = schedule.turn(at + 1.1 * STALL_S)
        assert (turn.unanswered, turn.fell_silent) == (0, [])
        assert len(turn.questions) == 1, stalls


@given(seed=st.integers(), late=st.floats(min_value=0, max_value=0.9 * STALL_S))
def test_a_little_lateness_hides_no_silence(seed: int, late: float) -> None:
    story = play(watching(seed=seed), 2.0, answers=never, late=late)
    assert len(story.fell_silent) == 1


def test_after_a_stall_what_was_unanswered_before_it_is_forgotten() -> None:
    schedule = watching()
    first = schedule.next_at()
    assert first is not None
    schedule.turn(first)
    schedule.turn(first + WAIT_S)
    story = play(schedule, 5.0, now=first + 2.0, answers=never)
    assert [everybody for *_, everybody in story.asked[:QUESTIONS]] == [False, False, True]
    assert story.fell_silent[0][0] == pytest.approx(first + 2.0 + FOUND_S, abs=0.011)


def test_what_stays_as_it_was_keeps_its_state() -> None:
    schedule = watching(VIP, VIP + 1)
    play(schedule, 1.0, answers=never)
    before = schedule.next_at()
    schedule.replace({VIP: TARGET, VIP + 1: TARGET}, 1.0)
    assert schedule.next_at() == before
    assert schedule.heard(VIP)  # it was silent


@pytest.mark.parametrize(
    "change",
    [
        Watched(holder=NodeName("c"), interface=TARGET.interface, mac=TARGET.mac),
        Watched(holder=TARGET.holder, interface=InterfaceName("eth1"), mac=TARGET.mac),
        Watched(holder=TARGET.holder, interface=TARGET.interface, mac=Mac("02:00:00:00:00:0c")),
    ],
)
def test_another_holder_interface_or_mac_starts_anew(change: Watched) -> None:
    schedule = watching()
    play(schedule, 1.0, answers=never)
    schedule.replace({VIP: change}, 1.0)
    assert schedule.heard(VIP), "the first news"
    assert schedule[VIP] == change
    story = play(schedule, 2.0, now=1.0, answers=always)
    assert {target for _, target in story.targets} == {change}
    assert len(play(schedule, 3.0, now=2.0, answers=never).fell_silent) == 1


def test_who_is_watched_no_longer_is_not_asked() -> None:
    schedule = watching(*many(3))
    play(schedule, 1.03, answers=never)
    schedule.replace({}, 1.03)
    assert schedule.next_at() is None
    assert len(schedule) == 0
    assert VIP not in schedule
    schedule.unasked(VIP)  # a question that was on its way to be sent


def test_a_question_that_could_not_be_sent_says_nothing() -> None:
    schedule = watching()
    for _ in range(50):
        at = schedule.next_at()
        assert at is not None
        turn = schedule.turn(at)
        assert turn.unanswered == 0
        assert [question.everybody for question in turn.questions] == [False]
        schedule.unasked(VIP)


@given(
    seed=st.integers(),
    steps=st.lists(
        st.tuples(st.floats(min_value=0, max_value=0.3), st.sampled_from(["answer", "nothing", "unasked", "fewer"])),
        max_size=80,
    ),
)
def test_each_watched_vip_has_always_a_next_time(seed: int, steps: list[tuple[float, str]]) -> None:
    schedule = watching(*many(3), seed=seed)
    now = 0.0
    for late, what in steps:
        at = schedule.next_at()
        assert at is not None
        now = max(now, at) + late
        asked = schedule.turn(now).questions
        if what == "answer":
            for question in asked:
                schedule.heard(question.vip)
        elif what == "unasked":
            for question in asked:
                schedule.unasked(question.vip)
        elif what == "fewer":
            schedule.replace({VIP: TARGET}, now)
            schedule.replace(dict.fromkeys(many(3), TARGET), now)
    story = play(schedule, now + 3.0, now=now, answers=always)
    assert {vip for _, vip, _ in story.asked} == set(many(3))
