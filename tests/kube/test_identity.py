"""What a host's credential is good for, at a real API server: all that agents do, and nothing in another's name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgspec
import pytest

from hostagent.edges.kube import access
from hostagent.edges.kube.decode import to_service
from hostagent.edges.kube.events import about_service, event_object
from hostagent.edges.kube.lease_objects import claim_name
from hostagent.edges.kube.leases import Leases
from hostagent.edges.kube.status import ServiceStatus
from hostagent.edges.kube.transport import JSON, MERGE_PATCH, Api, ApiError
from hostagent.model.cluster import OLD_POOL_ANNOTATION, POOL_ANNOTATION, Service
from hostagent.model.names import IP, Instant, NodeName
from hostagent.model.ownership import Claim, DeleteClaim, Session, Why, Write, WriteClaim
from tests.fabric.controlplane import ControlPlane
from tests.kube.conftest import Kubeconfig

pytestmark = [pytest.mark.kube, pytest.mark.netns]

NAMESPACE = access.PACKAGED_NAMESPACE
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
STATUSES = f"/apis/metallb.io/v1beta1/namespaces/{NAMESPACE}"
SERVICES = "/api/v1/namespaces/default/services"
EVENTS = "/api/v1/namespaces/default/events"
H1, H2, H3 = NodeName("h1"), NodeName("h2"), NodeName("h3")
GROUPS = {
    H1: ("hostagent:nodes", "hostagent:allocators"),
    H2: ("hostagent:nodes", "hostagent:allocators"),
    H3: ("hostagent:nodes",),
}
NOTE = "hostagent.io/suspected-by"
ADDRESSES = iter(IPv4Address("203.0.113.1") + n for n in range(200))
IN_FORCE_TRIES = 150


class Hosts:
    """A cluster admin; h1 and h2, which may allocate; h3, which may not."""

    def __init__(self, admin: Api, apis: Mapping[NodeName, Api]) -> None:
        self.admin, self.apis = admin, apis

    def leases(self, node: NodeName) -> Leases:
        return Leases(self.apis[node], namespace=NAMESPACE, node=node)

    async def session(self, node: NodeName) -> Session:
        """A fresh session of the host, written by itself."""
        found = await self.leases(node).read_session(node)
        outcome, written = await self.leases(node).renew_session(
            Session(
                node=node,
                instance="boot-1",
                resource_version=found.resource_version if found else "",
                seen_at=Instant(0.0),
                duration_s=15.0,
                version="1.2.3",
                segments=(),
                allocator=True,
            )
        )
        assert outcome is Write.WON
        assert written is not None
        return written

    async def claim(
        self, by: NodeName, vip: IP, holder: NodeName | None, expected: Claim | None = None, **more: Any
    ) -> Claim:
        act = WriteClaim(vip=vip, holder=holder, expected=expected, why=Why.FREE, **more)
        outcome, claim = await self.leases(by).write_claim(act)
        assert outcome is Write.WON
        assert claim is not None
        return claim


Act = Callable[[Hosts], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def _installed(plane: ControlPlane) -> None:
    plane.apply(access.objects(text for _, text in access.manifests()))


@pytest.fixture
def act(kubeconfig: Kubeconfig, _installed: None) -> Callable[[Act], None]:
    """Play with the access rules in force."""

    async def run(body: Act) -> None:
        admin = await Api.open(kubeconfig())
        apis = {node: await Api.open(kubeconfig(f"hostagent:node:{node}", groups)) for node, groups in GROUPS.items()}
        try:
            await in_force(apis[H3])
            await body(Hosts(admin, apis))
        finally:
            for api in (admin, *apis.values()):
                await api.close()

    return lambda body: asyncio.run(asyncio.wait_for(run(body), 120))


async def in_force(api: Api) -> None:
    """New policies take the API server a moment. Each refuses something that RBAC does not."""
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "probe.another", "namespace": NAMESPACE},
        "involvedObject": {"kind": "Lease", "name": "probe", "namespace": NAMESPACE},
    }
    tries = (
        (LEASES, a_lease("probe.another", H2)),
        (f"{STATUSES}/servicel2statuses", a_status("another")),
        (f"/api/v1/namespaces/{NAMESPACE}/events", event),
    )
    said = ""
    for path, body in tries:
        for _ in range(IN_FORCE_TRIES):
            try:
                await api.request("POST", path, query={"dryRun": "All"}, body=msgspec.json.encode(body))
                said = "allowed"
            except ApiError as error:
                said = str(error)
            if "ValidatingAdmissionPolicy" in said:
                break
            await asyncio.sleep(0.2)  # the API server tells nobody when it has read them
        assert "ValidatingAdmissionPolicy" in said, path


async def refused(api: Api, method: str, path: str, body: object = None, *, says: str, kind: str = JSON) -> None:
    """The API server forbids it, and says why."""
    encoded = None if body is None else msgspec.json.encode(body)
    with pytest.raises(ApiError, match=says) as caught:
        await api.request(method, path, body=encoded, content_type=kind)
    assert caught.value.status in (403, 422)


async def read(api: Api, path: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(await api.request("GET", path))
    return found


def a_lease(name: str, holder: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"holderIdentity": holder},
    }


def a_status(node: str, kind: str = "ServiceL2Status", label: str = "metallb.io/node") -> dict[str, Any]:
    return {
        "apiVersion": "metallb.io/v1beta1",
        "kind": kind,
        "metadata": {"generateName": "l2-", "namespace": NAMESPACE, "labels": {label: node}},
    }


# What agents do


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


# What a thief cannot do


def test_a_stolen_credential_cannot_touch_anothers_session_but_for_its_note(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        await hosts.session(H2)
        path, api = f"{LEASES}/host.h2", hosts.apis[H1]
        says = "host.h2 is the session of another host: h1 may only note hostagent.io/suspected-by: h1 in it"
        for patch in (
            {"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}},
            {"spec": {"holderIdentity": None}},
            {"metadata": {"annotations": {NOTE: H3}}},
            {"metadata": {"annotations": {NOTE: H1, "hostagent.io/segments": "x"}}},
            {"metadata": {"annotations": {NOTE: H1, "hostagent.io/new": "x"}}},
            {"metadata": {"annotations": {NOTE: H1, "hostagent.io/version": None}}},
            {"metadata": {"annotations": {NOTE: H1}, "labels": {"hostagent.io/kind": "claim"}}},
            {"metadata": {"annotations": {NOTE: H1}, "finalizers": ["example.com/keep"]}},
        ):
            await refused(api, "PATCH", path, patch, kind=MERGE_PATCH, says=says)
        await refused(api, "DELETE", path, says=says)
        await refused(api, "POST", LEASES, a_lease("host.h9", "h9/boot"), says="host.h9 is the session of another host")

    act(body)


def test_a_stolen_credential_cannot_take_a_note_off(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        await hosts.leases(H1).suspect(await hosts.session(H2), by=H1)
        patch = {"metadata": {"annotations": {NOTE: None}}}
        await refused(hosts.apis[H1], "PATCH", f"{LEASES}/host.h2", patch, kind=MERGE_PATCH, says="of another host")

    act(body)


def test_a_stolen_credential_cannot_pose_as_another_in_its_own_session(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        await hosts.session(H1)
        patch = {"spec": {"holderIdentity": "h2/boot-1"}}
        says = "the session of h1 can be held by h1/<boot> only"
        await refused(hosts.apis[H1], "PATCH", f"{LEASES}/host.h1", patch, kind=MERGE_PATCH, says=says)

    act(body)


def test_a_stolen_credential_cannot_name_another_in_a_claim(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        api, fresh, held = hosts.apis[H1], next(ADDRESSES), next(ADDRESSES)
        await refused(api, "POST", LEASES, a_lease(claim_name(fresh), H2), says="not h1's to give.*for itself only")
        await hosts.claim(H2, held, H2)
        path = f"{LEASES}/{claim_name(held)}"
        for holder in (H3, None, "h1/boot"):
            patch = {"spec": {"holderIdentity": holder}}
            await refused(api, "PATCH", path, patch, kind=MERGE_PATCH, says="not h1's to give, it is h2's")
        notes = {"spec": {"holderIdentity": H1}, "metadata": {"annotations": {"hostagent.io/replaced": H3}}}
        await refused(api, "PATCH", path, notes, kind=MERGE_PATCH, says="can name h1 and h2 only")
        writer = {"spec": {"holderIdentity": H1}, "metadata": {"annotations": {"hostagent.io/written-by": "h2/x"}}}
        await refused(api, "PATCH", path, writer, kind=MERGE_PATCH, says="written-by must be h1/<process>")

    act(body)


def test_a_host_that_may_not_allocate_can_neither_sweep_nor_lead_nor_give_addresses(
    act: Callable[[Act], None], plane: ControlPlane
) -> None:
    plane.apply(a_service("identity-late"))

    async def body(hosts: Hosts) -> None:
        api, vip = hosts.apis[H3], next(ADDRESSES)
        await hosts.claim(H2, vip, H2)
        await refused(api, "DELETE", f"{LEASES}/{claim_name(vip)}", says="can be deleted by its holder h2")
        await hosts.admin.request("PATCH", f"{LEASES}/allocator", body=b"{}", content_type=MERGE_PATCH)
        taken = {"spec": {"holderIdentity": H3}}
        says = "h3 may not allocate: its certificate is not of the group hostagent:allocators"
        await refused(api, "PATCH", f"{LEASES}/allocator", taken, kind=MERGE_PATCH, says=says)
        path = f"{SERVICES}/identity-late/status"
        address = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.251"}]}}}
        await refused(api, "PATCH", path, address, kind=MERGE_PATCH, says="cannot patch resource .services/status")

    act(body)


def test_nobody_names_another_for_the_allocators_seat_or_deletes_it(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        patch = {"spec": {"holderIdentity": H2}}
        await hosts.admin.request(
            "PATCH", f"{LEASES}/allocator", body=msgspec.json.encode(patch), content_type=MERGE_PATCH
        )
        for holder in (H3, None):
            stolen = {"spec": {"holderIdentity": holder}}
            says = "h1 may take the allocator's seat for itself"
            await refused(hosts.apis[H1], "PATCH", f"{LEASES}/allocator", stolen, kind=MERGE_PATCH, says=says)
        await refused(hosts.apis[H2], "DELETE", f"{LEASES}/allocator", says="allocator's seat")

    act(body)


def test_an_allocator_changes_nothing_of_a_service_but_its_address(
    act: Callable[[Act], None], plane: ControlPlane
) -> None:
    plane.apply(a_service("identity-spec"))
    plane.apply(a_service("identity-cluster-ip", kind="ClusterIP"))

    async def body(hosts: Hosts) -> None:
        api, path = hosts.apis[H1], f"{SERVICES}/identity-spec"
        spec = {"spec": {"externalIPs": ["203.0.113.9"]}}
        await refused(api, "PATCH", path, spec, kind=MERGE_PATCH, says="cannot patch resource .services")
        await api.request("PATCH", f"{path}/status", body=msgspec.json.encode(spec), content_type=MERGE_PATCH)
        assert "externalIPs" not in (await read(api, path))["spec"]  # the subresource does not know it
        space = await read(hosts.admin, "/api/v1/namespaces/default")
        owner = {"apiVersion": "v1", "kind": "Namespace", "name": "default", "uid": space["metadata"]["uid"]}
        gone = {**owner, "uid": "d2c0e1f4"}  # the Service would be collected as garbage
        owned = {"labels": {"app": "theirs"}, "ownerReferences": [owner]}
        theirs = {"metadata": {"annotations": {"example.com/kept": "theirs"}, **owned}}
        await hosts.admin.request("PATCH", path, body=msgspec.json.encode(theirs), content_type=MERGE_PATCH)
        condition = {
            "type": "Ready",
            "status": "True",
            "reason": "Lie",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for patch in (
            {"metadata": {"annotations": {"example.com/owner": "me"}}},
            {"metadata": {"annotations": {"example.com/kept": "mine"}}},
            {"metadata": {"annotations": {"example.com/kept": None}}},
            {"metadata": {"labels": {"app": "other"}}},
            {"metadata": {"labels": {"app": None}}},
            {"metadata": {"finalizers": ["example.com/keep"]}},
            {"metadata": {"ownerReferences": [gone]}},
            {"metadata": {"ownerReferences": [owner, gone]}},
            {"metadata": {"ownerReferences": None}},
            {"status": {"conditions": [condition]}},
            {"status": {"loadBalancer": {"ingress": [{"hostname": "evil.example"}]}}},
            {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.250", "hostname": "evil.example"}]}}},
        ):
            says = "the allocator writes addresses only"
            await refused(api, "PATCH", f"{path}/status", patch, kind=MERGE_PATCH, says=says)
        pool = {"metadata": {"annotations": {POOL_ANNOTATION: "lab"}}}
        address = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.250"}]}}}
        cleared = {"metadata": {"annotations": {POOL_ANNOTATION: None}}, "status": {"loadBalancer": {"ingress": None}}}
        for fine in (pool | address, cleared):
            await api.request("PATCH", f"{path}/status", body=msgspec.json.encode(fine), content_type=MERGE_PATCH)
        other = f"{SERVICES}/identity-cluster-ip/status"
        for patch in (pool, {"metadata": {"annotations": {OLD_POOL_ANNOTATION: "lab"}}}):
            await refused(api, "PATCH", other, patch, kind=MERGE_PATCH, says="of type LoadBalancer only")

    act(body)


def test_a_stolen_credential_reads_no_secrets_and_writes_no_leases_elsewhere(
    act: Callable[[Act], None], plane: ControlPlane
) -> None:
    async def body(hosts: Hosts) -> None:
        api = hosts.apis[H1]
        await refused(api, "GET", "/api/v1/secrets", says="cannot list resource .secrets")
        await refused(api, "GET", "/api/v1/namespaces/kube-system/secrets", says="cannot list resource .secrets")
        elsewhere = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
        await refused(api, "POST", elsewhere, a_lease("host.h1", "h1/x", "default"), says="cannot create resource")
        await refused(api, "POST", LEASES, a_lease("metallb-memberlist", H1), says="sessions, claims")
        await refused(api, "POST", LEASES, a_lease("vip.example", H1), says="sessions, claims")

    act(body)
    plane.apply(a_service("identity-elsewhere"))
    # Also where somebody grants the group more than we do: the policy stands on its own.
    plane.kubectl(
        "create", "rolebinding", "careless", "--clusterrole=cluster-admin", "--group=hostagent:nodes", "-n=default"
    )
    try:
        act(elsewhere_still_refused)
    finally:
        plane.kubectl("delete", "rolebinding", "careless", "--namespace=default")


async def elsewhere_still_refused(hosts: Hosts) -> None:
    elsewhere = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    lease = a_lease("host.h1", "h1/x", "default")
    await refused(hosts.apis[H1], "POST", elsewhere, lease, says="Leases of metallb-system only")
    service = a_service("identity-made")
    await refused(hosts.apis[H1], "POST", SERVICES, service, says="may not write Services, only their status")
    outside, says = {"spec": {"externalIPs": ["203.0.113.9"]}}, "may not write Services, only their status"
    await refused(hosts.apis[H1], "PATCH", f"{SERVICES}/identity-elsewhere", outside, kind=MERGE_PATCH, says=says)
    await refused(hosts.apis[H1], "DELETE", f"{SERVICES}/identity-elsewhere", says=says)
    address = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.249"}]}}}
    path, says = f"{SERVICES}/identity-elsewhere/status", "its certificate is not of the group hostagent:allocators"
    await refused(hosts.apis[H3], "PATCH", path, address, kind=MERGE_PATCH, says=says)


def test_a_stolen_credential_tells_nothing_in_anothers_name(act: Callable[[Act], None], plane: ControlPlane) -> None:
    plane.apply(a_service("identity-slander"))

    async def body(hosts: Hosts) -> None:
        api = hosts.apis[H1]
        about = about_service(await the_service(hosts, "identity-slander"))
        event = event_object("identity.slander", about, reason="Told", message="x", warning=True, node=H2, count=1)
        await refused(api, "POST", EVENTS, event, says="Events in its own name only")
        path = f"{STATUSES}/servicel2statuses"
        await refused(api, "POST", path, a_status(H2), says="status objects of its own node only")
        own = msgspec.json.decode(await api.request("POST", path, body=msgspec.json.encode(a_status(H1))))
        name = own["metadata"]["name"]
        moved = {"metadata": {"labels": {"metallb.io/node": H2}}}
        await refused(api, "PATCH", f"{path}/{name}", moved, kind=MERGE_PATCH, says="of its own node only")
        lie = {"status": {"node": H2}}
        await refused(api, "PATCH", f"{path}/{name}/status", lie, kind=MERGE_PATCH, says="status.node must be h1")
        await refused(hosts.apis[H3], "DELETE", f"{path}/{name}", says="of its own node only")

    act(body)


def test_the_cluster_admin_is_not_concerned(act: Callable[[Act], None]) -> None:
    async def body(hosts: Hosts) -> None:
        vip = next(ADDRESSES)
        lease = msgspec.json.encode(a_lease(claim_name(vip), H2))
        await hosts.admin.request("POST", LEASES, body=lease)
        await hosts.admin.request("DELETE", f"{LEASES}/{claim_name(vip)}")

    act(body)


def a_service(name: str, kind: str = "LoadBalancer") -> dict[str, Any]:
    meta = {"name": name, "namespace": "default", "labels": {"app": name}}
    spec = {"type": kind, "ports": [{"port": 80, "protocol": "TCP"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


async def the_service(hosts: Hosts, name: str) -> Service:
    return to_service(await hosts.admin.request("GET", f"{SERVICES}/{name}"))
