"""What BGPAdvertisements, Communities and their annotations say, from the API server to two routers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bgp.agents.announced import errors_of, everybody, gateways, told
from tests.bgp.routers import (
    BIRD_PORT,
    HOSTS_ASN,
    TOR2_V4,
    BirdRouterHost,
    FrrRouterHost,
    until,
    watching_routes,
)
from tests.system.cluster import CONFIG, Cluster

MED, PREPEND, SHUTDOWN = "hostagent.io/med", "hostagent.io/as-path-prepend", "hostagent.io/graceful-shutdown"
BOTH = ("IPv4", "IPv6")
FRRS_HOLD_TIME_S = 180


@pytest.fixture
def two_routers(cluster: Cluster, tor2: BirdRouterHost) -> Cluster:
    """Beside the router of the others, one in the hosts' AS; its BGPPeer is of the old version."""
    spec = {"myASN": HOSTS_ASN, "peerASN": HOSTS_ASN, "peerAddress": TOR2_V4, "peerPort": BIRD_PORT}
    cluster.configure("BGPPeer", "tor2", {**spec, "connectTime": "1s", "dualStackAddressFamily": True})
    for name in cluster.lab.hosts:
        until(lambda name=name: tor2.established(name), f"a session of {name} with the second router")  # type: ignore[misc]
    return cluster


def a_pool(cluster: Cluster, name: str, *addresses: str, **labels: str) -> None:
    """No other test's, as it is given out on demand only."""
    cluster.configure("IPAddressPool", name, {"addresses": list(addresses), "autoAssign": False}, labels=labels)


def serve(cluster: Cluster, name: str, pool: str, **fields: Any) -> list[str]:
    """A Service with addresses out of this pool: IPv4 first."""
    cluster.serve(name, annotations={"metallb.io/address-pool": pool}, **fields)
    return sorted(cluster.given(name, len(fields.get("families", ["IPv4"]))), key=lambda ip: ":" in ip)


def advertise(cluster: Cluster, name: str, *pools: str, annotations: dict[str, str] | None = None, **spec: Any) -> None:
    cluster.configure(
        "BGPAdvertisement",
        name,
        {**({"ipAddressPools": list(pools)} if pools else {}), **spec},
        annotations=annotations or {},
    )


def explained(cluster: Cluster, service: str) -> str:
    host = cluster.lab.hosts["h2"]
    return host.run(["hostagent", "explain", f"{cluster.namespace}/{service}"], check=False).stdout


def communities(tor: FrrRouterHost, prefix: str) -> dict[str, set[str]]:
    """By the neighbour that announces the prefix."""
    found = tor.paths(prefix)
    return {each["peer"]["peerId"]: set(each.get("community", {}).get("string", "").split()) for each in found}


def test_each_router_hears_what_is_meant_for_it_with_its_attributes(
    two_routers: Cluster, tor: FrrRouterHost, tor2: BirdRouterHost
) -> None:
    """Peers of advertisements; several for one prefix; communities, aliases, localPref, MED, prepending."""
    cluster, hosts = two_routers, two_routers.lab.hosts
    a_pool(cluster, "shared", "10.66.1.0/25", "2001:db8:66:1::/112")
    a_pool(cluster, "outer", "10.66.1.128/25")
    longer = {MED: "50", PREPEND: "2"}
    cluster.configure("Community", "names", {"communities": [{"name": "big", "value": "large:65001:1:1"}]})
    advertise(cluster, "one", "shared", "outer", peers=["tor"], communities=["65001:1", "big"], annotations=longer)
    advertise(cluster, "two", "shared", peers=["tor"], communities=["65001:2"], annotations=longer)
    advertise(cluster, "inner", "shared", peers=["tor2"], communities=["65001:3"], localPref=200)
    (outer,) = serve(cluster, "outer", "outer")
    until(lambda: everybody(cluster.lab, tor, outer), "three ways at the one router")
    vip, vip6 = serve(cluster, "web", "shared", families=BOTH)

    both = {host.addresses[0]: {"65001:1", "65001:2"} for host in hosts.values()}
    for prefix in (f"{vip}/32", f"{vip6}/128"):
        until(lambda prefix=prefix: communities(tor, prefix) == both, f"the communities of both for {prefix}")  # type: ignore[misc]
    for name, host in hosts.items():
        assert f"/{FRRS_HOLD_TIME_S}" in tor2.hold_timer(name)  # the object gives none
        for prefix in (f"{vip}/32", f"{vip6}/128"):
            path = tor.path(prefix, host.addresses[0])
            assert path["largeCommunity"]["string"] == "65001:1:1"
            assert path["metric"] == 50
            assert path["aspath"]["string"] == f"{HOSTS_ASN} {HOSTS_ASN} {HOSTS_ASN}"
            said = tor2.path(prefix, name)
            assert (said["BGP.local_pref"], said["BGP.community"]) == ("200", "(65001,3)")
            assert "BGP.large_community" not in said
        assert not tor2.has(f"{outer}/32", name)
    until(lambda: len(told(cluster)) == 2 * len(hosts), "all hosts to tell of both Services")
    heard_by = {(each["serviceName"], *each["peers"]) for each in told(cluster)}
    assert heard_by == {("web", "tor", "tor2"), ("outer", "tor")}
    assert cluster.answered(vip) in hosts


def test_an_aggregate_is_announced_as_long_as_a_service_in_it(cluster: Cluster, tor: FrrRouterHost) -> None:
    wide, wide6 = "10.66.2.0/24", "2001:db8:66:2::/112"
    a_pool(cluster, "wide", wide, wide6)
    advertise(cluster, "wide", "wide", aggregationLength=24, aggregationLengthV6=112, communities=["65001:24"])
    first = serve(cluster, "first", "wide", families=BOTH)
    until(lambda: everybody(cluster.lab, tor, wide) and everybody(cluster.lab, tor, wide6), "both at the router")
    second, _ = serve(cluster, "second", "wide", families=BOTH)

    for host in cluster.lab.hosts.values():
        assert set(communities(tor, wide)[host.addresses[0]]) == {"65001:24"}
    assert cluster.answered(second) in cluster.lab.hosts
    with watching_routes(tor.host) as log:
        cluster.delete("first")
        until(lambda: {each["serviceName"] for each in told(cluster)} == {"second"}, "no host to tell of the first")
        assert cluster.answered(second) in cluster.lab.hosts
    assert (log.of(wide), log.of(wide6)) == ([], [])
    assert not {f"{first[0]}/32", f"{second}/32"} & tor.prefixes(cluster.lab.hosts["h1"].addresses[0])
    cluster.lab.control_plane.kubectl("delete", "endpointslices", "--all", "--namespace", cluster.namespace)
    until(lambda: not gateways(tor, wide) and not gateways(tor, wide6), "the aggregates to go with the last")


def test_selectors_of_pools_services_and_nodes(cluster: Cluster, tor: FrrRouterHost) -> None:
    """As they are, and when labels change."""
    plane, hosts = cluster.lab.control_plane, cluster.lab.hosts
    a_pool(cluster, "gold", "10.66.3.0/25", tier="gold")
    a_pool(cluster, "plain", "10.66.3.128/25", tier="plain")
    gold: dict[str, Any] = {"ipAddressPoolSelectors": [{"matchLabels": {"tier": "gold"}}]}
    rack = {"matchExpressions": [{"key": "test/rack", "operator": "In", "values": ["a", "b"]}]}
    shop: dict[str, Any] = {"serviceSelectors": [{"matchLabels": {"app": "shop"}}]}
    advertise(cluster, "by-pool", communities=["65001:31"], **gold)
    advertise(cluster, "by-service", communities=["65001:32"], **gold, **shop)
    advertise(cluster, "by-node", "plain", communities=["65001:33"], nodeSelectors=[rack])
    try:
        plane.kubectl("label", "node", "h1", "test/rack=a")
        plane.kubectl("label", "node", "h2", "test/rack=c")
        (web,), (low,) = serve(cluster, "web", "gold"), serve(cluster, "low", "plain")
        (sold,) = serve(cluster, "sold", "gold", labels={"app": "shop"})

        def announced(vip: str, **by: str) -> None:
            """Each of these with the communities 65001:…"""
            wanted = {hosts[name].addresses[0]: {f"65001:{number}" for number in of.split()} for name, of in by.items()}
            until(lambda: communities(tor, f"{vip}/32") == wanted, f"{vip} announced by {by}")

        announced(web, h1="31", h2="31", h3="31")
        announced(sold, h1="31 32", h2="31 32", h3="31 32")
        announced(low, h1="33")
        assert "no BGPAdvertisement for this Service selects the node" in explained(cluster, "low")

        plane.kubectl("label", "service", "web", "app=shop", "--namespace", cluster.namespace)
        announced(web, h1="31 32", h2="31 32", h3="31 32")
        plane.kubectl("label", "node", "h2", "test/rack=b", "--overwrite")
        announced(low, h1="33", h2="33")
        plane.kubectl("label", "ipaddresspool", "plain", "tier=gold", "--overwrite", "--namespace", CONFIG)
        announced(low, h1="31 33", h2="31 33", h3="31")
    finally:
        plane.kubectl("label", "node", "h1", "h2", "test/rack-")


def test_of_advertisements_that_contradict_one_applies_and_the_other_is_told(
    two_routers: Cluster, tor: FrrRouterHost, tor2: BirdRouterHost
) -> None:
    """Found in the objects, or only at the prefix of a Service that both select: what worked stays."""
    cluster, hosts = two_routers, two_routers.lab.hosts

    def second(local_pref: int, **spec: Any) -> None:
        advertise(cluster, "second", "torn", localPref=local_pref, communities=["65001:42"], **spec)

    def inside(name: str = "h1") -> tuple[str, str]:
        said = tor2.path(f"{vip}/32", name)
        return said["BGP.local_pref"], said["BGP.community"]

    a_pool(cluster, "torn", "10.66.4.0/24")
    advertise(cluster, "first", "torn", localPref=200, communities=["65001:41"], peers=["tor2"])
    (vip,) = serve(cluster, "web", "torn", labels={"app": "shop"})
    assert inside() == ("200", "(65001,41)")

    second(300)
    until(lambda: "300 contradicts 200 of BGPAdvertisement first" in errors_of(cluster, "h1"), "h1 to say so")
    assert inside() == ("200", "(65001,41)")
    assert not tor.paths(f"{vip}/32")

    cluster.lab.control_plane.kubectl("delete", "bgpadvertisement", "second", "--namespace", CONFIG)
    until(lambda: not errors_of(cluster, "h1"), "nothing to be wrong any more")
    second(300, serviceSelectors=[{"matchLabels": {"app": "shop"}}])
    until(lambda: "300 contradicts 200 of BGPAdvertisement first" in errors_of(cluster, "h1"), "h1 to say so again")
    assert inside() == ("200", "(65001,41)")
    assert not tor.paths(f"{vip}/32")
    assert {tuple(each["peers"]) for each in told(cluster)} == {("tor2",)}
    for words in ("BGPAdvertisement second", "300 contradicts 200 of BGPAdvertisement first"):
        assert words in " ".join(explained(cluster, "web").split())

    second(200, serviceSelectors=[{"matchLabels": {"app": "shop"}}])
    until(lambda: everybody(cluster.lab, tor, vip), "the second to apply too")
    until(lambda: inside() == ("200", "(65001,41) (65001,42)"), "the communities of both")
    until(lambda: {tuple(each["peers"]) for each in told(cluster)} == {("tor", "tor2")}, "hosts to tell of both peers")
    until(lambda: not errors_of(cluster, "h1"), "nothing to be wrong any more")
    assert len(told(cluster)) == len(hosts)


def test_an_alias_may_come_later_change_and_go(cluster: Cluster, tor: FrrRouterHost) -> None:
    """Its going takes nothing from what is announced."""

    def names(value: str) -> None:
        cluster.configure("Community", "blue", {"communities": [{"name": "blue", "value": value}]})

    a_pool(cluster, "named", "10.66.5.0/24")
    advertise(cluster, "named", "named", communities=["blue", "65001:50"])
    (vip,) = serve(cluster, "web", "named")
    until(lambda: "blue" in errors_of(cluster, "h1"), "h1 to say that nobody explains it")
    assert not tor.paths(f"{vip}/32")

    withdrawn = tor.withdrawals(f"{vip}/32")
    for value in ("65001:51", "65001:52"):
        names(value)
        until(
            lambda value=value: [*communities(tor, f"{vip}/32").values()] == [{"65001:50", value}] * 3,  # type: ignore[misc]
            f"{value} from all hosts",
        )
    cluster.lab.control_plane.kubectl("delete", "community", "blue", "--namespace", CONFIG)
    until(lambda: "blue" in errors_of(cluster, "h1"), "h1 to say that it is gone")
    assert [*communities(tor, f"{vip}/32").values()] == [{"65001:50", "65001:52"}] * 3
    assert tor.withdrawals(f"{vip}/32") == withdrawn


def test_a_drain_sends_graceful_shutdown_where_the_advertisement_lets_it(cluster: Cluster, tor: FrrRouterHost) -> None:
    host = cluster.lab.hosts["h2"]
    at = host.addresses[0]
    for name, third in (("warned", 6), ("silent", 7)):
        a_pool(cluster, name, f"10.66.{third}.0/24")
    advertise(cluster, "warned", "warned", communities=["65001:60"])
    advertise(cluster, "silent", "silent", communities=["65001:60"], annotations={SHUTDOWN: "false"})
    vips = [serve(cluster, name, name)[0] for name in ("warned", "silent")]
    until(lambda: all(everybody(cluster.lab, tor, vip) for vip in vips), "both from all hosts")
    try:
        host.run(["hostagent", "drain"])
        until(
            lambda: "graceful-shutdown" in communities(tor, f"{vips[0]}/32").get(at, ()), "the community", timeout_s=10
        )
        assert communities(tor, f"{vips[1]}/32")[at] == {"65001:60"}
        until(lambda: all(at not in gateways(tor, vip) for vip in vips), "both to be withdrawn by this host")
    finally:
        host.run(["hostagent", "undrain"])
    until(lambda: all(everybody(cluster.lab, tor, vip) for vip in vips), "both from all hosts again")
    assert communities(tor, f"{vips[0]}/32")[at] == {"65001:60"}
