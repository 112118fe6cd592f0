"""Who answers for a VIP: claims, sessions, and the acts that the ownership rules ask for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName, OnLink

CLAIM_PREFIX = "vip."
SESSION_PREFIX = "host."
ALLOCATOR_LEASE = "allocator"

OnApiLoss = Literal["hold", "fence"]
"""What a host does with its VIPs while it cannot reach the API: keep them, or let go before others may take over."""


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
    renewed: str = ""
    """Its host's own wall time of the last renewal: never compared with a clock, only with what it was before, as a
    rival's note changes the Lease too and is no sign of life."""
    seen_at: Instant
    """When *this* host saw it renewed last: the only clock that ever decides about expiry."""
    duration_s: float
    version: str = ""
    """The agent's version."""
    segments: tuple[Segment, ...] = ()
    allocator: bool = True
    """Whether this host may be elected allocator."""
    draining: bool = False
    """This host hands over what it holds and takes nothing: somebody asked it to, or its Node is cordoned."""
    suspected_by: NodeName | None = None
    """Who wrote into it that this host's VIPs are silent; the next renewal takes the note off."""

    @property
    def ended(self) -> bool:
        return not self.instance

    def on(self, interface: InterfaceName) -> Segment | None:
        """The host as it is on one of its interfaces; None when others may not count on that one."""
        return next((segment for segment in self.segments if segment.interface == interface), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """`Lease vip.<address>` as this host saw it or wrote it."""

    holder: NodeName | None
    """None: released."""
    predecessor: NodeName | None = None
    """Who handed it over to the holder, if it was handed over."""
    replaced: NodeName | None = None
    """Whose silence the holder took it for: should that host come back, it must be told."""
    resource_version: str
    transitions: int = 0
    seen_at: Instant


class Why(StrEnum):
    """Reasons of the ownership rules, as the journal's HOSTAGENT_REASON has them."""

    FREE = "free"
    """Nobody holds it: no claim, or a released one."""
    ENDED = "holder-ended-its-session"
    EXPIRED = "holder-expired"
    DEAD = "holder-dead"
    """It was suspected, did not refute, and the VIP is silent."""
    SUSPECTED = "holder-suspected"
    OVERRULES = "holder-not-a-candidate"
    """The holder may not answer any more, had a session's duration to let go, and did not."""
    ARBITRATED = "arbitrated-on-the-segment"
    """Nobody reaches the API and the VIP is silent: the hosts on the segment settle it among themselves."""
    ALONE = "nobody-else-answers"
    """The VIP is silent, and so are the other hosts: it may be this host that is cut off."""
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
    DRAINING = "draining"
    ASKED = "asked-by-the-operator"
    PREFERRED = "preferred-node-is-back"
    CHALLENGED = "another-host-announces-it"
    """One of our hosts announces the VIP, and the API did not confirm in time that it is still this host's."""
    FENCED = "api-lost"
    """`on_api_loss = "fence"`: others may soon count this host as gone."""
    NO_SUCCESSOR = "no-other-candidate"
    NOT_WANTED = "no-service-uses-it"
    ANSWERED = "somebody-answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteClaim:
    """Compare-and-swap: make `holder` the holder, if the claim is still as `expected` was (None = absent)."""

    vip: IP
    holder: NodeName | None
    predecessor: NodeName | None = None
    replaced: NodeName | None = None
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
    witnesses: tuple[IP, ...] = ()
    """Addresses of other machines on the segment, asked along: silent too, it is this host that is alone."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Say once more that the VIP is here: somebody else said it of himself (RFC 5227, 2.4)."""

    vip: IP


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadClaim:
    """Ask the API who holds the VIP: one of our hosts announces what this host believes to hold."""

    vip: IP


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """Note in a host's session that its VIPs are silent, if the session is still as `expected`: it shall refute."""

    node: NodeName
    expected: Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Refute:
    """Renew this host's session at once: somebody noted in it that its VIPs are silent."""

    suspected_by: NodeName


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSession:
    """Ask the API whether a suspected host has refuted: the watch may be behind."""

    node: NodeName


Act = (
    WriteClaim
    | DeleteClaim
    | Probe
    | AddAddress
    | RemoveAddress
    | ReportConflict
    | Announce
    | ReadClaim
    | Suspect
    | Refute
    | ReadSession
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Where a watched VIP should be answered: asked for again and again, by unicast."""

    holder: NodeName
    interface: InterfaceName
    """This host's, on the segment that it shares with the holder."""
    mac: Mac
    """The holder's."""


class Write(StrEnum):
    """How a claim write ended."""

    WON = "won"
    LOST = "lost"
    """Somebody else wrote first, or it is not as expected: look again."""
    UNKNOWN = "unknown"
    """No reply, and reading back failed too: it may or may not have happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A VIP that would be better placed on another host."""

    vip: IP
    holder: NodeName
    to: NodeName
