"""What FRR is told, and the little that it is told when something changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.core.frr_diff import compare, our_peers, parse, running_classes
from hostagent.core.frr_text import Wanted, digest, number_classes, render, to_text
from hostagent.model.bgp import SMALLEST_CLASS, BfdProfile, Line, Secret
from tests.unit.bgp import EVERYTHING, a_class, a_grant, a_peer, a_wanted, an_observed

GOLDEN = Path(__file__).parent / "golden"
SITE = """\
frr version 8.4.4
!
router bgp 65001
 bgp router-id 192.0.2.100
 neighbor 192.0.2.50 remote-as 65000
 neighbor 192.0.2.50 description core switch
 !
 address-family ipv4 unicast
  network 203.0.113.0/24
  neighbor 192.0.2.50 route-map SITE out
 exit-address-family
exit
!
route-map SITE permit 10
exit
"""


def after(wanted: Wanted, before: str = "") -> str:
    """What `show running-config` says once `wanted` is applied: the site's text, and ours behind it."""
    return before + compare(wanted, an_observed(before)).text


def shown(lines: tuple[Line, ...]) -> list[str]:
    return [line.shown for line in lines]


@pytest.mark.parametrize("version", [(8, 4), (10, 3)], ids=["8.4", "10.3"])
def test_everything_that_can_be_said_is_in_the_golden_file(version: tuple[int, int]) -> None:
    """Real FRRs of both versions read the same files: tests/fabric."""
    golden = (GOLDEN / f"frr-{version[0]}.conf").read_text(encoding="utf-8")

    assert to_text(render(EVERYTHING, version=version)) == golden


@pytest.mark.parametrize("version", [(8, 4), (10, 3)], ids=["8.4", "10.3"])
def test_what_runs_as_wanted_is_left_alone(version: tuple[int, int]) -> None:
    golden = (GOLDEN / f"frr-{version[0]}.conf").read_text(encoding="utf-8")

    change = compare(EVERYTHING, an_observed(golden, persisted=golden, version=version))

    assert (change.lines, change.last, change.persist) == ((), (), False)


def test_no_password_is_shown() -> None:
    change = compare(a_wanted(a_peer(password=Secret("hunter2"))), an_observed())

    assert "hunter2" not in repr(change)
    assert "hunter2" not in str(shown(change.lines))
    assert "neighbor 192.0.2.2 password hunter2" in change.text


def test_communities_compare_by_number_however_frr_prints_them() -> None:
    wanted = a_wanted(a_peer(), classes=(a_class(a_grant(communities=("65001:1", "65535:0", "65535:65281"))),))
    printed = after(wanted).replace("65535:0 65535:65281", "graceful-shutdown no-export")

    assert compare(wanted, an_observed(printed, persisted=after(wanted))).lines == ()


def test_a_further_class_is_all_that_a_further_class_says() -> None:
    plain, gold = a_class(), a_class(a_grant(communities=("65001:1",)))
    before = after(a_wanted(a_peer(), classes=(plain,)))

    change = compare(a_wanted(a_peer(), classes=(plain, gold)), an_observed(before, persisted=before))

    number = max(number_classes([gold], taken={}))
    assert {line.context[0] for line in change.lines} == {
        f"route-map hostagent-class permit {number}",
        f"route-map hostagent-network-{number} permit 10",
        f"route-map hostagent-out-tor1 permit {number}",
    }


def test_a_class_that_nobody_needs_goes_last() -> None:
    plain, gold = a_class(), a_class(a_grant(communities=("65001:1",)))
    before = after(a_wanted(a_peer(), classes=(plain, gold)))

    change = compare(a_wanted(a_peer(), classes=(plain,)), an_observed(before, persisted=before))

    number = next(iter(number_classes([gold], taken={})))
    assert change.lines == ()
    assert shown(change.last) == [
        f"no route-map hostagent-class permit {number}",
        f"no route-map hostagent-network-{number} permit 10",
        f"no route-map hostagent-out-tor1 permit {number}",
    ]


def test_one_timer_changes_one_line() -> None:
    before = after(a_wanted(a_peer(hold_time_s=9, keepalive_time_s=3)))

    change = compare(a_wanted(a_peer(hold_time_s=3, keepalive_time_s=1)), an_observed(before, persisted=before))

    assert shown(change.lines) == ["router bgp 65001 / neighbor 192.0.2.2 timers 1 3"]


def test_what_is_no_longer_asked_for_is_taken_back() -> None:
    before = after(a_wanted(a_peer(password=Secret("x"), bfd=True, connect_time_s=5)))

    change = compare(a_wanted(a_peer()), an_observed(before, persisted=before))

    assert shown(change.lines) == [
        "router bgp 65001 / no neighbor 192.0.2.2 bfd",
        "router bgp 65001 / no neighbor 192.0.2.2 password",
        "router bgp 65001 / no neighbor 192.0.2.2 timers connect",
    ]


def test_drift_is_repaired_and_nothing_else_touched() -> None:
    wanted = a_wanted(a_peer(hold_time_s=9, keepalive_time_s=3))
    text = after(wanted)
    drifted = text.replace("timers 3 9", "timers 60 180").replace(
        " neighbor 192.0.2.2 description", " neighbor 192.0.2.2 maximum-prefix-out 5\n neighbor 192.0.2.2 description"
    )

    change = compare(wanted, an_observed(drifted, persisted=text))

    assert shown(change.lines) == ["router bgp 65001 / neighbor 192.0.2.2 timers 3 9"]


# --- beside the site's own lines --------------------------------------------------------------------------------------


def test_the_sites_router_is_extended() -> None:
    change = compare(a_wanted(a_peer()), an_observed(SITE))

    assert change.refused == ()
    assert not [line for line in change.lines if line.text.startswith("no ")]
    assert "192.0.2.50" not in change.text
    assert change.configured == ("tor1",)


def test_the_sites_lines_outlive_ours() -> None:
    ours = compare(a_wanted(a_peer(router_id="192.0.2.100")), an_observed(SITE)).text

    change = compare(a_wanted(classes=()), an_observed(SITE + ours, persisted=ours))

    assert "router bgp 65001 / no neighbor 192.0.2.2" in shown(change.lines)
    assert not [s for s in shown(change.lines) if "no router" in s or "192.0.2.50" in s or "router-id" in s]


def test_another_as_is_refused_and_all_else_applies() -> None:
    change = compare(a_wanted(a_peer(my_asn=65009), a_peer("tenant", "192.0.2.3", vrf="red")), an_observed(SITE))

    assert [(fault.name, fault.field) for fault in change.refused if "65009" not in fault.message][:1] == [
        ("tor1", "spec.myASN")
    ]
    assert "tenant" in change.configured


def test_a_neighbor_of_the_site_is_refused() -> None:
    change = compare(a_wanted(a_peer(address="192.0.2.50"), a_peer("tor2", "192.0.2.3")), an_observed(SITE))

    assert [(fault.name, fault.field) for fault in change.refused] == [("tor1", "spec.peerAddress")]
    assert change.configured == ("tor2",)


def test_the_sites_router_id_stays() -> None:
    change = compare(a_wanted(a_peer(router_id="192.0.2.1")), an_observed(SITE))

    assert [fault.field for fault in change.refused] == ["spec.routerID"]
    assert "router-id" not in change.text


def test_our_own_router_makes_room_for_another_as() -> None:
    before = after(a_wanted(a_peer()))

    change = compare(a_wanted(a_peer(my_asn=65002)), an_observed(before, persisted=before))

    assert shown(change.lines)[:2] == ["no router bgp 65001", "router bgp 65002 / neighbor 192.0.2.2 remote-as 65000"]


def test_with_the_last_peer_everything_of_ours_goes() -> None:
    before = after(a_wanted(a_peer()))

    change = compare(a_wanted(classes=()), an_observed(before, persisted=before))

    assert shown(change.lines) == ["no router bgp 65001", "no ip import-table 174"]
    assert all(line.text.startswith("no route-map hostagent-") for line in change.last)


def test_a_session_whose_secret_is_gone_keeps_its_password() -> None:
    before = after(a_wanted(a_peer(password=Secret("old"))))

    change = compare(a_wanted(a_peer(password_kept=True)), an_observed(before, persisted=before))

    assert (change.lines, change.refused) == ((), ())


def test_without_a_password_no_session_is_begun() -> None:
    change = compare(a_wanted(a_peer(password_kept=True)), an_observed())

    assert change.configured == ()
    assert "192.0.2.2" not in change.text


def test_a_neighbor_begun_by_a_life_that_died_is_still_ours() -> None:
    """Our file is written before FRR is told, so it knows of a neighbour that has no description yet."""
    text = after(a_wanted(a_peer()))
    half = "router bgp 65001\n neighbor 192.0.2.2 remote-as 65000\nexit\n"

    change = compare(a_wanted(a_peer()), an_observed(half, persisted=text))

    assert change.refused == ()
    assert "router bgp 65001 / neighbor 192.0.2.2 description hostagent tor1" in shown(change.lines)


def test_a_router_that_turned_ipv4_off_is_told_to_activate() -> None:
    site = "router bgp 65001\n no bgp default ipv4-unicast\nexit\n"

    change = compare(a_wanted(a_peer()), an_observed(site))

    assert "router bgp 65001 / address-family ipv4 unicast / neighbor 192.0.2.2 activate" in shown(change.lines)


# --- classes ----------------------------------------------------------------------------------------------------------


def test_every_life_gives_a_class_the_same_number() -> None:
    classes = [a_class(a_grant(communities=(f"65001:{n}",))) for n in range(1, 200)]
    first = number_classes(classes, taken={})

    again = number_classes(reversed(classes), taken={number: digest(each) for number, each in first.items()})

    assert again == first
    assert len(first) == 199
    assert min(first) >= SMALLEST_CLASS


def test_a_number_that_is_taken_is_not_given() -> None:
    wanted = a_class()
    own = next(iter(number_classes([wanted], taken={})))

    assert own not in number_classes([wanted], taken={own: "another"})


def test_classes_and_peers_are_read_back() -> None:
    pairs = parse(after(EVERYTHING))

    assert running_classes(pairs) == {number: digest(each) for number, each in EVERYTHING.classes.items()}
    assert our_peers(pairs) == {peer.name for peer in EVERYTHING.peers}


def test_prepending_is_for_other_networks() -> None:
    """An internal peer would see a path through the own AS, which is a loop."""
    external, internal = a_peer(), a_peer("tor2", "192.0.2.3", peer_asn=65001)
    text = after(a_wanted(external, internal, classes=(a_class(a_grant(prepend=2)),)))

    assert text.count("set as-path prepend 65001 65001") == 1


def test_an_entry_that_somebody_edited_is_made_anew() -> None:
    wanted = a_wanted(a_peer(), classes=(a_class(a_grant(local_pref=200)),))
    text = after(wanted)
    number = next(iter(wanted.classes))

    change = compare(wanted, an_observed(text.replace("local-preference 200", "local-preference 5"), persisted=text))

    assert shown(change.lines) == [
        f"no route-map hostagent-out-tor1 permit {number}",
        f"route-map hostagent-out-tor1 permit {number} / match tag {number}",
        f"route-map hostagent-out-tor1 permit {number} / set local-preference 200",
    ]


def test_a_peer_that_moves_to_another_profile_keeps_bfd() -> None:
    profiles = (BfdProfile(name="fast", receive_interval_ms=100), BfdProfile(name="slow", receive_interval_ms=1000))
    peer = a_peer(bfd=True, bfd_profile="fast")
    before = after(a_wanted(peer, profiles=profiles))

    change = compare(
        a_wanted(replace(peer, bfd_profile="slow"), profiles=profiles), an_observed(before, persisted=before)
    )

    assert shown(change.lines) == [
        "bfd / profile hostagent-slow / receive-interval 1000",
        "router bgp 65001 / neighbor 192.0.2.2 bfd profile hostagent-slow",
    ]
    assert shown(change.last) == ["bfd / no profile hostagent-fast"]
