"""Moves that people ask for: what is possible, and what would be better."""

from __future__ import annotations

from collections.abc import Iterable

from hostagent.core.hosts import Hosts
from hostagent.core.vip import Vip
from hostagent.model.names import IP, Instant, NodeName
from hostagent.model.ownership import Move


def refusal(vip: IP, known: Vip | None, node: NodeName, *, me: NodeName, hosts: Hosts, now: Instant) -> str:
    """Why this host cannot hand the VIP over to the node; empty if it can."""
    if known is None or known.ranking is None:
        return f"no Service uses {vip}"
    if known.holder != me:
        return f"{vip} is held by {known.holder}: run this there" if known.holder else f"nobody holds {vip} yet"
    if node == me:
        return f"{vip} is on {node} already"
    if known.ranking.of(node) is None:
        why = known.ranking.excluded.get(node)
        return f"{node} is no candidate for {vip}: {why or 'there is no such node'}"
    if not hosts.sound(node, now):
        return f"{node} gives no sign of life"
    return "" if hosts.fit(node, now) else f"{node} is draining"


def plan(vips: Iterable[tuple[IP, Vip]], *, hosts: Hosts, now: Instant) -> tuple[Move, ...]:
    """The moves after which each VIP is on its best-ranked living candidate."""
    moves = []
    for vip, known in vips:
        ranked = known.ranking.ranked if known.ranking else ()
        best = next((c.node for c in ranked if hosts.fit(c.node, now)), None)
        if known.holder is not None and best is not None and best != known.holder:
            moves.append(Move(vip=vip, holder=known.holder, to=best))
    return tuple(moves)
