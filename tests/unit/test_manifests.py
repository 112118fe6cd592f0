"""The CRDs, and what a host may do: as the agent reads them, and not a field or a right more."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import inspect

from hostagent.core.config import schema

MANIFESTS = sorted(
    (file.name, file.read_text(encoding="utf-8")) for file in (files("hostagent") / "manifests").iterdir()
)
DOCUMENTS: list[dict[str, Any]] = [document for _, text in MANIFESTS for document in yaml.safe_load_all(text)]
CRDS = {each["spec"]["names"]["kind"]: each["spec"] for each in DOCUMENTS if each["kind"] == "CustomResourceDefinition"}
SHAPES: dict[str, type[msgspec.Struct]] = {
    "IPAddressPool": schema.IPAddressPool,
    "L2Advertisement": schema.L2Advertisement,
    "BGPAdvertisement": schema.BGPAdvertisement,
    "BGPPeer": schema.BGPPeer,
    "BFDProfile": schema.BFDProfile,
    "Community": schema.Community,
}
STATUS = {
    "IPAddressPool": {"assignedIPv4", "assignedIPv6", "availableIPv4", "availableIPv6"},
    "ServiceL2Status": {"node", "serviceName", "serviceNamespace", "interfaces"},
    "ServiceBGPStatus": {"node", "serviceName", "serviceNamespace", "peers"},
    "ConfigurationState": {"result", "errorSummary", "conditions"},
}
NAMES = {
    "IPAddressPool": "ipaddresspools",
    "L2Advertisement": "l2advertisements",
    "BGPAdvertisement": "bgpadvertisements",
    "BGPPeer": "bgppeers",
    "BFDProfile": "bfdprofiles",
    "Community": "communities",
    "ServiceL2Status": "servicel2statuses",
    "ServiceBGPStatus": "servicebgpstatuses",
    "ConfigurationState": "configurationstates",
}


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind, spec in CRDS.items():
        for version in spec["versions"]:
            yield f"{kind} {version['name']}", version["schema"]["openAPIV3Schema"]


def fields_of_schema(node: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, child in node.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from fields_of_schema(child, f"{path}.{name}")
    if "items" in node:
        yield from fields_of_schema(node["items"], f"{path}[]")


def fields_of_shape(node: inspect.Type, path: str = "") -> Iterator[str]:
    match node:
        case inspect.StructType(fields=fields):
            for field in fields:
                yield f"{path}.{field.encode_name}"
                yield from fields_of_shape(field.type, f"{path}.{field.encode_name}")
        case inspect.ListType(item_type=item):
            yield from fields_of_shape(item, f"{path}[]")
        case inspect.UnionType(types=types):
            for each in types:
                yield from fields_of_shape(each, path)
        case _:
            pass


def bounds(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if node.get("type") == "integer":
        yield path, node.get("minimum"), node.get("maximum")
    for name, child in node.get("properties", {}).items():
        yield from bounds(child, f"{path}.{name}")
    if "items" in node:
        yield from bounds(node["items"], f"{path}[]")


def bounds_of_shape(node: inspect.Type, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    match node:
        case inspect.IntType(ge=least, le=most):
            yield path, least, most
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from bounds_of_shape(field.type, f"{path}.{field.encode_name}")
        case inspect.ListType(item_type=item):
            yield from bounds_of_shape(item, f"{path}[]")
        case inspect.UnionType(types=types):
            for each in types:
                yield from bounds_of_shape(each, path)
        case _:
            pass


def test_every_kind_is_there_under_its_name() -> None:
    assert {kind: spec["names"]["plural"] for kind, spec in CRDS.items()} == NAMES
    assert {spec["group"] for spec in CRDS.values()} == {"metallb.io"}
    assert {spec["scope"] for spec in CRDS.values()} == {"Namespaced"}


@pytest.mark.parametrize(("kind", "shape"), SHAPES.items(), ids=SHAPES.keys())
def test_a_crd_has_the_fields_and_ranges_that_the_agent_reads(kind: str, shape: type[msgspec.Struct]) -> None:
    for version in CRDS[kind]["versions"]:
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]

        assert set(fields_of_schema(spec)) == set(fields_of_shape(inspect.type_info(shape)))
        assert set(bounds(spec)) == set(bounds_of_shape(inspect.type_info(shape)))


@pytest.mark.parametrize(("kind", "fields"), STATUS.items(), ids=STATUS.keys())
def test_a_status_has_its_fields(kind: str, fields: set[str]) -> None:
    (version,) = CRDS[kind]["versions"]

    assert set(version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]) == fields


@pytest.mark.parametrize("kind", CRDS)
def test_status_is_a_subresource_in_every_version(kind: str) -> None:
    assert all(version["subresources"] == {"status": {}} for version in CRDS[kind]["versions"])


@pytest.mark.parametrize(("name", "node"), list(schemas()), ids=[name for name, _ in schemas()])
def test_every_field_is_described_and_every_rule_says_what_to_do(name: str, node: dict[str, Any]) -> None:
    def walk(node: dict[str, Any], path: str) -> Iterator[str]:
        for rule in node.get("x-kubernetes-validations", ()):
            assert len(rule["message"].split()) >= 5, (name, path, rule)
        for field, child in node.get("properties", {}).items():
            top = not path and field in ("apiVersion", "kind", "metadata", "spec", "status")
            if "description" not in child and not top:
                yield f"{path}.{field}"
            yield from walk(child, f"{path}.{field}")
        if "items" in node:
            yield from walk(node["items"], f"{path}[]")

    assert list(walk(node, "")) == []
    assert node["description"]


def test_both_versions_of_a_peer_are_the_same_so_that_none_loses_a_field() -> None:
    new, old = CRDS["BGPPeer"]["versions"]

    assert CRDS["BGPPeer"]["conversion"] == {"strategy": "None"}
    assert (new["name"], new["storage"], old["name"], old["storage"]) == ("v1beta2", True, "v1beta1", False)
    assert new["schema"] == old["schema"]
    assert old["deprecated"]


# --- what a host may do -----------------------------------------------------------------------------------------------

READ = {"get", "list", "watch"}
WRITE = {"create", "update", "patch", "delete"}


def rights(kind: str, name: str) -> dict[str, set[str]]:
    (role,) = [each for each in DOCUMENTS if each["kind"] == kind and each["metadata"]["name"] == name]
    return {
        f"{group}/{resource}": set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_a_host_may_do_this_in_the_cluster_and_nothing_else() -> None:
    assert rights("ClusterRole", "hostagent:node") == {
        "/services": READ,
        "/nodes": READ,
        "/namespaces": READ,
        "discovery.k8s.io/endpointslices": READ,
        "networking.k8s.io/servicecidrs": READ,
        "/events": {"create", "patch"},
    }


def test_a_host_may_do_this_in_the_configuration_namespace_and_nothing_else() -> None:
    statuses = [NAMES[kind] for kind in NAMES if kind not in SHAPES]

    assert rights("Role", "hostagent:node") == {
        **{f"metallb.io/{NAMES[kind]}": READ for kind in SHAPES},
        **{f"metallb.io/{name}": READ | WRITE for name in statuses},
        **{f"metallb.io/{name}/status": {"patch", "update"} for name in statuses},
        "coordination.k8s.io/leases": READ | WRITE,
        "/secrets": {"get"},
    }


def test_a_host_that_may_allocate_may_write_addresses_and_counters_besides() -> None:
    assert rights("ClusterRole", "hostagent:allocator") == {"/services/status": {"patch", "update"}}
    assert rights("Role", "hostagent:allocator") == {"metallb.io/ipaddresspools/status": {"patch", "update"}}


def test_only_the_groups_of_hosts_are_given_rights() -> None:
    bindings = [each for each in DOCUMENTS if each["kind"] in ("RoleBinding", "ClusterRoleBinding")]

    assert [(each["roleRef"]["name"], each["subjects"]) for each in bindings] == [
        (f"hostagent:{role}", [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}])
        for role, group in (("node", "hostagent:nodes"), ("allocator", "hostagent:allocators"))
        for _ in ("cluster", "namespace")
    ]


def policies(file: str = "15-admission.yaml") -> dict[str, dict[str, Any]]:
    """Those of one file: 15 ties hosts to their names, 30 is about everybody's mistakes."""
    found = [each for each in yaml.safe_load_all(dict(MANIFESTS)[file]) if each["kind"] == "ValidatingAdmissionPolicy"]
    return {each["metadata"]["name"]: each["spec"] for each in found}


def test_every_admission_policy_is_bound_and_refuses() -> None:
    bindings = [each["spec"] for each in DOCUMENTS if each["kind"] == "ValidatingAdmissionPolicyBinding"]

    warns = {"hostagent-requests": ["Warn"]}  # of Services, which are others' objects
    expected = {name: ["Deny"] for name in policies() | policies("30-admission.yaml")} | warns
    assert {each["policyName"]: each["validationActions"] for each in bindings} == expected


@pytest.mark.parametrize("name", policies())
def test_an_admission_policy_concerns_hosts_only_and_says_why_it_refuses(name: str) -> None:
    policy = policies()[name]

    more = {"hostagent-services": ["other-than-an-allocator-writes"]}.get(name, [])
    assert [each["name"] for each in policy["matchConditions"]] == ["by-a-host", *more]
    if more:  # whatever these have not let pass is refused
        assert policy["validations"][-1]["expression"] == "false"
    assert policy["failurePolicy"] == "Fail"
    assert all(("message" in each) != ("messageExpression" in each) for each in policy["validations"])


@pytest.mark.parametrize("name", policies("30-admission.yaml"))
def test_a_policy_about_mistakes_says_what_is_wrong_and_stands_in_no_others_way(name: str) -> None:
    policy = policies("30-admission.yaml")[name]

    assert all(("message" in each) != ("messageExpression" in each) for each in policy["validations"])
    about = {group for rule in policy["matchConstraints"]["resourceRules"] for group in rule["apiGroups"]}
    assert about == {"metallb.io"} or policy["failurePolicy"] == "Ignore"


def test_everything_that_a_host_may_write_is_tied_to_its_name() -> None:
    written = {
        resource.removesuffix("/status")
        for kind, name in (("ClusterRole", "node"), ("ClusterRole", "allocator"), ("Role", "node"))
        for resource, verbs in rights(kind, f"hostagent:{name}").items()
        if verbs - READ
    }
    tied = {
        f"{group}/{resource}".removesuffix("/status")
        for policy in policies().values()
        for rule in policy["matchConstraints"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }

    assert written == tied


def test_the_namespace_stands_where_the_access_command_will_replace_it() -> None:
    """Replacing the literal must catch every place, and no prose in which it would mean something else."""
    by_file = {name: text.count("metallb-system") for name, text in MANIFESTS if "metallb-system" in text}
    namespaces = [d["metadata"].get("namespace", d["metadata"]["name"]) for d in DOCUMENTS if d["kind"] != "x"]

    assert set(by_file) == {"00-namespace.yaml", "15-admission.yaml", "20-rbac.yaml", "30-admission.yaml"}
    assert namespaces.count("metallb-system") == 5
