"""Who allocates addresses: one host at a time, named in a claim that lives as long as its holder's session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hostagent.core.arbitrate import RANK_STEP_S
from hostagent.core.candidates import rendezvous
from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import Claim

SEAT = "allocator"


class Seat(StrEnum):
    """What a host should do about the allocator's seat."""

    LEAD = "lead"
    TAKE = "take"
    GIVE = "give"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """What to do, whom to name in the claim if it is to be written, and when to look again."""

    seat: Seat
    name: NodeName | None = None
    wake_at: Instant | None = None


def elect(
    *,
    me: NodeName,
    claim: Claim | None,
    holder_gone: bool,
    holder_expires_at: Instant | None,
    alive: Sequence[NodeName],
    stopping: bool,
    open_since: Instant,
    barred_until: Instant,
    now: Instant,
) -> Ballot:
    """Decide about the seat. `alive`: the hosts that may allocate and whose sessions say that they live.

    The holder keeps it while it lives. An open seat goes to the first of the living in rendezvous order; each further
    one waits a little longer, in case that one does not act. Until `barred_until` this host does not stand, as the API
    let it write nothing; then it names no successor either: who takes an open seat shows the API that it may, who is
    given one does not, and two who may not would hand it to each other for ever.
    """
    barred = now < barred_until
    order = sorted(alive, key=lambda node: rendezvous(node, SEAT))
    others = [node for node in order if node != me]
    if claim is not None and claim.holder == me:
        if barred:
            return Ballot(seat=Seat.GIVE)
        if stopping or me not in order:
            return Ballot(seat=Seat.GIVE, name=others[0] if others else None)
        return Ballot(seat=Seat.LEAD)
    if claim is not None and claim.holder is not None and not holder_gone:
        return Ballot(seat=Seat.WAIT, wake_at=holder_expires_at)
    if stopping or me not in order:
        return Ballot(seat=Seat.WAIT)
    if barred:
        return Ballot(seat=Seat.WAIT, wake_at=barred_until)
    turn_at = Instant(open_since + order.index(me) * RANK_STEP_S)
    if now < turn_at:
        return Ballot(seat=Seat.WAIT, wake_at=turn_at)
    return Ballot(seat=Seat.TAKE, name=me)
