"""What a host's credential is good for, at a real API server: all that agents do. test_theft: and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import msgspec
import pytest

from hostagent.edges.kube.events import about_service, event_object
from hostagent.edges.kube.status import ServiceStatus
from hostagent.edges.kube.transport import MERGE_PATCH
from hostagent.model.ownership import DeleteClaim, Write
from tests.fabric.controlplane import ControlPlane
from tests.kube.hosts import (
    ADDRESSES,
    EVENTS,
    GROUPS,
    H1,
    H2,
    H3,
    STATUSES,
    Act,
    Hosts,
    a_service,
    a_status,
    the_service,
)

pytestmark = [pytest.mark.kube, pytest.mark.netns]


def test_a_host_keeps_its_own_session(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        leases = hosts.leases(H1)
        session = await hosts.session(H1)
        outcome, renewed = await leases.renew_session(replace(session, draining=True))
        assert outcome is Write.WON
        assert renewed is not None
        assert (await leases.end_session(renewed))[0] is Write.WON

    act(body)


def test_a_watcher_notes_its_suspicion_and_the_host_refutes_it(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        session = await hosts.session(H1)
        outcome, noted = await hosts.leases(H3).suspect(session, by=H3)
        assert outcome is Write.WON
        assert noted is not None
        outcome, noted = await hosts.leases(H2).suspect(noted, by=H2)  # over an older note
        assert outcome is Write.WON
        outcome, renewed = await hosts.leases(H1).renew_session(session)  # knows of no note
        assert outcome is Write.WON
        assert renewed is not None
        assert renewed.suspected_by is None

    act(body)


def test_a_vip_changes_hands_in_every_way_that_the_rules_know(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        vip = next(ADDRESSES)
        free = await hosts.claim(H1, vip, H1)
        sure = await hosts.claim(H1, vip, H1, free)  # makes sure that it is still its own
        handed = await hosts.claim(H1, vip, H3, sure, predecessor=H1)
        released = await hosts.claim(H3, vip, None, handed)
        taken = await hosts.claim(H3, vip, H3, released)
        dead = await hosts.claim(H1, vip, H1, taken, replaced=H3)  # dead, expired, ended, arbitrated
        on = await hosts.claim(H1, vip, H2, dead, predecessor=H1, replaced=H3)  # handed on, the guard with it
        overruled = await hosts.claim(H3, vip, H3, on, predecessor=H2)
        lapsed = await hosts.claim(H3, vip, H1, overruled)  # the address was off: another takes it
        assert await hosts.leases(H1).delete_claim(DeleteClaim(vip=vip, expected=lapsed)) is Write.WON
        await hosts.claim(H3, vip, H3)  # reclaimed

    act(body)


def test_claims_of_ipv6_are_claims(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        await hosts.claim(H3, IPv6Address("2001:db8:51:0:1::7"), H3)

    act(body)


def test_the_allocator_sweeps_and_passes_its_seat_on(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        vip = next(ADDRESSES)
        of_a_dead_host = await hosts.claim(H3, vip, H3)
        assert await hosts.leases(H1).delete_claim(DeleteClaim(vip=vip, expected=of_a_dead_host)) is Write.WON
        outcome, seat = await hosts.leases(H1).write_allocator(H1, expected=None)
        for by, holder in ((H1, H2), (H2, None), (H1, H1), (H2, H2), (H2, H3)):  # the last: it may by its session
            assert outcome is Write.WON
            outcome, seat = await hosts.leases(by).write_allocator(holder, expected=seat)
        outcome, _ = await hosts.leases(H3).write_allocator(None, expected=seat)  # may not have it, and gives it away
        assert outcome is Write.WON

    act(body)


def test_the_allocator_gives_and_takes_addresses(act: Callable[[Act], None], plane: ControlPlane) -> None:
    plane.apply(a_service("identity-given"))

    async def body(hosts: Hosts) -> None:
        status = ServiceStatus(hosts.apis[H1])
        service = await the_service(hosts, "identity-given")
        outcome, given = await status.write(service, [IPv4Address("203.0.113.250")], pool="lab")
        assert outcome is Write.WON
        assert given is not None
        outcome, _ = await status.write(given, [], pool=None)
        assert outcome is Write.WON

    act(body)


def test_a_host_can_ask_whether_it_may_write_services_at_all(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        may = {node: await ServiceStatus(hosts.apis[node]).may_write() for node in GROUPS}
        assert may == {H1: True, H2: True, H3: False}

    act(body)


def test_a_host_tells_about_itself(act: Callable[[Act], None], plane: ControlPlane) -> None:
    plane.apply(a_service("identity-told"))

    async def body(hosts: Hosts) -> None:
        api = hosts.apis[H3]
        about = about_service(await the_service(hosts, "identity-told"))
        event = event_object("identity.told", about, reason="Told", message="x", warning=False, node=H3, count=1)
        await api.request("POST", EVENTS, body=msgspec.json.encode(event))
        await api.request(
            "PATCH", f"{EVENTS}/identity.told", body=msgspec.json.encode({"count": 2}), content_type=MERGE_PATCH
        )
        for kind, plural, label in (
            ("ServiceL2Status", "servicel2statuses", "metallb.io/node"),
            ("ServiceBGPStatus", "servicebgpstatuses", "metallb.io/node"),
            ("ConfigurationState", "configurationstates", "metallb.io/node-name"),
        ):
            path = f"{STATUSES}/{plural}"
            made = await api.request("POST", path, body=msgspec.json.encode(a_status(H3, kind, label)))
            name = msgspec.json.decode(made)["metadata"]["name"]
            said = {"status": {"result": "Valid"} if kind == "ConfigurationState" else {"node": H3}}
            patch = msgspec.json.encode(said)
            await api.request("PATCH", f"{path}/{name}/status", body=patch, content_type=MERGE_PATCH)
            await hosts.apis[H1].request("DELETE", f"{path}/{name}")  # the allocator, after a host that is gone

    act(body)
