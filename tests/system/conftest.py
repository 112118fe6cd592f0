"""One lab for all tests of this folder, brought up by the playbook as an operator would.

Tests put back what they break. Each works in a Kubernetes namespace of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fabric.deploy import deploy
from tests.fabric.fixtures import fabric_machine
from tests.fabric.lab import Lab
from tests.system.cluster import Cluster, share_for

__all__ = ["fabric_machine"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("fabric")


@pytest.fixture(scope="session")
def lab(fabric_machine: None) -> Iterator[Lab]:  # noqa: ARG001
    """Three hosts with agents. Its name tells the next run whose it was, should this one be killed."""
    with Lab.up(f"test-{os.getpid()}-system") as lab:
        deploy(lab)
        yield lab


@pytest.fixture
def cluster(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with share_for(request.node.name, lab) as cluster:
        yield cluster
