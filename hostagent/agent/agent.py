"""The agent: wakes up, looks, decides, acts, sleeps until something happens; lets go in order when asked to stop."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from hostagent import __version__
from hostagent.agent import control, last_good
from hostagent.agent.allocator import Allocator
from hostagent.agent.announcer import Announcer
from hostagent.agent.bgp import Bgp
from hostagent.agent.claims import Claims
from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.agent.expiry import Expiry
from hostagent.agent.explain import explain_verb
from hostagent.agent.guarding import Guarding
from hostagent.agent.intake import Intake
from hostagent.agent.reach import Reach
from hostagent.agent.refusals import Refusals
from hostagent.agent.reports import AllocatorReports, Reports
from hostagent.agent.session import SessionKeeper, boot_instance, own_session
from hostagent.agent.settings import Settings
from hostagent.agent.status import snapshot_of, status_line, status_of
from hostagent.agent.survey import ask_segments
from hostagent.agent.verbs import Verbs
from hostagent.agent.wire import Wire
from hostagent.core.ownership import Ownership
from hostagent.edges.hostconfig import HostConfig
from hostagent.edges.kube.events import Events
from hostagent.edges.kube.leases import Leases
from hostagent.edges.kube.status import ServiceStatus
from hostagent.edges.kube.transport import Api
from hostagent.edges.netlink import KernelAddresses
from hostagent.edges.nft import Guard
from hostagent.edges.systemd import Notifier, restart_is_under_way
from hostagent.model.errors import ConfigError, EdgeError, InvariantError
from hostagent.model.names import Instant, NodeName
from hostagent.telemetry import metrics
from hostagent.telemetry.journal import say

LONGEST_SLEEP_S = 1.0
"""The loop turns at least this often: what keeps addresses alive must not depend on something happening."""
STOP_S = 8.0
"""For handing over when asked to stop; then everything is dropped. The unit's TimeoutStopSec is longer."""
END_TASKS_S = 1.0
"""For tasks that were told to end: a few turns of the loop, unless one hangs in a request."""
GAP_S = 0.005
"""From one turn's end to the next one's beginning: a burst of events is one."""
NOTIFY_S = 0.5
"""Between two messages to systemd at most: each is work for it and for the bus, and a burst turns the loop often."""
START_TIMEOUT_S = 30
"""More time asked of systemd with each look, while the API is awaited."""


class Agent:
    """One host's agent. `run` returns when it has stopped in order; raises ConfigError or InvariantError otherwise."""

    def __init__(self, config: HostConfig, *, config_path: Path, runtime_dir: Path, state_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._state_dir = state_dir
        self._woken = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._fatal: Exception | None = None
        self._notify = Notifier()
        self.settings = Settings(config, config_path, notify=self._notify, line=lambda: status_line(self))
        self._me = NodeName(config.node)
        self._look = False
        self._tasks: list[asyncio.Task[None]] = []
        self.stopping_since: Instant | None = None
        self._notified_at = Instant(0)

    @property
    def config(self) -> HostConfig:
        """The host configuration in force."""
        return self.settings.config

    def wake(self) -> None:
        """Something happened: look as soon as the loop is free."""
        self._woken.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self.settings.reload)
        async with AsyncExitStack() as stack:
            await self._build(stack)
            stack.push_async_callback(self._end_tasks)
            try:
                await self._begin()
                await self._loop()
            except ConfigError as exc:  # another host has our name: whatever we answer for, it may too
                await self.announcer.drop_everything(str(exc))
                raise

    # Start

    async def _build(self, stack: AsyncExitStack) -> None:
        """Open every edge, the kernel's first: what an earlier life left must not expire while the API is awaited."""
        config = self.config
        self.addresses = await KernelAddresses.open()
        stack.push_async_callback(self.addresses.close)
        kubernetes = config.kubernetes
        self.api = await Api.open(
            kubernetes.kubeconfig, servers=kubernetes.servers, user_agent=f"hostagent/{__version__} ({config.node})"
        )
        stack.push_async_callback(self.api.close)
        self.ownership = Ownership(
            me=self._me,
            duration_s=config.session.duration_s,
            renew_s=config.session.renew_s,
            on_api_loss=config.on_api_loss,
            preempt_delay_s=config.preempt_delay_s,
        )
        self.expiry = Expiry(lambda: self.api.credentials.certificate)
        leases = Leases(self.api, namespace=config.namespace, node=self._me)
        self.events = Events(self.api, node=config.node)
        service_class = config.load_balancer_class or None
        self.cluster = Cluster(
            self.api,
            namespace=config.namespace,
            load_balancer_class=service_class,
            last_good=last_good.load(self._state_dir),
            wake=self.wake,
        )
        self._refusals = Refusals(ownership=self.ownership, cluster=self.cluster, events=self.events)
        self.reach = Reach(self.api, ownership=self.ownership, cluster=self.cluster)
        self.reports = Reports(self.api, namespace=config.namespace, node=self._me, cluster=self.cluster)
        self.guarding = Guarding(Guard(), self.cluster, wake=self.wake)
        self.claims = Claims(ownership=self.ownership, cluster=self.cluster, leases=leases, wake=self.wake)
        self.wire = Wire(ownership=self.ownership, cluster=self.cluster, events=self.events, wake=self.wake)
        self.announcer = Announcer(
            ownership=self.ownership,
            cluster=self.cluster,
            claims=self.claims,
            wire=self.wire,
            addresses=self.addresses,
            guarding=self.guarding,
            events=self.events,
            lifetime_s=config.hang_timeout_s,
            refute=self._refute,
            wake=self.wake,
        )
        self.bgp = Bgp(
            self.api,
            me=self._me,
            config=config,
            cluster=self.cluster,
            events=self.events,
            announcer=self.announcer,
            guarding=self.guarding,
            reports=self.reports,
            wake=self.wake,
        )
        stack.push_async_callback(self.bgp.advertiser.close)
        stack.callback(self._notify.close)
        stack.callback(self.announcer.silence_and_forget)
        self.allocator = Allocator(
            me=self._me,
            cluster=self.cluster,
            leases=leases,
            status=ServiceStatus(self.api),
            events=self.events,
            load_balancer_class=service_class,
            wake=self.wake,
            ask=lambda ips: ask_segments(ips, neighbors=self.wire.neighbors, segments=self.keeper.session.segments),
            node_of=self.wire.owner_of,
            reports=lambda: AllocatorReports(self.api, namespace=config.namespace, alive=self._alive),
        )
        segments = await self.announcer.look()
        await self.announcer.adopt()
        self.keeper = SessionKeeper(
            leases,
            own_session(
                node=self._me,
                instance=boot_instance(),
                duration_s=config.session.duration_s,
                version=__version__,
                allocator=config.allocator,
                segments=segments,
            ),
            renew_s=config.session.renew_s,
            on_renewed=lambda version, sent_at: self.ownership.renewed(version, sent_at, now()),
        )
        self.verbs = Verbs(
            ownership=self.ownership,
            state_dir=self._state_dir,
            on_cordon=config.on_cordon,
            tell=lambda draining: self.keeper.describe(draining=draining),
            wake=self.wake,
            prefixes=lambda: len(self.bgp.advertiser.prefixes.present),
        )
        self.intake = Intake(
            me=self._me,
            cluster=self.cluster,
            ownership=self.ownership,
            allocator=self.allocator,
            state_dir=self._state_dir,
            session_gone=self._renew_soon,
            routing_changed=self.bgp.configured,
        )
        self.verbs.settle(None)
        verbs = {**self.verbs.table, "explain": explain_verb(self)}
        server = await control.serve(self._runtime_dir / control.SOCKET, lambda: status_of(self), verbs)
        stack.push_async_callback(server.close)

    async def _begin(self) -> None:
        """Wait for the first full view, then announce it to others and to systemd."""
        say("agent.starting", f"hostagent {__version__} on {self._me}, API {self.api.server}")
        self._tasks += [asyncio.create_task(work) for work in self.cluster.watches()]
        self._tasks += [asyncio.create_task(self.events.run()), asyncio.create_task(self._watch_kernel())]
        self._tasks.append(asyncio.create_task(self.settings.watch(self.api)))
        self._tasks.append(asyncio.create_task(self.expiry.run()))
        endpoint = self.config.metrics.endpoint
        if endpoint is not None:
            self._tasks.append(asyncio.create_task(metrics.serve(*endpoint, lambda: snapshot_of(self))))
        told_at = now()
        while (waiting := self.cluster.waiting_for) and not self._stop_asked.is_set():
            self._check_tasks()
            await self.announcer.keep_alive()
            self._notify.starting(f"waiting for {waiting[0]}", more_s=START_TIMEOUT_S)
            if now() - told_at > START_TIMEOUT_S:
                told_at = now()
                say("agent.waiting", f"waiting for {len(waiting)} lists of the API: {waiting[0]}")
            await self._sleep(0.2)
        await self.bgp.prepare()
        self.verbs.settle(self.cluster.node(self._me))  # a drained host's first sign of life says so
        same_boot = False
        while not self._stop_asked.is_set():
            await self.announcer.keep_alive()
            try:
                same_boot = await self.keeper.establish()
                if await self.keeper.renew():
                    break
            except EdgeError as error:
                self._notify.starting(f"waiting for the session: {error}", more_s=START_TIMEOUT_S)
            await self._sleep(0.5)
        if self._stop_asked.is_set():
            return
        self._tasks.append(asyncio.create_task(self.keeper.run(self._lost)))
        await self._observe(everything=True)
        self.announcer.begin(same_boot=same_boot)
        self._tasks.append(asyncio.create_task(self.guarding.run()))
        self._tasks += [asyncio.create_task(work) for work in (self.reports.run(), *self.bgp.work())]
        await self.announcer.turn()
        self._notify.ready(status_line(self))
        say("agent.ready", f"{self._me}: {status_line(self)}")

    # The loop

    async def _loop(self) -> None:
        while True:
            if self._stop_asked.is_set() and self.stopping_since is None and await self._begin_stop():
                return
            self._check_tasks()
            self._look |= self.reach.look()  # who is the gateway now? It is asked whether this host is alone
            if self._look or self.announcer.must_look:
                self._look = False
                self.keeper.describe(await self.announcer.look())
            await self._observe(everything=False)
            await self.announcer.turn()
            seat_at = self._turn_allocator()
            self.reports.turn(self.ownership.held, self.bgp.faults)
            self._refusals.turn(now(), leads=self.allocator.leads)
            self._notify_systemd(now())
            if self.stopping_since is not None and await self._stopped(self.stopping_since):
                return
            wakes = [at for at in (self.ownership.next_wake(now()), seat_at, self.intake.config_due) if at is not None]
            await asyncio.sleep(GAP_S)
            await self._sleep(min([LONGEST_SLEEP_S, *(at - now() for at in wakes)]))

    def _notify_systemd(self, at: Instant) -> None:
        """Feed the watchdog, as the loop turned, and say how things are."""
        if at >= self._notified_at + NOTIFY_S:
            self._notified_at = at
            self._notify.alive()
            self._notify.status(status_line(self))

    async def _observe(self, *, everything: bool) -> None:
        """Hand over what the watches noted since the last turn."""
        cluster = self.cluster
        hosts_changed = self.intake.leases()
        everything |= self.intake.config(at_once=everything)
        if cluster.nodes_changed or hosts_changed:
            cluster.nodes_changed = False
            self.verbs.settle(cluster.node(self._me))
            everything = True
        changed = set(cluster.changed_vips)
        await self.announcer.rank(everything=everything)
        stopping = self.stopping_since is not None
        self.bgp.turn(changed, draining=bool(self.verbs.why_draining), stopping=stopping)

    def _turn_allocator(self) -> Instant | None:
        at, ownership = now(), self.ownership
        holder = self.allocator.holder
        session = ownership.sessions.get(holder) if holder else None
        alive = {n: s.allocator for n, s in ownership.sessions.items() if ownership.hosts.alive(n, at)}
        expires_at = ownership.hosts.expires_at(holder) if holder else None
        wake_at = self.allocator.turn(
            at=at,
            alive=alive,
            expires_at=expires_at,
            gone=holder is not None and (session is None or session.ended or holder not in alive),
            renewed_at=self.keeper.renewed_at,
            duration_s=self.config.session.duration_s,
            stopping=self.stopping_since is not None,
        )
        ownership.sweeps = self.allocator.leads
        return wake_at

    def _alive(self) -> frozenset[NodeName]:
        """The hosts whose session says that they live."""
        return frozenset(node for node in self.ownership.sessions if self.ownership.hosts.alive(node, now()))

    async def _sleep(self, for_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, for_s)):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    def _check_tasks(self) -> None:
        """A watch that ended is a bug, and a lost session is fatal: both end the agent, systemd starts the next."""
        if self._fatal is not None:
            raise self._fatal
        for task in self._tasks:
            if task.done() and not task.cancelled():
                raise InvariantError(f"{task.get_coro()} ended: {task.exception()!r}") from task.exception()

    async def _watch_kernel(self) -> None:
        async for event in self.addresses.events():
            if await self.announcer.on_kernel(event):
                self._look = True
            self.wake()

    # Stop

    def _ask_to_stop(self) -> None:
        self._stop_asked.set()
        self.wake()

    def _renew_soon(self) -> None:
        if self.stopping_since is None:
            self.keeper.renew_soon()

    def _refute(self, by: NodeName) -> None:
        seen = self.ownership.sessions.get(self._me)
        self.keeper.refute(by, version=seen.resource_version if seen else "")

    def _lost(self, exc: ConfigError) -> None:
        self._fatal = exc
        self.wake()

    async def _begin_stop(self) -> bool:
        """True if the agent may end at once: it is only being restarted, and the next one adopts everything."""
        if await restart_is_under_way():
            say("agent.restarting", f"being restarted: {len(self.ownership.held)} VIPs stay on the interfaces")
            self._notify.stopping("restarting, VIPs stay")
            await self._notify.flush()
            return True
        say("agent.stopping", f"handing over {len(self.ownership.held)} VIPs")
        self._notify.stopping("handing over")
        self.stopping_since = now()
        self.ownership.stop()
        return False

    async def _end_tasks(self) -> None:
        """All end before the edges that they use are closed under them."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_TASKS_S)

    async def _stopped(self, since: Instant) -> bool:
        late = now() - since > STOP_S
        if not late and (not self.ownership.stopped or self.allocator.seat_is_busy() or not self.bgp.advertiser.gone):
            return False
        await self.announcer.drop_everything("there was no time to hand it over")
        await self.bgp.advertiser.prefixes.withdraw("there was no time to announce it")
        await self.reports.end()
        await self._end_tasks()
        await self.keeper.end()
        say("agent.stopped", f"{self._me} stopped in order" if not late else f"{self._me} stopped, late")
        await self._notify.flush()
        return True
