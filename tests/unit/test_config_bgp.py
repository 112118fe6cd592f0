"""BGP objects against each other: what is missing is asked for, what works stays."""

from __future__ import annotations

from typing import Any

import pytest

from hostagent.core.config.bgp_advertisements import MED, PREPEND, SHUTDOWN
from hostagent.core.config_set import build
from hostagent.model.bgp import Grant, Secret
from hostagent.model.cluster import ConfigSet, Resource

NAMESPACE = "metallb-system"


def a_resource(kind: str, name: str, *, annotations: dict[str, str] | None = None, **spec: Any) -> Resource:
    version = "v1beta2" if kind == "BGPPeer" else "v1beta1"
    return Resource(
        api_version=f"metallb.io/{version}",
        kind=kind,
        namespace=NAMESPACE,
        name=name,
        annotations=annotations or {},
        spec=spec,
    )


def a_peer(name: str = "tor", address: str = "192.0.2.1", **spec: Any) -> Resource:
    return a_resource("BGPPeer", name, **{"myASN": 65001, "peerASN": 65000, "peerAddress": address, **spec})


def an_ad(name: str = "all", *, annotations: dict[str, str] | None = None, **spec: Any) -> Resource:
    return a_resource("BGPAdvertisement", name, annotations=annotations, **spec)


POOL = a_resource("IPAddressPool", "public", addresses=["198.51.100.0/26"])
FAST = a_resource("BFDProfile", "fast", receiveInterval=100)


def built(
    *resources: Resource, previous: ConfigSet | None = None, secrets: dict[str, Secret | str] | None = None
) -> ConfigSet:
    return build((POOL, *resources), namespace=NAMESPACE, previous=previous, secrets=secrets)


def errors(config: ConfigSet) -> list[tuple[str, str]]:
    return [(fault.name, fault.field) for fault in config.faults if not fault.warning]


def peers(config: ConfigSet) -> list[str]:
    return [peer.name for peer in config.bgp.peers]


def ads(config: ConfigSet) -> list[str]:
    return [ad.name for ad in config.bgp.advertisements]


# --- peers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "timers"),
    [
        ({}, (None, None)),
        ({"holdTime": "9s"}, (9, 3)),
        ({"keepaliveTime": "5s"}, (15, 5)),
        ({"holdTime": "1m30s", "keepaliveTime": "10s"}, (90, 10)),
        ({"holdTime": "0s"}, (0, 0)),
    ],
)
def test_one_timer_tells_the_other(spec: dict[str, str], timers: tuple[int | None, int | None]) -> None:
    peer = built(a_peer(**spec)).bgp.peers[0]

    assert (peer.hold_time_s, peer.keepalive_time_s) == timers


def test_an_old_peer_without_timers_keeps_them_unset() -> None:
    """MetalLB's conversion makes them 0 s, which is a session that never ends."""
    old = Resource(
        api_version="metallb.io/v1beta1",
        kind="BGPPeer",
        namespace=NAMESPACE,
        name="old",
        spec={"myASN": 65001, "peerASN": 65000, "peerAddress": "192.0.2.1", "peerPort": 0},
    )
    peer = built(old).bgp.peers[0]

    assert (peer.hold_time_s, peer.port) == (None, 179)


def test_a_peer_waits_for_its_bfd_profile() -> None:
    waiting = built(a_peer(bfdProfile="fast"))

    assert (peers(waiting), errors(waiting)) == ([], [("tor", "spec.bfdProfile")])


def test_and_runs_when_the_profile_comes() -> None:
    waiting = built(a_peer(bfdProfile="fast"))

    config = built(a_peer(bfdProfile="fast"), FAST, previous=waiting)

    assert (peers(config), errors(config)) == (["tor"], [])


def test_a_session_outlives_its_bfd_profile() -> None:
    config = built(a_peer(bfdProfile="fast"), previous=built(a_peer(bfdProfile="fast"), FAST))

    assert errors(config) == [("tor", "spec.bfdProfile")]
    assert [(peer.bfd, peer.bfd_profile) for peer in config.bgp.peers] == [(True, "")]


def test_an_edit_to_a_missing_profile_changes_nothing() -> None:
    before = built(a_peer(bfdProfile="fast"), FAST)

    config = built(a_peer(bfdProfile="typo"), FAST, previous=before)

    assert errors(config) == [("tor", "spec.bfdProfile")]
    assert config.bgp.peers == before.bgp.peers


def test_a_secret_is_the_password() -> None:
    config = built(a_peer(passwordSecret={"name": "s"}), secrets={"s": Secret("pw")})

    assert config.bgp.peers[0].password == Secret("pw")
    assert "pw" not in repr(config)


def test_without_its_secret_a_peer_keeps_what_it_has() -> None:
    config = built(a_peer(passwordSecret={"name": "s"}), secrets={"s": "does not exist; create it"})

    assert errors(config) == [("tor", "spec.passwordSecret")]
    assert config.bgp.peers[0].password_kept


def test_a_file_alone_says_nothing_about_secrets() -> None:
    assert errors(built(a_peer(passwordSecret={"name": "s"}))) == []


@pytest.mark.parametrize("password", ["with blank", "x" * 81, "tab\there"])
def test_a_password_that_frr_does_not_take_is_an_error(password: str) -> None:
    config = built(a_peer(password=password))

    assert errors(config) == [("tor", "spec.password")]
    assert password not in str(config.faults)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"address": "192.0.2.1"}, "spec.peerAddress"),
        ({"address": "192.0.2.2", "myASN": 65009}, "spec.myASN"),
        ({"address": "192.0.2.2", "routerID": "192.0.2.9"}, "spec.routerID"),
    ],
)
def test_of_two_peers_that_clash_the_first_runs(other: dict[str, Any], field: str) -> None:
    config = built(a_peer("a", routerID="192.0.2.8"), a_peer("b", **other))

    assert (peers(config), errors(config)) == (["a"], [("b", field)])


def test_the_incumbent_stays_when_one_comes_that_sorts_before_it() -> None:
    before = built(a_peer("b"))

    config = built(a_peer("a"), a_peer("b"), previous=before)

    assert (peers(config), errors(config)) == (["b"], [("a", "spec.peerAddress")])


@pytest.mark.parametrize(
    "other",
    [
        {"address": "192.0.2.1", "vrf": "red", "myASN": 65009},
        {"address": "192.0.2.1", "nodeSelectors": [{"matchLabels": {"rack": "b"}}]},
    ],
)
def test_peers_that_no_host_has_in_common_do_not_clash(other: dict[str, Any]) -> None:
    config = built(a_peer("a", nodeSelectors=[{"matchLabels": {"rack": "a"}}]), a_peer("b", **other))

    assert (peers(config), errors(config)) == (["a", "b"], [])


# --- advertisements ---------------------------------------------------------------------------------------------------


def test_aliases_and_annotations_are_resolved() -> None:
    alias = a_resource("Community", "c", communities=[{"name": "gold", "value": "65001:0100"}])
    notes = {MED: "50", PREPEND: "2", SHUTDOWN: "false"}

    config = built(alias, an_ad(communities=["gold", "large:65001:1:02"], peers=["b", "a"], annotations=notes))

    ad = config.bgp.advertisements[0]
    assert ad.grant == Grant(
        peers=("a", "b"), communities=("65001:100",), large_communities=("65001:1:2",), med=50, prepend=2
    )
    assert not ad.graceful_shutdown


@pytest.mark.parametrize("notes", [{MED: "-1"}, {MED: "x"}, {PREPEND: "11"}, {SHUTDOWN: "no"}])
def test_an_annotation_that_means_nothing_is_an_error(notes: dict[str, str]) -> None:
    config = built(an_ad(annotations=notes))

    assert (ads(config), errors(config)) == ([], [("all", f"metadata.annotations[{next(iter(notes))}]")])


def test_an_alias_that_nobody_explains_holds_the_advertisement_up() -> None:
    config = built(an_ad(communities=["gold"]))

    assert (ads(config), errors(config)) == ([], [("all", "spec.communities[0]")])


def test_an_alias_that_goes_takes_no_community_with_it() -> None:
    alias = a_resource("Community", "c", communities=[{"name": "gold", "value": "65001:100"}])
    before = built(alias, an_ad(communities=["gold"]))

    config = built(an_ad(communities=["gold"]), previous=before)

    assert errors(config) == [("all", "spec.communities[0]")]
    assert config.bgp.advertisements == before.bgp.advertisements


def test_of_one_alias_in_two_objects_the_first_counts() -> None:
    a = a_resource("Community", "a", communities=[{"name": "gold", "value": "65001:1"}])
    b = a_resource("Community", "b", communities=[{"name": "gold", "value": "65001:2"}])

    config = built(b, a, an_ad(communities=["gold"]))

    assert errors(config) == [("b", "spec.communities[0].name")]
    assert config.bgp.advertisements[0].grant.communities == ("65001:1",)


def test_an_aggregate_wider_than_the_pool_is_an_error() -> None:
    config = built(an_ad(aggregationLength=24))

    assert (ads(config), errors(config)) == ([], [("all", "spec.aggregationLength")])


def test_a_pool_that_is_too_narrow_is_left_out_alone() -> None:
    wide = a_resource("IPAddressPool", "wide", addresses=["203.0.113.0/24"])

    config = built(wide, an_ad(aggregationLength=24))

    assert errors(config) == [("all", "spec.aggregationLength")]
    assert [ad.pools for ad in config.bgp.advertisements] == [frozenset({"wide"})]


@pytest.mark.parametrize(
    ("other", "clashes"),
    [
        ({"localPref": 200}, True),
        ({"localPref": 100}, False),
        ({"localPref": 200, "aggregationLength": 30}, False),
        ({"localPref": 200, "peers": ["b"]}, False),
        ({"localPref": 200, "serviceSelectors": [{"matchLabels": {"app": "x"}}]}, False),
        ({"localPref": 200, "nodeSelectors": [{"matchLabels": {"rack": "b"}}]}, True),
    ],
)
def test_one_prefix_has_one_local_preference(other: dict[str, Any], *, clashes: bool) -> None:
    config = built(a_peer("a"), a_peer("b", "192.0.2.2"), an_ad("a", localPref=100, peers=["a"]), an_ad("b", **other))

    assert ads(config) == (["a"] if clashes else ["a", "b"])
    assert errors(config) == ([("b", "spec.localPref")] if clashes else [])


def test_peers_that_do_not_exist_are_named() -> None:
    config = built(an_ad(peers=["tpyo"]))

    assert [fault.field for fault in config.faults if fault.warning] == ["spec.peers[0]"]


def test_building_again_changes_nothing() -> None:
    resources = (
        a_peer("a"),
        a_peer("b"),
        a_peer("c", "192.0.2.3", bfdProfile="none"),
        an_ad("x", localPref=1),
        an_ad("y", localPref=2),
    )
    once = built(*resources)

    assert built(*reversed(resources), previous=once) == once
