"""The role hostagent_frr run on machines of a lab that are no Nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fabric.command import FabricError
from tests.fabric.hosts import PROJECT
from tests.fabric.lab import Lab

_PLAY = [
    {
        "name": "FRR, joined with the agent",
        "hosts": "all",
        "roles": ["hostagent_frr"],
    }
]


def run_role(lab: Lab, hosts: Sequence[str], **variables: object) -> str:
    """Run it on these, by the lab's own connection; what Ansible said is returned. Raises FabricError."""
    shared = {
        "ansible_connection": "labhost",
        "labhost_state": str(lab.state.folder),
        "ansible_python_interpreter": "/usr/bin/python3",
        "hostagent_frr_manage_packages": False,
        **variables,
    }
    inventory = {"all": {"vars": shared, "hosts": {name: {"ansible_host": name} for name in hosts}}}
    with TemporaryDirectory() as scratch:
        (Path(scratch) / "hosts.yml").write_text(json.dumps(inventory))  # JSON is YAML
        (Path(scratch) / "play.yml").write_text(json.dumps(_PLAY))
        environment = {
            **os.environ,
            "ANSIBLE_CONNECTION_PLUGINS": str(PROJECT / "tests/fabric/ansible/connection_plugins"),
            "ANSIBLE_ROLES_PATH": str(PROJECT / "roles"),
            "ANSIBLE_FORCE_COLOR": "0",
        }
        program = Path(sys.executable).parent / "ansible-playbook"
        done = subprocess.run(
            [program, "-i", f"{scratch}/hosts.yml", f"{scratch}/play.yml"],
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise FabricError(f"the role hostagent_frr failed:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
    return done.stdout
