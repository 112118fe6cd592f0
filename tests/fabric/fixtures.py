"""Labs for pytest. A test folder's conftest.py imports what it uses of these.

Tests that share a lab put back what they break; one that cannot asks `make_lab` for its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fabric.lab import Lab
from tests.fabric.machine import why_not
from tests.fabric.state import existing_labs

MakeLab = Callable[..., Lab]

# Names the process that made it, so that the next run finds what a killed one left.
_OURS = re.compile(r"test-(\d+)-.*")


@pytest.fixture(scope="session")
def fabric_machine() -> None:
    """The machine can have labs, else the test is skipped with the reason; labs of dead test runs are gone."""
    if reason := why_not():
        pytest.skip(reason)
    for name in existing_labs():
        ours = _OURS.fullmatch(name)
        if ours and not Path("/proc", ours[1]).exists():
            Lab.down(name)


@pytest.fixture(scope="module")
def make_lab(fabric_machine: None) -> Iterator[MakeLab]:  # noqa: ARG001 - a fixture asks by its arguments
    """Makes labs with the arguments of Lab.up, under names of their own; all are removed after the module."""
    made: list[str] = []

    def make(**shape: object) -> Lab:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "one")
        name = f"test-{os.getpid()}-{worker}-{len(made) + 1}"
        made.append(name)
        return Lab.up(name, **shape)  # type: ignore[arg-type]

    try:
        yield make
    finally:
        for name in made:
            Lab.down(name)


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    """Three hosts with kube-proxy, control plane, client; shared by the tests of a module."""
    return make_lab(hosts=3)
