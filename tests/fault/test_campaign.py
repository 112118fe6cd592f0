"""The fault campaign's short form: each fault once, on real systemd hosts with a real API server.

Outages are counted by a client that pings every 10 ms, duplicate answers by a listener that asks every 20 ms.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fabric.hosts import Host
from tests.fault.faults import FAULTS, Fault
from tests.fault.scene import Scene, claim_name
from tests.fault.stage import Stage
from tests.fault.trial import broken, try_out
from tests.system.cluster import share_for

Check = Callable[[Scene], None]


def said(host: Host, scene: Scene, event: str) -> dict[str, str]:
    """The last journal entry of this kind about the IPv4 VIP, or about none."""
    found = host.journal("hostagent", f"HOSTAGENT_EVENT={event}")
    about = [entry for entry in found if entry.get("HOSTAGENT_VIP") in (None, scene.vip)]
    assert about, f"the journal of {host.name} has no {event}"
    return about[-1]


def the_successor_says_whom_it_replaced(scene: Scene) -> None:
    successor = scene.lab.host(scene.cluster.claims()[claim_name(scene.vip)])
    assert scene.holder.name in said(successor, scene, "claim.written")["MESSAGE"]


def the_outage_is_in_the_journal(scene: Scene) -> None:
    said(scene.holder, scene, "api.unreachable")
    said(scene.holder, scene, "api.reachable")


def the_culprit_is_named(scene: Scene) -> None:
    """Of IPv4 only: the kernel's message of an IPv6 removal does not tell who did it."""
    assert "pid" in said(scene.holder, scene, "vip.removed-by-other")["HOSTAGENT_BY"]


CHECKS: dict[str, Check] = {
    "power-off": the_successor_says_whom_it_replaced,
    "api-hung": the_outage_is_in_the_journal,
    "address-removed": the_culprit_is_named,
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_is_promised_is_kept(stage: Stage, fault: Fault) -> None:
    scene = stage.scene(fault.vips)
    try:
        trial = try_out(scene, fault, short=True)
    except BaseException:
        scene.cluster.show_journals()
        stage.repair()
        raise
    if wrong := broken(trial, fault.promise):
        scene.cluster.show_journals()
        pytest.fail(f"{fault.what}: {'; '.join(wrong)}\n{trial}")
    if check := CHECKS.get(fault.name):
        check(scene)


def test_an_address_that_a_stranger_uses_is_set_aside_and_the_next_one_given(stage: Stage) -> None:
    stage.clear()
    used, free = "198.51.100.64", "198.51.100.65"
    with share_for("stranger", stage.lab) as cluster:
        cluster.pool(f"{used}-{free}")
        cluster.advertise()
        with stage.lab.segment.stranger(f"{used}/32"):
            cluster.serve("web")
            assert cluster.given("web") == [free]
            cluster.held(free)
            assert cluster.answered(free)
            cluster.until(
                lambda: any(event["reason"] == "AddressInUse" for event in cluster.events("pool", "IPAddressPool")),
                "an event on the pool that names the stranger",
            )
            assert f"vip.{used}" not in cluster.claims()


def test_a_vip_whose_address_a_stranger_took_before_anybody_announced_it_is_not_taken(stage: Stage) -> None:
    """It has its address, and nobody could announce it before the stranger came."""
    stage.clear()
    vip = "198.51.100.64"
    with share_for("stranger", stage.lab) as cluster:
        cluster.pool(f"{vip}/32")
        cluster.serve("web")
        assert cluster.given("web") == [vip]
        with stage.lab.segment.stranger(f"{vip}/32"):
            cluster.advertise()
            cluster.until(
                lambda: any(event["reason"] == "AddressConflict" for event in cluster.events("web")),
                "an event that names the stranger",
            )
            assert cluster.holders(vip) == []
        cluster.held(vip)
        assert cluster.answered(vip)
