"""Where a lab keeps what, and what its parts are called. All of it follows from the lab's name.

So a lab can be torn down by anyone who knows the name, also when the process that made it was killed half-way.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.fabric.command import FabricError

DEFAULT_NAME = "hostagent-lab"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}")


def labs_dir() -> Path:
    """The folder with one sub-folder per lab that exists."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "hostagent" / "labs"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabState:
    """Names and places of one lab."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise FabricError(
                f"lab name {self.name!r}: must be at most 30 lower-case letters, digits and dashes, "
                "beginning with a letter (it names namespaces and control groups)"
            )

    @property
    def folder(self) -> Path:
        return labs_dir() / self.name

    @property
    def netns(self) -> str:
        return self.name

    @property
    def client_netns(self) -> str:
        return f"{self.name}-client"

    @property
    def stranger_netns(self) -> str:
        """A machine on the segment that is no host of ours; there while a test wants one."""
        return f"{self.name}-stranger"

    @property
    def private_key(self) -> Path:
        """Opens root's door on every host of the lab."""
        return self.folder / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "ssh" / "known_hosts"

    def host_folder(self, host: str) -> Path:
        return self.folder / "hosts" / host

    def create(self) -> None:
        """Make the lab's folder. Raises FabricError if there is one: somebody's lab."""
        try:
            self.folder.mkdir(mode=0o700, parents=True)
        except FileExistsError as exc:
            raise FabricError(
                f"lab {self.name} exists already: tear it down first (python -m tests.fabric down --name {self.name})"
            ) from exc

    def forget(self) -> None:
        """Remove the lab's folder; no folder is fine. Never follows a mount: that would be another tree's files."""
        inside = f"{self.folder}/"
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        if busy := [point for point in mounts if point.startswith(inside)]:
            raise FabricError(f"lab {self.name}: {busy[0]} is still mounted; umount it, then tear down again")
        shutil.rmtree(self.folder, ignore_errors=not self.folder.exists())


def netns_path(netns: str) -> Path:
    return Path("/run/netns") / netns


def existing_labs() -> list[str]:
    return sorted(path.name for path in labs_dir().iterdir()) if labs_dir().is_dir() else []
