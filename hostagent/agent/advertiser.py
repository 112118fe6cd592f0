"""Advertises over BGP what this host shall: observe FRR and our routes, decide, apply; beside the agent's loop.

Routes and FRR's configuration outlive the agent. A new life looks at what is there and changes what differs, so that a
restart, a crash or an upgrade of the agent is no event for any router.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from hostagent.agent.bgp_states import PeerStates, tell
from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.core.advertise import Leaving, Plan, peers_here
from hostagent.core.frr_diff import Change, compare, our_peers, parse, running_classes
from hostagent.core.frr_text import Wanted, digest, number_classes
from hostagent.core.tellings import PROTOCOL_BGP, announced, withdrawn
from hostagent.edges.kube.events import Events, about_service
from hostagent.model.bgp import AttributeClass, BgpConfig, Line, Observed, Peer, Router, Routes
from hostagent.model.cluster import Fault
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, Instant, Network, NodeName
from hostagent.telemetry.journal import say, warn

POLL_S = 1.0
"""Between looks at sessions, and at routes while they are few: both cost FRR and the kernel a millisecond."""
CHECK_S = 5.0
"""Between looks at FRR's configuration, and at routes while they are many: drift is repaired within this time."""
MANY = 2000
TAKEN_UP_S = 30.0
"""Between comparisons with FRR's own table, which occupies FRR for a fifth of a second with 10 000 prefixes."""
RETRY_S = 1.0
AT_ONCE = 200
"""VIPs judged between two breaths of the loop."""
STOP_WAIT_S = 5.0
"""The longest that a stop announces its leaving: the rest of its time is for withdrawing."""

Open = Callable[[], Awaitable[tuple[Router | None, Routes] | None]]
"""The edges, once the routing daemon is there; None while it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertised:
    """One prefix that routers are told, with its class."""

    number: int
    of: AttributeClass
    since: Instant


class Advertiser:
    """This host's BGP. `run` turns until cancelled; `note` says what changed."""

    def __init__(
        self,
        *,
        me: NodeName,
        cluster: Cluster,
        events: Events,
        open_edges: Open,
        table: int,
        graceful_shutdown_s: float,
        guarded: Callable[[], Mapping[IP, object]],
        off: bool = False,
    ) -> None:
        """`guarded` are the VIPs that the guard covers: others are not announced yet. `off`: take away what is ours."""
        self._me = me
        self._cluster = cluster
        self._events = events
        self._open = open_edges
        self._table = table
        self._shutdown_s = graceful_shutdown_s
        self._guarded = guarded
        self._off = off
        self._router: Router | None = None
        self._routes: Routes | None = None
        self._woken = asyncio.Event()
        self._changed: set[IP] = set()
        self._stale = True
        """The plan is to be made anew."""
        self._leaving_since: Instant | None = None
        self._stopping = False
        self._checked_at: Instant | None = None
        self._compared_at: Instant | None = None
        self._routes_at: Instant | None = None
        self._numbers: dict[AttributeClass, int] = {}
        self._change = Change()
        self._clashes: list[Fault] = []
        self._not_taken: tuple[Line, ...] = ()
        self._waiting: set[Network] = set()
        """Prefixes that the guard does not cover yet."""
        self._compared_all = False
        """`present` is as planned but for what the plan says changed."""
        self.plan = Plan(config=cluster.config, node=None, peers=())
        self.peers: list[Peer] = []
        self.states = PeerStates()
        self.leaving = Leaving.NO
        self.present: dict[Network, int] = {}
        """As read from the kernel last, or written since."""
        self.since: dict[Network, Instant] = {}
        self.faults: tuple[Fault, ...] = ()
        """What only this host can tell of the configuration."""
        self.trouble = ""
        self.lost = 0
        """Prefixes that FRR had missed, and that were put before it again."""
        self.repaired = 0
        """Lines of FRR that were not as they should be, although nothing had been asked to change."""

    @property
    def active(self) -> bool:
        """There is a routing daemon to advertise through."""
        return self._routes is not None

    @property
    def gone(self) -> bool:
        """Nothing is advertised any more, and nothing will be."""
        return not self.active or (self.leaving is Leaving.GONE and not self.present)

    @property
    def classes(self) -> dict[int, AttributeClass]:
        """The classes in use or standing by, by number."""
        return {number: each for each, number in self._numbers.items()}

    # What the agent says

    def note(self, vips: set[IP], *, everything: bool) -> None:
        """These VIPs changed; or the configuration, this host's Node, or so much that all are to be looked at."""
        self._changed |= vips
        self._stale |= everything
        if vips or everything:
            self._woken.set()

    def nudge(self) -> None:
        """Look at the routes again: local addresses changed, or the guard did."""
        self._routes_at = None
        self._woken.set()

    def leave(self, *, draining: bool, stopping: bool) -> None:
        """Whether this host is on its way out, of being used or of running."""
        self._stopping = stopping
        leaving = draining or stopping
        if leaving is (self._leaving_since is not None):
            return
        self._leaving_since = now() if leaving else None
        self._woken.set()

    async def close(self) -> None:
        """Hang up. Routes and sessions stay as they are."""
        for edge in (self._router, self._routes):
            if edge is not None:
                await edge.close()

    # The turns

    async def run(self) -> None:
        """Keep routes and FRR as they should be, until cancelled."""
        while True:
            pause_s = self._pause_s() if await self.turn() else RETRY_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()

    async def turn(self) -> bool:
        """Look, decide, act once; False if FRR or the kernel did not do what was asked."""
        try:
            await self._turn()
        except EdgeError as error:
            if str(error) != self.trouble:
                warn("bgp.failed", f"BGP is not as it should be, what is announced stays: {error}")
            self.trouble = str(error)
            self._checked_at = self._routes_at = None
            if self._router is not None:
                await self._look_at_sessions(self._router)
            return False
        if self.trouble:
            say("bgp.works", "FRR and our routes are as they should be again")
        self.trouble = ""
        return True

    def _pause_s(self) -> float:
        if self._leaving_since is None or self.leaving is not Leaving.ANNOUNCED:
            return POLL_S
        return max(0.02, min(POLL_S, self._leaving_since + self._patience_s() - now()))

    async def _turn(self) -> None:
        if self._routes is None:
            opened = await self._open()
            if opened is None:
                return
            self._router, self._routes = opened
        await self._look_at_routes()
        stepped = self._step()
        if self._stale or stepped:
            await self._plan_anew()
        else:
            await self._judge(self._changed)
        if self._router is None:
            self._number({})
            self._note_faults(tuple(self._clashes))
            await self._change_routes()
            return
        await self._turn_router(self._router)
        await self._change_routes()
        await self._compare(self._router)

    async def _look_at_routes(self) -> None:
        assert self._routes is not None  # noqa: S101  for the type checker
        every_s = POLL_S if len(self.present) < MANY else CHECK_S
        if self._routes_at is None or now() - self._routes_at >= every_s:
            self.present = dict(await self._routes.present())
            self._routes_at = now()
            self._compared_all = False
            for prefix in self.since.keys() - self.present.keys():
                del self.since[prefix]
            for prefix in self.present:
                self.since.setdefault(prefix, self._routes_at)

    def _patience_s(self) -> float:
        return min(self._shutdown_s, STOP_WAIT_S) if self._stopping else self._shutdown_s

    def _step(self) -> bool:
        """How far on the way out this host is now; True if that changed."""
        before = self.leaving
        if self._leaving_since is None:
            self.leaving = Leaving.NO
        elif before is Leaving.NO and self._shutdown_s > 0 and self.present:
            self.leaving = Leaving.ANNOUNCED
            say("bgp.leaving", f"{len(self.present)} prefixes carry GRACEFUL_SHUTDOWN before they are withdrawn")
        elif before is Leaving.NO or now() - self._leaving_since >= self._patience_s():
            self.leaving = Leaving.GONE
        return self.leaving is not before

    async def _plan_anew(self) -> None:
        cluster = self._cluster
        node = cluster.node(self._me)
        self._choose_peers(frozenset(self._change.configured))
        known = None if self._router is None else [peer.name for peer in self.peers]
        self._stale = self._compared_all = False
        self.plan = Plan(config=cluster.config, node=None if self._off else node, peers=known, leaving=self.leaving)
        self._checked_at = None
        await self._judge(set(cluster.vips))

    async def _judge(self, vips: set[IP]) -> None:
        self._changed = self._changed - vips
        for done, vip in enumerate(tuple(vips), start=1):
            if done % AT_ONCE == 0:
                await asyncio.sleep(0)
            self.plan.judge(vip, self._cluster.uses(vip))

    # FRR

    async def _turn_router(self, router: Router) -> None:
        """Configuration first: a route must find its class. What FRR refuses does not keep routes from changing."""
        classes = self._needed()
        fresh = bool(classes - self._numbers.keys())
        if not fresh and self._checked_at is not None and now() - self._checked_at < CHECK_S:
            return
        asked, self._checked_at = self._checked_at is None or fresh, now()
        try:
            observed = await router.observe()
            wanted = self._wanted(observed, classes)
            change = compare(wanted, observed)
            self._change = change
            self._note_faults((*self._clashes, *change.refused))
            await self._apply(router, change, wanted, asked=asked)
        except EdgeError:
            self._number({})
            self._checked_at = None
            await self._change_routes()
            raise

    def _needed(self) -> frozenset[AttributeClass]:
        return self.plan.classes | self.plan.standing

    def _wanted(self, observed: Observed, classes: frozenset[AttributeClass]) -> Wanted:
        pairs = parse(observed.running)
        if not self._change.configured:  # a new life: who runs already comes before who is new
            self._choose_peers(our_peers(pairs))
        self._number(running_classes(pairs))
        in_use = set(self.present.values())
        kept = {number: each for number, each in self.classes.items() if each in classes or number in in_use}
        profiles = self._cluster.config.bgp.bfd_profiles
        return Wanted(peers=self.peers, profiles=profiles, classes=kept, table=self._table)

    def _choose_peers(self, running: frozenset[str]) -> None:
        config = BgpConfig() if self._off else self._cluster.config.bgp
        self.peers, self._clashes = peers_here(config, self._cluster.node(self._me), running=running)

    def _number(self, running: Mapping[int, str]) -> None:
        """Numbers stay with their classes; what runs decides, and what this life gave out before."""
        needed = self._needed()
        in_use = set(self.present.values())
        keep = {each: number for each, number in self._numbers.items() if number in in_use or each in needed}
        taken = dict(running) | {number: digest(each) for each, number in keep.items() if number not in running}
        numbers = {each: number for number, each in number_classes(needed | keep.keys(), taken=taken).items()}
        self._compared_all = self._compared_all and numbers == self._numbers
        self._numbers = numbers

    async def _apply(self, router: Router, change: Change, wanted: Wanted, *, asked: bool) -> None:
        """Check, keep for FRR's next start, apply, read back; classes that no route has any more go last."""
        if change.lines and change.lines == self._not_taken:
            return  # told before; again and again would disturb what works
        if change.lines:
            await router.check(change.text)
        if change.persist:
            await router.persist(change.text)
        if not change.lines and not change.last:
            return
        await router.apply((*change.lines, *change.last))
        if change.lines:
            shown = "; ".join(line.shown for line in change.lines[:5])
            if asked:
                say("bgp.configured", f"FRR took {len(change.lines)} lines: {shown}")
            else:
                self.repaired += len(change.lines)
                warn("bgp.drift", f"{len(change.lines)} lines of FRR were not as they should be: {shown}")
        left = compare(wanted, await router.observe()).lines
        if left:
            shown = "; ".join(line.shown for line in left[:5])
            warn("bgp.not-taken", f"FRR took {len(left)} lines and does not show them: {shown}")
        self._not_taken = left

    def _note_faults(self, faults: tuple[Fault, ...]) -> None:
        faults = tuple(dict.fromkeys(faults))
        for fault in faults:
            if fault not in self.faults:
                warn("bgp.refused", str(fault), object=f"{fault.kind}/{fault.name}")
        for fault in self.faults:
            if fault not in faults:
                say("bgp.mended", f"no longer wrong: {fault}", object=f"{fault.kind}/{fault.name}")
        self.faults = faults

    async def _compare(self, router: Router) -> None:
        """What FRR missed of the kernel's routes is put before it again; then the sessions."""
        await self._look_at_sessions(router)
        if self._compared_at is not None and now() - self._compared_at < TAKEN_UP_S:
            return
        self._compared_at = now()
        if not self.present or not self._change.configured:
            return
        before = dict(self.present)
        missed = before.keys() - await router.taken_up()
        old = {prefix for prefix in missed if now() - self.since.get(prefix, now()) > POLL_S}
        if old and self._routes is not None:
            self.lost += len(old)
            warn("bgp.missed", f"FRR had missed {len(old)} of {len(before)} prefixes: they are put before it again")
            await self._routes.change(add={}, remove=frozenset(old))
            await self._routes.change(add={prefix: before[prefix] for prefix in old}, remove=frozenset())

    async def _look_at_sessions(self, router: Router) -> None:
        """An FRR that does not answer has none."""
        try:
            states = await router.peers()
        except EdgeError:
            states = ()
        ours = [peer for peer in self.peers if peer.name in self._change.configured]  # not a refused one's namesake
        for happened in self.states.take(states, ours):
            tell(happened, me=self._me, peer=self._cluster.bgp_peer(happened.peer), events=self._events)

    # Routes

    async def withdraw(self, why: str) -> None:
        """Take away all routes at once: the last act of a stop that ran out of time."""
        if self._routes is None or not self.present:
            return
        try:
            await self._routes.change(add={}, remove=frozenset(await self._routes.present()))
        except EdgeError as error:
            warn("bgp.failed", f"prefixes cannot be withdrawn: {error}")
            return
        warn("bgp.withdrawn", f"{len(self.present)} prefixes are withdrawn: {why}", reason=why)
        self.present = {}

    def plan_numbers(self) -> dict[Network, int]:
        """The prefixes to advertise, with their class numbers."""
        number = {id(each): self._numbers[each] for each in self.plan.classes if each in self._numbers}
        return {prefix: number[id(each)] for prefix, each in self.plan.prefixes.items() if id(each) in number}

    async def _change_routes(self) -> None:
        """Routes as planned. All are compared after a look at the kernel, else those whose plan changed: a Service's
        coming costs the same whether there are ten others or ten thousand.
        """
        assert self._routes is not None  # noqa: S101  for the type checker
        guarded = self._guarded()
        touched, self.plan.changed = self.plan.changed | self._waiting, set()
        if self._compared_all:
            wanted = {prefix: self._number_of(prefix) for prefix in touched}
        else:
            planned = self.plan_numbers()
            wanted = {prefix: planned.get(prefix) for prefix in planned.keys() | self.present.keys()}
            self._compared_all = True
        differ = {prefix: number for prefix, number in wanted.items() if self.present.get(prefix) != number}
        add = {
            prefix: number
            for prefix, number in differ.items()
            if number is not None and (prefix in self.present or self._is_guarded(prefix, guarded))
        }
        remove = frozenset(prefix for prefix, number in differ.items() if number is None)
        self._waiting = differ.keys() - add.keys() - remove
        if not add and not remove:
            return
        self._compared_all = False
        await self._routes.change(add=add, remove=remove)
        self._routes_at = self._routes_at if len(self.present) >= MANY else None  # read back, at once if that is cheap
        self._compared_all = self._routes_at is not None
        at = now()
        for prefix in remove:
            self.present.pop(prefix)
            self.since.pop(prefix, None)
            why = self.plan.why_not(prefix)
            say(
                "bgp.withdrawn", f"{prefix} is no longer advertised: {why}", vip=str(prefix.network_address), reason=why
            )
            told = withdrawn(prefix, self._me, why, heir=None, protocol=PROTOCOL_BGP)  # other hosts go on, or do not
            for use in self._cluster.uses(prefix.network_address):
                self._events.emit(about_service(use.service), reason=told.reason, message=told.message)
        fresh = [prefix for prefix in add if prefix not in self.present]
        self.present |= add
        self._woken.set()
        for prefix in fresh:
            self.since[prefix] = at
            self._tell(prefix)

    def _number_of(self, prefix: Network) -> int | None:
        planned = self.plan.prefixes.get(prefix)
        return None if planned is None else self._numbers.get(planned)

    def _is_guarded(self, prefix: Network, guarded: Mapping[IP, object]) -> bool:
        return any(vip in guarded for vip in self.plan.vips_of(prefix))

    def _tell(self, prefix: Network) -> None:
        vips = self.plan.vips_of(prefix)
        services = {use.service.key: use.service for vip in vips for use in self._cluster.uses(vip)}
        say(
            "bgp.advertised",
            f"{prefix} is advertised",
            vip=str(prefix.network_address),
            service=" ".join(map(str, sorted(services))),
        )
        for service in services.values():
            told = announced(prefix, self._me, PROTOCOL_BGP)
            self._events.emit(about_service(service), reason=told.reason, message=told.message)
