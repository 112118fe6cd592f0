"""`hostagent check`: the agent's own rules on files, with exit codes and output that a CI job can use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from hostagent.cli.check import check
from hostagent.cli.manifests import ManifestError, read_resources
from tests.samples import BAD, GOOD, Bad

POOL = """
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: %s}
spec: {addresses: [%s]}
"""
ALL = "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: all}\n"


def run(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(check, arguments, input=text, env={"COLUMNS": "80"})


def told(result: Result) -> str:
    """The last column of the table, unwrapped."""
    header, *lines = result.stdout.splitlines()
    return " ".join(" ".join(line[header.index("WHERE") :] for line in lines).split())


def judged(text: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run("--output", "json", "-", text=text).stdout)
    return result


def test_good_files_exit_0(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)

    result = run("--output", "json", str(file))

    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["valid"] is True
    assert report["objects"][0] == {
        "kind": "BFDProfile",
        "namespace": "metallb-system",
        "name": "fast",
        "valid": True,
        "errors": [],
        "warnings": [],
    }
    assert len(report["objects"]) == 10


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_faulty_manifest_exits_1_and_says_where(bad: Bad) -> None:
    result = run("--output", "json", "-", text=yaml.safe_dump(bad.manifest))

    assert result.exit_code == 1
    report = json.loads(result.stdout)
    (faulty,) = report["objects"]
    assert (report["valid"], faulty["valid"], faulty["name"]) == (False, False, "faulty")
    assert any(e["field"] == bad.field and bad.says in e["message"] for e in faulty["errors"]), faulty["errors"]


def test_all_files_are_judged_together(tmp_path: Path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(POOL % ("a", "192.0.2.0/24"))
    b.write_text(POOL % ("b", "192.0.2.128/25") + "---" + "\n" + ALL)

    result = run("--output", "json", str(a), str(b))

    assert result.exit_code == 1
    verdicts = {each["name"]: each for each in json.loads(result.stdout)["objects"]}
    assert verdicts["a"]["valid"]
    assert 'overlaps "192.0.2.0/24" of IPAddressPool a' in verdicts["b"]["errors"][0]["message"]


def test_an_advertisement_that_names_no_pool_there_is_exits_1() -> None:
    result = run("-", text=ALL + "spec: {ipAddressPools: [prod]}")

    assert result.exit_code == 1
    assert 'there is no IPAddressPool "prod"' in told(result)


def test_warnings_do_not_make_an_object_invalid() -> None:
    (pool,) = judged(POOL % ("p", "192.0.2.0/24"))["objects"]

    assert pool["valid"]
    assert pool["warnings"][0]["field"] == "metadata.name"


def test_an_object_given_twice_is_an_error() -> None:
    report = judged(POOL % ("p", "192.0.2.0/24") + "---" + POOL % ("p", "192.0.2.0/25") + "---\n" + ALL)

    assert [each["errors"][0]["field"] for each in report["objects"] if each["errors"]] == ["metadata.name"]


def test_other_kinds_are_passed_over_with_a_note() -> None:
    text = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: default}\n---\n"
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]\n---\n"
        "apiVersion: metallb.io/v1beta1\nkind: ServiceL2Status\nmetadata: {name: l2-x}\n---\n" + ALL
    )

    report = judged(text)

    assert report["skipped"] == ["Deployment default/web", "Kustomization", "ServiceL2Status metallb-system/l2-x"]
    assert [each["kind"] for each in report["objects"]] == ["L2Advertisement"]
    assert "Deployment default/web" in run("-", text=text).stdout


def test_a_list_is_its_items() -> None:
    pool = yaml.safe_load(POOL % ("p", "192.0.2.0/24"))
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [pool, yaml.safe_load(ALL)]})

    assert [each["name"] for each in judged(text)["objects"]] == ["p", "all"]


def test_another_configuration_namespace_may_be_given() -> None:
    result = run("--output", "json", "--namespace", "lb", "-", text=ALL)

    assert json.loads(result.stdout)["objects"][0]["namespace"] == "lb"
    assert json.loads(result.stdout)["objects"][0]["warnings"] == []


def test_the_table_fits_80_columns_and_tells_everything() -> None:
    result = run("-", text=POOL % ("a-pool-with-quite-a-long-name-indeed", "192.0.2.1, 192.0.2.0/33") + "---\n" + ALL)

    assert result.exit_code == 1
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "write 192.0.2.1/32" in told(result)
    assert "write a number from 0 to 32 after /" in told(result)
    assert "2 checked, 1 faulty" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "text", "says"),
    [
        ([], "", "nothing to check"),
        (["/nowhere/pool.yaml"], "", "/nowhere/pool.yaml: cannot be read (No such file or directory)"),
        (["-"], "a: [", "-:1:5: "),
        (["-"], "- a", "-: document 1: is not a mapping"),
        (["-"], ALL + "spec:\n  interfaces: [a]\n  interfaces: [b]\n", "-:6:3: interfaces is given twice"),
        (["-"], "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\n", "document 1: metadata: name is missing"),
        (["-"], "kind: BFDProfile\n", "document 1: apiVersion is missing"),
        (["-"], ALL.replace("name: all", "name: all, labels: {a: 1}"), "metadata.labels.a is 1, no string; put it in"),
    ],
    ids=["no file", "no such file", "no YAML", "no object", "key twice", "no name", "no version", "label"],
)
def test_what_cannot_be_read_exits_2(arguments: list[str], text: str, says: str) -> None:
    result = run(*arguments, text=text)

    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100:20", "100:20"),
        ("2001-01-01", "2001-01-01"),
        ("1_000", "1_000"),
        ("12", 12),
        ("-1", -1),
        ("0x10", 16),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("yes", True),
        ("~", None),
        ("192.0.2.1", "192.0.2.1"),
        ('"12"', "12"),
    ],
)
def test_plain_values_mean_what_they_mean_to_kubectl(text: str, value: object) -> None:
    (resource,) = read_resources(f"{ALL}spec: {{x: {text}}}", source="-", namespace="n")

    assert resource.spec["x"] == value
    assert type(resource.spec["x"]) is type(value)


def test_an_anchor_may_be_merged_over() -> None:
    (resource,) = read_resources(f"{ALL}spec: {{a: &a {{x: 1}}, b: {{<<: *a, x: 2}}}}", source="-", namespace="n")

    assert resource.spec["b"] == {"x": 2}


def test_broken_utf8_exits_2(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_bytes(b"\xff\xfe")

    assert "is not UTF-8 text" in run(str(file)).stderr


def test_a_manifest_error_is_an_error_of_its_own() -> None:
    with pytest.raises(ManifestError, match="correct the YAML"):
        list(read_resources("\x00", source="x", namespace="n"))


def test_a_good_host_configuration_exits_0(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('node = "h1"\n')

    result = run("--output", "json", "--host-config", str(file))

    assert result.exit_code == 0
    (verdict,) = json.loads(result.stdout)["objects"]
    assert (verdict["kind"], verdict["name"], verdict["valid"]) == ("HostConfiguration", str(file), True)


def test_a_typo_in_a_host_configuration_exits_1_beside_good_manifests(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('nodde = "h1"\n')

    result = run("--output", "json", "--host-config", str(file), "-", text=GOOD)

    assert result.exit_code == 1
    *manifests, verdict = json.loads(result.stdout)["objects"]
    assert all(each["valid"] for each in manifests)
    assert "nodde" in verdict["errors"][0]["message"]


def test_a_host_configuration_that_is_not_there_exits_2() -> None:
    assert run("--host-config", "/nowhere/config.toml").exit_code == 2
