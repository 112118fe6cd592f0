"""This host on its segments: announces VIPs, asks who answers for them, and tells the rules what it hears."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.core.ownership import Ownership
from hostagent.edges.kube.events import Events, about_service
from hostagent.edges.neighbors import Neighbors
from hostagent.model.errors import EdgeError
from hostagent.model.host import Heard
from hostagent.model.names import IP, InterfaceName, Mac, NodeName
from hostagent.model.ownership import Probe, Segment
from hostagent.telemetry.journal import say, warn


class Wire:
    """ARP and NDP on behalf of the ownership rules."""

    def __init__(self, *, ownership: Ownership, cluster: Cluster, events: Events, wake: Callable[[], None]) -> None:
        self.neighbors = Neighbors(self._heard, watched=self._watched)
        self.conflicts: dict[IP, Mac] = {}
        """Who else answers for a VIP, since it was reported."""
        self.conflicts_seen = 0
        self._ownership = ownership
        self._cluster = cluster
        self._events = events
        self._wake = wake

    async def open(self, segments: Iterable[Segment], macs: Sequence[Mac]) -> None:
        """Listen on the interfaces that could carry VIPs."""
        self.neighbors.own_macs(macs)
        for segment in segments:
            try:
                await self.neighbors.open(segment.interface, segment.mac)
            except EdgeError as error:  # it may go away while we look; a change of it brings us back
                warn("interface.not-open", f"cannot listen on {segment.interface}: {error}")

    async def probe(self, acts: Sequence[Probe], interface: InterfaceName) -> None:
        """Ask the segment about VIPs, and about the machines that should answer if this host is not alone."""
        asked = {act.vip for act in acts}.union(*(act.witnesses for act in acts))
        try:
            answers = await self.neighbors.probe(asked, interface)
        except EdgeError as error:
            warn("vip.not-probed", f"cannot ask who answers for {len(acts)} VIPs on {interface}: {error}")
            for act in acts:
                self._ownership.probe_failed(act.vip, now())
        else:
            for act in acts:
                witnesses = sum(answers[ip] is not None for ip in act.witnesses)
                self._ownership.probed(act.vip, answers[act.vip], now(), witnesses)
        self._wake()

    def report(self, vip: IP, mac: Mac) -> None:
        """Tell people that somebody answers for a VIP whom no claim names."""
        self.conflicts[vip] = mac
        owner = self.owner_of(mac)
        who = f"{mac}, an interface of {owner}" if owner else f"{mac}, which is no host of ours"
        claim = self._ownership.claims.get(vip)
        holder = claim.holder if claim else None
        if owner is not None and owner == holder:
            # Alive on the segment, silent at the API: it keeps what it has (promise P6).
            say("vip.holder-answers", f"{vip} is still answered by {who}, though its session says otherwise", vip=vip)
            return
        self.conflicts_seen += 1
        if vip in self._ownership.held:
            cure = "It is told to let go" if owner else "Find that machine"
            warn("vip.conflict", f"{vip} is answered here and by {who}: defended. {cure}", vip=vip, mac=mac)
            end = f"it answers beside {self._ownership.me}, and clients may reach either"
        else:
            warn("vip.conflict", f"{vip} is answered by {who}: not taken. Find that machine", vip=vip, mac=mac)
            end = "no host announces it until that ends"
        for use in self._cluster.uses(vip):
            message = f"{vip} is answered by {who}: {end}"
            self._events.emit(about_service(use.service), reason="AddressConflict", message=message, warning=True)

    def _heard(self, heard: Heard) -> None:
        vip = heard.ip
        held = vip in self._ownership.held
        self._ownership.heard(vip, heard.mac, self.owner_of(heard.mac) if held else None, now())
        if held:
            self._wake()

    def _watched(self, vip: IP, silent: bool) -> None:
        self._ownership.watch_found(vip, silent=silent, now=now())
        self._wake()

    def owner_of(self, mac: Mac) -> NodeName | None:
        """Which of our hosts has this MAC, as far as sessions tell."""
        sessions = self._ownership.sessions.values()
        return next((s.node for s in sessions for segment in s.segments if segment.mac == mac), None)
