"""`hostagent who-has`: what the segment says, held against the claims."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

cli = importlib.import_module("hostagent.cli.who_has")  # the package has its command under the same name
H1, H2, STRANGER = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:99"
NAMES = {H1: "h1", H2: "h2"}


def vip(holder: str | None, *, here: bool = False, heard_on: str | None = "eth0") -> dict[str, Any]:
    return {"vip": "198.51.100.64", "holder": holder, "here": here, "heard_on": heard_on if holder else None}


@pytest.mark.parametrize(
    ("asked", "macs", "answered", "well"),
    [
        (vip("h2"), [H2], "right", True),
        (vip("h2"), [], "nobody", False),
        (vip("h2", heard_on=None), [], "elsewhere", True),
        (vip("h2"), [STRANGER], "other", False),
        (vip("h2"), [H2, STRANGER], "twice", False),
        (vip("h1", here=True), [], "here", True),
        (vip("h1", here=True), [H1], "here", True),  # heard through a second card on the same segment
        (vip("h1", here=True), [H2], "twice", False),
        (vip(None), [], "free", True),
        (vip(None), [H2], "other", False),
    ],
)
def test_an_answer_is_right_when_it_is_the_holders_alone(
    asked: dict[str, Any], macs: list[str], answered: str, well: bool
) -> None:
    finding = cli.judged(asked, "h1", macs, NAMES)
    assert finding.answered == answered
    assert finding.as_it_should is well


def test_who_answered_is_named_by_node_or_else_by_mac() -> None:
    finding = cli.judged(vip("h2"), "h1", [H2, STRANGER], NAMES)
    assert finding.by == (f"h2 {H2}", STRANGER)
