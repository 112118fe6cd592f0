"""What of a lab is on this machine: after its end, nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tests.fabric import cgroups, netns
from tests.fabric.state import LabState


def remains(name: str) -> list[str]:
    """Files, control groups, namespaces, mounts and processes of a lab, but for those that ask."""
    state = LabState(name=name)
    left = [str(path) for path in (state.folder, *cgroups.of_lab(name)) if path.exists()]
    left += [each for each in (state.netns, state.client_netns) if netns.exists(each)]
    left += [
        line
        for line in Path("/proc/mounts").read_text().splitlines()
        if f"/{name}/" in line or line.startswith(f"{name}-")
    ]
    asking = set(_with_ancestors(os.getpid()))
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if name in command and int(process.name) not in asking:
            left.append(command)
    return left


def _with_ancestors(pid: int) -> Iterator[int]:
    while pid:
        yield pid
        # After the command name, which may hold anything: state, parent.
        pid = int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
