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
from tests.system.cluster import Cluster

Check = Callable[[Scene], None]


def said(host: Host, scene: Scene, event: str) -> dict[str, str]:
    """The last journal entry of this kind about one of the VIPs, or about no VIP."""
    found = host.journal("hostagent", f"HOSTAGENT_EVENT={event}")
    about = [entry for entry in found if entry.get("HOSTAGENT_VIP") in (None, *scene.vips)]
    assert about, f"the journal of {host.name} has no {event}"
    return about[-1]


def the_successor_says_whom_it_replaced(scene: Scene) -> None:
    successor = scene.lab.host(scene.cluster.claims()[claim_name(scene.vip)])
    assert scene.holder.name in said(successor, scene, "claim.written")["MESSAGE"]


def the_outage_is_in_the_journal(scene: Scene) -> None:
    said(scene.holder, scene, "api.unreachable")
    said(scene.holder, scene, "api.reachable")


def the_culprit_is_named(scene: Scene) -> None:
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


def test_a_vip_that_a_stranger_answers_for_is_not_taken(stage: Stage) -> None:
    stage.clear()
    cluster, free = Cluster(lab=stage.lab, namespace="stranger"), "198.51.100.64"
    cluster.begin()
    try:
        cluster.pool(f"{free}/32")
        cluster.advertise()
        with stage.lab.segment.stranger(f"{free}/32"):
            cluster.serve("web")
            assert cluster.given("web") == [free]
            cluster.until(
                lambda: any(event["reason"] == "AddressConflict" for event in cluster.events("web")),
                "an event that names the stranger",
            )
            assert cluster.holders(free) == []
        cluster.held(free)
        assert cluster.answered(free)
    finally:
        cluster.end()
