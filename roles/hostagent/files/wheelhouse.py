# ruff: noqa: INP001, T201 (a script, whose answer is what it prints)
"""Build, once per lock and source, everything a host needs to install hostagent: offline, without a compiler.

Runs on the control machine with the standard library alone. Prints one JSON object:
`{"changed": …, "release": "0.1.0-3f2a…", "version": "0.1.0", "archive": "/…/wheelhouse.tar"}`.
The archive holds wheels, and a requirements.txt that pins each of them by its hash: systemd-python exists on
PyPI as sources only, so its wheel is compiled here and has a hash that no lock file could know.

Two layers are cached. The dependencies change with the lock; the project's own wheel changes with every edit.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

BUILD_LOCK = Path(__file__).with_name("wheelhouse-build.txt")
KEPT = 8  # archives in the cache: this one and some to go back to, for two Pythons
EPOCH = "1577836800"  # any fixed moment, so that the same sources give the same bytes; zip knows none before 1980


class UnbuildableError(Exception):
    """The control machine lacks something; the text says what, and how to get it."""


def main() -> int:
    args = arguments()
    source: Path = args.source.resolve()
    try:
        print(json.dumps(wheelhouse(source, args.python_version, args.python, args.cache, dry_run=args.dry_run)))
    except UnbuildableError as exc:
        print(f"wheelhouse: {exc}", file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hostagent" / "wheelhouse"
    parser = argparse.ArgumentParser(description="Build the wheels that hosts install hostagent from.")
    parser.add_argument("--source", type=Path, required=True, help="root of the hostagent project")
    parser.add_argument("--python-version", required=True, help="the hosts' Python, such as 3.11")
    parser.add_argument("--python", default="", help="an interpreter of that version (default: found on PATH)")
    parser.add_argument("--cache", type=Path, default=cache)
    parser.add_argument("--dry-run", action="store_true", help="say what would be built, build nothing")
    return parser.parse_args()


def wheelhouse(source: Path, version: str, python: str, cache: Path, *, dry_run: bool) -> dict[str, object]:
    """Return where the archive is, having built it if the cache has none for this lock, source, Python and machine."""
    lock = source / "locks" / "agent.txt"
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    below = digest([lock, BUILD_LOCK, Path(__file__)], f"{version} {platform.machine()}")
    key = digest(project_files(source), below)
    archive = cache / key / "wheelhouse.tar"
    missing = not archive.exists()
    if missing and not dry_run:
        cache.mkdir(parents=True, exist_ok=True)
        with alone(cache / ".lock"):
            if not archive.exists():
                builder = dependencies(lock, version, python, cache / f"deps-{below}")
                pack(source, builder, cache / key)
                prune(cache)
    if not dry_run:
        os.utime(archive.parent)  # in use: not the next to be forgotten, when others build meanwhile
    release = f"{project['version']}-{key}"
    return {"changed": missing, "release": release, "version": project["version"], "archive": str(archive)}


def project_files(source: Path) -> list[Path]:
    """Everything that ends up in the project's wheel."""
    code = (p for p in (source / "hostagent").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    meta = (source / name for name in ("pyproject.toml", "README.md", "LICENSE"))
    return [*sorted(code), *(p for p in meta if p.exists())]


def digest(files: Iterable[Path], salt: str) -> str:
    total = hashlib.sha256(salt.encode())
    for file in files:
        total.update(f"\0{file.name}\0".encode())
        total.update(file.read_bytes())
    return total.hexdigest()[:12]


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Two playbooks at a time build once."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def into_place(final: Path) -> Iterator[Path]:
    """A folder that appears under its name only when complete."""
    made = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        yield made
        shutil.rmtree(final, ignore_errors=True)  # an older attempt that somebody has damaged
        made.rename(final)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def dependencies(lock: Path, version: str, python: str, where: Path) -> Path:
    """Return a folder with `wheels/` of the lock's packages and `builder/`, the virtual environment that made them."""
    if not where.exists():
        interpreter = compiler_ready(find_python(version, python))
        with into_place(where) as made:
            builder = made / "builder"
            run(interpreter, "-m", "venv", str(builder))
            inside = str(builder / "bin" / "python")
            run(
                inside,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--require-hashes",
                "--no-deps",
                "--requirement",
                str(BUILD_LOCK),
            )
            wheel(inside, made / "wheels", "--require-hashes", "--requirement", str(lock))
    return where


def pack(source: Path, built: Path, where: Path) -> None:
    """Build the project's own wheel and put it into one archive with the wheels it needs."""
    with into_place(where) as made:
        house = made / "wheels"
        shutil.copytree(built / "wheels", house)
        wheel(str(built / "builder" / "bin" / "python"), house, str(source))
        wheels = sorted(house.glob("*.whl"))
        pins = "".join(f"{pinned(path)}\n" for path in wheels)
        with tarfile.open(made / "wheelhouse.tar", "w") as archive:
            add(archive, "requirements.txt", pins.encode())
            for path in wheels:
                add(archive, path.name, path.read_bytes())
        shutil.rmtree(house)


def wheel(python: str, into: Path, *what: str) -> None:
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(into), *what)


def pinned(path: Path) -> str:
    name, version = path.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member without owner or time: the same wheels give the same archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(content))


def prune(cache: Path) -> None:
    """Forget all but the archives used last, and dependencies but the newest four: an upgrade and the way back, for
    two Pythons among the hosts.
    """
    everything = sorted((p for p in cache.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    deps = [p for p in everything if p.name.startswith("deps-")]
    archives = [p for p in everything if not p.name.startswith((".", "deps-"))]
    for old in (*deps[4:], *archives[KEPT:]):
        shutil.rmtree(old, ignore_errors=True)


def find_python(version: str, wanted: str) -> str:
    """Return an interpreter of the hosts' version: extension modules are compiled for exactly one."""
    for candidate in filter(None, (wanted, sys.executable, shutil.which(f"python{version}"))):
        asked = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.stdout.strip() == version:
            return candidate
    raise UnbuildableError(
        f"the hosts run Python {version}, and this control machine has none. Name one in hostagent_build_python, or "
        f"install it (where the distribution has it: apt-get install python{version} python{version}-dev "
        f"python{version}-venv), or build on a machine like the hosts and bring the cache: docs/install.md."
    )


def compiler_ready(python: str) -> str:
    """Refuse early, with a remedy: a failed compilation of systemd-python is a page of noise."""
    include = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('include'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    lacking = [
        package for program, package in (("gcc", "gcc"), ("pkg-config", "pkg-config")) if not shutil.which(program)
    ]
    if "pkg-config" not in lacking and subprocess.run(["pkg-config", "--exists", "libsystemd"], check=False).returncode:
        lacking.append("libsystemd-dev")
    if not Path(include, "Python.h").exists():
        lacking.append("python3-dev")
    if lacking:
        raise UnbuildableError(
            f"systemd-python is compiled on the control machine, which lacks {', '.join(lacking)}. "
            f"On Debian: apt-get install {' '.join(lacking)}"
        )
    return python


def run(*argv: str) -> None:
    env = {
        **os.environ,
        "SOURCE_DATE_EPOCH": EPOCH,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise UnbuildableError(f"`{' '.join(argv)}` ended with {done.returncode}:\n{tail}")


if __name__ == "__main__":
    sys.exit(main())
