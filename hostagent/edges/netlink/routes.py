"""The prefixes that this host announces by BGP, as kernel routes: where a routing daemon picks them up."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

from hostagent.edges.netlink import route_wire
from hostagent.edges.netlink.route_socket import RouteSocket, cause_of
from hostagent.edges.netlink.route_wire import Route
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, Network

_NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
_ENCODE_AT_ONCE = 500
"""About 5 ms of the event loop."""


class _Act(NamedTuple):
    encode: Callable[[Route, int, int], bytes]
    route: Route
    already: int
    """What the kernel says when it is so already."""

    @classmethod
    def add(cls, route: Route) -> _Act:
        return cls(route_wire.add_request, route, errno.EEXIST)

    @classmethod
    def remove(cls, route: Route) -> _Act:
        return cls(route_wire.remove_request, route, errno.ESRCH)


class KernelRoutes:
    """Our routes in one table: those of our protocol number, and none other. The metric is the attribute class.

    They outlive the agent and any routing daemon, and are gone after a reboot of the host.
    """

    def __init__(self, sock: RouteSocket, table: int, protocol: int) -> None:
        self._sock = sock
        self._table = table
        self._protocol = protocol
        self._there: dict[Network, frozenset[int]] = {}
        """As read last, and changed since: a prefix may have two metrics if somebody was interrupted."""
        self._messages: frozenset[bytes] = frozenset()
        """What the kernel said when it was read last, and in the next two what that means. Ten thousand routes are
        read again and again, of which hardly one is another than before."""
        self._read: dict[Network, frozenset[int]] = {}
        self._lowest: dict[Network, int] = {}

    @classmethod
    async def open(cls, table: int, protocol: int) -> Self:
        """Raises EdgeError."""
        routes = cls(RouteSocket.open(), table, protocol)
        try:
            await routes.present()
        except EdgeError:
            await routes.close()
            raise
        return routes

    async def close(self) -> None:
        """Close the socket; the routes stay."""
        await self._sock.close()

    async def present(self) -> Mapping[Network, int]:
        """Our routes, each with its metric; of a prefix that has two, the smaller. Raises EdgeError."""
        messages = frozenset([*await self._dump(4), *await self._dump(6)])
        came = self._routes(messages - self._messages)
        went = self._routes(self._messages - messages) - came
        self._messages = messages
        for network, metric in came:
            self._read[network] = self._read.get(network, frozenset()) | {metric}
        for network, metric in went:
            self._read[network] -= {metric}
        for network in {route.network for route in came | went}:
            if metrics := self._read[network]:
                self._lowest[network] = min(metrics)
            else:
                del self._read[network], self._lowest[network]
        self._there = dict(self._read)
        return dict(self._lowest)

    def _routes(self, messages: frozenset[bytes]) -> set[Route]:
        found = (route_wire.route_of(each, self._table, self._protocol) for each in messages)
        return {route for route in found if route is not None}

    async def change(
        self, *, add: Mapping[Network, int], remove: frozenset[Network] = frozenset(), old_first: bool = False
    ) -> None:
        """Make it so, and read nothing back: `present` does.

        A new metric is there before the old one goes; with `old_first` the old one goes immediately before, in the same
        message to the kernel.

        Raises:
            EdgeError: the kernel refused one (the others were carried out).
        """
        acts: list[_Act] = []
        for network, metric in add.items():
            stale = [_Act.remove(Route(network, old)) for old in self._there.get(network, frozenset()) - {metric}]
            new = _Act.add(Route(network, metric))
            acts += [*stale, new] if old_first else [new, *stale]
        acts += [
            _Act.remove(Route(network, metric))
            for network in remove
            for metric in self._there.get(network, frozenset())
        ]
        for network, metric in add.items():  # should it be interrupted, nothing that may be there is forgotten
            self._there[network] = self._there.get(network, frozenset()) | {metric}
        await self._carry_out(acts)
        self._there.update({network: frozenset({metric}) for network, metric in add.items()})
        for network in remove:
            self._there.pop(network, None)

    async def touch(self, networks: Mapping[Network, int]) -> None:
        """Take these routes away and put them there again at once, so that a routing daemon hears of them anew.

        Raises EdgeError.
        """
        routes = [Route(network, metric) for network, metric in networks.items()]
        await self._carry_out([*map(_Act.remove, routes), *map(_Act.add, routes)])

    async def local_addresses(self) -> frozenset[IP]:
        """All addresses of this host's interfaces. Raises EdgeError."""
        return frozenset(address.ip for address in await self._sock.addresses())

    async def _dump(self, version: int) -> Sequence[bytes]:
        request = route_wire.dump_request(version, self._table, self._protocol)
        try:
            return await self._sock.dump(request, route_wire.RTM_NEWROUTE, bytes, "routes")
        except EdgeError as exc:
            # a strict dump of a table that nobody has put a route in says ENOENT
            if exc.status == errno.ENOENT or (version == 6 and exc.status in _NO_FAMILY):
                return ()
            raise

    async def _carry_out(self, acts: Sequence[_Act]) -> None:
        refused: list[tuple[Route, int]] = []
        for start in range(0, len(acts), _ENCODE_AT_ONCE):
            part = acts[start : start + _ENCODE_AT_ONCE]
            codes = await self._sock.requests([act.encode(act.route, self._table, self._protocol) for act in part])
            refused += [
                (act.route, code) for act, code in zip(part, codes, strict=True) if code not in (0, act.already)
            ]
            await asyncio.sleep(0)
        if refused:
            route, code = refused[0]
            others = f" (and {len(refused) - 1} others)" if len(refused) > 1 else ""
            raise EdgeError("route.change", f"{route.network}{others}", cause_of(code), status=code)
