"""Numbers for Prometheus: read from one snapshot when somebody asks, and served as text over HTTP.

Nothing is counted here. What the agent counts anyway it puts into a `Snapshot`; docs/operate.md explains each metric.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hostagent.model.errors import InvariantError
from hostagent.model.names import IP, InterfaceName, NodeName
from hostagent.model.ownership import Why, Write
from hostagent.telemetry.journal import say, warn

PATH = "/metrics"
RETRY_S = 15.0
"""Between attempts to listen: the port may become free, the address may appear."""
CONNECTIONS = 16
"""At once; further ones are hung up on, so that a port scanner cannot use up the agent's file descriptors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BgpSession:
    """What is counted of one BGP session."""

    peer: str
    """The BGPPeer's name."""
    neighbor: str
    vrf: str
    up: bool
    bfd_up: bool | None
    """None: no BFD with it."""
    sent: int
    """Prefixes that FRR announces to it."""
    pending: int
    """Prefixes that it shall hear, and FRR does not announce to it."""
    received: int
    updates_sent: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The agent at one moment. Counts are since it started, and never fall."""

    node: NodeName
    version: str
    vips: int
    """Addresses that Services of ours have, wherever they are answered."""
    held: Mapping[IP, InterfaceName]
    """VIPs on this host's interfaces."""
    moves: Mapping[Why, int]
    """Claims that this host wrote, by reason: for itself, or for the host that it handed a VIP to."""
    claim_writes: Mapping[Write, int]
    """Claims written or deleted, by outcome."""
    conflicts: int
    """Times that a machine answered for a VIP, or announced it, that no claim gives to it."""
    suspicions: int
    """Notes that this host wrote into other hosts' sessions because their VIPs were silent."""
    suspicions_refuted: int
    """Those of them that the suspected host took back."""
    refutations: int
    """Notes of others that this host took off its own session."""
    watch_questions: int
    watch_unanswered: int
    """Questions of the watch without an answer in time."""
    watch_silences: int
    """Times that a watched VIP fell silent: several questions in a row."""
    announcements: int
    """Gratuitous ARPs and unsolicited neighbour advertisements sent."""
    probes: int
    """ARP requests and neighbour solicitations sent to learn whether an address is in use."""
    frames_failed: int
    """Frames that could not be sent: the interface was down or gone."""
    api_reachable: bool
    certificate_ends: float | None
    """Seconds since 1970, wall time. None: this host's credential is no certificate."""
    session_renewed_ago_s: float | None
    """None: this host's session was never renewed."""
    draining: bool
    allocator_leads: bool
    """This host gives out addresses right now. The next two are zero wherever it does not."""
    services_pending: int
    """Services without an address."""
    addresses_set_aside: int
    """Addresses of pools that machines beside us answer for."""
    config_errors: int
    """Objects of the configuration that are set aside."""
    config_warnings: int
    bgp_sessions: tuple[BgpSession, ...] = ()
    bgp_prefixes: int = 0
    """Prefixes of this host that its routing daemon is given."""
    bgp_missed: int = 0
    """Prefixes that FRR had missed and was given again."""
    bgp_repaired: int = 0
    """Lines of FRR's configuration that somebody else had changed."""


class Metrics(Collector):
    """Gives prometheus_client what a fresh snapshot says, at every scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        return families(self._snapshot())


def families(now: Snapshot) -> Iterator[Metric]:
    """All metrics. One series per VIP only for VIPs held here, so that a cluster's total is its number of VIPs."""
    yield _gauge(
        "build_info", "Node name and version of this agent.", [((now.node, now.version), 1)], "node", "version"
    )
    yield _gauge("vips", "Addresses that Services have, on whichever host.", [((), now.vips)])
    yield _gauge("vips_held", "VIPs that this host answers for.", [((), len(now.held))])
    held = (((str(vip), interface), 1) for vip, interface in now.held.items())
    yield _gauge("vip_info", "1 for each VIP that this host answers for.", held, "vip", "interface")
    yield _counter("moves", "Claims that this host wrote, by reason.", _each(now.moves), "why")
    yield _counter("conflicts", "Times another machine answered for a VIP or announced it.", [((), now.conflicts)])
    suspicions = [(("suspected",), now.suspicions), (("refuted",), now.suspicions_refuted)]
    yield _counter("suspicions", "Hosts suspected by this one, and refutations of that.", suspicions, "outcome")
    yield _counter("refutations", "Suspicions of this host by others that it refuted.", [((), now.refutations)])
    yield _counter("watch_questions", "Questions to other hosts' VIPs.", [((), now.watch_questions)])
    yield _counter("watch_unanswered", "Questions of the watch without an answer.", [((), now.watch_unanswered)])
    yield _counter("watch_silences", "Times a watched VIP fell silent.", [((), now.watch_silences)])
    yield _counter("announcements", "Gratuitous ARPs and unsolicited NAs sent.", [((), now.announcements)])
    yield _counter("probes", "Questions sent to learn whether an address is in use.", [((), now.probes)])
    yield _counter("frames_failed", "Frames that could not be sent.", [((), now.frames_failed)])
    outcomes = _each({outcome: now.claim_writes.get(outcome, 0) for outcome in Write})
    yield _counter("claim_writes", "Claims written or deleted, by outcome.", outcomes, "outcome")
    yield _gauge("api_reachable", "1 while the Kubernetes API answers this host.", [((), now.api_reachable)])
    if now.certificate_ends is not None:
        ends = [((), now.certificate_ends)]
        yield _gauge("certificate_expiry_timestamp_seconds", "When this host's certificate for the API ends.", ends)
    if now.session_renewed_ago_s is not None:
        age = [((), now.session_renewed_ago_s)]
        yield _gauge("session_renewed_ago_seconds", "Since this host's last sign of life that the API took.", age)
    yield _gauge("draining", "1 while this host hands its VIPs over and takes none.", [((), now.draining)])
    yield _gauge("allocator_leads", "1 on the host that gives out addresses.", [((), now.allocator_leads)])
    yield _gauge("services_pending", "Services without an address; on the allocator.", [((), now.services_pending)])
    aside = [((), now.addresses_set_aside)]
    yield _gauge("addresses_set_aside", "Addresses of pools that strangers use; on the allocator.", aside)
    faults = [(("error",), now.config_errors), (("warning",), now.config_warnings)]
    yield _gauge("config_faults", "Configuration objects in error, and warnings.", faults, "severity")
    yield from _bgp(now)


_Samples = Iterable[tuple[tuple[str, ...], float]]


def _bgp(now: Snapshot) -> Iterator[Metric]:
    """Names of the labels as in MetalLB's metrics; series only for this host's own peers."""
    labels = ("peer", "neighbor", "vrf")
    each = [((s.peer, s.neighbor, s.vrf), s) for s in now.bgp_sessions]
    yield _gauge("bgp_prefixes", "Prefixes that this host advertises.", [((), now.bgp_prefixes)])
    yield _counter("bgp_missed", "Prefixes that FRR had missed and was given again.", [((), now.bgp_missed)])
    yield _counter("bgp_repaired", "Lines of FRR that somebody else had changed.", [((), now.bgp_repaired)])
    yield _gauge("bgp_session_up", "1 while the session is established.", [(k, s.up) for k, s in each], *labels)
    bfd = [(k, bool(s.bfd_up)) for k, s in each if s.bfd_up is not None]
    yield _gauge("bfd_session_up", "1 while BFD with the peer is up.", bfd, *labels)
    sent = [(k, s.sent) for k, s in each]
    yield _gauge("bgp_announced_prefixes", "Prefixes that FRR announces to the peer.", sent, *labels)
    pending = [(k, max(0, s.pending)) for k, s in each]
    yield _gauge("bgp_pending_prefixes", "Prefixes for the peer that FRR does not announce.", pending, *labels)
    received = [(k, s.received) for k, s in each]
    yield _gauge("bgp_received_prefixes", "Prefixes taken from the peer: none, as we ask FRR.", received, *labels)
    updates = [(k, s.updates_sent) for k, s in each]
    yield _counter("bgp_updates", "UPDATE messages sent to the peer, since bgpd started.", updates, *labels)
    dropped = [(k, s.dropped) for k, s in each]
    yield _counter("bgp_sessions_dropped", "Sessions lost, since bgpd started.", dropped, *labels)


def _gauge(name: str, text: str, samples: _Samples, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(f"hostagent_{name}", text, labels=labels), samples)


def _counter(name: str, text: str, samples: _Samples, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(f"hostagent_{name}", text, labels=labels), samples)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: _Samples) -> Metric:
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _each(numbers: Mapping[Why, int] | Mapping[Write, int]) -> _Samples:
    return [((key.value,), number) for key, number in numbers.items()]


async def serve(host: str, port: int, snapshot: Callable[[], Snapshot]) -> None:
    """Answer scrapes at `http://host:port/metrics` until cancelled.

    Runs on the caller's loop: a scrape takes 2 ms of it, and 12 ms for each thousand VIPs here. An address that cannot
    be listened at is told once and tried again: nobody's VIP depends on metrics.
    """
    where, told = f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}", ""
    while True:
        try:
            async with listening(host, port, snapshot):
                say("metrics.listening", f"metrics are at {where}")
                await asyncio.Event().wait()
        except OSError as exc:
            cause = os.strerror(exc.errno) if exc.errno else str(exc)  # asyncio's own text names the address again
            if cause != told:
                warn("metrics.not-listening", f"no metrics, as {where} cannot be listened at: {cause}")
            told = cause
        await asyncio.sleep(RETRY_S)


@asynccontextmanager
async def listening(host: str, port: int, snapshot: Callable[[], Snapshot]) -> AsyncIterator[asyncio.Server]:
    """Answer scrapes inside the `async with`. Raises OSError when the address is in use, or not this host's."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Metrics(snapshot))
    ProcessCollector(registry=registry)

    async def scrape(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get(PATH, scrape)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    http = runner.server
    if http is None:
        raise InvariantError("a runner that was set up has a server")

    def accept() -> asyncio.Protocol:
        return http() if len(http.connections) < CONNECTIONS else _HangUp()

    try:
        server = await asyncio.get_running_loop().create_server(accept, host, port)
        try:
            yield server
        finally:
            server.close()
    finally:
        await runner.cleanup()  # ends the connections that are open


class _HangUp(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()
