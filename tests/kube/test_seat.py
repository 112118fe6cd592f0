"""Who was allocator and hung wakes with a decision in its hands: it is not carried out, and no address is had twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest

from hostagent.edges.kube.status import ServiceStatus
from hostagent.edges.kube.transport import MERGE_PATCH, Api, ApiError
from hostagent.model.cluster import Service
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP
from hostagent.model.ownership import Write
from tests.fabric.controlplane import ControlPlane
from tests.kube.conftest import Kubeconfig, Line
from tests.kube.test_identity import GROUPS, H1, H2, SERVICES, Act, Hosts, _installed, a_service, act, the_service

__all__ = ["_installed", "act"]  # fixtures

pytestmark = [pytest.mark.kube, pytest.mark.netns]

WITHIN_S = 10.0
A, B = IPv4Address("203.0.113.240"), IPv4Address("203.0.113.241")
NO_SEAT = "has not the allocator's seat, h2 has it"


@pytest.fixture
def slow_line(plane: ControlPlane) -> Iterator[Line]:
    """Another way to the API server, of one host alone."""
    made = Line(plane.netns)
    yield made
    made.close()


async def in_force(hosts: Hosts, name: str) -> None:
    """The seat's policy is new in this cluster: it lets everybody write until the API server has read it."""
    path, said = f"{SERVICES}/{name}/status", ""
    async with asyncio.timeout(WITHIN_S):
        while "hostagent-seat" not in said:
            try:
                await hosts.apis[H2].request(
                    "PATCH", path, query={"dryRun": "All"}, body=b"{}", content_type=MERGE_PATCH
                )
            except ApiError as error:
                said = str(error)
            await asyncio.sleep(0.05)


async def may_write(hosts: Hosts, status: ServiceStatus, name: str, addresses: list[IP]) -> Service:
    """Write as soon as the API server has seen who has the seat now: its policies hear of it a moment later."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            service = await the_service(hosts, name)
            try:
                outcome, found = await status.write(service, addresses, pool="lab" if addresses else None)
            except EdgeError as error:
                assert "allocator's seat" in str(error)  # noqa: PT017  # any other refusal is none to wait for
                await asyncio.sleep(0.05)
                continue
            assert outcome is Write.WON
            assert found is not None
            return found


def test_what_an_allocator_decided_before_it_hung_is_refused_once_another_has_the_seat(
    act: Callable[[Act], None], plane: ControlPlane
) -> None:
    """The Service did not change meanwhile: it is the seat that refuses, not the resource version."""
    for name in ("seat-first", "seat-late"):
        plane.apply(a_service(name))

    async def body(hosts: Hosts) -> None:
        first, second = (ServiceStatus(hosts.apis[node]) for node in (H1, H2))
        seat = await hosts.seat(H1)
        await in_force(hosts, "seat-late")
        await may_write(hosts, first, "seat-first", [])  # it was allocator, as the API server knew
        decided = await the_service(hosts, "seat-late")
        await hosts.seat(H2, taken_from=seat)
        await may_write(hosts, second, "seat-first", [A])  # the same address
        with pytest.raises(EdgeError, match=NO_SEAT):
            await first.write(decided, [A], pool="lab")
        late = await the_service(hosts, "seat-late")
        assert (late.assigned, late.resource_version) == ((), decided.resource_version)

    act(body)


def test_a_write_that_was_on_its_way_when_its_host_froze_is_refused_when_it_arrives(
    act: Callable[[Act], None], plane: ControlPlane, kubeconfig: Kubeconfig, slow_line: Line
) -> None:
    """Sent, and in the sockets of a host that is frozen then: neither the host nor its clock can call it back."""
    for name in ("way-first", "way-late"):
        plane.apply(a_service(name))
    path = kubeconfig(f"hostagent:node:{H1}", GROUPS[H1])
    port = path.read_text().partition("https://127.0.0.1:")[2].split()[0]
    path = path.with_name("frozen.kubeconfig")
    path.write_text(kubeconfig(f"hostagent:node:{H1}", GROUPS[H1]).read_text().replace(port, str(slow_line.port)))

    async def body(hosts: Hosts) -> None:
        seat = await hosts.seat(H1)
        frozen, second = await Api.open(path), ServiceStatus(hosts.apis[H2])
        try:
            await in_force(hosts, "way-late")
            await may_write(hosts, ServiceStatus(frozen), "way-first", [])
            decided = await the_service(hosts, "way-late")
            slow_line.requests_pass.clear()
            on_its_way = asyncio.create_task(ServiceStatus(frozen, timeout_s=60.0).write(decided, [A], pool="lab"))
            await asyncio.sleep(0.2)  # into the socket
            await hosts.seat(H2, taken_from=seat)
            await may_write(hosts, second, "way-first", [A])
            slow_line.requests_pass.set()
            with pytest.raises(ApiError, match=NO_SEAT):
                await on_its_way
        finally:
            slow_line.requests_pass.set()
            await frozen.close()
        late = await the_service(hosts, "way-late")
        assert late.assigned == ()

    act(body)


def test_a_service_that_has_got_its_address_from_the_next_one_is_not_given_another_by_the_one_before(
    act: Callable[[Act], None], plane: ControlPlane
) -> None:
    """Should the API server not have heard of the change of seats yet: the resource version refuses this one."""
    plane.apply(a_service("seat-version"))

    async def body(hosts: Hosts) -> None:
        decided = await the_service(hosts, "seat-version")
        await hosts.seat(H2)
        await may_write(hosts, ServiceStatus(hosts.apis[H2]), "seat-version", [A])
        outcome, found = await ServiceStatus(hosts.admin).write(decided, [B], pool="lab")  # policies are about hosts
        assert outcome is Write.LOST
        assert found is not None
        assert found.assigned == (str(A),)

    act(body)
