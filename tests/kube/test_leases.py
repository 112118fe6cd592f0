"""Compare-and-swap on a real API server, lost replies included."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_interface

import pytest

from hostagent.edges.kube.lease_objects import SERVICES
from hostagent.edges.kube.leases import Leases
from hostagent.edges.kube.transport import Api
from hostagent.model.errors import EdgeError
from hostagent.model.names import Instant, InterfaceName, Mac, NodeName
from hostagent.model.ownership import DeleteClaim, Segment, Session, Why, Write, WriteClaim
from tests.fabric.controlplane import ControlPlane
from tests.kube.conftest import Kubeconfig, Line, play

pytestmark = [pytest.mark.kube, pytest.mark.netns]

H1, H2 = NodeName("h1"), NodeName("h2")


def a_session(node: str, instance: str = "boot-1") -> Session:
    return Session(
        node=NodeName(node),
        instance=instance,
        resource_version="",
        seen_at=Instant(0.0),
        duration_s=15.0,
        version="1.2.3",
        segments=(
            Segment(
                interface=InterfaceName("eth0"),
                mac=Mac("02:00:00:00:00:01"),
                subnets=(ip_interface("198.51.100.11/24"), ip_interface("2001:db8:51::11/64")),
            ),
        ),
        allocator=False,
    )


def of(api: Api, node: NodeName = H1, *, timeout_s: float = 2.0) -> Leases:
    return Leases(api, namespace="default", node=node, timeout_s=timeout_s)


def like(read: Session, other: Session) -> Session:
    """The session as read, but for the moment when it was seen: to be compared."""
    return replace(read, seen_at=other.seen_at)


def test_a_session_is_created_renewed_and_ended(plane: ControlPlane, kubeconfig: Kubeconfig) -> None:
    async def body(api: Api) -> None:
        leases = of(api)
        created = await leases.renew_session(a_session("s1"))
        assert created[0] is Write.WON
        assert created[1] is not None
        renewed = await leases.renew_session(created[1])
        assert renewed[0] is Write.WON
        assert renewed[1] is not None
        assert renewed[1].resource_version != created[1].resource_version
        read = await leases.read_session(NodeName("s1"))
        assert read is not None
        assert replace(read, seen_at=renewed[1].seen_at) == renewed[1]
        assert "s1/boot-1" in plane.kubectl("get", "leases", "-l", "hostagent.io/kind=session")
        ended = await leases.end_session(renewed[1])
        assert ended[0] is Write.WON
        gone = await leases.read_session(NodeName("s1"))
        assert gone is not None
        assert gone.ended

    play(kubeconfig, body)


def test_a_suspicion_is_noted_and_changes_nothing_else(kubeconfig: Kubeconfig) -> None:
    async def body(api: Api) -> None:
        _, session = await of(api).renew_session(replace(a_session("s2"), draining=True))
        assert session is not None
        outcome, noted = await of(api, H2).suspect(session, by=H2)
        assert outcome is Write.WON
        assert noted is not None
        assert noted.resource_version != session.resource_version
        wanted = replace(session, suspected_by=H2, resource_version=noted.resource_version)
        assert like(noted, session) == wanted
        read = await of(api, H2).read_session(NodeName("s2"))
        assert read is not None
        assert like(read, noted) == noted

    play(kubeconfig, body)


def test_a_suspicion_of_what_has_changed_since_is_lost(kubeconfig: Kubeconfig) -> None:
    """The API server refuses a merge patch that carries another resourceVersion than the present one."""

    async def body(api: Api) -> None:
        leases, rival = of(api), of(api, H2)
        _, session = await leases.renew_session(a_session("s4"))
        assert session is not None
        _, renewed = await leases.renew_session(session)
        assert renewed is not None
        outcome, found = await rival.suspect(session, by=H2)
        assert outcome is Write.LOST
        assert found is not None
        assert like(found, renewed) == renewed
        assert (await of(api, H1).suspect(renewed, by=H1))[0] is Write.WON
        outcome, found = await rival.suspect(renewed, by=H2)
        assert outcome is Write.LOST
        assert found is not None
        assert found.suspected_by == H1
        assert await rival.suspect(a_session("s5"), by=H2) == (Write.LOST, None)

    play(kubeconfig, body)


@pytest.mark.parametrize("notes", [1, 2], ids=["one-rival", "two-rivals"])
def test_a_renewal_takes_notes_off_also_when_it_did_not_know_of_them(kubeconfig: Kubeconfig, notes: int) -> None:
    async def body(api: Api) -> None:
        leases, node = of(api), f"s6-{notes}"
        _, session = await leases.renew_session(a_session(node))
        noted = session
        for rival in (H1, H2)[:notes]:
            assert noted is not None
            _, noted = await of(api, rival).suspect(noted, by=rival)
        assert session is not None
        outcome, renewed = await leases.renew_session(session)
        assert outcome is Write.WON
        assert renewed is not None
        read = await leases.read_session(NodeName(node))
        assert read is not None
        assert like(read, renewed) == renewed
        assert read.suspected_by is None
        assert read.renewed != session.renewed

    play(kubeconfig, body)


def test_a_note_that_lands_before_a_renewal_is_read_back_is_not_another_instance(
    plane: ControlPlane, kubeconfig: Kubeconfig, line: Line
) -> None:
    async def body(api: Api) -> None:
        leases = of(api)
        _, session = await leases.renew_session(a_session("s7"))
        assert session is not None
        line.swallow_replies.set()
        renewal = asyncio.create_task(leases.renew_session(session))
        await asyncio.sleep(0.3)  # long enough to be carried out, shorter than the renewal waits
        plane.kubectl("annotate", "lease", "host.s7", "hostagent.io/suspected-by=h9")
        line.cut()
        line.swallow_replies.clear()
        outcome, renewed = await renewal
        assert outcome is Write.WON
        assert renewed is not None
        assert (renewed.instance, renewed.suspected_by) == (session.instance, None)
        read = await leases.read_session(NodeName("s7"))
        assert read is not None
        assert like(read, renewed) == renewed

    play(kubeconfig, body)


def test_a_note_on_a_session_that_just_ended_leaves_it_ended(
    plane: ControlPlane, kubeconfig: Kubeconfig, line: Line
) -> None:
    async def body(api: Api) -> None:
        leases = of(api)
        _, session = await leases.renew_session(a_session("s8"))
        assert session is not None
        line.swallow_replies.set()
        farewell = asyncio.create_task(leases.end_session(session))
        await asyncio.sleep(0.3)
        plane.kubectl("annotate", "lease", "host.s8", "hostagent.io/suspected-by=h9")
        line.cut()
        line.swallow_replies.clear()
        assert (await farewell)[0] is Write.WON
        read = await leases.read_session(NodeName("s8"))
        assert read is not None
        assert (read.ended, read.suspected_by) == (True, None)

    play(kubeconfig, body)


@pytest.mark.parametrize("comes_back", [True, False], ids=["readable-again", "still-silent"])
def test_a_suspicion_without_a_reply_is_read_back(kubeconfig: Kubeconfig, line: Line, comes_back: bool) -> None:
    async def body(api: Api) -> None:
        leases = of(api)
        _, session = await leases.renew_session(a_session(f"s10-{comes_back}".lower()))
        assert session is not None
        assert await leases.read_claim(IPv4Address("198.51.100.79")) is None  # the connection is there
        line.swallow_replies.set()
        note = asyncio.create_task(leases.suspect(session, by=H2))
        if comes_back:
            await asyncio.sleep(0.3)
            line.cut()
            line.swallow_replies.clear()
        outcome, found = await note
        line.swallow_replies.clear()
        if comes_back:
            assert outcome is Write.WON
            assert found is not None
            assert found.suspected_by == H2
        else:
            assert (outcome, found) == (Write.UNKNOWN, None)

    play(kubeconfig, body)


def test_reading_for_a_decision_waits_no_longer_than_told(kubeconfig: Kubeconfig, line: Line) -> None:
    async def body(api: Api) -> None:
        leases = of(api)
        await leases.read_claim(IPv4Address("198.51.100.79"))
        line.swallow_replies.set()
        async with asyncio.timeout(1.0):
            with pytest.raises(EdgeError, match="no answer in time"):
                await leases.read_session(H2, timeout_s=0.1)
            with pytest.raises(EdgeError, match="no answer in time"):
                await leases.read_claim(IPv4Address("198.51.100.79"), timeout_s=0.1)

    play(kubeconfig, body)


def test_another_instance_of_the_same_host_is_a_loss_for_the_caller_to_decide(kubeconfig: Kubeconfig) -> None:
    async def body(api: Api) -> None:
        leases = of(api)
        await leases.renew_session(a_session("s3", "boot-1"))
        outcome, found = await leases.renew_session(a_session("s3", "boot-2"))
        assert outcome is Write.LOST
        assert found is not None
        assert found.instance == "boot-1"
        taken = replace(a_session("s3", "boot-2"), resource_version=found.resource_version)
        assert (await leases.renew_session(taken))[0] is Write.WON

    play(kubeconfig, body)


def test_only_one_of_two_claims_the_same_vip(plane: ControlPlane, kubeconfig: Kubeconfig) -> None:
    vip = IPv6Address("2001:db8:51:0:1::7")

    async def body(api: Api) -> None:
        first, second = of(api, H1), of(api, H2)
        mine = WriteClaim(vip=vip, holder=H1, expected=None, why=Why.FREE)
        theirs = WriteClaim(vip=vip, holder=H2, expected=None, why=Why.FREE)
        results = await asyncio.gather(
            first.write_claim(mine, notes={SERVICES: "default/web"}), second.write_claim(theirs)
        )
        outcomes = sorted(outcome for outcome, _ in results)
        assert outcomes == [Write.LOST, Write.WON]
        assert results[0][1] is not None
        assert results[1][1] is not None
        assert results[0][1].holder == results[1][1].holder
        assert "vip.2001-0db8-0051-0000-0001-0000-0000-0007" in plane.kubectl("get", "leases")

    play(kubeconfig, body)


def test_moves_are_counted_and_stale_writes_lose(kubeconfig: Kubeconfig) -> None:
    vip = IPv4Address("198.51.100.70")

    async def body(api: Api) -> None:
        leases = of(api)
        _, taken = await leases.write_claim(WriteClaim(vip=vip, holder=H1, expected=None, why=Why.FREE))
        assert taken is not None
        hand_over = WriteClaim(vip=vip, holder=H2, predecessor=H1, expected=taken, why=Why.STOPPING)
        outcome, moved = await leases.write_claim(hand_over)
        assert outcome is Write.WON
        assert moved is not None
        assert (moved.holder, moved.predecessor, moved.transitions) == (H2, H1, 1)
        outcome, found = await leases.write_claim(
            WriteClaim(vip=vip, holder=None, expected=taken, why=Why.NO_SUCCESSOR)
        )
        assert outcome is Write.LOST
        assert found is not None
        assert found.holder == H2
        assert await leases.delete_claim(DeleteClaim(vip=vip, expected=taken)) is Write.LOST
        released = await leases.write_claim(WriteClaim(vip=vip, holder=None, expected=moved, why=Why.NO_SUCCESSOR))
        assert released[1] is not None
        assert (released[1].holder, released[1].transitions) == (None, 1)
        assert await leases.delete_claim(DeleteClaim(vip=vip, expected=released[1])) is Write.WON
        assert await leases.delete_claim(DeleteClaim(vip=vip, expected=released[1])) is Write.WON
        assert await leases.read_claim(vip) is None

    play(kubeconfig, body)


@pytest.mark.parametrize("comes_back", [True, False], ids=["readable-again", "still-silent"])
def test_a_lost_reply_is_resolved_by_reading_back(kubeconfig: Kubeconfig, line: Line, comes_back: bool) -> None:
    vip = IPv4Address("198.51.100.71" if comes_back else "198.51.100.72")

    async def body(api: Api) -> None:
        leases = of(api, timeout_s=0.5)
        assert await leases.read_claim(vip) is None  # the connection is there
        line.swallow_replies.set()
        write = asyncio.create_task(leases.write_claim(WriteClaim(vip=vip, holder=H1, expected=None, why=Why.FREE)))
        if comes_back:
            await asyncio.sleep(0.3)  # long enough to be carried out, shorter than the write waits
            line.cut()
            line.swallow_replies.clear()
        outcome, claim = await write
        line.swallow_replies.clear()
        if comes_back:
            assert outcome is Write.WON
            assert claim is not None
            assert claim.holder == H1
        else:
            assert (outcome, claim) == (Write.UNKNOWN, None)

    play(kubeconfig, body)


def test_the_allocators_lease_is_won_once(kubeconfig: Kubeconfig) -> None:
    async def body(api: Api) -> None:
        outcome, held = await of(api).write_allocator(H1, expected=None)
        assert outcome is Write.WON
        outcome, found = await of(api, H2).write_allocator(H2, expected=None)
        assert outcome is Write.LOST
        assert found is not None
        assert found.holder == H1
        assert (await of(api, H2).write_allocator(H2, expected=held))[0] is Write.WON

    play(kubeconfig, body)


def test_a_missing_namespace_is_an_error_not_a_loss(kubeconfig: Kubeconfig) -> None:
    async def body(api: Api) -> None:
        leases = Leases(api, namespace="nowhere", node=H1)
        with pytest.raises(EdgeError, match="nowhere"):
            await leases.renew_session(a_session("s9"))

    play(kubeconfig, body)
