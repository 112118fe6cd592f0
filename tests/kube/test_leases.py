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


def test_a_rivals_note_on_a_session_does_not_stop_its_renewal(plane: ControlPlane, kubeconfig: Kubeconfig) -> None:
    async def body(api: Api) -> None:
        leases = of(api)
        _, session = await leases.renew_session(a_session("s2"))
        assert session is not None
        plane.kubectl("annotate", "lease", "host.s2", "hostagent.io/suspected-by=h9")
        outcome, renewed = await leases.renew_session(session)
        assert outcome is Write.WON
        assert renewed is not None

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
