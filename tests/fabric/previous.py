"""A release to upgrade from: `python -m tests.fabric.previous FOLDER [--commit REVISION]` puts its tree there.

Without a commit it is this very tree under another version number, with its own roles and playbooks: a clone without
history has nothing older. Hosts then hold a release of another name, which must be replaced, all the same. With a
commit it is what git has of that, for who wants to know whether what runs there gets along with what is here.
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


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--commit", default="", help="Take this one out of git's history.")
def main(folder: Path, commit: str) -> None:
    """Make the tree of an older release in FOLDER, which is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    if commit:
        committed_tree(folder, commit)
    else:
        renamed_tree(folder)


if __name__ == "__main__":
    try:
        main(prog_name="python -m tests.fabric.previous")
    except FabricError as exc:
        click.echo(f"previous: {exc}", err=True)
        sys.exit(1)
