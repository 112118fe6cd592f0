"""What one host remembers about one VIP between two moments."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hostagent.core.candidates import Ranking
from hostagent.core.hosts import older
from hostagent.core.judge import DEFEND_S
from hostagent.core.view import Probed, Rival, Verdict
from hostagent.model.names import Instant, InterfaceName, Mac, NodeName
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

REPORT_AGAIN_S = 60.0
"""A rival that was not heard for so long is news again."""
RECONFIRM_S = 0.3
"""One of our hosts that is still heard so long after the API was asked about it: it is asked again."""
DAMPED_MOVES, DAMPED_S = 3, 180.0
"""A VIP that moved so often in that time is not moved for a preference any more (as EVPN does, RFC 7432, 15.1)."""


@dataclass(slots=True)
class Vip:
    """All fields are as this host saw them last; what is under way is in `writing`, `reading` and `probing`."""

    ranking: Ranking | None = None
    """None: no Service uses it."""
    claim: Claim | None = None
    newest: str = ""
    """The newest resource version seen, also of a claim that was deleted since."""
    held_on: InterfaceName | None = None
    lapsed: bool = False
    """The kernel ended the address under a claim of this host."""
    let_go_at: Instant | None = None
    """When the address went off this host under a claim of its own: only a claim written since tells who has it."""
    arbitrated: bool = False
    """It was added by arbitration, and the claim names another."""
    writing: bool = False
    reading: bool = False
    probing: bool = False
    probed: Probed | None = None
    probe_at: Instant | None = None
    """When the last probe was asked for."""
    witnesses: int = 0
    """How many of the machines asked along with the last probe must answer; 0: there was none to ask."""
    wrote_at: Instant | None = None
    """When the last claim write was asked for: what is heard from then on may be the successor already."""
    won_at: Instant | None = None
    """When the last write that was won was asked for."""
    heard_at: Instant | None = None
    rival: Rival | None = None
    defended_at: Instant | None = None
    asked: NodeName | None = None
    """To whom an operator wants it moved."""
    preferred: tuple[NodeName, Instant] | None = None
    """Which node with a higher preference weight could have it, and since when."""
    barred_since: Instant | None = None
    """Since when the holder has been no candidate, as far as this host knows."""
    moved_at: tuple[Instant, ...] = ()
    """The last `DAMPED_MOVES` times."""
    open_since: Instant | None = None
    conflict: Mac | None = None
    """The stranger that was reported already."""
    not_before: Instant | None = None
    """A write that failed is not tried again earlier."""
    verdict: Verdict | None = None

    @property
    def forgettable(self) -> bool:
        return self.ranking is None and self.claim is None and self.held_on is None and not self.writing

    @property
    def holder(self) -> NodeName | None:
        return self.claim.holder if self.claim is not None else None

    def claim_seen(self, claim: Claim | None, now: Instant) -> bool:
        """Take in a claim, unless it is older than what is known, or an echo. True if it was taken in."""
        if claim is not None:
            if older(claim.resource_version, self.newest):
                return False  # the watch is behind the reply to our own write, perhaps even a deletion behind
            if self.claim is not None and claim.resource_version == self.claim.resource_version:
                return False  # its first sight counts
            self.newest = claim.resource_version
        self.arbitrated = False  # also by the same host: it lives, reaches the API and answers
        before, self.claim = self.holder, claim
        if before != self.holder:
            self.probed = self.open_since = self.conflict = self.rival = self.asked = None
            self.preferred = self.barred_since = None
            self.lapsed, self.let_go_at = False, None
            if before is not None and self.holder is not None:
                self.moved_at = (*self.moved_at, now)[-DAMPED_MOVES:]
        return True

    def heard(self, mac: Mac, by: NodeName | None, *, me: NodeName, now: Instant) -> None:
        """Another machine announced or answered for the VIP."""
        self.heard_at = now
        if self.probed is not None and self.probed.by is None:
            self.probed = None  # silent no longer
        self.rival_is(mac, by, me=me, now=now)

    def rival_is(self, mac: Mac, by: NodeName | None, *, me: NodeName, now: Instant) -> None:
        """Another machine answers for what this host holds: a rival, unless this host lets go anyway."""
        rival = self.rival
        obeys = self.claim is not None and self.claim.holder != me and not self.arbitrated
        if self.held_on is None or obeys:
            return
        if rival is None or rival.mac != mac or now - rival.since > (DEFEND_S if by is None else RECONFIRM_S):
            if rival is None or now - rival.heard_at > REPORT_AGAIN_S:
                self.conflict = None
            self.rival = Rival(mac=mac, node=by, since=now, heard_at=now)
        else:
            self.rival = replace(rival, heard_at=now)

    def heard_successor(self, me: NodeName) -> bool:
        """Heard since the hand-over was asked for: the successor's watch may be quicker than the reply to our write."""
        if self.heard_at is None or self.claim is None:
            return False
        since = self.claim.seen_at
        if self.claim.predecessor == me and self.wrote_at is not None:
            since = min(since, self.wrote_at)
        return self.heard_at >= since

    def note(self, act: Act, *, me: NodeName, now: Instant) -> None:
        """Remember what is asked for, and what it changes."""
        match act:
            case WriteClaim() | DeleteClaim():
                self.writing, self.wrote_at = True, now
            case Probe():
                self.probing, self.probe_at = True, now
            case ReadClaim():
                self.reading = True
            case AddAddress(why=why):
                self.arbitrated = why is Why.ARBITRATED and self.holder != me
                self.rival = None
            case RemoveAddress():
                self.let_go_at = now if self.holder == me else None
                self.arbitrated, self.rival, self.probed = False, None, None
            case Announce():
                self.defended_at = now
            case ReportConflict(mac=mac):
                self.conflict = mac
            case _:
                pass

    def won(self, wrote_at: Instant) -> None:
        """A claim of this host's was written: it may answer again, unless it has let go since it asked for that."""
        self.lapsed = False
        if self.let_go_at is not None and wrote_at >= self.let_go_at:
            self.let_go_at = None

    def confirmed(self) -> None:
        """The API said that the claim is still this host's, whoever announces the VIP."""
        if self.rival is not None:
            self.rival = replace(self.rival, confirmed=True)
