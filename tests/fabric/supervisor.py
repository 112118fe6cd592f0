"""One lab host's keeper: `python -m tests.fabric.supervisor FOLDER`. Outlives the process that asked for the host.

Runs in the lab's network namespace and in a mount namespace of its own, so the host's disk is unmounted by the kernel
when the host ends, however it ends. Starts systemd-nspawn, plugs the host's cables into the bridge, writes down which
process is the host's PID 1, and starts anew when the host asked for a reboot.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import msgspec

from tests.fabric import cgroups
from tests.fabric.command import FabricError, run
from tests.fabric.networks import Network

# What systemd-nspawn --keep-unit ends with when the host asked for a reboot: there is nobody else to do it.
REBOOT_ASKED_FOR = 133
_BOOT_STEP_TIMEOUT_S = 10.0
_POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network card of a host, and the bridge that its cable leads to."""

    name: str
    port: str
    bridge: str
    # with prefix length
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpec:
    """What a host is made of. On disk as JSON, for its keeper is another process."""

    lab: str
    name: str
    layers: tuple[str, ...]
    nics: tuple[Nic, ...]
    # path outside, path inside; read-only
    binds: tuple[tuple[str, str], ...]
    network: Network = Network.IFUPDOWN

    @property
    def machine(self) -> str:
        """Unique on this machine; the MAC addresses are derived from it."""
        return f"{self.lab}-{self.name}"

    @property
    def cgroups(self) -> tuple[Path, ...]:
        return cgroups.of_host(self.lab, self.name)

    def save(self, folder: Path) -> None:
        (folder / "spec.json").write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> HostSpec:
        return msgspec.json.decode((folder / "spec.json").read_bytes(), type=cls)


def leader_file(folder: Path) -> Path:
    """Holds the number of the host's PID 1 while there is one. Also read by the Ansible connection plugin."""
    return folder / "leader.pid"


def keep(folder: Path) -> None:
    """Run the host until it is shut down or dies. Raises FabricError when it does not start."""
    spec = HostSpec.load(folder)
    _mount_disk(folder, spec)
    try:
        while _run_once(folder, spec) == REBOOT_ASKED_FOR:
            pass
    finally:
        leader_file(folder).unlink(missing_ok=True)
        cgroups.remove(spec.cgroups)


def _mount_disk(folder: Path, spec: HostSpec) -> None:
    # A volatile overlay skips every sync, and for that refuses a work folder that it did not unmount in order.
    # Nothing is lost in a "power cut": the machine's own page cache outlives the host.
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    options = f"lowerdir={':'.join(spec.layers)},upperdir={folder / 'up'},workdir={work},volatile"
    run(["mount", "-t", "overlay", spec.machine, "-o", options, str(folder / "root")])


def _run_once(folder: Path, spec: HostSpec) -> int:
    """One life of the host, from power-on; returns what nspawn ended with."""
    cgroups.create(spec.cgroups)
    for nic in spec.nics:  # of a life that ended without order; nspawn would not start
        run(["ip", "link", "delete", nic.port], check=False)
    nspawn = subprocess.Popen(
        cgroups.join_argv(spec.cgroups, _nspawn_argv(folder, spec)),
        env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        stdin=subprocess.DEVNULL,
    )
    try:
        _plug_in(nspawn, spec)
        _write_down_leader(nspawn, folder)
        return nspawn.wait()
    finally:
        leader_file(folder).unlink(missing_ok=True)
        nspawn.kill()
        nspawn.wait()


def _nspawn_argv(folder: Path, spec: HostSpec) -> list[str]:
    return [
        *("systemd-nspawn", "--quiet", "--boot", f"--directory={folder / 'root'}", f"--machine={spec.machine}"),
        # the machine that we run on may have no systemd of its own to register with
        *("--register=no", "--keep-unit"),
        *("--console=read-only", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
        # and not --network-namespace-path: the host's own namespace dies with it, so a dead host answers no ARP
        *(f"--network-veth-extra={nic.port}:{nic.name}" for nic in spec.nics),
        *(f"--bind-ro={outside}:{inside}" for outside, inside in spec.binds),
    ]


def _plug_in(nspawn: subprocess.Popen[bytes], spec: HostSpec) -> None:
    for nic in spec.nics:
        _until(nspawn, f"interface {nic.port}", partial(_plugged, nic))


def _plugged(nic: Nic) -> bool:
    return run(["ip", "link", "set", nic.port, "master", nic.bridge, "up"], check=False).returncode == 0


def _write_down_leader(nspawn: subprocess.Popen[bytes], folder: Path) -> None:
    found: list[int] = []

    def look() -> bool:
        found.extend(pid for pid in _children(nspawn.pid) if _is_pid_1_somewhere(pid))
        return bool(found)

    _until(nspawn, "the host's PID 1", look)
    new = folder / "leader.new"
    new.write_text(f"{found[0]}\n")
    new.rename(leader_file(folder))


def _until(nspawn: subprocess.Popen[bytes], what: str, there: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + _BOOT_STEP_TIMEOUT_S
    while not there():
        if nspawn.poll() is not None:
            raise FabricError(f"systemd-nspawn ended with {nspawn.returncode} before there was {what}")
        if time.monotonic() > give_up_at:
            raise FabricError(f"no {what} {_BOOT_STEP_TIMEOUT_S:g} s after systemd-nspawn was started")
        time.sleep(_POLL_S)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_pid_1_somewhere(pid: int) -> bool:
    """nspawn has a short-lived child before the host's init; only the latter is PID 1 of a namespace below ours."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
    return len(numbers) > 1 and numbers[-1] == "1"


def main() -> None:
    keep(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
