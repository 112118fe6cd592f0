"""The roles' contract, their defaults, what their READMEs say, and the cleaner that must not depend on us."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.repo.role_docs import ROLES, defaults, options, roles, with_table

WHEELHOUSE = ROLES / "hostagent" / "files" / "wheelhouse.py"
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


def test_a_release_in_use_is_not_the_next_to_be_forgotten(tmp_path: Path) -> None:
    """Whoever builds elsewhere meanwhile must not take away what a rollout is about to bring to hosts."""
    source = tmp_path / "project"
    (source / "locks").mkdir(parents=True)
    (source / "locks" / "agent.txt").write_text("")
    (source / "pyproject.toml").write_text('[project]\nname = "hostagent"\nversion = "1.2.3"\n')
    used = Path(_dry_run(source, tmp_path)["archive"])
    used.parent.mkdir(parents=True)
    used.touch()
    os.utime(used.parent, (0, 0))
    for number in range(8):
        (used.parents[1] / f"other{number}").mkdir()

    _wheelhouse(source, tmp_path)
    runpy.run_path(str(WHEELHOUSE))["prune"](used.parents[1])

    assert used.exists()
    assert len(list(used.parents[1].iterdir())) == 8


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


def _monitoring(folder: Path, listen: str) -> subprocess.CompletedProcess[str]:
    """The playbook for Prometheus servers, on this machine, into a folder."""
    hosts = {"h1": {"ansible_host": "192.0.2.11"}, "h2": {"ansible_host": "2001:db8::12"}}
    inventory = {
        "prometheus": {"hosts": {"localhost": {"ansible_connection": "local"}}},
        "hostagent": {"hosts": hosts, "vars": {"hostagent_metrics_listen": listen}},
    }
    (folder / "hosts.json").write_text(json.dumps(inventory))
    settings = {
        "hostagent_monitoring_dir": str(folder / "prometheus"),
        "hostagent_monitoring_grafana_dir": str(folder),
        "hostagent_monitoring_labels": {"cluster": "lab"},
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
    }
    argv = ["-i", str(folder / "hosts.json"), "playbooks/monitoring.yml", "-e", json.dumps(settings)]
    return subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), *argv],
        cwd=ROLES.parent,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ANSIBLE_FORCE_COLOR": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="the files are root's")
def test_prometheus_gets_rules_and_targets_and_grafana_a_dashboard(tmp_path: Path) -> None:
    done = _monitoring(tmp_path, "0.0.0.0:7474")

    assert done.returncode == 0, done.stdout
    targets = yaml.safe_load((tmp_path / "prometheus" / "targets.yml").read_text())
    assert targets == [
        {"targets": ["192.0.2.11:7474"], "labels": {"cluster": "lab", "host": "h1"}},
        {"targets": ["[2001:db8::12]:7474"], "labels": {"cluster": "lab", "host": "h2"}},
    ]
    assert (tmp_path / "prometheus" / "alerts.yml").exists()
    assert json.loads((tmp_path / "hostagent.json").read_text())["title"] == "hostagent"


@pytest.mark.skipif(os.geteuid() != 0, reason="the files are root's")
def test_agents_that_nobody_can_scrape_are_refused_with_the_remedy(tmp_path: Path) -> None:
    done = _monitoring(tmp_path, "127.0.0.1:7474")

    assert done.returncode != 0
    assert "h1, h2: metrics can be read on the host itself only" in " ".join(done.stdout.split())
    assert not (tmp_path / "prometheus").exists()


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
    return _wheelhouse(source, tmp_path, "--dry-run")


def _wheelhouse(source: Path, tmp_path: Path, *arguments: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, str(WHEELHOUSE), "--source", str(source), "--python-version", "3.11", *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, str] = json.loads(done.stdout)
    return answer
