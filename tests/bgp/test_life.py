"""Prefixes and sessions through all that happens to FRR, to the agent and to this host's addresses."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_network

from hostagent.edges.netlink import KernelRoutes
from hostagent.model.bgp import Grant
from tests.bgp.conftest import EXTERNAL
from tests.bgp.routers import (
    HOSTS_ASN,
    TOR_ASN,
    TOR_V4,
    FrrRouterHost,
    load,
    until,
    vtysh,
)
from tests.bgp.speaker import PLAIN, PROTOCOL, TABLE, Edges, Speaker
from tests.bgp.test_sessions import VIP, VIP6, Neighbours, a_peer, one
from tests.fabric.lab import Lab

BARE = VIP.partition("/")[0]
_MANY = [f"203.0.113.{n}/32" for n in range(10, 60)]


def test_prefixes_come_and_go_without_any_session_noticing(
    speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours
) -> None:
    """A thousand, one by one; FRR's configuration stays as it was to the letter."""
    at = neighbours[speaker.host.name].v4
    speaker.peer_with(a_peer(dual_stack=True))
    until(lambda: tor.established(at), "a session")
    drops, before = tor.dropped(at), vtysh(speaker.host, "show running-config")

    thousand = [f"10.66.{n // 256}.{n % 256}/32" for n in range(1000)]
    speaker.announce([VIP6])
    speaker.one_by_one(thousand)
    until(lambda: tor.count(at) == len(thousand), "all of them at the router")
    assert tor.prefixes(at) == set(thousand)
    assert VIP6 in tor.prefixes(at, "ipv6")
    assert speaker.run(lambda edges: edges.router.taken_up()) == set(speaker.present())
    speaker.one_by_one(thousand, away=True)
    until(lambda: not tor.prefixes(at), "none of them at the router")

    assert tor.dropped(at) == drops
    assert vtysh(speaker.host, "show running-config") == before


def test_another_class_is_a_change_and_no_withdrawal(
    speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours
) -> None:
    at = neighbours[speaker.host.name].v4
    blue = one(Grant(communities=("65001:2",)))
    speaker.peer_with(a_peer(dual_stack=True), classes=(PLAIN, blue))
    speaker.announce({VIP: PLAIN, VIP6: PLAIN})
    until(lambda: tor.kernel().get(BARE) and tor.kernel(6).get("2001:db8:64::1"), "both at the router")

    taken_back = [tor.withdrawals(prefix) for prefix in (VIP, VIP6)]
    for of, marked in ((blue, True), (PLAIN, False)):
        speaker.announce({VIP: of, VIP6: of})
        until(lambda marked=marked: _marked(tor, at) == {marked}, "the other attributes")  # type: ignore[misc]

    assert [tor.withdrawals(prefix) for prefix in (VIP, VIP6)] == taken_back


def _marked(tor: FrrRouterHost, at: str) -> set[bool]:
    return {"community" in tor.path(prefix, at) for prefix in (VIP, VIP6)}


def test_after_a_restart_of_frr_all_is_announced_again_without_the_agent(
    speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours
) -> None:
    """No agent runs here at all: routes are the kernel's, and the unit loads what was written down."""
    at = neighbours[speaker.host.name].v4
    speaker.peer_with(a_peer(dual_stack=True, bfd=True))
    speaker.announce([*_MANY, VIP6])
    until(lambda: tor.prefixes(at) == set(_MANY), "all of them at the router")

    drops = tor.dropped(at)
    speaker.host.run(["systemctl", "restart", "frr"])
    until(lambda: tor.dropped(at) > drops, "the session was down")
    until(lambda: tor.prefixes(at) == set(_MANY) and VIP6 in tor.prefixes(at, "ipv6"), "all of them again")
    assert speaker.differs().lines == ()

    drops = tor.dropped(at)  # watchfrr restarts it alone; systemd does not hear of that
    speaker.host.run(["sh", "-c", "kill -KILL $(cat /run/frr/bgpd.pid)"])
    until(lambda: tor.dropped(at) > drops, "the session was down once more")
    until(lambda: tor.prefixes(at) == set(_MANY) and VIP6 in tor.prefixes(at, "ipv6"), "all of them once more")


def test_the_sites_own_configuration_is_left_alone(
    speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours
) -> None:
    site = (
        f"router bgp {HOSTS_ASN}\n neighbor 192.0.2.99 remote-as 65099\n neighbor 192.0.2.99 description rack switch\n"
        " address-family ipv4 unicast\n  network 192.0.2.0/26\n exit-address-family\nexit\n"
    )
    load(speaker.host, site)
    try:
        before = vtysh(speaker.host, "show running-config")
        speaker.peer_with(a_peer())
        speaker.announce([VIP])
        until(lambda: tor.prefixes(neighbours[speaker.host.name].v4) == {VIP}, "the prefix at the router")
        speaker.clear()

        assert vtysh(speaker.host, "show running-config") == before
    finally:
        vtysh(speaker.host, "configure terminal", f"no router bgp {HOSTS_ASN}")


def test_a_prefix_that_becomes_an_address_of_the_host_stays_announced(
    speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours
) -> None:
    """A VIP that is announced on layer 2 too comes to be on the interface, and goes again."""
    at = neighbours[speaker.host.name].v4
    speaker.peer_with(a_peer(dual_stack=True))
    speaker.announce([VIP, VIP6])
    until(lambda: tor.prefixes(at) == {VIP} and VIP6 in tor.prefixes(at, "ipv6"), "both at the router")

    for prefix in (VIP, VIP6):
        speaker.host.run(["ip", "address", "add", prefix, "dev", "eth0"])
    speaker.present()
    time.sleep(2)  # were it taken back, it would be by now: bgpd and zebra pass a change on within 60 ms
    assert tor.prefixes(at) == {VIP}
    assert VIP6 in tor.prefixes(at, "ipv6")

    for prefix in (VIP, VIP6):
        speaker.host.run(["ip", "address", "del", prefix, "dev", "eth0"])
    until(lambda: not _network_lines_left(speaker), "the lines for it to go")
    time.sleep(2)
    assert tor.prefixes(at) == {VIP}
    assert VIP6 in tor.prefixes(at, "ipv6")


def _network_lines_left(speaker: Speaker) -> bool:
    async def turns(edges: Edges) -> None:
        """Those of an agent: what was offered to zebra anew is let go of a turn later."""
        await edges.routes.present()
        await asyncio.sleep(1.1)
        await edges.routes.present()

    speaker.run(turns)
    return " network " in vtysh(speaker.host, "show running-config")


def test_an_address_that_is_there_first_is_announced_all_the_same(
    speaker: Speaker, tor: FrrRouterHost, neighbours: Neighbours
) -> None:
    """FRR 10.3 does not even read an IPv4 route to an address that the host has."""
    at = neighbours[speaker.host.name].v4
    speaker.peer_with(a_peer(dual_stack=True))
    for prefix in (VIP, VIP6):
        speaker.host.run(["ip", "address", "add", prefix, "dev", "eth0"])
    try:
        speaker.announce([VIP, VIP6])
        until(lambda: tor.prefixes(at) == {VIP} and VIP6 in tor.prefixes(at, "ipv6"), "both at the router")
    finally:
        for prefix in (VIP, VIP6):
            speaker.host.run(["ip", "address", "del", prefix, "dev", "eth0"])


def test_another_routing_daemon_announces_the_same_routes(lab: Lab, tor: FrrRouterHost, neighbours: Neighbours) -> None:
    """`bgp.backend: external`: BIRD reads the table, and makes communities of the classes, as docs/bgp.md shows."""
    host = lab.host(EXTERNAL)
    at = neighbours[EXTERNAL].v4
    families = "".join(
        f"protocol kernel vips{v} {{ learn yes; kernel table {TABLE}; netlink rx buffer 67108864; scan time 60;"
        f" ipv{v} {{ import filter {{ if krt_source != {PROTOCOL} then reject;"
        f" if krt_metric = 40001 then bgp_community.add((65001, 1)); accept; }}; export none; }}; }}\n"
        for v in (4, 6)
    )
    session = (
        f"protocol bgp tor {{ local {at} as {HOSTS_ASN}; neighbor {TOR_V4} as {TOR_ASN};"
        + "".join(f" ipv{v} {{ import none; export where source = RTS_INHERIT; next hop self; }};" for v in (4, 6))
        + " }\n"
    )
    host.write_file("/etc/bird/bird.conf", f"router id {at};\nprotocol device {{}}\n{families}{session}")
    host.run(["systemctl", "restart", "bird"])

    async def change(*, add: dict[str, int], remove: list[str]) -> None:
        routes = await KernelRoutes.open(TABLE, PROTOCOL)
        try:
            await routes.change(
                add={ip_network(each): number for each, number in add.items()},
                remove=frozenset(map(ip_network, remove)),
            )
        finally:
            await routes.close()

    host.inside(lambda: asyncio.run(change(add={VIP: 40001, VIP6: 40001, "203.0.113.2/32": 40002}, remove=[])))
    assert tor.path(VIP, at)["community"]["string"] == "65001:1"
    assert tor.path(VIP6, at)["community"]["string"] == "65001:1"
    assert "community" not in tor.path("203.0.113.2/32", at)
    host.inside(lambda: asyncio.run(change(add={}, remove=[VIP, VIP6, "203.0.113.2/32"])))
    until(lambda: not tor.prefixes(at), "none at the router")
