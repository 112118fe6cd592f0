"""What one host knows about one VIP at one moment, and what the rules make of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hostagent.model.names import IP, Instant, Mac, NodeName
from hostagent.model.ownership import Act, Claim, Why


class Standing(StrEnum):
    """What is known of the holder that a claim names."""

    LIVE = "live"
    SUSPECTED = "suspected"
    """Its VIPs are silent; it may still refute."""
    DEAD = "dead"
    """It was suspected and did not refute."""
    EXPIRED = "expired"
    ENDED = "ended"


GONE = (Standing.DEAD, Standing.EXPIRED, Standing.ENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What the last probe of a VIP found: silence, or the MAC that answered."""

    at: Instant
    by: Mac | None
    witnessed: bool = False
    """So many other machines of the segment answered that it cannot be this host that is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Another machine was heard to announce or answer for a VIP that this host holds."""

    mac: Mac
    node: NodeName | None
    """Which of our hosts it is; None for a stranger."""
    since: Instant
    """When it was heard first, since the API last confirmed the claim."""
    heard_at: Instant
    """When it was heard last."""
    confirmed: bool = False
    """The API said after that that the claim is still this host's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that one host knows about one VIP at one moment."""

    vip: IP
    me: NodeName
    wanted: bool
    """Some Service has this address."""
    stopping: bool
    draining: bool = False
    entitled: bool
    """`me` is a candidate."""
    position: int | None
    """Place of `me` among the candidates that are alive, 0 the best; None when `me` may not claim now."""
    heir: NodeName | None
    """The best candidate that is alive and is not `me`."""
    target: NodeName | None = None
    """To whom the VIP shall go though `me` could keep it: an operator asked for it, or a preferred node is back."""
    target_why: Why = Why.ASKED
    target_at: Instant | None = None
    """When a preferred node that is back will have been back for long enough."""
    claim: Claim | None
    standing: Standing | None
    """Of the claim's holder; None when there is none."""
    last_sign_at: Instant | None
    """When the holder's session was last seen to change."""
    expires_at: Instant | None
    """When the holder will count as expired, unless it is heard of before."""
    barred_at: Instant | None = None
    """When a holder that is no candidate any more will have had its time to let go."""
    held: bool
    """The address is on an interface of this host."""
    placed: bool
    """It is on the interface where it should be."""
    unplugged: bool = False
    """That interface has had no carrier for so long that others may have taken over."""
    arbitrated: bool = False
    """It was taken by agreement on the segment; the claim does not say so yet."""
    lapsed: bool
    """The address expired under a claim of this host: what is known of the claim may be as old as that."""
    in_doubt: bool
    """What is known of the claim may be old: the agent stalled a moment ago, its watch is behind, or this host took the
    address off under a claim of its own and has not yet heard that the claim was released."""
    api_lost: bool = False
    """This host does not reach the API."""
    alone_at: Instant | None = None
    """From when the hosts on the segment may settle things among themselves; None: the API is there, or never."""
    fenced: bool = False
    """`on_api_loss = "fence"`, and others may soon count this host as gone."""
    order: int | None = None
    """Place of `me` among all candidates but the holder, alive or not: while the API is away nobody knows."""
    silent_since: Instant | None = None
    """Since when the holder has not answered for what it holds, as the wire says; None while it does."""
    writing: bool
    probing: bool
    probed: Probed | None
    rival: Rival | None = None
    reading: bool = False
    """The API is being asked whether the claim is still this host's."""
    defended_at: Instant | None = None
    """When this host last answered a rival with an announcement of its own."""
    heard_successor: bool
    """Another host announced the VIP since the claim last changed."""
    open_since: Instant | None
    """Since when the VIP has been seen free to claim by a candidate."""
    sweeps: bool
    """This host is the allocator and clears claims away that nobody needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do now, why, and when to ask again even if nothing happens."""

    acts: tuple[Act, ...] = ()
    why: Why
    wake_at: Instant | None = None
