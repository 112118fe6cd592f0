"""Carries out what the ownership rules say on this host: addresses here; claims and frames by `Claims` and `Wire`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from hostagent.agent.claims import Claims
from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.agent.guarding import Guarding
from hostagent.agent.interfaces import READDRESSED_S, Settling, segments_of
from hostagent.agent.wire import Wire
from hostagent.core.candidates import Placement
from hostagent.core.hosts import RETRY_S
from hostagent.core.ownership import Ownership
from hostagent.core.tellings import Telling, announced, withdrawn
from hostagent.edges.kube.events import Events, about_service
from hostagent.edges.netlink import Event, KernelAddresses, LinkChanged, Resync
from hostagent.model.errors import EdgeError, InvariantError
from hostagent.model.host import AddressRemoved, Link
from hostagent.model.names import IP, Instant, InterfaceName, NodeName
from hostagent.model.ownership import (
    Act,
    AddAddress,
    Announce,
    DeleteClaim,
    Probe,
    ReadClaim,
    ReadSession,
    Refute,
    RemoveAddress,
    ReportConflict,
    Segment,
    Suspect,
    Why,
    WriteClaim,
)
from hostagent.telemetry.journal import say, warn

REFUSED_RETRY_S = 0.02
"""When to try again what the kernel refused, for the first time; twice as long each time, up to `RETRY_S`.

NetworkManager switches IPv6 off for some 50 ms when it activates a connection anew.
"""
RANKED_AT_ONCE = 200
"""VIPs between two breaths of the loop: some 30 ms with a hundred hosts."""
EXTENSIONS = 4
"""Extensions per lifetime: three may be late or fail before an address ends."""


class Announcer:
    """This host's VIPs. `turn` decides and acts; everything that waits for the API or the segment runs beside it."""

    def __init__(
        self,
        *,
        ownership: Ownership,
        cluster: Cluster,
        claims: Claims,
        wire: Wire,
        addresses: KernelAddresses,
        guarding: Guarding,
        events: Events,
        lifetime_s: int,
        refute: Callable[[NodeName], None],
        wake: Callable[[], None],
    ) -> None:
        """`refute` renews this host's session at once."""
        self.ownership = ownership
        self.wire = wire
        self.claims = claims
        self.links: dict[InterfaceName, Link] = {}
        self.acquired: dict[IP, tuple[Instant, Why]] = {}
        """Since when and why this host answers for each VIP that it holds."""
        self._refused: dict[IP, float] = {}
        """VIPs that the kernel would not take, and for how many seconds the last wait was."""
        self._leaving: dict[IP, str] = {}
        """Why each VIP that is being handed over goes."""
        self._cluster = cluster
        self._addresses = addresses
        self._guarding = guarding
        self._events = events
        self._lifetime_s = lifetime_s
        self._refute = refute
        self._wake = wake
        self._settling = Settling()
        self._extended_at = Instant(0)
        self._left_s: Mapping[IP, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # At start

    async def look(self) -> tuple[Segment, ...]:
        """Read interfaces and VIPs from the kernel; listen on the interfaces that could carry VIPs.

        Returns these as others are to be told of them.
        """
        links, held = await self._addresses.snapshot()
        on = {address.ip: address.interface for address in held}
        self._left_s = {address.ip: address.left_s for address in held}
        for vip in self.ownership.held.keys() | on.keys():
            self.ownership.held_is(vip, on.get(vip))
        for name in self.links.keys() - {link.name for link in links}:
            self.ownership.carrier_is(name, up=False, now=now())
        self.links = {link.name: link for link in links}
        for link in links:  # after `held_is`: what went with a carrier that is back comes back after a write only
            self.ownership.carrier_is(link.name, up=link.up, now=now())
        self.ownership.gateways = await self._addresses.gateways()
        await self.wire.open(segments_of(links), [link.mac for link in links if link.mac])
        return self._settled(links)

    @property
    def must_look(self) -> bool:
        """An interface lacks what it had a moment ago."""
        return bool(self._settling.lacking)

    def _settled(self, links: Iterable[Link]) -> tuple[Segment, ...]:
        before = self._settling.lacking
        segments = self._settling.settle(links, now())
        for name in sorted(self._settling.lacking - before):
            say(
                "interface.readdressed",
                f"{name} has carrier and lost own addresses: VIPs stay if they return within {READDRESSED_S:g} s",
                interface=name,
            )
        return segments

    async def adopt(self) -> None:
        """Keep alive what an earlier life of the agent left on the interfaces, until it is known what to do with it.

        These addresses have not expired, so that life ended less than a lifetime ago: nobody can have taken over.
        """
        for vip, interface in tuple(self.ownership.held.items()):
            try:
                await self._addresses.add(vip, self.links[interface].index, self._adopted_lifetime(vip))
            except EdgeError as error:
                warn("vip.not-adopted", f"{vip} on {interface} cannot be kept: {error}", vip=vip)
                continue
            self.acquired[vip] = (now(), Why.HOLDS)
            say("vip.adopted", f"{vip} was on {interface} already: kept", vip=vip, interface=interface)
        self._extended_at = now()

    def begin(self, *, same_boot: bool) -> None:
        """The first full view is there: adopted VIPs go on being announced, and what expired meanwhile is told."""
        for vip, interface in self.ownership.held.items():
            self.wire.neighbors.announce(vip, interface)
        for vip, claim in self.ownership.claims.items():
            # One that was handed over to this host meanwhile was never on it.
            mine = claim.holder == self.ownership.me and claim.predecessor is None
            if same_boot and mine and vip not in self.ownership.held:
                self.ownership.lapsed(vip)
        self._guarding.note((), everything=True)

    # Every turn

    async def rank(self, *, everything: bool) -> None:
        """Tell the ownership rules who may answer for the VIPs that changed, or for all of them.

        Ranking ten thousand VIPs among a hundred hosts takes 1.5 s; others get their turn in between.
        """
        cluster = self._cluster
        vips = cluster.changed_vips
        cluster.changed_vips = set()
        if everything:
            vips = vips | cluster.vips | self.ownership.claims.keys() | self.ownership.held.keys()
        if not vips:
            return
        placement = Placement(config=cluster.config, nodes=cluster.nodes.items, sessions=self.ownership.sessions)
        for done, vip in enumerate(vips, start=1):
            if done % RANKED_AT_ONCE == 0:
                await asyncio.sleep(0)
                await self.keep_alive()
            uses = cluster.uses(vip)
            self.ownership.ranking_is(vip, placement.rank(vip, uses) if uses else None)
        self._guarding.note(vips, everything=everything)

    async def turn(self) -> None:
        """Judge what needs judging and act on it; keep the addresses alive."""
        await self.keep_alive()
        probes: dict[InterfaceName, list[Probe]] = {}
        for act in self.ownership.turn(now()):
            if isinstance(act, Probe):
                self._sort_in(act, probes)
            else:
                await self._do(act)
        for interface, acts in probes.items():  # all in common rounds: a dead host leaves hundreds of VIPs
            self._beside(self.wire.probe(acts, interface))
        self.wire.neighbors.watch(self.ownership.watched)

    def _sort_in(self, act: Probe, probes: dict[InterfaceName, list[Probe]]) -> None:
        """By the interface on which this host has the VIP, or would have it."""
        ranking = self.ownership.ranking(act.vip)
        mine = ranking.of(self.ownership.me) if ranking else None
        interface = self.ownership.held.get(act.vip) or (mine.interface if mine else None)
        if interface is None:  # no candidate any more: nothing to ask for
            self.ownership.probe_failed(act.vip, now())
        else:
            probes.setdefault(interface, []).append(act)

    async def on_kernel(self, event: Event) -> bool:
        """Something happened to interfaces or addresses. True if interfaces must be looked at again."""
        match event:
            case AddressRemoved(ip=vip, interface=interface, by=by):
                warn("vip.removed-by-other", f"{vip} was taken off {interface} by {by}: put back", vip=vip, by=by)
                self.wire.neighbors.silence(vip)  # or a fresh interface would be greeted with what is not on it
                self.ownership.held_is(vip, None)
                await self.turn()
                return False
            case LinkChanged() | Resync():
                return True

    async def keep_alive(self) -> None:
        """Extend the lifetime of every VIP here when it is time: the one thing that must go on whatever else waits."""
        if now() - self._extended_at < self._lifetime_s / EXTENSIONS or not self.ownership.may_extend:
            return
        self._extended_at = now()
        try:
            expired = await self._addresses.extend(self._lifetime())
        except EdgeError as error:
            warn("vip.not-extended", f"address lifetimes cannot be extended: {error}")
            return
        for vip in expired:
            if vip in self.ownership.held:
                warn("vip.expired", f"{vip} expired: this agent had not turned for {self._lifetime_s} s", vip=vip)
                self.wire.neighbors.silence(vip)
                self.acquired.pop(vip, None)
                self.ownership.lapsed(vip)

    def _adopted_lifetime(self, vip: IP) -> int:
        """An agent that must let go in time does not know yet how much time that is: no more than was left."""
        return self._lifetime() if self.ownership.may_extend else max(1, int(self._left_s.get(vip, 0)))

    def _lifetime(self) -> int:
        """For how long the kernel shall keep an address that nobody extends, in whole seconds."""
        ends_at = self.ownership.lifetime_ends_at
        return self._lifetime_s if ends_at is None else max(1, min(self._lifetime_s, int(ends_at - now())))

    async def _do(self, act: Act) -> None:
        match act:
            case AddAddress():
                await self._add(act)
            case RemoveAddress():
                await self._remove(act)
            case WriteClaim():
                self._beside(self._hand_over(act) if self._leaves(act) else self.claims.write(act))
            case DeleteClaim():
                self._beside(self.claims.delete(act))
            case ReadClaim(vip=vip):
                self._beside(self.claims.read(vip))
            case Suspect():
                self._beside(self.claims.suspect(act))
            case ReadSession(node=node):
                self._beside(self.claims.read_session(node))
            case Refute(suspected_by=by):
                self._refute(by)
            case Probe():
                raise InvariantError("probes are sent together, by turn()")
            case Announce(vip=vip):
                self.wire.neighbors.defend(vip)
            case ReportConflict(vip=vip, mac=mac):
                self.wire.report(vip, mac)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Addresses

    async def _add(self, act: AddAddress) -> None:
        vip = act.vip
        ranking = self.ownership.ranking(vip)
        mine = ranking.of(self.ownership.me) if ranking else None
        link = self.links.get(mine.interface) if mine else None
        if link is None or vip not in self._guarding.guarded:
            self.ownership.ask_again(vip, Instant(now() + (RETRY_S if link is None else 0.02)))
            return
        before = self.ownership.held.get(vip)
        try:
            await self._addresses.add(vip, link.index, self._lifetime())
            self.wire.neighbors.announce(vip, link.name)
            if before is not None and before != link.name and before in self.links:
                await self._addresses.remove(vip, self.links[before].index)
        except EdgeError as error:
            self._refuse(vip, link.name, error)
            return
        self._refused.pop(vip, None)
        self.ownership.held_is(vip, link.name)
        self.acquired.setdefault(vip, (now(), act.why))
        self.wire.conflicts.pop(vip, None)
        detail = f" ({act.detail})" if act.detail else ""
        services = " ".join(str(use.service.key) for use in self._cluster.uses(vip))
        say(
            "vip.announced",
            f"{vip} is answered on {link.name}: {act.why}{detail}",
            vip=vip, interface=link.name, reason=act.why, service=services,
        )  # fmt: skip
        self._leaving.pop(vip, None)
        self._tell(vip, announced(vip, self.ownership.me))

    def _refuse(self, vip: IP, interface: InterfaceName, error: EdgeError) -> None:
        """Try again, soon at first; told at first, and from when it is no matter of a moment."""
        before = self._refused.get(vip, 0.0)
        wait_s = self._refused[vip] = min(before * 2 or REFUSED_RETRY_S, RETRY_S)
        if not before or wait_s == RETRY_S:
            warn("vip.not-added", f"{vip} cannot be put on {interface}: {error}", vip=vip, interface=interface)
        self.ownership.ask_again(vip, Instant(now() + wait_s))

    async def _remove(self, act: RemoveAddress) -> None:
        vip, interface = act.vip, self.ownership.held.get(act.vip)
        self.wire.neighbors.silence(vip)
        if interface is not None and interface in self.links:
            try:
                await self._addresses.remove(vip, self.links[interface].index)
            except EdgeError as error:  # it is not extended any more: its lifetime ends it
                warn("vip.not-removed", f"{vip} cannot be taken off {interface}: {error}", vip=vip)
        self.ownership.held_is(vip, None)
        self.acquired.pop(vip, None)
        detail = f" ({act.detail})" if act.detail else ""
        say("vip.let-go", f"{vip} is no longer answered here: {act.why}{detail}", vip=vip, reason=act.why)
        if interface is not None:
            heir = self.ownership.claims[vip].holder if vip in self.ownership.claims else None
            why = self._leaving.pop(vip, "") or f"{act.why}{detail}"
            self._tell(vip, withdrawn(vip, self.ownership.me, why, heir=heir if heir != self.ownership.me else None))

    def _leaves(self, act: WriteClaim) -> bool:
        """A VIP that is here shall be another's, or nobody's."""
        return act.holder != self.ownership.me and act.vip in self.ownership.held

    async def _hand_over(self, act: WriteClaim) -> None:
        """Nothing is announced meanwhile: a word after the successor's would draw clients back to this host."""
        vip, me = act.vip, self.ownership.me
        ranking = self.ownership.ranking(vip)
        why_not = ranking.excluded.get(me) if ranking else None
        self._leaving[vip] = str(why_not or act.why)  # once it has gone, that is what people want to know
        self.wire.neighbors.hush(vip)
        await self.claims.write(act)
        claim = self.ownership.claims.get(vip)
        if claim is not None and claim.holder == me and vip in self.ownership.held:
            self.wire.neighbors.resume(vip)

    def _tell(self, vip: IP, telling: Telling) -> None:
        """An Event on every Service that has the VIP."""
        for use in self._cluster.uses(vip):
            self._events.emit(
                about_service(use.service), reason=telling.reason, message=telling.message, warning=telling.warning
            )

    def silence_and_forget(self) -> None:
        """Stop listening and announcing; addresses stay as they are."""
        self.wire.neighbors.close()

    async def drop_everything(self, why: str) -> None:
        """Take off what is left, without asking anybody: the last act of a stop that ran out of time."""
        for vip in tuple(self.ownership.held):
            warn("vip.dropped", f"{vip} is dropped without a successor: {why}", vip=vip)
            await self._remove(RemoveAddress(vip=vip, why=Why.STOPPING, detail=why))
