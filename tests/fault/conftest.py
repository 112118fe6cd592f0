"""One lab for the campaign, brought up by the playbook as an operator would; gone when the campaign is over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fabric.deploy import deploy
from tests.fabric.fixtures import fabric_machine
from tests.fabric.lab import Lab
from tests.fault.stage import Stage

__all__ = ["fabric_machine"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("fabric")


@pytest.fixture(scope="package")
def stage(fabric_machine: None) -> Iterator[Stage]:  # noqa: ARG001
    """Three hosts with agents. Its name tells the next run whose it was, should this one be killed."""
    with Lab.up(f"test-{os.getpid()}-fault") as lab:
        deploy(lab)
        yield Stage(lab=lab)
