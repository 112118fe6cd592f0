"""Annotations `hostagent.io/...` on a pool: read, or refused with a remedy; without any, a pool is MetalLB's."""

from __future__ import annotations

import pytest

from hostagent.core.config_set import build
from hostagent.model.cluster import QUARANTINE_S, ConfigSet, Fault, Pool, Resource

NAMESPACE = "metallb-system"


def a_resource(name: str = "pool", *addresses: str, kind: str = "IPAddressPool", **annotations: str) -> Resource:
    spec = {"addresses": list(addresses or ("192.0.2.0/28",))} if kind == "IPAddressPool" else {}
    names = {f"hostagent.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return Resource(
        api_version="metallb.io/v1beta1",
        kind=kind,
        namespace=NAMESPACE,
        name=name,
        annotations=names,
        spec=spec,
    )


EVERYTHING = a_resource("all", kind="L2Advertisement")


def built(*pools: Resource, previous: ConfigSet | None = None) -> ConfigSet:
    return build([*pools, EVERYTHING], namespace=NAMESPACE, previous=previous)


def pool_of(**annotations: str) -> Pool:
    config = built(a_resource(**annotations))
    assert not [fault for fault in config.faults if not fault.warning], config.faults
    return config.pools[0]


def fault_of(*pools: Resource) -> Fault:
    [fault] = built(*pools).faults
    return fault


def test_without_annotations_a_pool_is_as_metallb_has_it() -> None:
    pool = pool_of()
    assert (pool.exclusive, pool.sharing_within_namespace, pool.partner, pool.allow_overlap) == (
        False,
        False,
        "",
        frozenset(),
    )
    assert pool.quarantine_s == QUARANTINE_S


@pytest.mark.parametrize(
    ("annotations", "field", "value"),
    [
        ({"sharing_scope": "namespace"}, "sharing_within_namespace", True),
        ({"sharing_scope": "cluster"}, "sharing_within_namespace", False),
        ({"exclusive": "true"}, "exclusive", True),
        ({"dual_stack_partner": "six"}, "partner", "six"),
        ({"quarantine": "5m"}, "quarantine_s", 300.0),
        ({"quarantine": "0"}, "quarantine_s", 0.0),
        ({"allow_overlap": "nodes, pods"}, "allow_overlap", frozenset({"nodes", "pods"})),
    ],
)
def test_an_annotation_is_read(annotations: dict[str, str], field: str, value: object) -> None:
    assert getattr(pool_of(**annotations), field) == value


@pytest.mark.parametrize(
    ("annotations", "says"),
    [
        ({"exclusive": "yes"}, 'is "yes"; write "true" or "false"'),
        ({"sharing_scope": "tenant"}, 'is "tenant"; write "cluster" or "namespace"'),
        ({"quarantine": "30"}, '"30" is not a duration; write a number with its unit'),
        ({"quarantine": "25h"}, "longer than a day"),
        ({"allow_overlap": "nodes,hosts"}, '"hosts" is unknown; write nodes, pods, services'),
        ({"exclusiv": "true"}, "no such annotation on a pool; did you mean hostagent.io/exclusive?"),
        ({"colour": "red"}, "no such annotation on a pool; remove it"),
    ],
)
def test_a_wrong_annotation_sets_the_pool_aside_with_a_remedy(annotations: dict[str, str], says: str) -> None:
    config = built(a_resource(**annotations))
    [fault] = [fault for fault in config.faults if not fault.warning and fault.kind == "IPAddressPool"]
    assert says in fault.message
    assert fault.field.startswith("metadata.annotations[hostagent.io/")
    assert config.pools == ()


def test_a_typo_in_an_edit_leaves_the_pool_as_it_was() -> None:
    before = built(a_resource(quarantine="5m"))
    after = built(a_resource(quarantine="5 minutes"), previous=before)
    assert after.pools == before.pools


def test_annotations_of_others_are_none_of_our_business() -> None:
    resource = a_resource()
    resource.annotations["example.com/exclusive"] = "perhaps"
    resource.annotations["hostagent.io/simulate"] = "delete"
    assert built(resource).faults == ()


def test_exclusive_without_service_allocation_is_said_to_do_nothing() -> None:
    fault = fault_of(a_resource(exclusive="true"))
    assert fault.warning
    assert "no effect without spec.serviceAllocation" in fault.message


def test_a_partner_that_is_not_there_yet_is_told_and_heals_by_itself() -> None:
    four = a_resource("four", dual_stack_partner="six")
    fault = fault_of(four)
    assert fault.warning
    assert 'there is no IPAddressPool "six"' in fault.message
    assert built(four, a_resource("six", "2001:db8::/112")).faults == ()


def test_a_partner_of_the_same_family_is_told_by_its_name() -> None:
    fault = fault_of(a_resource("four", dual_stack_partner="more"), a_resource("more", "192.0.2.16/28"))
    assert "IPAddressPool more has the same families as this one" in fault.message


def test_a_pool_cannot_be_its_own_partner() -> None:
    assert "names this pool itself" in fault_of(a_resource("four", dual_stack_partner="four")).message
