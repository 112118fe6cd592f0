"""What FRR says of our sessions, and what became different."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from hostagent.agent.clock import now
from hostagent.core.tellings import peer_changed
from hostagent.edges.kube.events import Events, about_resource
from hostagent.model.bgp import Peer, PeerState, SessionState
from hostagent.model.cluster import Resource
from hostagent.model.names import Instant, NodeName
from hostagent.telemetry.journal import say, warn

FRESH_S = 5.0
"""A session that is younger at the first look came up meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """A session, or its BFD, came up or went down."""

    of: Literal["session", "bfd"]
    peer: str
    message: str
    good: bool


class PeerStates:
    """The last known state of each of our peers."""

    def __init__(self) -> None:
        self.of: dict[str, PeerState] = {}
        """By the name of the BGPPeer."""
        self.since: dict[str, Instant] = {}
        """When the session came up or went down, as far as this life of the agent saw it."""

    def take(self, states: Sequence[PeerState], peers: Iterable[Peer]) -> list[Happened]:
        """Take in what FRR says now; what changed. A session that outlived the agent's restart is no news."""
        found = {(state.vrf, state.neighbor): state for state in states}
        happened: list[Happened] = []
        at = now()
        present: dict[str, PeerState] = {}
        for peer in peers:
            state = found.get((peer.vrf, peer.neighbor))
            if state is None:
                before = self.of.get(peer.name)
                if before is not None and _up(before):
                    message = (
                        f"the session with {peer.name} ({peer.neighbor}) is lost: FRR does not tell of it any more"
                    )
                    happened.append(Happened(of="session", peer=peer.name, message=message, good=False))
                continue
            present[peer.name] = state
            before = self.of.get(peer.name)
            up, was = _up(state), before is not None and _up(before)
            if state.for_s is not None and up:
                self.since[peer.name] = Instant(at - state.for_s)
            elif up != was or peer.name not in self.since:
                self.since[peer.name] = at
            if up and not was and (before is not None or state.for_s is None or state.for_s < FRESH_S):
                message = f"the session with {peer.name} ({peer.neighbor}) is established"
                happened.append(Happened(of="session", peer=peer.name, message=message, good=True))
            elif was and not up:
                why = f": {state.last_reset}" if state.last_reset else ""
                message = f"the session with {peer.name} ({peer.neighbor}) is lost, {state.state}{why}"
                happened.append(Happened(of="session", peer=peer.name, message=message, good=False))
            if before is not None and state.bfd != before.bfd and "up" in (state.bfd, before.bfd):
                good = state.bfd == "up"
                message = f"BFD with {peer.name} ({peer.neighbor}) is {state.bfd or 'off'}"
                happened.append(Happened(of="bfd", peer=peer.name, message=message, good=good))
        self.of = present
        for name in self.since.keys() - present.keys():
            del self.since[name]
        return happened


def tell(happened: Happened, *, me: NodeName, peer: Resource | None, events: Events) -> None:
    """To the journal, and to whoever describes the BGPPeer (None: it is gone)."""
    match happened:
        case Happened(of="session", good=True):
            say("bgp.session-up", happened.message, peer=happened.peer)
        case Happened(of="session"):
            warn("bgp.session-down", happened.message, peer=happened.peer)
        case Happened(good=True):
            say("bgp.bfd-up", happened.message, peer=happened.peer)
        case _:
            warn("bgp.bfd-down", happened.message, peer=happened.peer)
    if peer is not None:
        of = "Session" if happened.of == "session" else "BFD"
        told = peer_changed(of, me, happened.message, good=happened.good)
        events.emit(about_resource(peer), reason=told.reason, message=told.message, warning=told.warning)


def _up(state: PeerState) -> bool:
    return state.state is SessionState.ESTABLISHED
