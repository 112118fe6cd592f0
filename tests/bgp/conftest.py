"""One lab for all tests of this folder: a router with FRR, one with BIRD, hosts with FRR 8 and 10, one with BIRD."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bgp.playbook import run_role
from tests.bgp.routers import (
    TOR,
    TOR2,
    TOR_LOOPBACK,
    BirdRouterHost,
    FrrRouterHost,
    Neighbour,
    bird_router,
    frr_router,
)
from tests.bgp.speaker import Speaker
from tests.fabric.base import BIRD, FRR, TRIXIE, Disk
from tests.fabric.fixtures import fabric_machine
from tests.fabric.lab import Lab

__all__ = ["fabric_machine"]

HERE = Path(__file__).parent
SPEAKERS = ("frr8", "frr10")
EXTERNAL = "birdhost"
_TIMEOUT_S = 900
"""The first test waits for the lab and for the playbook, on a loaded machine for minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("fabric")
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.fixture(scope="session")
def lab(fabric_machine: None) -> Iterator[Lab]:  # noqa: ARG001
    disks = {
        TOR: Disk(add=FRR),
        TOR2: Disk(add=BIRD),
        "frr8": Disk(add=FRR),
        "frr10": Disk(suite=TRIXIE, add=FRR),
        EXTERNAL: Disk(add=BIRD),
    }
    wires = [("frr8", TOR), ("frr10", TOR)]
    with Lab.up(
        f"test-{os.getpid()}-bgp", hosts=0, routers=disks, wires=wires, control_plane=False, kube_proxy=False
    ) as lab:
        yield lab


@pytest.fixture(scope="session")
def neighbours(lab: Lab) -> dict[str, Neighbour]:
    """The hosts that announce, as the routers know them."""
    loopbacks = {"frr8": "192.0.2.8", "frr10": "192.0.2.10"}
    cards = {"frr8": "eth1", "frr10": "eth2"}
    return {
        name: Neighbour(
            v4=lab.host(name).addresses[0],
            v6=lab.host(name).addresses[1],
            loopback=loopbacks.get(name, ""),
            interface=cards.get(name, ""),
        )
        for name in (*SPEAKERS, EXTERNAL)
    }


@pytest.fixture(scope="session")
def tor(lab: Lab, neighbours: dict[str, Neighbour]) -> FrrRouterHost:
    host = lab.host(TOR)
    host.run(["ip", "address", "add", f"{TOR_LOOPBACK}/32", "dev", "lo"])
    for each in neighbours.values():
        if each.loopback:
            host.run(["ip", "route", "add", f"{each.loopback}/32", "via", each.v4])
    return frr_router(host, neighbours)


@pytest.fixture(scope="session")
def tor2(lab: Lab, neighbours: dict[str, Neighbour]) -> BirdRouterHost:
    return bird_router(lab.host(TOR2), neighbours)


@pytest.fixture(scope="session")
def prepared(lab: Lab, neighbours: dict[str, Neighbour]) -> None:
    """The role has been run on the hosts with FRR."""
    run_role(lab, SPEAKERS)
    for name in SPEAKERS:
        lab.host(name).run(["ip", "address", "add", f"{neighbours[name].loopback}/32", "dev", "lo"])
        lab.host(name).run(["ip", "route", "add", f"{TOR_LOOPBACK}/32", "via", lab.host(TOR).addresses[0]])


@pytest.fixture(params=SPEAKERS)
def speaker(request: pytest.FixtureRequest, lab: Lab, prepared: None) -> Iterator[Speaker]:  # noqa: ARG001
    """A host with FRR of each version; nothing of ours is left in it after the test."""
    speaker = Speaker(host=lab.host(request.param))
    try:
        yield speaker
    finally:
        speaker.clear()
