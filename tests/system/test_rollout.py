"""site.yml on hosts that have nothing, on hosts that lack nothing, and on what a run that was killed has left.

On a lab of its own, with a host for each story: h1 is rolled out to, h2 is rolled out to by runs that are killed, h3
stays bare.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.fabric.command import FabricError
from tests.fabric.deploy import ROOT, build_wheelhouse, deploy, playbook_argv, playbook_env, recap
from tests.fabric.hosts import Host
from tests.fabric.lab import Lab
from tests.fault.scene import agent_process
from tests.system.cluster import Cluster
from tests.system.releases import RELEASES, running_release

# One line in a dry run, and in the run itself as many tasks as it takes: what they work on is not there before.
ANNOUNCED_AS = {
    "Say in a dry run that the credential would be replaced": {
        "Make a folder for the parts",
        "Make a private key, which never leaves the host",
        "Ask for a certificate",
        "Have the cluster sign it",
        "Write the certificate and the cluster's CA",
        "Put key and certificate in place",
        "Write the kubeconfig",
        "Leave no parts behind",
    },
    "Say in a dry run that this release would be installed": {
        "Make a folder for the wheels",
        "Bring the wheels",
        "Install them, and nothing from elsewhere",
        "Mark it as complete",
        "Drop the wheels",
    },
}
# What a dry run cannot come to, as it does not do what it announces: here, the cause is what is announced.
FOLLOWS = {
    "Look for kernel settings that are not in force": "Write the kernel settings",
    "Apply kernel settings": "Write the kernel settings",
    "Look whether the journal explains by them": "Explain warnings in the journal",
    "Update the journal's catalog": "Explain warnings in the journal",
    "Run the agent now and after every boot": "Write the units",
}
# A run is killed so many seconds after it came to such a task. Each run comes further than the one before it.
POINTS = (
    ("Put key and certificate in place", 0.0),
    ("Install them, and nothing from elsewhere", 4.0),  # pip is at work, and on the host goes on for a while
    ("Mark it as complete", 0.0),
    ("Put the command on everybody's path", 0.0),
    ("Look whether kernel settings were written before", 0.0),
    ("Apply kernel settings", 0.0),
    ("Run the agent now and after every boot", 1.0),
)
pytestmark = pytest.mark.timeout(1200)  # several runs of a playbook each, on a machine that may be busy
KINDS = "customresourcedefinitions,clusterroles,validatingadmissionpolicies,namespaces"


@dataclass(frozen=True, kw_only=True)
class Bare:
    """Hosts as they were installed, and what each had then."""

    lab: Lab
    before: dict[str, list[str]]


@pytest.fixture(scope="module")
def bare(fabric_machine: None) -> Iterator[Bare]:  # noqa: ARG001
    build_wheelhouse()
    with Lab.up(f"test-{os.getpid()}-rollout") as lab:
        yield Bare(lab=lab, before={name: fingerprint(host) for name, host in lab.hosts.items()})


def fingerprint(host: Host) -> list[str]:
    """All of the host that a rollout might leave something in. A mere visit leaves traces in /run: sshd's, pam's."""
    program = (ROOT / "molecule/remove/fingerprint.py").read_text()
    said = host.run(["/usr/bin/python3", "-c", program]).stdout
    return [line for line in said.splitlines() if not line.startswith("/run/") or "hostagent" in line]


def changed_tasks(output: str) -> dict[str, set[str]]:
    """Host → names of the tasks that say they change it."""
    found: dict[str, set[str]] = defaultdict(set)
    task = ""
    for line in output.splitlines():
        if begun := re.match(r"(?:TASK|RUNNING HANDLER) \[(?:[a-z_]+ : )?(.*)\]", line):
            task = begun[1]
        elif changed := re.match(r"changed: \[(h\d)", line):
            found[changed[1]].add(task)
    return found


def test_a_dry_run_on_a_bare_host_announces_what_the_run_then_does_and_does_nothing(bare: Bare) -> None:
    dry = deploy(bare.lab, "--check", "--diff", "--limit", "h1")
    assert fingerprint(bare.lab.hosts["h1"]) == bare.before["h1"]
    done = changed_tasks(deploy(bare.lab, "--limit", "h1"))["h1"]

    announced = changed_tasks(dry)["h1"]
    expected = {task for each in announced for task in ANNOUNCED_AS.get(each, {each})}
    expected |= {task for task, cause in FOLLOWS.items() if cause in announced}
    assert sorted(done) == sorted(expected)
    for path in (
        "/etc/hostagent/config.toml",
        "/etc/systemd/system/hostagent.service",
        "/etc/sysctl.d/90-hostagent.conf",
    ):
        for line in bare.lab.hosts["h1"].read_file(path).splitlines():
            assert f"+{line}" in dry.splitlines(), f"--diff did not show this line of {path}"
    assert recap(deploy(bare.lab, "--limit", "h1")) == {"h1": ("0", "0")}


def test_runs_that_are_killed_anywhere_on_a_bare_host_are_finished_by_the_next(bare: Bare) -> None:
    for point, after_s in POINTS:
        killed_at(bare.lab, point, "--limit", "h2", after_s=after_s)
    host = bare.lab.hosts["h2"]

    finished = deploy(bare.lab, "--limit", "h2")

    assert recap(finished)["h2"][1] == "0"
    assert recap(deploy(bare.lab, "--limit", "h2")) == {"h2": ("0", "0")}
    deploy(bare.lab, "--limit", "h2", playbook="verify")
    assert host.run(["ls", RELEASES]).stdout.split() == [running_release(host)]
    assert host.run(["ls", "-A", "/etc/hostagent/tls"]).stdout.split() == ["ca.crt", "client.pem"]


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("hostagent_log_level=loud", "must be one of: debug, info, warning, error"),
        ("hostagent_hang_timout=5", "did you mean hostagent_hang_timeout?"),
        ("hostagent_session_renew=9", "renew at least twice as often as it expires"),
        ("hostagent_access_days=soon", "unable to convert to int"),
    ],
)
@pytest.mark.parametrize("playbook", ["site", "upgrade"])
def test_a_wrong_setting_is_refused_with_its_remedy_before_anything_is_touched(
    bare: Bare, playbook: str, setting: str, remedy: str
) -> None:
    cluster = bare.lab.control_plane.kubectl("get", KINDS, "--output=name")

    with pytest.raises(FabricError) as refused:
        deploy(bare.lab, "-e", setting, "-e", "hostagent_allocator=false", "--limit", "h3", playbook=playbook)

    assert remedy in " ".join(str(refused.value).split())
    assert changed_tasks(str(refused.value)) == {}
    assert fingerprint(bare.lab.hosts["h3"]) == bare.before["h3"]
    assert bare.lab.control_plane.kubectl("get", KINDS, "--output=name") == cluster


def test_a_second_run_changes_nothing_and_check_mode_says_so(cluster: Cluster) -> None:
    cluster.pool()
    cluster.advertise()
    cluster.serve("web")
    [vip] = cluster.given("web")
    cluster.answered(vip)
    with cluster.lab.client.pinging(vip) as pinger:
        again = deploy(cluster.lab)
        dry = deploy(cluster.lab, "--check", "--diff")
    for output in (again, dry):
        assert recap(output) == dict.fromkeys(cluster.lab.hosts, ("0", "0")), output[-3000:]
    assert pinger.result.lost == 0


def test_a_run_that_was_killed_between_files_and_handlers_is_finished_by_the_next(cluster: Cluster) -> None:
    """The dry run says that the agent would be restarted, though there is nothing to write; the next run does so."""
    settings = ["--limit", "h1", "-e", "hostagent_hang_timeout=12", "-e", "hostagent_preempt_delay=45"]
    host = cluster.lab.hosts["h1"]
    try:
        announced = changed_tasks(deploy(cluster.lab, "--check", "--diff", *settings))["h1"]
        killed_at(cluster.lab, "Look for kernel settings that are not in force", *settings)
        assert "WatchdogSec=12s" in host.read_file("/etc/systemd/system/hostagent.service")
        assert watchdog_s(host) == "10", "killed too late: the agent has been restarted"
        dry = changed_tasks(deploy(cluster.lab, "--check", "--diff", *settings))["h1"]
        done = changed_tasks(deploy(cluster.lab, *settings))["h1"]
        assert watchdog_s(host) == "12"
        assert cluster.status(host)["needs_restart"] == []
        assert recap(deploy(cluster.lab, *settings)) == {"h1": ("0", "0")}
    finally:
        deploy(cluster.lab, "--limit", "h1")
    assert dry == done
    assert announced == {"Write the agent's configuration", "Write the units", "Restart hostagent"}


def killed_at(lab: Lab, task: str, *arguments: str, after_s: float = 0.0) -> None:
    """Run site.yml, and kill it and its children when it has come to this task or handler. What it had begun on the
    host goes on there, as after any lost connection.
    """
    argv = playbook_argv(lab, "site", "-e", "hostagent_serial=100%", *arguments)
    with subprocess.Popen(
        argv, cwd=ROOT, env=playbook_env(lab), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        said: list[str] = []
        for line in process.stdout or ():
            said.append(line)
            if line.startswith(("TASK", "RUNNING HANDLER")) and f"{task}]" in line:
                time.sleep(after_s)
                os.killpg(process.pid, signal.SIGKILL)
                return
        raise AssertionError(f"site.yml never came to {task}:\n{''.join(said[-40:])}")


def watchdog_s(host: Host) -> str:
    """What the running process was started with."""
    environment = host.run(["cat", f"/proc/{agent_process(host)}/environ"]).stdout.split("\0")
    [usec] = [entry.partition("=")[2] for entry in environment if entry.startswith("WATCHDOG_USEC=")]
    return str(int(usec) // 1_000_000)
