"""hostagent brought to a lab as an operator would: `ansible-playbook` over ssh, from inside the lab's namespace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.fabric.command import FabricError, run
from tests.fabric.lab import Lab

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900.0
HOSTS_PYTHON = "3.11"  # of Debian 12, the lab hosts' base tree


def playbook_argv(lab: Lab, playbook: str, *arguments: str) -> list[str]:
    """The command line, as README has it: nsenter, because a lab's wire can be reached from nowhere else."""
    program = str(Path(sys.executable).parent / "ansible-playbook")
    inventory = ["-i", "inventories/lab", f"playbooks/{playbook}.yml", "--limit", ",".join(lab.hosts)]
    return ["nsenter", f"--net=/run/netns/{lab.state.netns}", program, *inventory, *arguments]


def playbook_env(lab: Lab) -> Mapping[str, str]:
    """This environment, and which lab the inventory means."""
    here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"LAB": lab.state.name, "PATH": here, "ANSIBLE_FORCE_COLOR": "0"}


def build_wheelhouse() -> None:
    """Build what the role brings to hosts, unless it is in the cache: a lab's namespace reaches no package index.

    Raises FabricError.
    """
    program = ROOT / "roles/hostagent/files/wheelhouse.py"
    argv = [sys.executable, str(program), "--source", str(ROOT), "--python-version", HOSTS_PYTHON, "--python", ""]
    run(argv, timeout_s=TIMEOUT_S)


def deploy(lab: Lab, *arguments: str, playbook: str = "site") -> str:
    """Run a playbook on all hosts at once; returns what it printed.

    Raises FabricError with the end of that when it fails.
    """
    build_wheelhouse()
    argv: Sequence[str] = playbook_argv(lab, playbook, "-e", "hostagent_serial=100%", *arguments)
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env=playbook_env(lab),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise FabricError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def recap(output: str) -> dict[str, tuple[str, str]]:
    """What a playbook that ran has printed last: host → how many tasks have changed it, and how many failed."""
    lines = re.findall(r"^(h\d) .*changed=(\d+) .*failed=(\d+)", output, re.MULTILINE)
    return {host: (changed, failed) for host, changed, failed in lines}


if __name__ == "__main__":
    build_wheelhouse()
