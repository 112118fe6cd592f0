"""The packaged admission policies on a real API server: what they refuse, with which words, and what they let pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fabric.admin import KubectlError, wait_for
from tests.fabric.controlplane import ControlPlane
from tests.kube.test_crds import cluster, create, dry, refusal
from tests.samples import NAMESPACE

__all__ = ["cluster"]

pytestmark = pytest.mark.kube

Object = dict[str, Any]
SOON_S = 30.0


def an_object(kind: str, name: str, spec: Object, *, version: str = "v1beta1", **metadata: Any) -> Object:
    return {
        "apiVersion": f"metallb.io/{version}",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, **metadata},
        "spec": spec,
    }


def a_pool(name: str, *addresses: str, **annotations: str) -> Object:
    names = {f"hostagent.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return an_object("IPAddressPool", name, {"addresses": list(addresses)}, annotations=names)


@contextmanager
def stored(cluster: ControlPlane, manifest: Object) -> Iterator[None]:
    """The object is there, and is gone afterwards."""
    create(cluster, manifest)
    meta = manifest["metadata"]
    try:
        yield
    finally:
        where = ("-n", meta["namespace"]) if "namespace" in meta else ()
        cluster.kubectl("delete", manifest["kind"], meta["name"], *where, "--ignore-not-found")


def refused(cluster: ControlPlane, manifest: Object, says: str) -> None:
    """Refused as soon as the API server's caches know of what it stands against; a moment, on a loaded machine more."""

    def told() -> bool:
        try:
            dry(cluster, manifest)
        except KubectlError as error:
            return says in str(error)
        return False

    wait_for(told, SOON_S, f"a refusal that says: {says}")


@pytest.mark.parametrize("kind", ["IPAddressPool", "L2Advertisement", "Community"])
def test_configuration_outside_its_namespace_is_refused(cluster: ControlPlane, kind: str) -> None:
    spec = {"addresses": ["203.0.113.0/24"]} if kind == "IPAddressPool" else {}
    elsewhere = an_object(kind, "elsewhere", spec)
    elsewhere["metadata"]["namespace"] = "default"
    assert f"must be created in {NAMESPACE} namespace" in refusal(cluster, elsewhere)


@pytest.fixture(scope="module")
def first(cluster: ControlPlane) -> Iterator[ControlPlane]:
    """A pool that others can get in the way of."""
    pool = a_pool(
        "first", "203.0.113.0/25", "203.0.113.200-203.0.113.210", "2001:db8:9::/64", "2001:db8:7::5-2001:db8:7::9"
    )
    with stored(cluster, pool):
        refused(cluster, a_pool("second", "203.0.113.0/24"), "overlaps IPAddressPool first")
        yield cluster


class TestPoolsThatOverlap:
    @pytest.mark.parametrize(
        "addresses",
        [
            "203.0.113.64/26",
            "203.0.112.0/23",
            "203.0.113.127-203.0.113.130",
            "203.0.113.210-203.0.113.255",
            "203.0.113.208/30",
            "2001:db8:9::/80",
            "2001:db8:9::1-2001:db8:f::1",
            "2001:db8:7::/64",
            "2001:db8:7::9-2001:db8:7::20",
        ],
    )
    def test_a_pool_that_overlaps_another_is_refused_by_the_others_name(
        self, first: ControlPlane, addresses: str
    ) -> None:
        said = refusal(first, a_pool("second", addresses))
        assert "spec.addresses overlaps IPAddressPool first; leave each address to one pool" in said

    def test_pools_side_by_side_are_admitted(self, first: ControlPlane) -> None:
        beside = ("203.0.113.128/26", "203.0.113.211-203.0.113.255", "2001:db8:9:1::/64", "2001:db8:7::a-2001:db8:7::f")
        assert "created" in dry(first, a_pool("second", *beside))

    def test_an_edit_into_an_overlap_is_refused_and_one_of_something_else_is_not(self, first: ControlPlane) -> None:
        with stored(first, a_pool("second", "203.0.113.128/26")):
            where = ("patch", "ipaddresspool", "second", "-n", NAMESPACE, "--type=merge", "-p")
            with pytest.raises(KubectlError, match="overlaps IPAddressPool first"):
                first.kubectl(*where, '{"spec": {"addresses": ["203.0.113.0/24"]}}')
            first.kubectl(*where, '{"spec": {"autoAssign": false}}')

    def test_a_pool_with_a_thousand_entries_is_admitted(self, first: ControlPlane) -> None:
        """What is too much for the API server's limits is left to the hosts, and refused to nobody."""
        many = [f"10.{n // 250}.{n % 250}.1-10.{n // 250}.{n % 250}.9" for n in range(1024)]
        assert "created" in dry(first, a_pool("many", *many))


@pytest.mark.parametrize(
    ("annotations", "says"),
    [
        ({"exclusive": "yes"}, 'hostagent.io/exclusive must be "true" or "false"'),
        ({"sharing_scope": "tenant"}, 'hostagent.io/sharing-scope must be "cluster" or "namespace"'),
        ({"quarantine": "30"}, "hostagent.io/quarantine must be a duration with its unit"),
        ({"allow_overlap": "nodes,hosts"}, "hostagent.io/allow-overlap must be nodes, pods, services"),
        ({"exclusiv": "true"}, "there is no annotation hostagent.io/exclusiv on a pool"),
    ],
)
def test_a_pools_wrong_annotation_is_refused(cluster: ControlPlane, annotations: dict[str, str], says: str) -> None:
    assert says in refusal(cluster, a_pool("wrong", "192.0.2.0/24", **annotations))


def test_a_pools_annotations_are_admitted(cluster: ControlPlane) -> None:
    pool = a_pool(
        "right",
        "192.0.2.0/24",
        exclusive="true",
        sharing_scope="namespace",
        dual_stack_partner="six",
        quarantine="1m30s",
        allow_overlap="nodes, pods",
    )
    assert "created" in dry(cluster, pool)


def test_an_alias_that_another_community_has_is_refused_by_the_others_name(cluster: ControlPlane) -> None:
    aliases = {"communities": [{"name": "backup", "value": "65000:1"}]}
    with stored(cluster, an_object("Community", "first", aliases)):
        refused(cluster, an_object("Community", "second", aliases), "backup is an alias of Community first already")
        cluster.kubectl("annotate", "community", "first", "-n", NAMESPACE, "touched=yes")  # itself is no other


def test_a_bfd_profile_cannot_be_deleted_while_a_peer_uses_it(cluster: ControlPlane) -> None:
    peer = an_object(
        "BGPPeer",
        "tor",
        {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1", "bfdProfile": "fast"},
        version="v1beta2",
    )
    delete = ("delete", "bfdprofile", "fast", "-n", NAMESPACE)
    with stored(cluster, an_object("BFDProfile", "fast", {})), stored(cluster, peer):

        def refused_for_the_peer() -> bool:
            try:
                cluster.kubectl(*delete, "--dry-run=server")
            except KubectlError as error:
                return "BGPPeer tor uses this profile" in str(error)
            return False

        wait_for(refused_for_the_peer, SOON_S, "the profile to be protected")
        cluster.kubectl("delete", "bgppeer", "tor", "-n", NAMESPACE)
        wait_for(lambda: not refused_for_the_peer(), SOON_S, "the profile to be free again")


def a_service(name: str = "web", **fields: Any) -> Object:
    annotations = fields.pop("annotations", {})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "allocateLoadBalancerNodePorts": False, **fields},
    }


class TestWhatServicesAskFor:
    @pytest.mark.parametrize(
        ("service", "says"),
        [
            (a_service(annotations={"metallb.io/loadBalancerIPs": "198.51.100"}), '"198.51.100" is not an IP address'),
            (
                a_service(annotations={"metallb.universe.tf/loadBalancerIPs": "198.51.100.1, 198.51.100.2"}),
                "at most one address of each family",
            ),
            (
                a_service(annotations={"metallb.io/loadBalancerIPs": "198.51.100.1"}, loadBalancerIP="198.51.100.1"),
                "are both set",
            ),
        ],
        ids=["nonsense", "two-of-a-family", "both-ways"],
    )
    def test_what_nobody_can_be_given_is_warned_of_and_admitted(
        self, cluster: ControlPlane, service: Object, says: str
    ) -> None:
        with pytest.raises(KubectlError, match=r"warning received") as caught:
            create(cluster, service, "--dry-run=server", "--warnings-as-errors")
        assert says in str(caught.value)
        assert "created" in dry(cluster, service)

    def test_a_sensible_request_is_admitted_without_a_word(self, cluster: ControlPlane) -> None:
        service = a_service(annotations={"metallb.io/loadBalancerIPs": "198.51.100.1, 2001:db8::1"})
        assert "created" in create(cluster, service, "--dry-run=server", "--warnings-as-errors")
