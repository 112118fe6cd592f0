"""Control groups of a lab: `<hierarchy>/hostagent-labs/<lab>/<host>`, in each hierarchy that a systemd wants.

Without a group of its own a host would share its tree with every other one: two systemds that take each other's
processes for their own. And a group is the one thing that surely holds all processes of a host: it is how they are
frozen, and how they are ended when nobody is left who knows them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fabric.command import FabricError

_MOUNT = Path("/sys/fs/cgroup")
_FOLDER = "hostagent-labs"
_SETTLED_WITHIN_S = 10.0
_POLL_S = 0.01

# The shell moves itself, then becomes the command: everything that this starts is born in the groups.
_JOIN_THEN_EXEC = 'for g in $0; do echo $$ > "$g/cgroup.procs"; done; exec "$@"'
# A host that is not there (any more) is reported by the command itself.
_JOIN_IF_THERE = 'for g in $0; do { echo $$ > "$g/cgroup.procs"; } 2>/dev/null || :; done; exec "$@"'


def of_lab(lab: str) -> tuple[Path, ...]:
    """The lab's group in each hierarchy, there or not."""
    if (_MOUNT / "cgroup.controllers").exists():
        roots: tuple[Path, ...] = (_MOUNT,)
    else:
        roots = tuple(_MOUNT / name for name in ("systemd", "unified", "memory") if (_MOUNT / name).is_dir())
    return tuple(root / _FOLDER / lab for root in roots)


def of_host(lab: str, host: str) -> tuple[Path, ...]:
    return tuple(group / host for group in of_lab(lab))


def join_argv(groups: Sequence[Path], argv: Sequence[str], *, must_exist: bool = True) -> list[str]:
    """The command that runs `argv` in `groups`, under the same process number."""
    script = _JOIN_THEN_EXEC if must_exist else _JOIN_IF_THERE
    return ["sh", "-c", script, " ".join(map(str, groups)), *argv]


def create(groups: Sequence[Path]) -> None:
    for group in groups:
        group.mkdir(parents=True, exist_ok=True)


def freeze(groups: Sequence[Path], *, frozen: bool) -> None:
    """Stop all processes in the groups where they are, or let them go on. Done when this returns.

    Raises FabricError if the machine has no cgroup2 (the only kind whose freezer a frozen process can be killed in).
    """
    group = _unified(groups)
    (group / "cgroup.freeze").write_text("1" if frozen else "0")
    _wait_for(group, "frozen", "1" if frozen else "0")


def is_frozen(groups: Sequence[Path]) -> bool:
    return any(_event(group, "frozen") == "1" for group in groups)


def kill(groups: Sequence[Path]) -> None:
    """End every process in the groups at once, frozen ones too. Groups that are not there are fine."""
    if any((group / "cgroup.kill").exists() for group in groups):
        group = _unified(groups)
        (group / "cgroup.kill").write_text("1")
        _wait_for(group, "populated", "0")


def remove(groups: Sequence[Path]) -> None:
    """Remove the groups and all below, children first. Ones that are not there are fine.

    Raises FabricError when processes are still in them.
    """
    for group in groups:
        for folder, _, _ in os.walk(group, topdown=False):
            _remove_one(Path(folder))


def _remove_one(folder: Path) -> None:
    # A group may be busy for a moment after its last process was reaped.
    give_up_at = time.monotonic() + _SETTLED_WITHIN_S
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as exc:
            if time.monotonic() > give_up_at:
                raise FabricError(f"control group {folder}: processes are still in it, see its cgroup.procs") from exc
        time.sleep(_POLL_S)


def _unified(groups: Sequence[Path]) -> Path:
    for group in groups:
        if (group / "cgroup.events").exists():
            return group
    raise FabricError(f"no cgroup2 group among {', '.join(map(str, groups))}: mount cgroup2 at {_MOUNT}/unified")


def _event(group: Path, name: str) -> str | None:
    try:
        lines = (group / "cgroup.events").read_text().splitlines()
    except (FileNotFoundError, OSError):
        return None
    return dict(line.split() for line in lines).get(name)


def _wait_for(group: Path, event: str, value: str) -> None:
    give_up_at = time.monotonic() + _SETTLED_WITHIN_S
    while _event(group, event) not in (value, None):  # None: the group has gone, and all that was in it
        if time.monotonic() > give_up_at:
            raise FabricError(f"control group {group}: not {event}={value} after {_SETTLED_WITHIN_S:g} s")
        time.sleep(_POLL_S)
