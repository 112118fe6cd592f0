"""What the agent says about itself: one line for `systemctl status`, one document for `hostagent status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostagent import __version__
from hostagent.agent.clock import now
from hostagent.model.names import IP, InterfaceName, NodeName
from hostagent.model.ownership import Why
from hostagent.telemetry.metrics import Snapshot

if TYPE_CHECKING:
    from hostagent.agent.agent import Agent


def status_line(agent: Agent) -> str:
    """What this host holds, and the worst that is wrong."""
    held = len(agent.ownership.held)
    parts = [f"answers for {held} of {len(agent.cluster.vips)} VIPs"]
    if agent.bgp.advertiser.active:
        parts.append(f"advertises {len(agent.bgp.advertiser.prefixes.present)} prefixes")
    if agent.allocator.leads:
        parts.append("allocates addresses")
    if agent.stopping_since is not None:
        parts.append("stopping")
    elif agent.verbs.why_draining:
        parts.append("draining")
    since = agent.api.unreachable_since
    if since is not None:
        parts.append(f"API unreachable for {now() - since:.0f} s")
    if agent.allocator.pending:
        parts.append(f"{len(agent.allocator.pending)} Services without an address")
    faults = sum(not fault.warning for fault in agent.cluster.config.faults)
    if faults:
        parts.append(f"{faults} faults in the configuration")
    return ", ".join(parts)


def status_of(agent: Agent) -> dict[str, Any]:
    """Everything that `hostagent status --output json` prints; docs/operate.md describes the fields."""
    at, ownership = now(), agent.ownership
    since = agent.api.unreachable_since
    renewed_at = agent.keeper.renewed_at
    return {
        "node": agent.config.node,
        "version": __version__,
        "status": status_line(agent),
        "stopping": agent.stopping_since is not None,
        "draining": agent.verbs.why_draining or None,
        "needs_restart": list(agent.settings.waiting),
        "api": {
            "server": agent.api.server,
            "reachable": since is None,
            "unreachable_for_s": None if since is None else round(at - since, 1),
            "certificate_ends": None if agent.expiry.ends is None else f"{agent.expiry.ends:%Y-%m-%dT%H:%M:%SZ}",
        },
        "session": {
            "instance": agent.keeper.session.instance,
            "renewed_ago_s": None if renewed_at is None else round(at - renewed_at, 1),
            "refutations": agent.keeper.refutations,
        },
        "allocator": {
            "holder": agent.allocator.holder,
            "here": agent.allocator.leads,
            "set_aside": [
                {"address": str(ip), "mac": entry.mac, "node": entry.node, "for_s": round(at - entry.since, 1)}
                for ip, entry in sorted(agent.allocator.set_aside.items(), key=lambda each: _by_number(each[0]))
            ],
        },
        "vips": [_vip(agent, vip) for vip in sorted(agent.cluster.vips, key=_by_number)],
        "pending": [{"service": str(key), "why": why} for key, why in sorted(agent.allocator.pending.items())],
        "hosts": [
            {
                "node": node,
                "alive": ownership.hosts.alive(node, at),
                "ended": session.ended,
                "draining": session.draining,
                "suspected": ownership.hosts.suspected(node),
                "seen_ago_s": round(at - session.seen_at, 1),
                "version": session.version,
                "interfaces": [segment.interface for segment in session.segments],
                "macs": {segment.interface: segment.mac for segment in session.segments},
            }
            for node, session in sorted(ownership.sessions.items())
        ],
        "watched": [
            {"host": watched.holder, "vip": str(vip), "silent": ownership.silent(watched.holder)}
            for vip, watched in sorted(ownership.watched.items(), key=lambda pair: pair[1].holder)
        ],
        "bgp": agent.bgp.status,
        "problems": _problems(agent),
    }


def snapshot_of(agent: Agent) -> Snapshot:
    """What metrics say; see `Snapshot`."""
    at, counters = now(), agent.wire.neighbors.counters
    renewed_at, allocator, faults = agent.keeper.renewed_at, agent.allocator, agent.cluster.config.faults
    warnings = sum(fault.warning for fault in faults)
    return Snapshot(
        node=NodeName(agent.config.node),
        version=__version__,
        vips=len(agent.cluster.vips),
        held=dict(agent.ownership.held),
        moves=agent.claims.moves,
        claim_writes=agent.claims.written,
        conflicts=agent.wire.conflicts_seen,
        suspicions=agent.claims.suspected,
        suspicions_refuted=agent.intake.suspicions_refuted,
        refutations=agent.keeper.refutations,
        watch_questions=counters.watch_questions,
        watch_unanswered=counters.watch_unanswered,
        watch_silences=counters.watch_silences,
        announcements=counters.sent,
        probes=counters.probes,
        frames_failed=counters.failed,
        api_reachable=agent.api.unreachable_since is None,
        certificate_ends=None if agent.expiry.ends is None else agent.expiry.ends.timestamp(),
        session_renewed_ago_s=None if renewed_at is None else at - renewed_at,
        draining=bool(agent.verbs.why_draining),
        allocator_leads=allocator.leads,
        services_pending=len(allocator.pending),
        addresses_set_aside=len(allocator.set_aside),
        config_errors=len(faults) - warnings,
        config_warnings=warnings,
        bgp_sessions=tuple(agent.bgp.sessions),
        bgp_prefixes=len(agent.bgp.advertiser.prefixes.present),
        bgp_missed=agent.bgp.advertiser.lost,
        bgp_repaired=agent.bgp.advertiser.repaired,
    )


def _by_number(ip: IP) -> tuple[int, int]:
    return ip.version, int(ip)


def _vip(agent: Agent, vip: IP) -> dict[str, Any]:
    ownership = agent.ownership
    claim, ranking, verdict = ownership.claims.get(vip), ownership.ranking(vip), ownership.verdict(vip)
    acquired = agent.announcer.acquired.get(vip)
    return {
        "vip": str(vip),
        "services": [str(use.service.key) for use in agent.cluster.uses(vip)],
        "holder": claim.holder if claim else None,
        "here": vip in ownership.held,
        "interface": ownership.held.get(vip),
        "for_s": None if acquired is None else round(now() - acquired[0], 1),
        "why": (verdict.why if verdict else Why.WAITS).value,
        "heard_on": _heard_on(agent, claim.holder) if claim and claim.holder else None,
        "moves": claim.transitions if claim else 0,
        "candidates": [candidate.node for candidate in ranking.ranked] if ranking else [],
        "excluded": {node: why.value for node, why in sorted(ranking.excluded.items())} if ranking else {},
        "conflict": agent.wire.conflicts.get(vip),
    }


def _heard_on(agent: Agent, holder: NodeName) -> InterfaceName | None:
    """This host's interface on the holder's segment: where the holder's answers can be heard. None: on no segment."""
    sessions = agent.ownership.sessions
    me, other = sessions.get(NodeName(agent.config.node)), sessions.get(holder)
    if me is None or other is None:
        return None
    networks = {own.network for segment in other.segments for own in segment.subnets}
    shared = (segment for segment in me.segments if any(own.network in networks for own in segment.subnets))
    return next((segment.interface for segment in shared), None)


def _problems(agent: Agent) -> list[str]:
    problems = [str(fault) for fault in agent.cluster.config.faults]
    problems += (*agent.cluster.troubles, *agent.reports.troubles, *agent.allocator.troubles)
    if agent.expiry.trouble:
        problems.append(agent.expiry.trouble)
    if agent.settings.trouble:
        problems.append(agent.settings.trouble)
    problems += agent.bgp.problems
    if agent.guarding.trouble:
        problems.append(agent.guarding.trouble)
    return problems
