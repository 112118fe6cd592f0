"""What this host knows about one Service, told as an account: the answer to `hostagent explain`."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import msgspec

from hostagent.agent.clock import now
from hostagent.agent.control import RefusedError, Verb
from hostagent.core.advertised import Routes, routes
from hostagent.core.candidates import Placement
from hostagent.core.explain import account_for, not_ours, to_document
from hostagent.edges.kube.lease_objects import WHY, claim_name
from hostagent.model.cluster import Service
from hostagent.model.names import IP, ServiceKey

if TYPE_CHECKING:
    from hostagent.agent.agent import Agent


NEIGHBOURS = 64
"""Addresses of an aggregate that are looked at: an answer must not hold the loop up."""


class Which(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of `explain`."""

    service: str


def explain_verb(agent: Agent) -> Verb:
    """For the control socket. Everybody may ask: it tells what `kubectl` tells to those who may read Services."""
    return Verb(answer=lambda asked, _: explain(agent, asked.service), arguments=Which, changes=False)


def explain(agent: Agent, text: str) -> dict[str, Any]:
    """The account of a Service, `namespace/name` or a name of namespace default, from memory alone.

    Raises RefusedError for a Service that is not there.
    """
    key = _key(agent, text)
    service = agent.cluster.services.items[key]
    left_alone = not_ours(service, agent.config.load_balancer_class or None)
    addresses = () if left_alone else service.addresses
    pending = "" if left_alone or addresses else _why_pending(agent, key)
    documents = [_address(agent, service, vip) for vip in addresses]
    changes = [change for document in documents for change in document["change"]]
    return {
        "service": str(key),
        "node": agent.config.node,
        "ours": not left_alone,
        "why_not_ours": left_alone or None,
        "pending": pending or None,
        "addresses": documents,
        "faults": [str(fault) for fault in agent.cluster.config.faults if not fault.warning],
        "change": list(dict.fromkeys(changes)),
    }


def _key(agent: Agent, text: str) -> ServiceKey:
    namespace, slash, name = text.partition("/")
    key = ServiceKey(namespace, name) if slash else ServiceKey("default", text)
    items = agent.cluster.services.items
    if key in items:
        return key
    elsewhere = sorted(str(other) for other in items if other.name == key.name)
    hint = f"; there is {', '.join(elsewhere)}" if elsewhere else ""
    raise RefusedError(f"there is no Service {key}{hint}: give NAMESPACE/NAME as `kubectl get services -A` shows them")


def _why_pending(agent: Agent, key: ServiceKey) -> str:
    if agent.allocator.leads:
        return agent.allocator.pending.get(key, "it is about to get an address")
    holder = agent.allocator.holder
    if holder is None:
        return "no host allocates addresses now: see `allocator` in config.toml, and `kubectl get leases`"
    return f"the allocator, {holder}, knows why: ask there, or `kubectl describe service`"


def _routes(agent: Agent, vip: IP) -> Routes:
    """What all nodes advertise of it. Those of its neighbours count that can be in one aggregate with it."""
    cluster, sessions = agent.cluster, agent.ownership.sessions
    pool = cluster.config.pool_of(vip)
    ads = [ad for ad in cluster.config.bgp.advertisements if pool is not None and pool.name in ad.pools]
    lengths = [ad.aggregation_length if vip.version == 4 else ad.aggregation_length_v6 for ad in ads]
    widest = ip_network((vip, min(lengths)), strict=False) if lengths else None
    near = [other for other in cluster.vips if widest is not None and other in widest] if widest else []
    near = sorted(near, key=lambda other: abs(int(other) - int(vip)))[:NEIGHBOURS]
    return routes(
        cluster.config,
        cluster.nodes.items,
        {other: cluster.uses(other) for other in near},
        alive={node for node in sessions if agent.ownership.hosts.alive(node, now())},
        draining={node for node, session in sessions.items() if session.draining},
    )


def _address(agent: Agent, service: Service, vip: IP) -> dict[str, Any]:
    cluster, ownership = agent.cluster, agent.ownership
    placement = Placement(config=cluster.config, nodes=cluster.nodes.items, sessions=ownership.sessions)
    told = _routes(agent, vip)
    claim, verdict = ownership.claims.get(vip), ownership.verdict(vip)
    lease = cluster.leases.items.get(claim_name(vip))
    account = account_for(
        service,
        vip,
        uses=cluster.uses(vip),
        config=cluster.config,
        placement=placement,
        holder=claim.holder if claim else None,
        routes=told,
    )
    acquired = agent.announcer.acquired.get(vip)
    holder = account.holder
    return {
        **to_document(account),
        "holder_alive": None if holder is None else ownership.hosts.alive(holder, now()),
        "last_move": (lease.annotations.get(WHY) or None) if lease else None,
        "moves": claim.transitions if claim else 0,
        "here": vip in ownership.held,
        "for_s": None if acquired is None else round(now() - acquired[0], 1),
        "this_host": verdict.why.value if verdict else None,
        "conflict": agent.wire.conflicts.get(vip),
    }
