"""What a stolen credential of a host is not good for, at a real API server: nothing in another's name."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from hostagent.edges.kube.events import about_service, event_object
from hostagent.edges.kube.lease_objects import claim_name
from hostagent.edges.kube.transport import MERGE_PATCH
from hostagent.model.cluster import OLD_POOL_ANNOTATION, POOL_ANNOTATION
from tests.fabric.controlplane import ControlPlane
from tests.kube.hosts import (
    ADDRESSES,
    EVENTS,
    H1,
    H2,
    H3,
    LEASES,
    NOTE,
    SERVICES,
    STATUSES,
    Act,
    Hosts,
    a_lease,
    a_service,
    a_status,
    read,
    refused,
    the_service,
)

pytestmark = [pytest.mark.kube, pytest.mark.netns]


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
