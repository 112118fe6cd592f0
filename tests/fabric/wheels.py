"""Wheels for hosts of another Debian than this machine's: `python -m tests.fabric.wheels trixie`.

The role builds them on the control machine, and finds none of Debian 13's Python on Debian 12. So the same program that
the role runs is run in Debian 13's own tree, with a compiler beside it, and leaves the wheels in the same cache: there
the role finds them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import click

from tests.fabric.assets import cache_dir
from tests.fabric.base import BOOKWORM, COMPILER, TRIXIE, base_layers
from tests.fabric.command import FabricError, run
from tests.fabric.deploy import ROOT

PYTHON_OF = {BOOKWORM: "3.11", TRIXIE: "3.13"}
BUILD_TIMEOUT_S = 900.0

# Runs with the merged tree as $1, the overlay's options as $2, what is shared with it as $3 and $4 (as paths that are
# the same inside), then the command. In a mount namespace of its own, which takes all of this with it.
_IN_TREE = r"""
set -eu; T=$1; O=$2; SOURCE=$3; CACHE=$4; shift 4
mount -t overlay wheels -o "$O" "$T"
mount -t proc proc "$T/proc"
mount --rbind /dev "$T/dev"
mount -t tmpfs tmp "$T/tmp"
mkdir -p "$T$SOURCE" "$T$CACHE"
mount --bind "$SOURCE" "$T$SOURCE"
mount -o remount,bind,ro "$T$SOURCE"
mount --bind "$CACHE" "$T$CACHE"
cp /etc/resolv.conf /etc/hosts "$T/etc/"
exec chroot "$T" "$@"
"""
# How this machine reaches a package index is how the tree does.
_KEPT = ("PIP_", "SSL_", "REQUESTS_", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def build_wheels(suite: str, source: Path = ROOT) -> Path:
    """Build what the role brings to hosts of this Debian, unless it is in the cache; returns the archive.

    Raises FabricError.
    """
    layers = base_layers(suite, add=COMPILER)
    cache = cache_dir() / "wheelhouse"
    cache.mkdir(parents=True, exist_ok=True)
    program = ROOT / "roles/hostagent/files/wheelhouse.py"
    kept = [f"{key}={value}" for key, value in os.environ.items() if key.startswith(_KEPT)]
    with tempfile.TemporaryDirectory(prefix="hostagent-wheels-") as folder:
        for name in ("up", "work", "root"):
            Path(folder, name).mkdir()
        lower = ":".join(map(str, layers))
        # volatile: nothing written here outlives the build
        options = f"lowerdir={lower},upperdir={folder}/up,workdir={folder}/work,volatile"
        done = run(
            [
                *("unshare", "--mount", "--propagation", "private", "--"),
                *("sh", "-c", _IN_TREE, "wheels", f"{folder}/root", options, str(ROOT), str(cache)),
                *("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LANG=C.UTF-8", *kept),
                *("/usr/bin/python3", str(program), "--source", str(source), "--cache", str(cache)),
                *("--python-version", PYTHON_OF[suite]),
            ],
            timeout_s=BUILD_TIMEOUT_S,
        )
    return Path(json.loads(done.stdout)["archive"])


@click.command()
@click.argument("suite", type=click.Choice(list(PYTHON_OF)))
def main(suite: str) -> None:
    """Build wheels for hosts that run SUITE."""
    click.echo(build_wheels(suite))


if __name__ == "__main__":
    try:
        main(prog_name="python -m tests.fabric.wheels")
    except FabricError as exc:
        click.echo(f"wheels: {exc}", err=True)
        sys.exit(1)
