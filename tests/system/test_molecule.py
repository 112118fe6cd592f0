"""The roles' own tests, as `make molecule` runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fabric.deploy import ROOT

BIN = Path(sys.executable).parent
TIMEOUT_S = 1200


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.usefixtures("fabric_machine")
def test_the_default_scenario_is_green() -> None:
    """On two systemd hosts; molecule's own output is shown when it fails.

    The scenario's last step fails if a host, a namespace or a mount is left. The checkout is as it was, too.
    """
    before = checkout()
    done = subprocess.run(
        [str(BIN / "molecule"), "test", "-s", "default"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S - 60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-12000:]
    assert checkout() == before


def checkout() -> str:
    """What git sees of files that were made or changed; nothing in a tree without history."""
    said = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout
