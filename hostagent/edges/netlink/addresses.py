"""VIPs as addresses of this host's interfaces, each with a lifetime that only a living agent extends."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pyroute2 import AsyncIPRoute, NetlinkError

from hostagent.edges.netlink import wire
from hostagent.edges.netlink.monitor import Event, Monitor
from hostagent.edges.netlink.route_socket import RouteSocket, cause_of
from hostagent.model.errors import EdgeError
from hostagent.model.host import HeldAddress, Link
from hostagent.model.names import IP, InterfaceName, Mac, OnLink

_IFF_UP, _IFF_LOOPBACK, _IFF_LOWER_UP = 0x1, 0x8, 0x10000
_SKIP_STATISTICS = 0x8  # RTEXT_FILTER_SKIP_STATS: a third of the work of a dump
_LOOPBACK_INDEX = 1  # in every network namespace
_SELF_TEST = (ipaddress.ip_address("127.104.104.104"), ipaddress.ip_address("100::104"))  # RFC 6666: routed nowhere
_SELF_TEST_LIFETIME_S = 1
_OUTSIDE = ("1.0.0.1", "2000::1")
"""Looked up, never sent to: addresses beyond any site's own."""
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})
_GONE = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})
_NOT_REFRESHED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV, errno.EADDRNOTAVAIL})
_NO_IPV6 = frozenset({errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENODEV})
_EARLY_S = 0.1
"""The kernel ends a lifetime up to 30 ms early, as measured."""


@dataclass(slots=True, eq=False)
class _Held:
    """One adding of a VIP; compared by identity, as the same VIP may be removed and added again."""

    index: int
    ends_at: float
    """When its lifetime ends at the earliest, on the clock that the kernel counts it by (CLOCK_MONOTONIC)."""
    lifetime_s: int = 0
    refresh: bytes = b""
    """The request that extends it by `lifetime_s`, encoded once."""


class KernelAddresses:
    """The VIPs on this host, as the kernel has them. Knows netlink; has never heard of leases.

    A VIP is an address with full prefix length, our mark (IFA_PROTO), and a lifetime: when the agent hangs or dies,
    the kernel removes it. `extend` extends, and never brings back, so an agent that wakes from a hang cannot answer
    for what another host has taken over meanwhile.
    """

    def __init__(self, sock: RouteSocket, monitor: Monitor, links: AsyncIPRoute) -> None:
        self._sock = sock
        self._monitor = monitor
        self._links = links
        self._held: dict[IP, _Held] = {}
        """What we added and have not removed or seen missing: what `extend` extends."""
        self._seen_ours: frozenset[tuple[IP, int]] = frozenset()
        """Marked addresses of the last dump: an address of a former life of the agent may be taken over."""

    @classmethod
    async def open(cls) -> Self:
        """Open the sockets and make sure that the kernel keeps the promises that we rely on.

        Raises:
            EdgeError: no permission, or a kernel that does not mark addresses (before 5.18) or that would bring back
                an address on a refresh. Says which.
        """
        async with contextlib.AsyncExitStack() as stack:
            sock = RouteSocket.open()
            stack.push_async_callback(sock.close)
            await _self_test(sock)
            monitor = Monitor.open(own_port=sock.port)
            stack.callback(monitor.close)
            links = await stack.enter_async_context(AsyncIPRoute())
            stack.pop_all()
        return cls(sock, monitor, links)

    async def close(self) -> None:
        """Close the sockets; addresses stay, until removed or expired."""
        self._monitor.close()
        self._links.close()
        await self._sock.close()

    async def snapshot(self) -> tuple[tuple[Link, ...], tuple[HeldAddress, ...]]:
        """Read this host's interfaces with their own addresses, and the VIPs on them (all that carry our mark).

        Links are read before addresses; an address of an interface that came in between is left out, and an event
        of that interface follows.

        Raises:
            EdgeError: the kernel did not answer.
        """
        raw_links = await self._read_links()
        addresses = await self._sock.addresses()
        own: dict[int, list[OnLink]] = {}
        for address in addresses:
            if not address.ours and not (address.ip.version == 6 and address.ip.is_link_local):
                own.setdefault(address.index, []).append(address.on_link)
        links = tuple(_link(raw, tuple(own.get(raw["index"], ()))) for raw in raw_links)
        names = {link.index: link.name for link in links}
        self._monitor.know(names)
        self._seen_ours = frozenset((a.ip, a.index) for a in addresses if a.ours)
        held = tuple(
            HeldAddress(ip=a.ip, interface=names[a.index], index=a.index, left_s=a.lifetime_left_s)
            for a in addresses
            if a.ours and a.index in names
        )
        return links, held

    async def add(self, ip: IP, index: int, lifetime_s: int) -> None:
        """Put the VIP on the interface for `lifetime_s` from now (whole seconds; gone 0 to 1.3 s after that).

        Never chosen as a source, no duplicate address detection by the kernel (probe first). A VIP that is already
        there with our mark is taken over, also from a former life of the agent; from now on `extend` includes it.

        Raises:
            EdgeError: the interface is gone or has no IPv6, no permission, or the same address is there without our
                mark: somebody else's, which a lifetime must not be put on.
        """
        ends_at = time.monotonic() + lifetime_s
        code = await self._sock.request(wire.add_request(ip, index, lifetime_s))
        if code == errno.EEXIST:
            if not await self._is_ours(ip, index):
                raise EdgeError(
                    "address.add",
                    _at(ip, index),
                    "the address is already there and not ours: remove it (ip address delete), or take it out of the "
                    "pool if it is this host's own",
                    status=code,
                )
            code = await self._sock.request(wire.replace_request(ip, index, lifetime_s))
        if code:
            raise EdgeError("address.add", _at(ip, index), cause_of(code), status=code)
        self._held[ip] = _Held(index, ends_at)

    async def remove(self, ip: IP, index: int) -> None:
        """Take the VIP off the interface; already gone is success, and so is a gone interface.

        Raises:
            EdgeError: no permission, or the kernel did not answer. The VIP is not extended any more all the same.
        """
        if (held := self._held.get(ip)) and held.index == index:
            del self._held[ip]  # first: should the request fail, the lifetime removes it
        self._monitor.expect_removal(ip, index)
        code = errno.EIO  # until the kernel has answered
        try:
            code = await self._sock.request(wire.remove_request(ip, index))
        finally:
            if code:
                self._monitor.expect_no_removal(ip, index)
        if code and code not in _GONE:
            raise EdgeError("address.remove", _at(ip, index), cause_of(code), status=code)

    async def extend(self, lifetime_s: int) -> Sequence[IP]:
        """Give every VIP that we added `lifetime_s` from now on; return those that the kernel ended by their lifetime.

        Does not bring back an address that expired or was removed, by whomever: it is forgotten, until added again.
        Those that went before their time are not returned: an event tells of them, and who it was. Costs 1 ms for a
        hundred IPv4 VIPs, 9 ms for a thousand (IPv6: 400 ms), beside the event loop.

        Raises:
            EdgeError: the kernel refused for another reason than absence; the others were extended.
        """
        batch = tuple(self._held.items())
        requests = [_refresh_request(ip, held, lifetime_s) for ip, held in batch]
        now = time.monotonic()
        expired: list[IP] = []
        refused: list[tuple[IP, int, int]] = []
        for (ip, held), code in zip(batch, await self._sock.requests(requests), strict=True):
            if self._held.get(ip) is not held:
                continue  # removed or added anew by us meanwhile
            if not code:
                held.ends_at = now + lifetime_s
            elif code in _NOT_REFRESHED:
                del self._held[ip]
                if now >= held.ends_at - _EARLY_S:
                    expired.append(ip)
            else:
                refused.append((ip, held.index, code))
        if refused:
            ip, index, code = refused[0]
            others = f" (and {len(refused) - 1} others)" if len(refused) > 1 else ""
            raise EdgeError("address.extend", _at(ip, index) + others, cause_of(code), status=code)
        return expired

    async def gateways(self) -> dict[InterfaceName, IP]:
        """The next hop that leads out of the site, by interface, as the kernel would route now; empty without one.

        One lookup for each family: dumping the routes would take seconds on a host that speaks BGP.

        Raises:
            EdgeError: the kernel did not answer.
        """
        found: dict[InterfaceName, IP] = {}
        for destination in _OUTSIDE:
            try:
                [route] = await self._links.route("get", dst=destination)
                [link] = await self._links.link("get", index=route.get_attr("RTA_OIF"))
            except NetlinkError as exc:
                if exc.code in _NO_ROUTE:
                    continue
                raise EdgeError("route.get", destination, cause_of(exc.code), status=exc.code) from exc
            except OSError as exc:
                raise EdgeError("route.get", destination, cause_of(exc.errno or 0), status=exc.errno) from exc
            gateway = route.get_attr("RTA_GATEWAY")
            if gateway is not None:
                found.setdefault(InterfaceName(link.get_attr("IFLA_IFNAME")), ipaddress.ip_address(gateway))
        return found

    def events(self) -> AsyncIterator[Event]:
        """What happens to interfaces and addresses, as it happens: see `monitor.Event`. For one reader."""
        return self._monitor.events()

    async def _is_ours(self, ip: IP, index: int) -> bool:
        held = self._held.get(ip)
        if (held and held.index == index) or (ip, index) in self._seen_ours:
            return True
        return any(a.ours and (a.ip, a.index) == (ip, index) for a in await self._sock.addresses())

    async def _read_links(self) -> list[Any]:
        try:
            return [raw async for raw in await self._links.link("dump", ext_mask=_SKIP_STATISTICS)]
        except NetlinkError as exc:
            raise EdgeError("link.dump", "interfaces", cause_of(exc.code), status=exc.code) from exc
        except OSError as exc:
            raise EdgeError("link.dump", "interfaces", cause_of(exc.errno or 0), status=exc.errno) from exc


def _refresh_request(ip: IP, held: _Held, lifetime_s: int) -> bytes:
    if held.lifetime_s != lifetime_s:
        held.lifetime_s = lifetime_s
        held.refresh = wire.refresh_request(ip, held.index, lifetime_s)
    return held.refresh


def _link(raw: Any, addresses: tuple[OnLink, ...]) -> Link:
    flags = raw["flags"]
    member_of = raw.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_KIND")
    return Link(
        index=raw["index"],
        name=InterfaceName(raw.get("ifname")),
        mac=Mac(raw.get("address") or ""),
        up=bool(flags & _IFF_UP and flags & _IFF_LOWER_UP),
        enslaved=raw.get("master") is not None and member_of != "vrf",  # a VRF's member answers for itself
        loopback=bool(flags & _IFF_LOOPBACK),
        addresses=addresses,
    )


async def _self_test(sock: RouteSocket) -> None:
    """Try on the loopback what everything rests on; raise EdgeError if the kernel does otherwise."""
    for ip in _SELF_TEST:
        code = await sock.request(wire.replace_request(ip, _LOOPBACK_INDEX, _SELF_TEST_LIFETIME_S))
        if ip.version == 6 and code in _NO_IPV6:
            continue  # IPv6 is off on this host: then there will be no IPv6 VIP either
        if code:
            raise EdgeError("netlink.open", "the kernel", cause_of(code), status=code)
        found = next((a for a in await sock.addresses() if a.ip == ip), None)
        refreshed = await sock.request(wire.refresh_request(ip, _LOOPBACK_INDEX, _SELF_TEST_LIFETIME_S))
        await sock.request(wire.remove_request(ip, _LOOPBACK_INDEX))
        refused = await sock.request(wire.refresh_request(ip, _LOOPBACK_INDEX, _SELF_TEST_LIFETIME_S))
        await sock.request(wire.remove_request(ip, _LOOPBACK_INDEX))
        if found is None or not found.ours:
            raise EdgeError(
                "netlink.open",
                "the kernel",
                "it does not keep the protocol of an address (IFA_PROTO), by which the agent tells its addresses from "
                "others': Linux 5.18 or newer is needed",
            )
        if refreshed or not refused:
            raise EdgeError(
                "netlink.open",
                "the kernel",
                f"it cannot extend an address without the risk of bringing back a removed one (IPv{ip.version}: "
                f"refresh {cause_of(refreshed) if refreshed else 'worked'}, refresh of an absent address "
                f"{'refused' if refused else 'created it'}): please report its version",
            )


def _at(ip: IP, index: int) -> str:
    return f"{ip} on interface {index}"
