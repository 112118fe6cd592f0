"""Ansible connection to a lab host: by nsenter, as root of this machine; works with the lab's network cut too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: labhost
short_description: run tasks in a lab host through nsenter
description:
  - Enters all namespaces of the systemd of a lab host, and its control group.
  - The process number is read for every command, so that a reboot is survived.
author: hostagent
options:
  remote_addr:
    description: Name of the lab host.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
  lab_state:
    description: Folder of the lab, that C(python -m tests.fabric inventory --connection labhost) names.
    required: true
    vars:
      - name: labhost_state
    env:
      - name: LAB_STATE
"""

# Nothing of the outer machine's environment: PIP_*, SSL_* and the like would be obeyed inside.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
}
# Join the host's control group first, so that commands hang, count and die with the host; then become the command.
_JOIN_THEN_EXEC = 'for g in $0; do { echo $$ > "$g/cgroup.procs"; } 2>/dev/null || :; done; exec "$@"'
_CGROUP_MOUNTS = ("/sys/fs/cgroup", *(f"/sys/fs/cgroup/{kind}" for kind in ("systemd", "unified", "memory")))


class Connection(ConnectionBase):  # type: ignore[misc]
    """One lab host."""

    transport = "labhost"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a shell command; its code, output and error output. Raises AnsibleConnectionFailure: host is off."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = self._run(["/bin/sh", "-c", cmd], input=in_data or b"")
        if done.returncode == 1 and b"nsenter: " in done.stderr:
            raise AnsibleConnectionFailure(done.stderr.decode(errors="replace"))
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        """Raises AnsibleConnectionFailure."""
        super().put_file(in_path, out_path)
        with Path(in_path).open("rb") as source:
            done = self._run(["dd", f"of={out_path}", "bs=1M", "status=none"], stdin=source)
        if done.returncode != 0:
            raise AnsibleConnectionFailure(f"cannot write {out_path}: {done.stderr.decode(errors='replace')}")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Raises AnsibleConnectionFailure."""
        super().fetch_file(in_path, out_path)
        done = self._run(["cat", in_path], stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise AnsibleConnectionFailure(f"cannot read {in_path}: {done.stderr.decode(errors='replace')}")
        Path(out_path).write_bytes(done.stdout)

    def close(self) -> None:
        self._connected = False

    def _run(self, argv: list[str], **streams: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self._entering(argv), capture_output=True, env=_ENVIRONMENT, check=False, **streams)

    def _entering(self, argv: list[str]) -> list[str]:
        host, lab = self.get_option("remote_addr"), Path(self.get_option("lab_state"))
        leader_file = lab / "hosts" / host / "leader.pid"
        try:
            leader = int(leader_file.read_text())
            os.kill(leader, 0)
        except (OSError, ValueError) as exc:
            raise AnsibleConnectionFailure(f"lab host {host} is not running ({leader_file}: {exc})") from exc
        inside = f"hostagent-labs/{lab.name}/{host}/payload/init.scope"
        groups = " ".join(f"{mount}/{inside}" for mount in _CGROUP_MOUNTS)
        nsenter = ["nsenter", "--target", str(leader), "--all", "--"]
        return ["/bin/sh", "-c", _JOIN_THEN_EXEC, groups, *nsenter, *argv]
