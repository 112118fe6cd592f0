"""One lab for the whole: agents on three hosts, a real API server, two routers, a client behind one of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.bgp.agents.announced import MANY_POOL, POOL, POOL6, POOLS
from tests.bgp.routers import (
    HOSTS_ASN,
    TOR,
    TOR2,
    TOR_ASN,
    TOR_V4,
    BirdRouterHost,
    FrrRouterHost,
    Neighbour,
    bird_router,
    frr_router,
)
from tests.fabric.base import BIRD, FRR, TRIXIE, Disk
from tests.fabric.deploy import deploy
from tests.fabric.lab import Lab
from tests.fabric.wheels import build_wheels
from tests.system.cluster import CONFIG, Cluster, share_for


@pytest.fixture(scope="package")
def lab(fabric_machine: None) -> Iterator[Lab]:  # noqa: ARG001
    """The third host has Debian 13, and with it FRR 10.3 and another Python."""
    disks = {"h1": Disk(add=FRR), "h2": Disk(add=FRR), "h3": Disk(suite=TRIXIE, add=FRR)}
    routers = {TOR: Disk(add=FRR), TOR2: Disk(add=BIRD)}
    build_wheels(TRIXIE)
    with Lab.up(f"test-{os.getpid()}-bgp-agents", hosts=3, disks=disks, routers=routers) as lab:
        deploy(lab, "-e", json.dumps({"hostagent_frr_enabled": True, "hostagent_frr_manage_packages": False}))
        yield lab


@pytest.fixture(scope="package")
def neighbours(lab: Lab) -> dict[str, Neighbour]:
    return {name: Neighbour(v4=host.addresses[0], v6=host.addresses[1]) for name, host in lab.hosts.items()}


@pytest.fixture(scope="package")
def tor(lab: Lab, neighbours: dict[str, Neighbour]) -> FrrRouterHost:
    """The client reaches the pools by way of it."""
    host = lab.host(TOR)
    host.run(["sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0"])
    router = frr_router(host, neighbours)
    for pool in (POOL, POOLS):
        lab.client.run(["ip", "route", "replace", pool, "via", TOR_V4])
    return router


@pytest.fixture(scope="package")
def tor2(lab: Lab, neighbours: dict[str, Neighbour]) -> BirdRouterHost:
    """In the hosts' AS, on a port of its own."""
    return bird_router(lab.host(TOR2), neighbours)


@pytest.fixture(scope="package")
def configured(lab: Lab, tor: FrrRouterHost) -> None:  # noqa: ARG001
    """Without BFD: on a busy machine a daemon that has to wait 0.3 s for its CPU would be a session lost."""
    peer = {"myASN": HOSTS_ASN, "peerASN": TOR_ASN, "peerAddress": TOR_V4, "connectTime": "1s"}
    objects = [
        ("v1beta1", "IPAddressPool", "bgp", {"addresses": [POOL, POOL6]}),
        ("v1beta1", "IPAddressPool", "many", {"addresses": [MANY_POOL], "autoAssign": False}),
        ("v1beta2", "BGPPeer", "tor", {**peer, "dualStackAddressFamily": True}),
        ("v1beta1", "BGPAdvertisement", "bgp", {"ipAddressPools": ["bgp", "many"], "communities": ["65001:42"]}),
    ]
    for version, kind, name, spec in objects:
        meta = {"name": name, "namespace": CONFIG}
        lab.control_plane.apply({"apiVersion": f"metallb.io/{version}", "kind": kind, "metadata": meta, "spec": spec})


@pytest.fixture
def cluster(lab: Lab, configured: None, request: pytest.FixtureRequest) -> Iterator[Cluster]:  # noqa: ARG001
    with share_for(request.node.name, lab) as cluster:
        yield cluster
