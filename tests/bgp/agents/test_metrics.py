"""What the agent's metrics say of sessions, beside what the router says of them."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPConnection

from prometheus_client.parser import text_string_to_metric_families

from tests.bgp.agents.announced import everybody
from tests.bgp.routers import HOSTS_ASN, TOR_ASN, TOR_V6, FrrRouterHost, Neighbour, until, vtysh
from tests.fabric.admin import wait_for
from tests.fabric.hosts import Host
from tests.system.cluster import Cluster

_PORT = 7474
_BOTH = ("IPv4", "IPv6")


def metrics(host: Host, peer: str) -> dict[str, float]:
    """All of BGP, by name; of what there is for each peer only this one's."""

    def scrape() -> str:
        agent = HTTPConnection("127.0.0.1", _PORT, timeout=5)
        try:
            agent.request("GET", "/metrics")
            return agent.getresponse().read().decode()
        finally:
            agent.close()

    return {
        sample.name.removeprefix("hostagent_"): sample.value
        for family in text_string_to_metric_families(host.inside(scrape))
        for sample in family.samples
        if family.name.startswith(("hostagent_bgp_", "hostagent_bfd_")) and sample.labels.get("peer", peer) == peer
    }


def test_they_follow_sessions_and_prefixes(
    cluster: Cluster, tor: FrrRouterHost, neighbours: Mapping[str, Neighbour]
) -> None:
    """The second session is one host's alone, with BFD: it goes down and comes back, and the first is as it was."""
    host, at = cluster.lab.hosts["h1"], neighbours["h1"]
    cluster.configure("BFDProfile", "slow", {"receiveInterval": 1000, "transmitInterval": 1000, "detectMultiplier": 10})
    peer = {"myASN": HOSTS_ASN, "peerASN": TOR_ASN, "peerAddress": TOR_V6, "connectTime": "1s", "holdTime": "30s"}
    only_h1 = {"nodeSelectors": [{"matchLabels": {"kubernetes.io/hostname": "h1"}}]}
    cluster.configure("BGPPeer", "six", {**peer, "bfdProfile": "slow", **only_h1})
    cluster.serve("web", families=_BOTH)
    vips = cluster.given("web", 2)
    until(lambda: all(everybody(cluster.lab, tor, vip) for vip in vips), "both addresses at the router")

    def becomes(of: str, **wanted: float) -> dict[str, float]:
        """Wait until metrics of this peer are so; all of them are returned."""
        wait_for(
            lambda: wanted.items() <= metrics(host, of).items(),
            60.0,
            lambda: f"{wanted} of {of}; what there is: {metrics(host, of)}",
        )
        return metrics(host, of)

    def received() -> int:
        return int(tor.neighbour(at.v6)["messageStats"]["updatesRecv"])

    before = becomes(
        "six", bgp_session_up=1, bfd_session_up=1, bgp_announced_prefixes=1, bgp_pending_prefixes=0, bgp_prefixes=2
    )
    assert len(tor.prefixes(at.v6, "ipv6")) == 1
    assert tor.neighbour(at.v6)["bgpTimerHoldTimeMsecs"] == 30_000
    assert not any(tor.established(neighbours[name].v6) for name in ("h2", "h3"))
    both = becomes("tor", bgp_session_up=1, bgp_announced_prefixes=2, bgp_pending_prefixes=0)
    assert "bfd_session_up" not in both
    assert both["bgp_received_prefixes"] == 0

    heard = received()
    cluster.serve("more", families=_BOTH)
    more = cluster.given("more", 2)
    until(lambda: all(everybody(cluster.lab, tor, vip) for vip in more), "both addresses of the second")
    becomes("tor", bgp_announced_prefixes=4, bgp_pending_prefixes=0)
    now = becomes("six", bgp_announced_prefixes=2, bgp_prefixes=4)
    assert now["bgp_updates_total"] - before["bgp_updates_total"] == received() - heard > 0

    said = ("configure terminal", f"router bgp {TOR_ASN}")
    vtysh(tor.host, *said, f"neighbor {at.v6} shutdown", f"no neighbor {at.v6} bfd")
    try:
        down = becomes(
            "six", bgp_session_up=0, bfd_session_up=0, bgp_announced_prefixes=0, bgp_pending_prefixes=2, bgp_prefixes=4
        )
        assert down["bgp_sessions_dropped_total"] == before["bgp_sessions_dropped_total"] + 1
        unharmed = becomes("tor", bgp_session_up=1, bgp_announced_prefixes=4, bgp_pending_prefixes=0)
        assert unharmed["bgp_sessions_dropped_total"] == both["bgp_sessions_dropped_total"]
    finally:
        vtysh(tor.host, *said, f"no neighbor {at.v6} shutdown", f"neighbor {at.v6} bfd profile fast")
    becomes("six", bgp_session_up=1, bfd_session_up=1, bgp_announced_prefixes=2, bgp_pending_prefixes=0)
