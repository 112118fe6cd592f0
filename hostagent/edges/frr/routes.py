"""Our prefixes where this host's FRR picks them up: in which kernel table, and what it would not pick up by itself."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Protocol

from hostagent.edges.frr.router import FrrRouter
from hostagent.model.bgp import Line
from hostagent.model.names import IP, Network

_TABLE_DIRECT_SINCE = (10, 1)
"""`redistribute table-direct` of both families. Before: `ip import-table`, which IPv6 has only since 10.6."""
_HANDED_BACK_AFTER_S = 1.0
"""zebra and bgpd pass a route on within 60 ms; generous, as both may be busy."""
_ROUTER = re.compile(r"^router bgp (\d+)$")
_NETWORK = re.compile(r"^ +network (\S+) route-map hostagent-network-(\d+)$")


class Kernel(Protocol):
    """One table of the kernel, as `edges.netlink.KernelRoutes` has it."""

    async def present(self) -> Mapping[Network, int]: ...
    async def change(
        self, *, add: Mapping[Network, int], remove: frozenset[Network] = frozenset(), old_first: bool = False
    ) -> None: ...
    async def touch(self, networks: Mapping[Network, int]) -> None: ...
    async def local_addresses(self) -> frozenset[IP]: ...
    async def close(self) -> None: ...


class FrrRoutes:
    """The prefixes of this host, for FRR of any version.

    From 10.1 on, `redistribute table-direct` takes both families from our own table. Older ones know `ip import-table`
    for IPv4; for IPv6 the routes must be in the main table, for `redistribute kernel`.

    A prefix that is also an address of this host (a VIP announced on layer 2 too) is not taken up from the kernel:
    zebra prefers the connected route (8.4), or does not read ours at all (10.3, IPv4). As long as it is one, bgpd is
    told by a `network` line, which dies with bgpd, and is said again by the next `present`.
    """

    def __init__(self, own: Kernel, main: Kernel, router: FrrRouter) -> None:
        self._own = own
        self._main = main
        self._router = router
        self._there: dict[Network, int] = {}
        """As of the last `present`, and changed since."""
        self._tidied_for: tuple[int, int] | None = None
        """The version of FRR for which no prefix is in the wrong table."""
        self._shadowed: dict[Network, int] = {}
        """`network` lines that bgpd has of us, each with its class."""
        self._handed_back: dict[Network, float] = {}
        """Those whose address went, and when the kernel's route was offered to zebra anew."""
        self._asn = ""
        self._connections = -1
        """Of which connection to bgpd all this is known."""

    async def close(self) -> None:
        await self._own.close()
        await self._main.close()

    async def present(self) -> Mapping[Network, int]:
        """Our prefixes with their classes. Sees to it on the way that FRR has those that are addresses of this host,
        and that none is in a table where an FRR of another version wanted it. Call it every second or so.

        Raises EdgeError.
        """
        v4, v6 = await self._places()
        await self._tidy(v4, v6)
        there = await self._own.present()
        if v6 is not v4:
            of_main = await v6.present()
            there = _of(4, there) | _of(6, of_main)
        self._there = dict(there)
        await self._shadow()
        return self._there

    async def change(self, *, add: Mapping[Network, int], remove: frozenset[Network]) -> None:
        """Make it so, and read nothing back. A prefix that changes its class is not withdrawn meanwhile.

        Raises EdgeError.
        """
        v4, v6 = await self._places()
        for version, kernel in ((4, v4), (6, v6)):
            # `ip import-table` knows one route for a prefix: when one of two goes, it takes the prefix away.
            await kernel.change(
                add=_of(version, add),
                remove=frozenset(network for network in remove if network.version == version),
                old_first=v6 is not v4,
            )
        self._there = dict(self._there)  # the former one is in others' hands
        for network in remove:
            self._there.pop(network, None)
        self._there |= add
        await self._shadow()

    async def _places(self) -> tuple[Kernel, Kernel]:
        """Where IPv4 and IPv6 prefixes belong."""
        direct = await self._router.version() >= _TABLE_DIRECT_SINCE
        return self._own, self._own if direct else self._main

    async def _tidy(self, v4: Kernel, v6: Kernel) -> None:
        """Once for each version that is seen: FRR may have been upgraded under routes of ours."""
        version = await self._router.version()
        if version == self._tidied_for:
            return
        for kernel in (self._own, self._main):
            there = await kernel.present()
            wrong = frozenset(network for network in there if (v4 if network.version == 4 else v6) is not kernel)
            await kernel.change(add={}, remove=wrong)
        self._tidied_for = version

    async def _shadow(self) -> None:
        """Have a `network` line for exactly those prefixes that are addresses of this host."""
        present = self._there
        addresses = await self._own.local_addresses()
        wanted = {network: present[network] for network in map(ip_network, addresses) if network in present}
        if not wanted and not self._shadowed and self._connections == self._router.bgpd.connections:
            return
        await self._recall()
        if not self._asn:
            return  # no `router bgp` yet: nothing is announced anyway
        lines = [
            _line(self._asn, network, metric)
            for network, metric in wanted.items()
            if self._shadowed.get(network) != metric
        ]
        gone = [network for network in self._shadowed if network not in present]
        gone += await self._hand_back({n: m for n, m in present.items() if n in self._shadowed and n not in wanted})
        lines += [_line(self._asn, network, self._shadowed[network], no="no ") for network in gone]
        await self._router.apply(lines)
        self._shadowed = {n: m for n, m in self._shadowed.items() if n not in gone} | wanted
        self._handed_back = {n: at for n, at in self._handed_back.items() if n in self._shadowed and n not in wanted}

    async def _hand_back(self, networks: Mapping[Network, int]) -> list[Network]:
        """Offer these to zebra anew; return those that it has had the time to take up, whose line can go."""
        now = time.monotonic()
        offer = {network: metric for network, metric in networks.items() if network not in self._handed_back}
        v4, v6 = await self._places()
        await v4.touch(_of(4, offer))
        await v6.touch(_of(6, offer))
        self._handed_back |= dict.fromkeys(offer, now)
        return [network for network in networks if now - self._handed_back[network] > _HANDED_BACK_AFTER_S]

    async def _recall(self) -> None:
        """Learn from bgpd itself which `network` lines it has, unless that is known."""
        if self._asn and self._connections == self._router.bgpd.connections:
            return
        running = await self._router.bgpd.ask("show running-config")
        self._connections = self._router.bgpd.connections
        self._asn, self._shadowed = "", {}
        for asn, network, metric in _network_lines(running.splitlines()):
            self._asn = asn
            if network is not None:
                self._shadowed[network] = metric


def _of(version: int, networks: Mapping[Network, int]) -> dict[Network, int]:
    if all(network.version == version for network in networks):  # the rule; a copy is made ten times as fast
        return dict(networks)
    return {network: metric for network, metric in networks.items() if network.version == version}


def _network_lines(running: Sequence[str]) -> Iterator[tuple[str, Network | None, int]]:
    """ASN, prefix and class of each of our `network` lines in the default VRF; the first has the ASN only."""
    asn = ""
    for line in running:
        if found := _ROUTER.match(line):
            asn = found[1]
            yield asn, None, 0
        elif line and not line.startswith(" "):
            asn = asn if line == "!" else ""
        elif asn and (said := _NETWORK.match(line)):
            yield asn, ip_network(said[1]), int(said[2])


def _line(asn: str, network: Network, metric: int, *, no: str = "") -> Line:
    family = "ipv4" if network.version == 4 else "ipv6"
    context = (f"router bgp {asn}", f"address-family {family} unicast")
    return Line(context, f"{no}network {network} route-map hostagent-network-{metric}")
