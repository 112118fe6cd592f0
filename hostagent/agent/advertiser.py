"""Advertises over BGP what this host shall: observe FRR and our routes, decide, apply; beside the agent's loop.

Routes and FRR's configuration outlive the agent. A new life looks at what is there and changes what differs, so that a
restart, a crash or an upgrade of the agent is no event for any router.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from hostagent.agent.bgp_states import PeerStates, tell
from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.agent.prefixes import POLL_S, Prefixes
from hostagent.core.advertise import Leaving, Plan, peers_here
from hostagent.core.frr_diff import Change, compare, our_peers, parse, running_classes
from hostagent.core.frr_text import Wanted, digest, number_classes
from hostagent.edges.kube.events import Events
from hostagent.model.bgp import AttributeClass, BgpConfig, Line, Observed, Peer, Router, Routes
from hostagent.model.cluster import Fault
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, Instant, NodeName
from hostagent.telemetry.journal import say, warn

CONFIGURATION_S = 5.0
"""Between looks at FRR's configuration: drift is repaired within this time. At sessions it looks every `POLL_S`."""
TAKEN_UP_S = 30.0
"""Between comparisons with FRR's own table, which occupies FRR for a fifth of a second with 10 000 prefixes."""
RETRY_S = 1.0
AT_ONCE = 200
"""VIPs judged between two breaths of the loop."""
STOP_WAIT_S = 5.0
"""The longest that a stop announces its leaving: the rest of its time is for withdrawing."""

Open = Callable[[], Awaitable[tuple[Router | None, Routes] | None]]
"""The edges, once the routing daemon is there; None while it is not."""


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
        self.prefixes = Prefixes(me=me, cluster=cluster, events=events, guarded=guarded)
        self._open = open_edges
        self._table = table
        self._shutdown_s = graceful_shutdown_s
        self._off = off
        self._router: Router | None = None
        self._woken = asyncio.Event()
        self._changed: set[IP] = set()
        self._stale = True
        """The plan is to be made anew."""
        self._leaving_since: Instant | None = None
        self._stopping = False
        self._checked_at: Instant | None = None
        self._compared_at: Instant | None = None
        self._numbers: dict[AttributeClass, int] = {}
        self._change = Change()
        self._clashes: list[Fault] = []
        self._not_taken: tuple[Line, ...] = ()
        self.plan = Plan(config=cluster.config, node=None, peers=())
        self.judged = False
        """`plan` is what this host found, and no longer the empty one of the beginning."""
        self.peers: list[Peer] = []
        self.states = PeerStates()
        self.leaving = Leaving.NO
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
        return self.prefixes.routes is not None

    @property
    def gone(self) -> bool:
        """Nothing is advertised any more, and nothing will be."""
        return not self.active or (self.leaving is Leaving.GONE and not self.prefixes.present)

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
        """Look at the routes again: local addresses changed."""
        self.prefixes.look_again()
        self._woken.set()

    def guard_changed(self) -> None:
        """VIPs that were not guarded may be now."""
        if self.prefixes.waiting:
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
        for edge in (self._router, self.prefixes.routes):
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
            self._checked_at = None
            self.prefixes.look_again()
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
        if not self.active:
            opened = await self._open()
            if opened is None:
                self.judged = True
                return
            self._router, self.prefixes.routes = opened
        await self.prefixes.look()
        stepped = self._step()
        if self._stale or stepped:
            await self._plan_anew()
        else:
            await self._judge(self.plan, self._changed)
        if self._router is None:
            self._number({})
            self._note_faults(tuple(self._clashes))
            await self._change_routes()
            return
        await self._turn_router(self._router)
        await self._change_routes()
        await self._compare(self._router)

    def _patience_s(self) -> float:
        return min(self._shutdown_s, STOP_WAIT_S) if self._stopping else self._shutdown_s

    def _step(self) -> bool:
        """How far on the way out this host is now; True if that changed."""
        before = self.leaving
        if self._leaving_since is None:
            self.leaving = Leaving.NO
        elif before is Leaving.NO and self._shutdown_s > 0 and self.prefixes.present:
            self.leaving = Leaving.ANNOUNCED
            say(
                "bgp.leaving",
                f"{len(self.prefixes.present)} prefixes carry GRACEFUL_SHUTDOWN before they are withdrawn",
            )
        elif before is Leaving.NO or now() - self._leaving_since >= self._patience_s():
            self.leaving = Leaving.GONE
        return self.leaving is not before

    async def _plan_anew(self) -> None:
        cluster = self._cluster
        node = cluster.node(self._me)
        self._choose_peers(frozenset(self._change.configured))
        known = None if self._router is None else [peer.name for peer in self.peers]
        self._stale = False
        plan = Plan(config=cluster.config, node=None if self._off else node, peers=known, leaving=self.leaving)
        await self._judge(plan, set(cluster.vips))
        self.prefixes.compare_all()
        self._checked_at = None
        self.plan, self.judged = plan, True

    async def _judge(self, plan: Plan, vips: set[IP]) -> None:
        self._changed = self._changed - vips
        for done, vip in enumerate(tuple(vips), start=1):
            if done % AT_ONCE == 0:
                await asyncio.sleep(0)
            plan.judge(vip, self._cluster.uses(vip))

    async def _change_routes(self) -> None:
        if await self.prefixes.change(self.plan, self._numbers):
            self._woken.set()

    # FRR

    async def _turn_router(self, router: Router) -> None:
        """Configuration first: a route must find its class. What FRR refuses does not keep routes from changing."""
        classes = self._needed()
        fresh = bool(classes - self._numbers.keys())
        if not fresh and self._checked_at is not None and now() - self._checked_at < CONFIGURATION_S:
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
        in_use = set(self.prefixes.present.values())
        kept = {number: each for number, each in self.classes.items() if each in classes or number in in_use}
        profiles = self._cluster.config.bgp.bfd_profiles
        return Wanted(peers=self.peers, profiles=profiles, classes=kept, table=self._table)

    def _choose_peers(self, running: frozenset[str]) -> None:
        config = BgpConfig() if self._off else self._cluster.config.bgp
        self.peers, self._clashes = peers_here(config, self._cluster.node(self._me), running=running)

    def _number(self, running: Mapping[int, str]) -> None:
        """Numbers stay with their classes; what runs decides, and what this life gave out before."""
        needed = self._needed()
        in_use = set(self.prefixes.present.values())
        keep = {each: number for each, number in self._numbers.items() if number in in_use or each in needed}
        taken = dict(running) | {number: digest(each) for each, number in keep.items() if number not in running}
        numbers = {each: number for number, each in number_classes(needed | keep.keys(), taken=taken).items()}
        if numbers != self._numbers:
            self.prefixes.compare_all()
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
        if not self.prefixes.present or not self._change.configured:
            return
        before = dict(self.prefixes.present)
        missed = before.keys() - await router.taken_up()
        old = {prefix for prefix in missed if now() - self.prefixes.since.get(prefix, now()) > POLL_S}
        if old:
            self.lost += len(old)
            warn("bgp.missed", f"FRR had missed {len(old)} of {len(before)} prefixes: they are put before it again")
            await self.prefixes.put_again(old)

    async def _look_at_sessions(self, router: Router) -> None:
        """An FRR that does not answer has none."""
        try:
            states = await router.peers()
        except EdgeError:
            states = ()
        ours = [peer for peer in self.peers if peer.name in self._change.configured]  # not a refused one's namesake
        for happened in self.states.take(states, ours):
            tell(happened, me=self._me, peer=self._cluster.bgp_peer(happened.peer), events=self._events)
