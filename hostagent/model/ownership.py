"""Who answers for a VIP: claims, sessions, and the acts that the ownership rules ask for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName, OnLink

CLAIM_PREFIX = "vip."
SESSION_PREFIX = "host."
ALLOCATOR_LEASE = "allocator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One interface of a host as others need to know it: where a VIP could be answered."""

    interface: InterfaceName
    mac: Mac
    subnets: tuple[OnLink, ...] = ()
    """The host's own addresses with their on-link prefixes; never a VIP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """`Lease host.<node>` as this host saw it: that host's sign of life."""

    node: NodeName
    instance: str
    """New at every boot of the host; empty when the session was ended deliberately."""
    resource_version: str
    seen_at: Instant
    """When *this* host saw it change last: the only clock that ever decides about expiry."""
    duration_s: float
    version: str = ""
    """The agent's version."""
    segments: tuple[Segment, ...] = ()
    allocator: bool = True
    """Whether this host may be elected allocator."""

    @property
    def ended(self) -> bool:
        return not self.instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """`Lease vip.<address>` as this host saw it or wrote it."""

    holder: NodeName | None
    """None: released."""
    predecessor: NodeName | None = None
    """Who handed it over to the holder, if it was handed over."""
    resource_version: str
    transitions: int = 0
    seen_at: Instant


class Why(StrEnum):
    """Reasons of the ownership rules, as the journal's HOSTAGENT_REASON has them."""

    FREE = "free"
    """Nobody holds it: no claim, or a released one."""
    ENDED = "holder-ended-its-session"
    EXPIRED = "holder-expired"
    HANDED_OVER = "handed-over"
    RECLAIMED = "claim-was-deleted"
    """This host answers for it, and its claim is gone from the API."""
    LAPSED = "address-expired"
    """The address was off this host while its claim named it: the agent hung, or the cable was out."""
    NO_CARRIER = "no-carrier"
    """The interface has been without carrier for so long that others may have taken over."""
    RETURNS = "makes-sure"
    """The claim names this host, but what it knows of the claim may be old."""
    CLAIMED = "claimed"
    """The claim names this host, and the address is not on its interface yet."""
    HOLDS = "holds"
    STANDS_BY = "stands-by"
    WAITS = "waits"
    YIELDS = "claim-names-another"
    NOT_ENTITLED = "not-a-candidate"
    STOPPING = "stopping"
    NO_SUCCESSOR = "no-other-candidate"
    NOT_WANTED = "no-service-uses-it"
    ANSWERED = "somebody-answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteClaim:
    """Compare-and-swap: make `holder` the holder, if the claim is still as `expected` was (None = absent)."""

    vip: IP
    holder: NodeName | None
    predecessor: NodeName | None = None
    expected: Claim | None
    why: Why
    detail: str = ""
    """For people: what the decision rested on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteClaim:
    """Forget the claim of a VIP that no Service uses any more, if it is still as `expected` was."""

    vip: IP
    expected: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Ask the segment whether anybody answers for the VIP (three requests, as RFC 5227 does)."""

    vip: IP


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAddress:
    """Put the VIP on this host's interface, then announce it."""

    vip: IP
    why: Why
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAddress:
    """Stop announcing the VIP and take it off the interface."""

    vip: IP
    why: Why
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConflict:
    """A machine that no claim names answers for the VIP."""

    vip: IP
    mac: Mac


Act = WriteClaim | DeleteClaim | Probe | AddAddress | RemoveAddress | ReportConflict


class Write(StrEnum):
    """How a claim write ended."""

    WON = "won"
    LOST = "lost"
    """Somebody else wrote first, or it is not as expected: look again."""
    UNKNOWN = "unknown"
    """No reply, and reading back failed too: it may or may not have happened."""
