"""What the cluster would do with these objects: the rules of allocator and hosts, played through in order, no clock.

Objects come one after another. A later one takes the place of an earlier one of its kind and name, or deletes it;
before that everything comes to rest: what was freed has rested, what is preferred has been there for long enough.
Consecutive objects of the configuration come at once, as those of one `kubectl apply` do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from typing import TypeVar

from hostagent.core.advertised import Routes, routes
from hostagent.core.allocate import Decision, Ledger, Outcome
from hostagent.core.candidates import Placement, Use, WhyNot
from hostagent.core.config_set import build
from hostagent.core.documents import Document, Endpointed, Holding, Namespace, Result, Served, Told
from hostagent.core.explain import account_for
from hostagent.core.reserved import reserved_by
from hostagent.core.status_objects import pool_statuses
from hostagent.core.tellings import PROTOCOL_BGP, Telling, announced, unannounced, withdrawn
from hostagent.model.cluster import (
    ConfigSet,
    Endpoints,
    Family,
    FamilyPolicy,
    Node,
    Resource,
    Service,
    family_of,
)
from hostagent.model.names import IP, Instant, InterfaceName, Labels, Mac, Network, NodeName, ServiceKey
from hostagent.model.ownership import Segment, Session

K = TypeVar("K")
V = TypeVar("V")

ASSUMED = InterfaceName("assumed")
"""The interface of a node of which no session says what it has: every address is on its subnet."""
EVERYWHERE = (ip_interface("0.0.0.0/0"), ip_interface("::/0"))
CLUSTER_IPS = {Family.V4: "10.96.0.1/32", Family.V6: "fd00:96::1/128"}
"""Stand-ins: of a cluster IP only the family counts."""
NAMESPACE_LABEL = "kubernetes.io/metadata.name"


class UnknownNodeError(ValueError):
    """A node was named that no document has."""


@dataclass(slots=True)
class Simulation:
    """Takes objects in order; `end` tells where everything came to rest."""

    namespace: str
    load_balancer_class: str | None = None
    assume_ready: bool = False
    """Services of which no EndpointSlice is given serve on every node."""
    _ledger: Ledger = field(default_factory=Ledger)
    _resources: dict[tuple[str, str, str], Resource] = field(default_factory=dict)
    _services: dict[ServiceKey, Service] = field(default_factory=dict)
    _nodes: dict[NodeName, Node] = field(default_factory=dict)
    _namespaces: dict[str, Labels] = field(default_factory=dict)
    _slices: dict[tuple[str, str, str], Endpointed] = field(default_factory=dict)
    _sessions: dict[NodeName, Session] = field(default_factory=dict)
    _holders: dict[IP, NodeName] = field(default_factory=dict)
    _config: ConfigSet = field(default_factory=ConfigSet)
    _pending: dict[ServiceKey, str] = field(default_factory=dict)
    _pool_of: dict[ServiceKey, str] = field(default_factory=dict)
    _events: list[Told] = field(default_factory=list)
    _seen: set[tuple[str, str, str]] = field(default_factory=set)
    _touched: set[IP] = field(default_factory=set)
    """Addresses of which is to be said anew who holds them."""
    _advertised: set[tuple[NodeName, Network, IP]] = field(default_factory=set)
    _drained: frozenset[NodeName] = frozenset()
    _down: frozenset[NodeName] = frozenset()

    def play(self, documents: Iterable[Document]) -> None:
        """Take in objects, the next ones after those before."""
        self._ledger.load_balancer_class = self.load_balancer_class
        batch: list[Document] = []
        of: tuple[str, bool] | None = None
        for document in documents:
            changes = document.deletes or document.key in self._seen
            if of != (_sort(document), changes):
                self._take(batch)
                batch, of = [], (_sort(document), changes)
                if changes:
                    self._rest()
            self._seen.add(document.key)
            batch.append(document)
        self._take(batch)
        self._rest()

    def end(self, *, drained: Iterable[NodeName] = (), down: Iterable[NodeName] = ()) -> Result:
        """Let nodes drain or fail, after everything else came to rest. Raises UnknownNodeError."""
        before = dict(self._holders)
        self._drained, self._down = frozenset(drained), frozenset(down)
        for name in sorted((self._drained | self._down) - self._nodes.keys()):
            raise UnknownNodeError(name)
        if self._drained or self._down:
            self._touched = self._vips()
            self._rest()
        placement, told = self._placement(), self._routes()
        for vip, uses in sorted(self._users().items(), key=lambda each: _by_number(each[0])):
            ranking = placement.rank(vip, uses)
            if vip not in self._holders and not told.of(vip) and self._nodes:
                self._tell_all(uses, unannounced(vip, ranking.excluded))
        moved = [(vip, was, self._holders.get(vip)) for vip, was in before.items() if self._holders.get(vip) != was]
        return Result(
            config=self._config,
            services=tuple(self._served()),
            pools=tuple(pool_statuses(self._config, self._vips())),
            events=tuple(self._events),
            moved=tuple(sorted(moved, key=lambda each: _by_number(each[0]))),
            nodes=tuple(sorted(self._nodes)),
        )

    # Taking in

    def _take(self, batch: Sequence[Document]) -> None:
        for document in batch:
            match document.value:
                case Service() as service:
                    self._touched |= self._addresses(service.key)
                    self._take_service(service, deletes=document.deletes)
                    self._allocate([service.key])
                case Endpointed(service=key) as piece:
                    _put(self._slices, document.key, piece, deletes=document.deletes)
                    self._touched |= self._addresses(key) if key else set()
                case Resource() as resource:
                    _put(self._resources, document.key, resource, deletes=document.deletes)
                case Node() as node:
                    _put(self._nodes, node.name, node, deletes=document.deletes)
                case Session() as session:
                    _put(self._sessions, session.node, session, deletes=document.deletes)
                case Namespace() as namespace:
                    _put(self._namespaces, namespace.name, namespace.labels, deletes=document.deletes)
                case Holding(vip=vip, holder=holder):
                    if holder is None or document.deletes:
                        self._holders.pop(vip, None)
                    else:
                        self._holders[vip] = holder
        if batch and _sort(batch[0]) == "configuration":
            self._touched |= self._vips()
            self._configure()
            self._allocate(self._in_order())

    def _rest(self) -> None:
        """Say who holds what: before something changes, and not while things are only put together."""
        self._announce(self._touched)
        self._advertise()
        self._touched = set()

    def _advertise(self) -> None:
        """Tell what each node began to advertise, and to withdraw."""
        users, told = self._users(), self._routes()
        now = {(each.node, each.prefix, vip) for vip in users for each in told.of(vip)}
        for node, prefix, vip in sorted(now - self._advertised, key=_by_text):
            self._tell_all(users[vip], announced(prefix, node, PROTOCOL_BGP))
        for node, prefix, vip in sorted(self._advertised - now, key=_by_text):
            if vip in users and node in self._nodes and node not in self._down:
                why = told.why_not(vip).get(node, "no advertisement for it any more")
                heir = next((each.node for each in told.of(vip)), None)
                self._tell_all(users[vip], withdrawn(prefix, node, why, heir=heir, protocol=PROTOCOL_BGP))
        self._advertised = now

    def _take_service(self, service: Service, *, deletes: bool) -> None:
        key, before = service.key, self._services.get(service.key)
        if deletes:
            self._services.pop(key, None)
            self._pending.pop(key, None)
            if self._ledger.forget(key):
                self._allocate([key for key in self._in_order() if key in self._pending])
            return
        if before is not None and not service.assigned:  # `kubectl apply` leaves the status as it is
            service = replace(service, assigned=before.assigned, ip_modes=before.ip_modes)
        self._services[key] = self._with_cluster_ips(service)
        self._touched |= self._addresses(key)
        self._ledger.note(self._services[key])

    def _with_cluster_ips(self, service: Service) -> Service:
        """A manifest has none: the API server gives them, in the families that the cluster has."""
        if service.cluster_ips or service.type == "ExternalName":
            return service
        of_nodes = {family_of(ip) for node in self._nodes.values() for ip in node.addresses}
        cluster = [family for family in Family if family in (of_nodes or {Family.V4})]
        wanted = list(service.families) or cluster[:1]
        if service.family_policy is not FamilyPolicy.SINGLE:
            wanted += [family for family in cluster if family not in wanted]
        ips = tuple(ip_interface(CLUSTER_IPS[family]).ip for family in wanted)
        return replace(service, cluster_ips=ips, families=tuple(wanted))

    # Allocation

    def _configure(self) -> None:
        before = {fault for fault in self._config.faults if not fault.warning}
        self._config = build(self._resources.values(), namespace=self.namespace, previous=self._config)
        for fault in self._config.faults:
            if not fault.warning and fault not in before:
                telling = Telling(
                    reason="ConfigurationInvalid", message=f"{fault.field}: {fault.message}", warning=True
                )
                self._events.append(Told(kind=fault.kind, namespace=fault.namespace, name=fault.name, telling=telling))
        self._ledger.config = self._config
        self._ledger.reserved = reserved_by(self._nodes.values(), ())
        self._ledger.namespaces = {
            name: {NAMESPACE_LABEL: name, **self._namespaces.get(name, {})}
            for name in {key.namespace for key in self._services} | self._namespaces.keys()
        }

    def _in_order(self) -> list[ServiceKey]:
        """Those that have addresses first: they keep them before anybody gets one."""
        return sorted(self._services, key=lambda key: (not self._services[key].assigned, key))

    def _allocate(self, keys: Iterable[ServiceKey]) -> None:
        """Decide about these, and about those that wait where that freed something, until nothing changes."""
        queue = list(keys)
        while queue:
            freed = False
            for key in queue:
                service = self._services.get(key)
                if service is not None:
                    freed |= self._carry_out(service, self._ledger.decide(service))
            queue = [key for key in self._in_order() if key in self._pending] if freed else []

    def _carry_out(self, service: Service, decision: Decision) -> bool:
        """True if an address was freed."""
        key = service.key
        if decision.outcome is Outcome.LEAVE:
            self._pending.pop(key, None)
            return False
        addresses = tuple(map(str, decision.addresses))
        said = self._pending.get(key)
        if addresses:
            self._pending.pop(key, None)
            self._pool_of[key] = decision.pool
        elif decision.outcome is not Outcome.KEEP and self._ledger.ours(service):
            self._pending[key] = decision.message
        if decision.event and (decision.outcome is not Outcome.PENDING or said != decision.message):
            warning = decision.outcome in (Outcome.PENDING, Outcome.CLEAR) or decision.event == "LoadBalancerFailed"
            self._tell(key, Telling(reason=decision.event, message=decision.message, warning=warning))
        freed = bool(set(service.assigned) - set(addresses))
        if service.assigned != addresses:
            self._touched |= set(service.addresses) | set(decision.addresses)
            self._services[key] = replace(service, assigned=addresses, ip_modes=("VIP",) * len(addresses))
            self._ledger.note(self._services[key])
        return freed

    # Announcing

    def _announce(self, vips: Iterable[IP]) -> None:
        """Say who holds these addresses now, each staying where it is if it may."""
        users, placement = self._users(), self._placement()
        for vip in sorted(vips, key=_by_number):
            holder, uses = self._holders.get(vip), users.get(vip, ())
            if not uses:
                self._holders.pop(vip, None)
                continue
            ranking = placement.rank(vip, uses)
            mine = ranking.of(holder) if holder else None
            best = ranking.ranked[0] if ranking.ranked else None
            if best is None:
                if holder is not None and ranking.excluded.get(holder) is WhyNot.DRAINING:
                    continue  # nobody can take over: better answered there than nowhere
                self._holders.pop(vip, None)
            elif mine is None or best.weight > mine.weight:
                self._holders[vip] = best.node
            heir = self._holders.get(vip)
            if heir == holder:
                continue
            if holder is not None and holder not in self._down and holder in self._nodes:
                why = ranking.excluded[holder].value if holder in ranking.excluded else "another node is preferred"
                self._tell_all(uses, withdrawn(vip, holder, why, heir=heir))
            if heir is not None:
                self._tell_all(uses, announced(vip, heir))

    def _placement(self) -> Placement:
        return Placement(config=self._config, nodes=self._nodes, sessions=dict(self._lives()))

    def _routes(self) -> Routes:
        return routes(
            self._config, self._nodes, self._users(), alive={name for name, _ in self._lives()}, draining=self._drained
        )

    def _lives(self) -> Iterator[tuple[NodeName, Session]]:
        """A session for every node, as given, or as it would be."""
        for name in self._nodes:
            session = self._sessions.get(name)
            if session is None and not self._sessions:
                session = _assumed(name, self._config)
            if session is None or name in self._down:
                continue
            yield name, replace(session, draining=True) if name in self._drained else session

    def _users(self) -> dict[IP, list[Use]]:
        """The Services on each address, with where their traffic can go."""
        pieces: dict[ServiceKey, list[Endpoints]] = {}
        for piece in self._slices.values():
            if piece.service is not None:
                pieces.setdefault(piece.service, []).append(piece.endpoints)
        users: dict[IP, list[Use]] = {}
        for key in sorted(self._services):
            for vip in self._addresses(key):
                endpoints = self._fold(pieces.get(key, []))
                users.setdefault(vip, []).append(Use(service=self._services[key], endpoints=endpoints))
        return users

    def _fold(self, pieces: Sequence[Endpoints]) -> Endpoints:
        if not pieces and self.assume_ready:
            return Endpoints(serving=True, nodes=frozenset(self._nodes))
        return Endpoints(
            serving=any(piece.serving for piece in pieces),
            nodes=frozenset[NodeName]().union(*(piece.nodes for piece in pieces)),
        )

    def _addresses(self, key: ServiceKey) -> set[IP]:
        service = self._services.get(key)
        return set(service.addresses) if service is not None and self._ledger.ours(service) else set()

    def _vips(self) -> set[IP]:
        return {ip for key in self._services for ip in self._addresses(key)}

    # Telling

    def _tell(self, key: ServiceKey, telling: Telling) -> None:
        self._events.append(Told(kind="Service", namespace=key.namespace, name=key.name, telling=telling))

    def _tell_all(self, uses: Iterable[Use], telling: Telling) -> None:
        for use in uses:
            self._tell(use.service.key, telling)

    def _served(self) -> Iterator[Served]:
        placement, users, told = self._placement(), self._users(), self._routes()
        for key, service in sorted(self._services.items()):
            if not self._ledger.ours(service):
                continue
            accounts = [
                account_for(
                    service,
                    ip,
                    uses=users[ip],
                    config=self._config,
                    placement=placement,
                    holder=self._holders.get(ip),
                    routes=told,
                )
                for ip in service.addresses
            ]
            yield Served(
                service=service,
                pool=self._pool_of.get(key, "") if service.assigned else "",
                pending=self._pending.get(key, ""),
                addresses=tuple(accounts),
            )


def _sort(document: Document) -> str:
    match document.value:
        case Service():
            return "services"
        case Endpointed():
            return "endpoints"
        case _:
            return "configuration"


def _put(store: dict[K, V], key: K, value: V, *, deletes: bool) -> None:
    if deletes:
        store.pop(key, None)
    else:
        store[key] = value


def _assumed(node: NodeName, config: ConfigSet) -> Session:
    """A host that lives, with every interface that an advertisement names."""
    names = sorted({name for ad in config.l2_advertisements for name in ad.interfaces}) or [ASSUMED]
    return Session(
        node=node,
        instance="simulated",
        resource_version="",
        seen_at=Instant(0),
        duration_s=15.0,
        segments=tuple(Segment(interface=name, mac=Mac("02:00:00:00:00:01"), subnets=EVERYWHERE) for name in names),
    )


def _by_text(each: tuple[NodeName, Network, IP]) -> tuple[str, str, str]:
    node, prefix, vip = each
    return str(prefix), node, str(vip)


def _by_number(ip: IP) -> tuple[int, int]:
    return ip.version, int(ip)
