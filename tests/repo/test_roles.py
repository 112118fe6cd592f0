"""The roles' contract, their defaults, what their READMEs say, and the cleaner that must not depend on us."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.repo.role_docs import ROLES, defaults, options, roles, with_table

each_role = pytest.mark.parametrize("role", roles(), ids=lambda role: role.name)


@each_role
def test_defaults_equal_the_argument_specs(role: Path) -> None:
    """Two files say the same; operators read one, Ansible the other."""
    said = {name: option["default"] for name, option in options(role).items() if not option.get("required")}

    assert defaults(role) == said


@each_role
def test_the_readme_shows_the_variables_as_they_are(role: Path) -> None:
    assert (role / "README.md").read_text() == with_table(role), "run: python -m tests.repo.role_docs"


@each_role
def test_every_variable_carries_the_name_of_its_role(role: Path) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role.name}_")] == []


def test_the_wheelhouse_has_a_release_for_every_state_of_the_source(tmp_path: Path) -> None:
    """The release's name changes with the code, so that a host can tell whether it has it; a dry run builds nothing."""
    source = tmp_path / "project"
    (source / "hostagent").mkdir(parents=True)
    (source / "locks").mkdir()
    (source / "locks" / "agent.txt").write_text("")
    (source / "pyproject.toml").write_text('[project]\nname = "hostagent"\nversion = "1.2.3"\n')
    module = source / "hostagent" / "__init__.py"

    module.write_text("a = 1\n")
    one = _dry_run(source, tmp_path)
    again = _dry_run(source, tmp_path)
    module.write_text("a = 2\n")
    other = _dry_run(source, tmp_path)

    assert one["release"].startswith("1.2.3-")
    assert one == again
    assert one["release"] != other["release"]
    assert not (tmp_path / "cache").exists()


def test_the_build_tools_are_pinned_by_hash() -> None:
    lines = (ROLES / "hostagent" / "files" / "wheelhouse-build.txt").read_text().splitlines()
    pins = [line for line in lines if re.match(r"[a-z]", line)]

    assert pins
    assert all("==" in line and line.endswith("\\") for line in pins)
    needed = tomllib.loads((ROLES.parent / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {re.split(r"[><=]", each)[0] for each in needed} <= {line.partition("==")[0] for line in pins}


@pytest.mark.parametrize(
    ("job", "env", "stays"),
    [
        ("restart", {"SERVICE_RESULT": "success"}, True),
        ("restart", {"SERVICE_RESULT": "timeout"}, True),  # hung while being restarted: lifetimes end its addresses
        ("stop", {"SERVICE_RESULT": "success"}, False),
        ("stop", {"SERVICE_RESULT": "timeout"}, False),  # had to be killed: nobody else will tidy up
        ("", {"SERVICE_RESULT": "success"}, False),  # `kill PID`: systemd does not start it again
        ("", {"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, True),
        ("", {"SERVICE_RESULT": "watchdog", "EXIT_CODE": "killed", "EXIT_STATUS": "ABRT"}, True),
        ("", {"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "1"}, True),
        ("", {"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "78"}, False),
        (None, {"SERVICE_RESULT": "success"}, True),  # perhaps a restart; if it is none, lifetimes end them
        ("start", {"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "1"}, True),
    ],
)
def test_addresses_stay_when_an_agent_may_come_back(job: str | None, env: dict[str, str], stays: bool) -> None:
    assert bool(_cleaner().why_keep(env, job)) is stays


def test_the_cleaner_needs_no_packages() -> None:
    """Isolated, without site-packages: whatever has broken the virtual environment does not stop it."""
    script = ROLES / "hostagent" / "files" / "hostagent-cleanup"
    probe = f"import runpy; runpy.run_path({str(script)!r}, run_name='probe')"

    done = subprocess.run([sys.executable, "-IS", "-c", probe], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def _cleaner() -> ModuleType:
    path = str(ROLES / "hostagent" / "files" / "hostagent-cleanup")
    loader = importlib.machinery.SourceFileLoader("hostagent_cleanup", path)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def _dry_run(source: Path, tmp_path: Path) -> dict[str, str]:
    script = ROLES / "hostagent" / "files" / "wheelhouse.py"
    done = subprocess.run(
        [sys.executable, str(script), "--source", str(source), "--python-version", "3.11", "--dry-run"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, str] = json.loads(done.stdout)
    return answer
