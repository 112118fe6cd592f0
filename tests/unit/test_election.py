"""Who allocates: the holder while it lives, then the next in an order that all hosts compute alike."""

from __future__ import annotations

import pytest

from hostagent.core.arbitrate import RANK_STEP_S
from hostagent.core.candidates import rendezvous
from hostagent.core.election import SEAT, Ballot, Seat, elect
from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import Claim
from tests.unit.builders import a_claim

FIRST, SECOND, THIRD = sorted(map(NodeName, ("h1", "h2", "h3")), key=lambda node: rendezvous(node, SEAT))
ALL = (SECOND, THIRD, FIRST)
OPENED, NOW, LATER = Instant(100.0), Instant(100.0), Instant(115.0)


def ballot(
    me: NodeName,
    claim: Claim | None,
    *,
    gone: bool = False,
    alive: tuple[NodeName, ...] = ALL,
    stopping: bool = False,
    barred: bool = False,
    now: float = NOW,
) -> Ballot:
    return elect(
        me=me,
        claim=claim,
        holder_gone=gone,
        holder_expires_at=LATER,
        alive=alive,
        stopping=stopping,
        open_since=OPENED,
        barred_until=LATER if barred else Instant(0),
        now=Instant(now),
    )


STEP = RANK_STEP_S
WAIT_FOR_HOLDER = Ballot(seat=Seat.WAIT, wake_at=LATER)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(ballot(FIRST, None), Ballot(seat=Seat.TAKE, name=FIRST), id="open-and-first"),
        pytest.param(ballot(FIRST, a_claim(None)), Ballot(seat=Seat.TAKE, name=FIRST), id="given-up-and-first"),
        pytest.param(ballot(SECOND, None), Ballot(seat=Seat.WAIT, wake_at=Instant(100 + STEP)), id="second-waits"),
        pytest.param(ballot(SECOND, None, now=100 + STEP), Ballot(seat=Seat.TAKE, name=SECOND), id="second-in-time"),
        pytest.param(
            ballot(THIRD, None), Ballot(seat=Seat.WAIT, wake_at=Instant(100 + 2 * STEP)), id="third-waits-longer"
        ),
        pytest.param(ballot(SECOND, None, alive=(SECOND,)), Ballot(seat=Seat.TAKE, name=SECOND), id="only-one-alive"),
        pytest.param(ballot(FIRST, a_claim(SECOND)), WAIT_FOR_HOLDER, id="the-holder-keeps-it"),
        pytest.param(ballot(FIRST, a_claim(SECOND), gone=True), Ballot(seat=Seat.TAKE, name=FIRST), id="holder-gone"),
        pytest.param(ballot(SECOND, a_claim(SECOND)), Ballot(seat=Seat.LEAD), id="leads"),
        pytest.param(ballot(SECOND, a_claim(SECOND), gone=True), Ballot(seat=Seat.LEAD), id="leads-if-it-is-alive"),
        pytest.param(
            ballot(FIRST, a_claim(FIRST), stopping=True),
            Ballot(seat=Seat.GIVE, name=SECOND),
            id="stopping-names-the-next",
        ),
        pytest.param(
            ballot(FIRST, a_claim(FIRST), stopping=True, alive=(FIRST,)),
            Ballot(seat=Seat.GIVE),
            id="stopping-and-alone",
        ),
        pytest.param(
            ballot(FIRST, a_claim(FIRST), alive=(SECOND, THIRD)),
            Ballot(seat=Seat.GIVE, name=SECOND),
            id="may-not-any-more",
        ),
        pytest.param(ballot(FIRST, a_claim(FIRST), barred=True), Ballot(seat=Seat.GIVE), id="barred-names-nobody"),
        pytest.param(
            ballot(FIRST, None, barred=True), Ballot(seat=Seat.WAIT, wake_at=LATER), id="barred-takes-nothing"
        ),
        pytest.param(
            ballot(FIRST, None, barred=True, now=LATER), Ballot(seat=Seat.TAKE, name=FIRST), id="barred-no-longer"
        ),
        pytest.param(ballot(FIRST, None, stopping=True), Ballot(seat=Seat.WAIT), id="stopping-takes-nothing"),
        pytest.param(ballot(FIRST, None, alive=(SECOND,)), Ballot(seat=Seat.WAIT), id="may-not-takes-nothing"),
    ],
)
def test_the_seat(found: Ballot, expected: Ballot) -> None:
    assert found == expected


def test_all_hosts_name_the_same_one() -> None:
    at_once = [node for node in ALL if ballot(node, None).seat is Seat.TAKE]
    assert at_once == [FIRST]
