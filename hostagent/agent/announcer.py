"""Carries out what the ownership rules say on this host: addresses, announcements, probes, claims, the guard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.agent.interfaces import segments_of
from hostagent.core.candidates import Candidate, Placement
from hostagent.core.ownership import RETRY_S, Ownership
from hostagent.edges.kube.events import Events, about_service
from hostagent.edges.kube.lease_objects import INTERFACE, MAC, SERVICES
from hostagent.edges.kube.leases import Leases
from hostagent.edges.neighbors import Neighbors
from hostagent.edges.netlink import Event, KernelAddresses, LinkChanged, Resync
from hostagent.edges.nft import Guard
from hostagent.model.cluster import Port
from hostagent.model.errors import EdgeError
from hostagent.model.host import AddressRemoved, Heard, Link
from hostagent.model.names import IP, Instant, InterfaceName, Mac
from hostagent.model.ownership import (
    Act,
    AddAddress,
    Claim,
    DeleteClaim,
    Probe,
    RemoveAddress,
    ReportConflict,
    Segment,
    Why,
    Write,
    WriteClaim,
)
from hostagent.telemetry.journal import say, warn

GUARD_RETRY_S = 2.0
GUARD_CHECK_S = 30.0
"""How often the guard is compared with what is wanted even if nothing changed: `nft flush ruleset` leaves no trace."""
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
        leases: Leases,
        addresses: KernelAddresses,
        guard: Guard,
        events: Events,
        lifetime_s: int,
        wake: Callable[[], None],
    ) -> None:
        self.ownership = ownership
        self.neighbors = Neighbors(self._heard)
        self.links: dict[InterfaceName, Link] = {}
        self.guarded: Mapping[IP, frozenset[Port]] = {}
        self.guard_trouble = ""
        self.acquired: dict[IP, tuple[Instant, Why]] = {}
        """Since when and why this host answers for each VIP that it holds."""
        self.conflicts: dict[IP, Mac] = {}
        self._cluster = cluster
        self._leases = leases
        self._addresses = addresses
        self._guard = guard
        self._events = events
        self._lifetime_s = lifetime_s
        self._wake = wake
        self._extended_at = Instant(0)
        self._down_since: dict[InterfaceName, Instant] = {}
        self._guard_wanted = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unresolved: set[IP] = set()
        """VIPs whose last claim write had no outcome yet."""

    # At start

    async def look(self) -> tuple[Segment, ...]:
        """Read interfaces and VIPs from the kernel; listen on the interfaces that could carry VIPs."""
        links, held = await self._addresses.snapshot()
        self.links = {link.name: link for link in links}
        unplugged = (link.name for link in links if not link.up)
        self._down_since = {name: self._down_since.get(name, now()) for name in unplugged}
        self.neighbors.own_macs([link.mac for link in links if link.mac])
        segments = segments_of(links)
        for segment in segments:
            try:
                await self.neighbors.open(segment.interface, segment.mac)
            except EdgeError as error:  # it may go away while we look; a change of it brings us back
                warn("interface.not-open", f"cannot listen on {segment.interface}: {error}")
        on = {address.ip: address.interface for address in held}
        for vip in self.ownership.held.keys() | on.keys():
            self.ownership.held_is(vip, on.get(vip))
        return segments

    async def adopt(self) -> None:
        """Keep alive what an earlier life of the agent left on the interfaces, until it is known what to do with it.

        These addresses have not expired, so that life ended less than a lifetime ago: nobody can have taken over.
        """
        for vip, interface in self.ownership.held.items():
            try:
                await self._addresses.add(vip, self.links[interface].index, self._lifetime_s)
            except EdgeError as error:
                warn("vip.not-adopted", f"{vip} on {interface} cannot be kept: {error}", vip=vip)
                continue
            self.acquired[vip] = (now(), Why.HOLDS)
            say("vip.adopted", f"{vip} was on {interface} already: kept", vip=vip, interface=interface)
        self._extended_at = now()

    def begin(self, *, same_boot: bool) -> None:
        """The first full view is there: adopted VIPs go on being announced, and what expired meanwhile is told."""
        for vip, interface in self.ownership.held.items():
            self.neighbors.announce(vip, interface)
        for vip, claim in self.ownership.claims.items():
            if same_boot and claim.holder == self.ownership.me and vip not in self.ownership.held:
                self.ownership.lapsed(vip)
        self._guard_wanted.set()

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
        self._guard_wanted.set()

    async def turn(self) -> None:
        """Judge what needs judging and act on it; keep the addresses alive."""
        await self.keep_alive()
        await self._let_go_unplugged()
        for act in self.ownership.turn(now()):
            await self._do(act)

    async def _let_go_unplugged(self) -> None:
        """Take VIPs off an interface that has had no carrier for so long that others may have taken over.

        Nobody hears this host there, so nothing is lost; but when the cable is back the kernel would answer, and our
        announcements would draw traffic, before the API has told that the VIP has moved.
        """
        late = [name for name, since in self._down_since.items() if now() - since >= self.ownership.stall_s]
        for vip, interface in self.ownership.held.items() if late else ():
            if interface in late:
                await self._remove(RemoveAddress(vip=vip, why=Why.NO_CARRIER, detail=f"{interface} has no carrier"))
                self.ownership.lapsed(vip)

    async def on_kernel(self, event: Event) -> bool:
        """Something happened to interfaces or addresses. True if interfaces must be looked at again."""
        match event:
            case AddressRemoved(ip=vip, interface=interface, by=by):
                warn("vip.removed-by-other", f"{vip} was taken off {interface} by {by}: put back", vip=vip, by=by)
                self.ownership.held_is(vip, None)
                await self.turn()
                return False
            case LinkChanged() | Resync():
                return True

    async def keep_alive(self) -> None:
        """Extend the lifetime of every VIP here when it is time: the one thing that must go on whatever else waits."""
        if now() - self._extended_at < self._lifetime_s / EXTENSIONS:
            return
        self._extended_at = now()
        try:
            missing = await self._addresses.extend(self._lifetime_s)
        except EdgeError as error:
            warn("vip.not-extended", f"address lifetimes cannot be extended: {error}")
            return
        for vip in missing:
            if vip in self.ownership.held:
                warn("vip.expired", f"{vip} expired: this agent had not turned for {self._lifetime_s} s", vip=vip)
                self.neighbors.silence(vip)
                self.acquired.pop(vip, None)
                self.ownership.lapsed(vip)

    async def _do(self, act: Act) -> None:
        match act:
            case AddAddress():
                await self._add(act)
            case RemoveAddress():
                await self._remove(act)
            case WriteClaim():
                self._beside(self._write(act))
            case DeleteClaim():
                self._beside(self._delete(act))
            case Probe(vip=vip):
                self._beside(self._probe(vip))
            case ReportConflict(vip=vip, mac=mac):
                self._conflict(vip, mac)

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
        if link is None or vip not in self.guarded:
            self.ownership.ask_again(vip, Instant(now() + (RETRY_S if link is None else 0.02)))
            return
        before = self.ownership.held.get(vip)
        try:
            await self._addresses.add(vip, link.index, self._lifetime_s)
            self.neighbors.announce(vip, link.name)
            if before is not None and before != link.name and before in self.links:
                await self._addresses.remove(vip, self.links[before].index)
        except EdgeError as error:
            warn("vip.not-added", f"{vip} cannot be put on {link.name}: {error}", vip=vip, interface=link.name)
            self.ownership.ask_again(vip, Instant(now() + RETRY_S))
            return
        self.ownership.held_is(vip, link.name)
        self.acquired.setdefault(vip, (now(), act.why))
        self.conflicts.pop(vip, None)
        detail = f" ({act.detail})" if act.detail else ""
        services = " ".join(str(use.service.key) for use in self._cluster.uses(vip))
        say(
            "vip.announced",
            f"{vip} is answered on {link.name}: {act.why}{detail}",
            vip=vip, interface=link.name, reason=act.why, service=services,
        )  # fmt: skip
        for use in self._cluster.uses(vip):
            self._events.emit(
                about_service(use.service),
                reason="nodeAssigned",
                message=f'announcing {vip} from node "{self.ownership.me}" with protocol "layer2"',
            )

    async def _remove(self, act: RemoveAddress) -> None:
        vip, interface = act.vip, self.ownership.held.get(act.vip)
        self.neighbors.silence(vip)
        if interface is not None and interface in self.links:
            try:
                await self._addresses.remove(vip, self.links[interface].index)
            except EdgeError as error:  # it is not extended any more: its lifetime ends it
                warn("vip.not-removed", f"{vip} cannot be taken off {interface}: {error}", vip=vip)
        self.ownership.held_is(vip, None)
        self.acquired.pop(vip, None)
        detail = f" ({act.detail})" if act.detail else ""
        say("vip.let-go", f"{vip} is no longer answered here: {act.why}{detail}", vip=vip, reason=act.why)

    def silence_and_forget(self) -> None:
        """Stop listening and announcing; addresses stay as they are."""
        self.neighbors.close()

    async def drop_everything(self, why: str) -> None:
        """Take off what is left, without asking anybody: the last act of a stop that ran out of time."""
        for vip in tuple(self.ownership.held):
            warn("vip.dropped", f"{vip} is dropped without a successor: {why}", vip=vip)
            await self._remove(RemoveAddress(vip=vip, why=Why.STOPPING, detail=why))

    # Claims

    async def _write(self, act: WriteClaim) -> None:
        vip = act.vip
        ranking = self.ownership.ranking(vip)
        target = ranking.of(act.holder) if ranking and act.holder else None
        services = " ".join(str(use.service.key) for use in self._cluster.uses(vip))
        notes = {SERVICES: services} | ({INTERFACE: target.interface} | self._mac_of(target) if target else {})
        try:
            outcome, claim = await self._leases.write_claim(act, notes=notes)
        except EdgeError as error:
            warn("claim.refused", f"the claim of {vip} cannot be written: {error}", vip=vip)
            outcome, claim = Write.UNKNOWN, None
        holder = act.holder or "nobody"
        self._settle(vip, outcome, claim)
        if outcome is Write.WON:
            message = f"{vip} is claimed for {holder}: {act.why}" + (f" ({act.detail})" if act.detail else "")
            say("claim.written", message, vip=vip, lease=holder, reason=act.why, service=services)
        if outcome is not Write.UNKNOWN:
            self._unresolved.discard(vip)
        elif vip not in self._unresolved:  # asked for again each second: told once
            self._unresolved.add(vip)
            warn("claim.unknown", f"no reply to the claim of {vip} for {holder}: asking again", vip=vip)

    def _mac_of(self, target: Candidate) -> dict[str, str]:
        """The MAC under which the holder will answer: what a packet capture on the segment must show."""
        session = self.ownership.sessions.get(target.node)
        macs = [s.mac for s in session.segments if s.interface == target.interface] if session else []
        return {MAC: macs[0]} if macs else {}

    async def _delete(self, act: DeleteClaim) -> None:
        try:
            outcome = await self._leases.delete_claim(act)
            claim = None if outcome is Write.WON else await self._leases.read_claim(act.vip)
        except EdgeError as error:
            warn("claim.not-deleted", f"the claim of {act.vip} cannot be deleted: {error}", vip=act.vip)
            outcome, claim = Write.UNKNOWN, None
        self._settle(act.vip, outcome, claim)
        if outcome is Write.WON:
            say("claim.deleted", f"the claim of {act.vip} is gone: no Service uses it", vip=act.vip)

    def _settle(self, vip: IP, outcome: Write, claim: Claim | None) -> None:
        if outcome is not Write.UNKNOWN:
            self.ownership.claim_seen(vip, claim, now())
        self.ownership.wrote(vip, outcome, now())
        self._wake()

    # The segment

    async def _probe(self, vip: IP) -> None:
        ranking = self.ownership.ranking(vip)
        mine = ranking.of(self.ownership.me) if ranking else None
        if mine is None:  # no candidate any more: nothing to ask for
            self.ownership.probe_failed(vip, now())
            return
        try:
            answers = await self.neighbors.probe((vip,), mine.interface)
        except EdgeError as error:
            warn("vip.not-probed", f"cannot ask who answers for {vip}: {error}", vip=vip)
            self.ownership.probe_failed(vip, now())
        else:
            self.ownership.probed(vip, answers[vip], now())
        self._wake()

    def _heard(self, heard: Heard) -> None:
        self.ownership.heard(heard.ip, now())
        if heard.ip in self.ownership.held:
            self._wake()

    def _conflict(self, vip: IP, mac: Mac) -> None:
        self.conflicts[vip] = mac
        owner = next(
            (s.node for s in self.ownership.sessions.values() for segment in s.segments if segment.mac == mac), None
        )
        who = f"{mac}, an interface of {owner}" if owner else f"{mac}, which is no host of ours"
        claim = self.ownership.claims.get(vip)
        expected = claim.holder if claim else None
        if owner is not None and owner == expected:
            # Alive on the segment, silent at the API: it keeps what it has (promise P6).
            say("vip.holder-answers", f"{vip} is still answered by {who}, though its session expired", vip=vip)
            return
        warn("vip.conflict", f"{vip} is answered by {who}: not taken. Find that machine", vip=vip, mac=mac)
        for use in self._cluster.uses(vip):
            message = f"{vip} is answered by {who}: no host announces it until that ends"
            self._events.emit(about_service(use.service), reason="AddressConflict", message=message, warning=True)

    # The guard

    async def keep_guard(self) -> None:
        """Keep the nftables table as the Services want it, until cancelled."""
        while True:
            wanted = {vip: _ports(self._cluster, vip) for vip in self._cluster.vips}
            try:
                await self._guard.ensure(wanted)
            except EdgeError as error:
                if not self.guard_trouble:
                    warn("guard.failed", f"new VIPs are not announced until the guard works: {error}")
                self.guard_trouble = str(error)
                await asyncio.sleep(GUARD_RETRY_S)
                continue
            if self.guard_trouble:
                say("guard.works", "the guard works again")
            self.guard_trouble, self.guarded = "", wanted
            self._wake()
            try:
                async with asyncio.timeout(GUARD_CHECK_S):
                    await self._guard_wanted.wait()
            except TimeoutError:
                pass
            self._guard_wanted.clear()


def _ports(cluster: Cluster, vip: IP) -> frozenset[Port]:
    return frozenset(port for use in cluster.uses(vip) for port in use.service.ports)
