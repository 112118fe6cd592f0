"""docs/parity.md tells the truth: every row is shown by tests that exist, and every field of our kinds has a row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from hostagent.core.config.bgp_advertisements import MED, PREPEND, SHUTDOWN

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
SHOWN = TEXT[: TEXT.index("## Not yet shown")]


def _rows(text: str) -> list[tuple[str, ...]]:
    return [
        tuple(cell.strip() for cell in line.strip("| ").split(" | "))
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith(("| ---", "| What"))
    ]


ROWS = _rows(SHOWN)
_AT = SHOWN.index("## BGP at the router")
AT_THE_ROUTER = _rows(SHOWN[_AT : SHOWN.index("\n## ", _AT)])
BGP_KINDS = ("BGPPeer", "BFDProfile", "Community", "BGPAdvertisement")
NOTHING_TO_SEE = ("BGPPeer spec.vrf", "BGPPeer spec.disableMP")
"""No VRF in the lab's kernel; no effect."""
_NAME = re.compile(r"`(?P<path>[a-z_/]+\.py)::(?P<test>test_\w+)(?:\[(?P<case>[^`]+)\])?`")


@cache
def _tests(path: str) -> tuple[frozenset[str], frozenset[str]]:
    """The test functions of a file, and all its strings as pytest makes ids of them."""
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return frozenset(names), frozenset(text.replace(" ", "-") for text in texts)


def _fields() -> list[str]:
    """`Kind spec.field` of every field of spec and status of our kinds, as the CRDs have them."""
    found = set()
    for path in sorted((ROOT / "hostagent" / "manifests").glob("10-*.yaml")):
        crd = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        for version in crd["versions"]:
            parts = version["schema"]["openAPIV3Schema"]["properties"]
            for part in ("spec", "status"):
                fields = parts.get(part, {}).get("properties", {})
                found |= {f"{crd['names']['kind']} {part}.{field}" for field in fields}
    return sorted(found)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_row_is_shown_by_tests_that_exist(row: tuple[str, ...]) -> None:
    what, shown_by = row[0], row[-1]
    named = list(_NAME.finditer(shown_by))
    assert named, f"{what}: names no test"
    assert len(named) == shown_by.count("`") // 2, f"{what}: something here is no test's name: {shown_by}"
    for each in named:
        names, cases = _tests(each["path"])
        assert each["test"] in names, f"{each['path']} has no {each['test']}"
        assert each["case"] is None or each["case"] in cases, f"{each['test']} has no case {each['case']}"


def test_every_field_of_our_kinds_has_a_row() -> None:
    assert [field for field in _fields() if f"`{field}`" not in SHOWN] == []


def test_every_field_and_annotation_of_bgp_is_seen_at_a_router() -> None:
    fields = [field for field in _fields() if field.startswith(BGP_KINDS) and " spec." in field]
    seen = {what.strip("`"): tuple(_NAME.finditer(shown_by)) for what, _, shown_by in AT_THE_ROUTER}
    assert [each for each in (*fields, MED, PREPEND, SHUTDOWN) if each not in seen] == []
    elsewhere = [what for what, tests in seen.items() if not any(each["path"].startswith("bgp/") for each in tests)]
    assert set(elsewhere) <= set(NOTHING_TO_SEE)


def test_no_field_has_a_row_that_no_kind_has() -> None:
    named = re.findall(r"`([A-Z]\w+ (?:spec|status)\.\w+)`", SHOWN)
    assert sorted(set(named) - set(_fields())) == []
