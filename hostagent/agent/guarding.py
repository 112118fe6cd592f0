"""Keeps the guard as the Services want it: only their ports are open on their VIPs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.edges.nft import Guard
from hostagent.model.cluster import Port
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, Instant, Network
from hostagent.model.shared import shared
from hostagent.telemetry.journal import say, warn

RETRY_S = 2.0
REST, REST_S = 9.0, 1.0
"""After a change, so many times as long as it took, at most a second: what comes meanwhile is one change. In a burst of
new Services nft takes a tenth of the time; a VIP that changes hands is guarded beforehand, on every host.
"""
CHECK_S = 30.0
"""How often the guard is compared with what is wanted even if nothing changed: `nft flush ruleset` leaves no trace."""


class Guarding:
    """What the kernel guards. `run` keeps it so; whoever announces a VIP waits until it is in `guarded`."""

    def __init__(self, guard: Guard, cluster: Cluster, *, wake: Callable[[], None]) -> None:
        """`wake` is called when `guarded` is another mapping than before."""
        self.guarded: Mapping[IP, frozenset[Port]] = {}
        self.routed: frozenset[Network] = frozenset()
        """The pools that this host advertises by BGP: packets to them that go to no pod are not forwarded."""
        self.trouble = ""
        self._guard = guard
        self._cluster = cluster
        self._wake = wake
        self._woken = asyncio.Event()
        self._changed: set[IP] = set()
        self._whole = True
        """Every VIP is to be looked at, and the kernel's table."""

    def note(self, vips: Iterable[IP], *, everything: bool) -> None:
        """These VIPs changed, or so much that all are to be looked at."""
        self._changed.update(vips)
        self._whole |= everything
        self._woken.set()

    def routed_are(self, prefixes: frozenset[Network]) -> None:
        """This host advertises these."""
        if prefixes != self.routed:
            self.routed = prefixes
            self.note((), everything=True)

    async def run(self) -> None:
        """Keep the nftables table so, until cancelled. What one VIP costs does not depend on how many others there are:
        but for a look now and then only what changed is written, in the belief that nobody else edits the table.
        """
        looked_at = Instant(0)
        while True:
            self._woken.clear()
            began_at = now()
            whole, self._whole = self._whole or now() - looked_at >= CHECK_S, False
            changed, self._changed = self._changed, set()
            try:
                if whole:
                    await self._ensure()
                    looked_at = now()
                else:
                    await self._change(changed)
            except EdgeError as error:
                self._whole = True
                if whole:
                    if not self.trouble:
                        warn("guard.failed", f"new VIPs are not announced until the guard works: {error}")
                    self.trouble = str(error)
                    await asyncio.sleep(RETRY_S)
                continue
            if self.trouble:
                say("guard.works", "the guard works again")
            self.trouble = ""
            if not whole:
                await asyncio.sleep(min(REST_S, REST * (now() - began_at)))
            try:
                async with asyncio.timeout(max(0.0, looked_at + CHECK_S - now())):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _ensure(self) -> None:
        wanted = {vip: self._ports(vip) or frozenset() for vip in self._cluster.vips}
        await self._guard.ensure(wanted, routed=self.routed)
        self.guarded = wanted
        self._wake()

    async def _change(self, vips: Iterable[IP]) -> None:
        wanted = {vip: self._ports(vip) for vip in vips}
        differ = {vip: ports for vip, ports in wanted.items() if ports != self.guarded.get(vip)}
        if not differ:
            return
        await self._guard.change(differ)
        guarded = dict(self.guarded)
        for vip, ports in differ.items():
            if ports is None:
                del guarded[vip]
            else:
                guarded[vip] = ports
        self.guarded = guarded
        self._wake()

    def _ports(self, vip: IP) -> frozenset[Port] | None:
        """None if no Service has it."""
        uses = self._cluster.uses(vip)
        return shared(frozenset(port for use in uses for port in use.service.ports)) if uses else None
