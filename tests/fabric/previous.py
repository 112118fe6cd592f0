"""A release to upgrade from: `python -m tests.fabric.previous FOLDER [--commit REVISION]` puts its tree there.

It is an older commit's, with its own roles and playbooks, so that an upgrade crosses what has really changed. A clone
without so much history has nothing older: then it is this very tree under another version number. Hosts hold a release
of another name all the same, which must be replaced.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
import tarfile
from pathlib import Path

import click

from tests.fabric.command import FabricError, run
from tests.fabric.deploy import ROOT

VERSION = "0.0.1"
COMMITS_BACK = 60
_PARTS = ("hostagent", "roles", "playbooks", "locks", "pyproject.toml", "README.md", "LICENSE")


def renamed_tree(folder: Path, version: str = VERSION) -> None:
    """Put a copy of this tree there whose release has that version. The folder must not exist, or be empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for path in (folder / "pyproject.toml", folder / "hostagent" / "__init__.py"):
        text, count = re.subn(
            r'^(version|__version__) = ".*"', rf'\1 = "{version}"', path.read_text(), count=1, flags=re.MULTILINE
        )
        if not count:
            raise FabricError(f"{path} names no version")
        path.write_text(text)


def committed_tree(folder: Path, commit: str) -> None:
    """Put the tree of that commit there. Raises FabricError when the clone has no such commit."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = folder / "tree.tar"
    run(["git", "-C", str(ROOT), "archive", f"--output={packed}", commit])
    with tarfile.open(fileobj=io.BytesIO(packed.read_bytes())) as tar:
        tar.extractall(folder, filter="data")
    packed.unlink()


def older_commit() -> str:
    """The commit that lies so many before this one; empty in a tree whose history has none, or that has no history."""
    if not shutil.which("git"):
        return ""
    git = ["git", "-C", str(ROOT), "rev-parse"]
    top = run([*git, "--show-prefix"], check=False).stdout == "\n"
    if not top:  # an unpacked archive, perhaps in somebody's repository
        return ""
    return run([*git, "--verify", "--quiet", f"HEAD~{COMMITS_BACK}^{{commit}}"], check=False).stdout.strip()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--commit", default="", help=f"In place of the one {COMMITS_BACK} before this.")
def main(folder: Path, commit: str) -> None:
    """Make the tree of an older release in FOLDER, which is replaced, and say which it is."""
    shutil.rmtree(folder, ignore_errors=True)
    if older := commit or older_commit():
        committed_tree(folder, older)
    else:
        renamed_tree(folder)
    click.echo(older or f"this tree, called {VERSION}")


if __name__ == "__main__":
    try:
        main(prog_name="python -m tests.fabric.previous")
    except FabricError as exc:
        click.echo(f"previous: {exc}", err=True)
        sys.exit(1)
