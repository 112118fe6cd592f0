"""The advertiser at work: what is there is adopted, what differs is changed, and nothing is withdrawn unasked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import cast

import pytest

from hostagent.agent.advertiser import Advertiser
from hostagent.agent.bgp_states import PeerStates
from hostagent.agent.cluster import Cluster
from hostagent.core.advertise import Leaving
from hostagent.edges.kube.endpoints import Slice
from hostagent.edges.kube.events import Events, Subject
from hostagent.edges.kube.transport import Api
from hostagent.model.bgp import BgpConfig, Line, Observed, PeerState, Secret, SessionState
from hostagent.model.cluster import ConfigSet, Resource, Service
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, Network, NodeName
from tests.unit.bgp import TABLE, a_grant, a_peer, an_ad
from tests.unit.builders import a_key, a_node, a_pool, a_service, label_is

ME = NodeName("h1")
A, B = "198.51.100.64", "198.51.100.65"
SITE = "router bgp 65001\n neighbor 192.0.2.50 remote-as 65000\nexit\n"


def net(text: str) -> Network:
    return ip_network(text)


class Daemon:
    """FRR and the kernel in memory: runs the site's text and, once told anything, what our file says."""

    def __init__(self, site: str = "") -> None:
        self.site = site
        self.ours = ""
        self.file = ""
        self.routes: dict[Network, int] = {}
        self.told: list[tuple[Line, ...]] = []
        self.withdrawn: list[Network] = []
        self.down = False
        self.missed: frozenset[Network] = frozenset()
        self.session = SessionState.ESTABLISHED

    def _up(self) -> None:
        if self.down:
            raise EdgeError("frr", "bgpd", "does not run")

    async def observe(self) -> Observed:
        self._up()
        return Observed(version=(10, 3), running=self.site + self.ours, persisted=self.file)

    async def check(self, text: str) -> None:
        if "refused" in text:
            raise EdgeError("frr.check", "line 1", "unknown command")

    async def apply(self, lines: Sequence[Line]) -> None:
        self._up()
        self.told.append(tuple(lines))
        self.ours = self.file

    async def persist(self, text: str) -> None:
        self.file = text

    async def peers(self) -> tuple[PeerState, ...]:
        self._up()
        return (PeerState(neighbor="192.0.2.2", state=self.session, for_s=1.0),)

    async def taken_up(self) -> frozenset[Network]:
        return frozenset(self.routes) - self.missed

    async def present(self) -> Mapping[Network, int]:
        return dict(self.routes)

    async def change(self, *, add: Mapping[Network, int], remove: frozenset[Network]) -> None:
        self.withdrawn += remove
        self.routes = {prefix: number for prefix, number in self.routes.items() if prefix not in remove} | dict(add)

    async def close(self) -> None:
        pass


class Host:
    """One life of the agent."""

    def __init__(self, daemon: Daemon, *, shutdown_s: float = 0.0, off: bool = False, external: bool = False) -> None:
        self.daemon = daemon
        self.external = external
        self.cluster = Cluster(
            cast("Api", None), namespace="metallb-system", load_balancer_class=None, last_good=ConfigSet(),
            wake=lambda: None,
        )  # fmt: skip
        self.cluster.nodes.items[ME] = a_node("h1")
        self.events: list[str] = []
        peer = Resource(api_version="metallb.io/v1beta2", kind="BGPPeer", namespace="metallb-system", name="tor1")
        self.cluster.resources["bgppeers"].items["metallb-system", "tor1"] = peer
        self.guarded: dict[IP, object] = {ip_address(A): (), ip_address(B): ()}
        self.configure()
        self.advertiser = Advertiser(
            me=ME,
            cluster=self.cluster,
            events=cast("Events", self),
            open_edges=self.open,
            table=TABLE,
            graceful_shutdown_s=shutdown_s,
            guarded=lambda: self.guarded,
            off=off,
        )

    async def open(self) -> tuple[Daemon | None, Daemon]:
        return (None if self.external else self.daemon), self.daemon

    def emit(self, subject: Subject, *, reason: str, message: str, warning: bool = False) -> None:
        self.events.append(f"{reason}{'!' if warning else ''} {subject.name}: {message}")

    def configure(self, config: BgpConfig | None = None) -> None:
        if config is None:
            gold = an_ad("gold", grant=a_grant(communities=("65001:1",)), service_selectors=(label_is("tier", "gold"),))
            config = BgpConfig(peers=(a_peer(),), advertisements=(an_ad("all"), gold))
        self.cluster.config = ConfigSet(pools=(a_pool("public", "198.51.100.0/24"),), bgp=config)

    def apply(self, *services: Service) -> None:
        for service in services:
            self.cluster.services.items[service.key] = service
            self.cluster._service(service.key, service)
            slice_key = (service.key.namespace, f"{service.key.name}-1")
            self.cluster._slice(slice_key, Slice(service=service.key, serving=True, nodes=frozenset({NodeName("h2")})))

    def delete(self, name: str) -> None:
        del self.cluster.services.items[a_key(name)]
        self.cluster._service(a_key(name), None)

    async def turn(self) -> None:
        vips, self.cluster.changed_vips = self.cluster.changed_vips, set()
        self.advertiser.note(vips, everything=False)
        await self.advertiser._turn()


def plain(name: str = "web", address: str = A, **fields: object) -> Service:
    return a_service(name, has=[address], **fields)  # type: ignore[arg-type]


async def begun(*services: Service, daemon: Daemon | None = None, shutdown_s: float = 0.0) -> Host:
    host = Host(daemon or Daemon(), shutdown_s=shutdown_s)
    host.apply(*services)
    await host.turn()
    return host


# --- prefixes ---------------------------------------------------------------------------------------------------------


def test_a_service_is_a_route_with_its_class() -> None:
    async def main() -> None:
        host = await begun(plain())

        number = host.daemon.routes[net(A)]
        assert host.advertiser.classes[number].toward("tor1") == a_grant("tor1")
        assert host.events[:1] == [f'nodeAssigned web: announcing {A}/32 from node "h1" with protocol "bgp"']

    asyncio.run(main())


def test_an_aggregate_that_goes_is_told_to_the_services_in_it() -> None:
    async def main() -> None:
        host = Host(Daemon())
        host.configure(BgpConfig(peers=(a_peer(),), advertisements=(an_ad("all", aggregation_length=28),)))
        host.apply(plain("a", A), plain("b", B))
        await host.turn()
        assert host.daemon.routes.keys() == {net("198.51.100.64/28")}

        host.advertiser.leave(draining=True, stopping=False)
        await host.turn()

        told = [each for each in host.events if each.startswith("nodeWithdrawn")]
        assert [each.split(":")[0] for each in sorted(told)] == ["nodeWithdrawn a", "nodeWithdrawn b"]

    asyncio.run(main())


def test_a_service_that_comes_or_goes_tells_frr_nothing() -> None:
    async def main() -> None:
        host = await begun(plain())
        told = len(host.daemon.told)

        host.apply(plain("gold", B, labels={"tier": "gold"}))
        await host.turn()
        there = set(host.daemon.routes)
        host.delete("gold")
        await host.turn()

        assert there == {net(A), net(B)}
        assert set(host.daemon.routes) == {net(A)}
        assert len(host.daemon.told) == told

    asyncio.run(main())


def test_another_class_changes_the_route_and_withdraws_nothing() -> None:
    async def main() -> None:
        host = await begun(plain())
        before = dict(host.daemon.routes)

        host.apply(plain(labels={"tier": "gold"}))
        await host.turn()

        assert host.daemon.routes.keys() == before.keys()
        assert host.daemon.routes != before
        assert host.daemon.withdrawn == []

    asyncio.run(main())


def test_two_advertisements_that_say_the_same_keep_the_prefixes_of_both() -> None:
    """One class, and no prefix of it is taken for one that nobody asks for."""

    async def main() -> None:
        host = Host(Daemon())
        only = {name: an_ad(name, service_selectors=(label_is("only", name),)) for name in ("a", "b")}
        host.configure(BgpConfig(peers=(a_peer(),), advertisements=tuple(only.values())))
        host.apply(plain("a", A, labels={"only": "a"}), plain("b", B, labels={"only": "b"}))
        for _ in range(3):
            await host.turn()
            host.advertiser.nudge()

        assert host.daemon.routes.keys() == {net(A), net(B)}
        assert len(set(host.daemon.routes.values())) == 1
        assert host.daemon.withdrawn == []

    asyncio.run(main())


def test_nothing_is_announced_that_the_guard_does_not_cover() -> None:
    async def main() -> None:
        host = Host(Daemon())
        host.guarded = {}
        host.apply(plain())
        await host.turn()
        unguarded = dict(host.daemon.routes)

        host.guarded = {ip_address(A): ()}
        await host.turn()

        assert unguarded == {}
        assert set(host.daemon.routes) == {net(A)}

    asyncio.run(main())


# --- lives ------------------------------------------------------------------------------------------------------------


def test_the_next_life_changes_nothing() -> None:
    async def main() -> None:
        daemon = Daemon()
        await begun(plain(), plain("gold", B, labels={"tier": "gold"}), daemon=daemon)
        told, routes = len(daemon.told), dict(daemon.routes)

        await begun(plain(), plain("gold", B, labels={"tier": "gold"}), daemon=daemon)

        assert (len(daemon.told), daemon.routes, daemon.withdrawn) == (told, routes, [])

    asyncio.run(main())


def test_what_went_while_nobody_looked_is_withdrawn() -> None:
    async def main() -> None:
        daemon = Daemon()
        await begun(plain(), plain("other", B), daemon=daemon)

        await begun(plain(), daemon=daemon)

        assert (set(daemon.routes), daemon.withdrawn) == ({net(A)}, [net(B)])

    asyncio.run(main())


def test_what_frr_forgot_it_is_told_again() -> None:
    async def main() -> None:
        host = await begun(plain())
        host.daemon.ours = ""
        host.advertiser._checked_at = None

        await host.turn()

        assert host.daemon.ours == host.daemon.file != ""
        assert host.daemon.withdrawn == []

    asyncio.run(main())


def test_while_frr_is_down_routes_stay() -> None:
    async def main() -> None:
        host = await begun(plain())
        host.daemon.down = True
        host.advertiser._checked_at = None

        with pytest.raises(EdgeError):
            await host.turn()

        assert set(host.daemon.routes) == {net(A)}

    asyncio.run(main())


def test_a_file_that_frr_refuses_is_not_applied_and_prefixes_go_on() -> None:
    async def main() -> None:
        host = await begun(plain())
        told = len(host.daemon.told)
        refused = a_peer("new", "192.0.2.3", password=Secret("refused"))
        host.configure(BgpConfig(peers=(a_peer(), refused), advertisements=(an_ad("all"),)))
        host.advertiser.note(set(), everything=True)
        host.apply(plain("other", B))

        with pytest.raises(EdgeError, match="unknown command"):
            await host.turn()

        assert len(host.daemon.told) == told
        assert set(host.daemon.routes) == {net(A), net(B)}

    asyncio.run(main())


def test_what_frr_missed_is_put_before_it_again() -> None:
    async def main() -> None:
        host = await begun(plain(), plain("other", B))
        routes = dict(host.daemon.routes)
        host.daemon.missed = frozenset({net(B)})
        host.advertiser._compared_at = None
        host.advertiser.prefixes.since = dict.fromkeys(routes, host.advertiser.prefixes.since[net(A)].__class__(0.0))

        await host.turn()

        assert host.daemon.withdrawn == [net(B)]
        assert host.daemon.routes == routes
        assert host.advertiser.lost == 1

    asyncio.run(main())


# --- configuration ----------------------------------------------------------------------------------------------------


def test_a_neighbor_of_the_site_is_refused_and_told() -> None:
    async def main() -> None:
        host = Host(Daemon(SITE))
        host.configure(BgpConfig(peers=(a_peer("a", "192.0.2.50"), a_peer()), advertisements=(an_ad("all"),)))
        host.apply(plain())
        await host.turn()

        assert [fault.name for fault in host.advertiser.faults] == ["a"]
        assert "neighbor 192.0.2.2 remote-as" in host.daemon.ours
        assert set(host.daemon.routes) == {net(A)}

    asyncio.run(main())


def test_a_class_that_no_advertisement_says_any_more_goes() -> None:
    async def main() -> None:
        host = await begun(plain())
        old = host.daemon.routes[net(A)]
        host.configure(BgpConfig(peers=(a_peer(),), advertisements=(an_ad("all", grant=a_grant(local_pref=7)),)))
        for _ in range(2):  # routes are pointed at the new class, then the old one has none
            host.advertiser.note(set(), everything=True)
            await host.turn()

        assert f"permit {old}\n" not in host.daemon.ours
        assert host.daemon.withdrawn == []

    asyncio.run(main())


def test_switched_off_all_of_ours_goes_and_the_sites_stays() -> None:
    async def main() -> None:
        daemon = Daemon(SITE)
        await begun(plain(), daemon=daemon)

        host = Host(daemon, off=True)
        host.apply(plain())
        await host.turn()

        assert daemon.routes == {}
        assert "192.0.2.2" not in daemon.ours
        assert daemon.site == SITE

    asyncio.run(main())


def test_another_daemon_is_given_the_same_routes() -> None:
    async def main() -> None:
        frr, bird = Host(Daemon()), Host(Daemon(), external=True)
        for host in (frr, bird):
            host.apply(plain(), plain("gold", B, labels={"tier": "gold"}))
            await host.turn()

        assert bird.daemon.routes == frr.daemon.routes != {}
        assert (bird.daemon.told, bird.daemon.file) == ([], "")

    asyncio.run(main())


def test_an_frr_that_does_not_answer_has_no_sessions() -> None:
    async def main() -> None:
        host = await begun(plain())
        host.daemon.down = True
        host.advertiser._checked_at = None

        went_well = await host.advertiser.turn()

        assert not went_well
        assert host.advertiser.states.of == {}
        assert host.events[-1].startswith("SessionDown! tor1")

    asyncio.run(main())


def test_a_session_that_outlived_the_agent_is_no_news() -> None:
    up = PeerState(neighbor="192.0.2.2", state=SessionState.ESTABLISHED, for_s=3600.0, bfd="up")

    assert PeerStates().take([up], [a_peer()]) == []


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_who_leaves_says_so_first() -> None:
    async def main() -> None:
        host = await begun(plain(), shutdown_s=60.0)
        host.advertiser.leave(draining=True, stopping=False)
        await host.turn()

        number = host.daemon.routes[net(A)]
        assert host.advertiser.classes[number].toward("tor1") == a_grant("tor1", communities=("65535:0",))
        assert host.daemon.withdrawn == []
        assert not host.advertiser.gone

    asyncio.run(main())


def test_then_it_withdraws() -> None:
    async def main() -> None:
        host = await begun(plain(), shutdown_s=0.01)
        host.advertiser.leave(draining=True, stopping=False)
        await host.turn()
        await asyncio.sleep(0.02)
        await host.turn()

        assert (host.daemon.routes, host.advertiser.leaving) == ({}, Leaving.GONE)
        withdrawn = f'no longer announcing {A}/32 from node "h1" with protocol "bgp": draining'
        assert host.events[-1] == f"nodeWithdrawn web: {withdrawn}"
        assert host.advertiser.gone

    asyncio.run(main())


def test_who_stays_after_all_takes_its_word_back() -> None:
    async def main() -> None:
        host = await begun(plain(), shutdown_s=60.0)
        before = dict(host.daemon.routes)
        host.advertiser.leave(draining=True, stopping=False)
        await host.turn()

        host.advertiser.leave(draining=False, stopping=False)
        await host.turn()

        assert host.daemon.routes == before
        assert host.daemon.withdrawn == []

    asyncio.run(main())


def test_a_drained_host_that_starts_announces_nothing() -> None:
    async def main() -> None:
        host = Host(Daemon(), shutdown_s=60.0)
        host.apply(plain())
        host.advertiser.leave(draining=True, stopping=False)
        await host.turn()

        assert host.daemon.routes == {}
        assert host.advertiser.gone

    asyncio.run(main())


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_that_is_lost_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        host = await begun(plain())
        host.daemon.session = SessionState.ACTIVE
        with caplog.at_level("WARNING"):
            await host.turn()

        lost = "the session with tor1 (192.0.2.2) is lost, Active"
        assert [r.getMessage() for r in caplog.records] == [lost]
        assert host.events[-1] == f"SessionDown! tor1: h1: {lost}"

    asyncio.run(main())


def test_another_node_of_that_name_costs_prefixes_and_no_session() -> None:
    async def main() -> None:
        host = await begun(plain())
        ours = host.daemon.ours
        del host.cluster.nodes.items[ME]
        host.advertiser.note(set(), everything=True)
        await host.turn()

        assert host.daemon.routes == {}
        assert "neighbor 192.0.2.2 remote-as" in host.daemon.ours
        assert "neighbor 192.0.2.2 remote-as" in ours

    asyncio.run(main())
