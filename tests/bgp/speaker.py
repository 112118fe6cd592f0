"""A host with FRR, driven through our edges as the agent drives them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar

from hostagent.core.frr_diff import Change, compare
from hostagent.core.frr_text import Wanted, number_classes
from hostagent.edges.frr import FrrRouter, FrrRoutes
from hostagent.edges.netlink import KernelRoutes
from hostagent.model.bgp import AttributeClass, BfdProfile, Grant, Peer, PeerState
from hostagent.model.names import Network
from tests.fabric.hosts import Host

T = TypeVar("T")

TABLE, PROTOCOL, MAIN = 174, 74, 254
PLAIN = AttributeClass((Grant(),))
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    router: FrrRouter
    routes: FrrRoutes


@dataclass(slots=True, kw_only=True)
class Speaker:
    """One host's BGP: what it is to announce, and to whom."""

    host: Host
    wanted: Wanted | None = None

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.host.pid}/root")

    def run(self, act: Callable[[Edges], Awaitable[T]]) -> T:
        """Run a coroutine in the host's network namespace, with edges of its own that are closed after it."""

        async def main() -> T:
            file = self.root / "var/lib/hostagent/frr.conf"
            file.parent.mkdir(exist_ok=True)
            router = FrrRouter(run_dir=self.root / "run/frr", file=file)
            routes = FrrRoutes(
                await KernelRoutes.open(TABLE, PROTOCOL), await KernelRoutes.open(MAIN, PROTOCOL), router
            )
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    return await act(Edges(router=router, routes=routes))
            finally:
                await routes.close()
                await router.close()

        return self.host.inside(lambda: asyncio.run(main()))

    def peer_with(
        self, *peers: Peer, classes: Sequence[AttributeClass] = (PLAIN,), profiles: Sequence[BfdProfile] = ()
    ) -> Change:
        """Have FRR run exactly these peers and classes, as a turn of the agent does; what was told it, is returned."""
        self.wanted = Wanted(peers=peers, profiles=profiles, classes=number_classes(classes, taken={}), table=TABLE)
        wanted = self.wanted

        async def act(edges: Edges) -> Change:
            change = compare(wanted, await edges.router.observe())
            await edges.router.persist(change.text)
            await edges.router.apply([*change.lines, *change.last])
            return change

        return self.run(act)

    def differs(self) -> Change:
        """What would have to be changed now."""
        wanted = self.wanted
        assert wanted is not None

        async def act(edges: Edges) -> Change:
            return compare(wanted, await edges.router.observe())

        return self.run(act)

    def number(self, of: AttributeClass) -> int:
        assert self.wanted is not None
        return next(number for number, each in self.wanted.classes.items() if each == of)

    def announce(self, prefixes: Mapping[str, AttributeClass] | Sequence[str]) -> None:
        """Have exactly these prefixes announced."""
        classes = prefixes if isinstance(prefixes, Mapping) else dict.fromkeys(prefixes, PLAIN)
        wanted: dict[Network, int] = {ip_network(each): self.number(of) for each, of in classes.items()}

        async def act(edges: Edges) -> None:
            present = await edges.routes.present()
            add = {each: number for each, number in wanted.items() if present.get(each) != number}
            await edges.routes.change(add=add, remove=frozenset(present.keys() - wanted.keys()))

        self.run(act)

    def one_by_one(self, prefixes: Sequence[str], *, away: bool = False) -> None:
        """Announce these one after the other, beside what is announced; or take them away so."""
        of = self.number(PLAIN)

        async def act(edges: Edges) -> None:
            await edges.routes.present()
            for network in map(ip_network, prefixes):
                add, remove = ({}, {network}) if away else ({network: of}, set[Network]())
                await edges.routes.change(add=add, remove=frozenset(remove))

        self.run(act)

    def present(self) -> Mapping[Network, int]:
        return self.run(lambda edges: edges.routes.present())

    def states(self) -> tuple[PeerState, ...]:
        return self.run(lambda edges: edges.router.peers())

    def clear(self) -> None:
        """No prefix, no peer, nothing of ours in FRR."""
        if self.wanted is not None:
            self.announce([])
            self.peer_with(classes=())
