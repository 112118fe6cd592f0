"""Lab hosts: a Debian with systemd as PID 1, its own kernel-side network, disk and control groups.

A host is a folder of the lab and, while it runs, a keeper process (see supervisor.py). A Host value holds no state of
its own: any process can make one from the lab's name and the host's, and act on it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.fabric import cgroups, netns
from tests.fabric.command import DEFAULT_TIMEOUT_S, CommandError, FabricError, run
from tests.fabric.inside import call_inside, of_process
from tests.fabric.networks import enabled_units, network_file
from tests.fabric.processes import Processes
from tests.fabric.state import LabState
from tests.fabric.supervisor import HostSpec, leader_file

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]

# 0.8 s on an idle machine; generous, as many boot at once on two cores.
_BOOT_TIMEOUT_S = 90.0
# An orderly end takes 0.5 s, and systemd gives a stubborn unit of ours at most this long.
_SHUTDOWN_TIMEOUT_S = 30.0
# nspawn and keeper after the death of the host: 0.1 s; after that they are killed.
_TIDY_WITHIN_S = 3.0
_POLL_S = 0.03
_POWEROFF_SIGNAL = signal.SIGRTMIN + 4  # systemd(1): starts poweroff.target

# Nothing of the outer machine's environment: PIP_*, SSL_* and the like would be obeyed inside.
_ENVIRONMENT = (
    *("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root"),
    "LANG=C.UTF-8",
)
_WRITE = 'mkdir -p "$(dirname "$1")" && cat > "$1.new" && chmod "$2" "$1.new" && mv -f "$1.new" "$1"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host of a lab, running or not. Verbs return when the thing is done, and raise FabricError when it cannot."""

    state: LabState
    name: str

    # --- what it is

    @property
    def folder(self) -> Path:
        return self.state.host_folder(self.name)

    @property
    def spec(self) -> HostSpec:
        return HostSpec.load(self.folder)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the first network card, without prefix length; IPv4 first."""
        return tuple(address.partition("/")[0] for address in self.spec.nics[0].addresses)

    @property
    def mac(self) -> str:
        """Of the first network card; the same at every boot. Known once the host was up for the first time."""
        try:
            return (self.folder / "mac").read_text().strip()
        except FileNotFoundError as exc:
            raise FabricError(f"host {self.name}: its MAC address is known only after its first boot") from exc

    @property
    def pid(self) -> int | None:
        """The host's PID 1, as seen from outside; None when it is off. Another one after every boot."""
        try:
            return int(leader_file(self.folder).read_text())
        except FileNotFoundError:
            return None

    @property
    def running(self) -> bool:
        """The power is on, hung or not."""
        return self._keepers.running(self._keeper)

    @property
    def hung(self) -> bool:
        return cgroups.is_frozen(self._userland)

    # --- power

    def create(self, spec: HostSpec, authorized_key: str) -> None:
        """Write the host's disk, as an installer would leave it: names, network, root's key. Not booted yet."""
        for name in ("up", "root"):
            (self.folder / name).mkdir(parents=True)
        spec.save(self.folder)
        self.write_file("/etc/hostname", f"{self.name}\n")
        self.write_file("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n::1 localhost ip6-localhost\n")
        self.write_file("/root/.ssh/authorized_keys", authorized_key, mode=0o600)
        for nic in spec.nics:
            file = network_file(spec.network, nic.name, nic.addresses)
            self.write_file(file.path, file.text, mode=file.mode)
        for unit in enabled_units(spec.network):
            link = self._on_disk(f"/etc/systemd/system/multi-user.target.wants/{unit}")
            link.symlink_to(f"/lib/systemd/system/{unit}")

    def boot(self) -> None:
        """Switch the host on, wait until systemd has finished starting."""
        self.power_on()
        self.wait_booted()

    def power_on(self) -> None:
        """Switch the host on and wait for nothing; a running one is left alone."""
        if self.running:
            return
        unshare = ["unshare", "--mount", "--propagation", "slave"]
        # -P: nothing of the current folder; the project is found by PYTHONPATH wherever this was started from
        self._keepers.start(
            self._keeper,
            [*unshare, sys.executable, "-P", "-m", "tests.fabric.supervisor", self.folder],
            env={"PYTHONPATH": str(PROJECT)},
        )

    def wait_booted(self, *, not_pid: int | None = None) -> None:
        """Wait until systemd says `running`, or `degraded`: then a unit failed, which is the test's matter, not ours.

        With `not_pid` a host whose PID 1 is still that one does not count: it has yet to reboot.
        """

        def booted() -> bool:
            if not self.running:
                raise FabricError(f"host {self.name} did not boot; its console ends with:\n{self._console_tail()}")
            return self.pid not in (None, not_pid) and self.system_state() in ("running", "degraded")

        self._until(booted, f"systemd is not up: {self.system_state()}", _BOOT_TIMEOUT_S)
        if not (self.folder / "mac").exists():
            interface = f"/sys/class/net/{self.spec.nics[0].name}/address"
            (self.folder / "mac").write_text(self.run(["cat", interface]).stdout)

    def shutdown(self) -> None:
        """An orderly power-off: units are stopped, each with its ExecStop. One that is off is fine."""
        if not self.running:
            return
        if self.hung:
            raise FabricError(f"host {self.name} is hung and cannot shut down: thaw it, or cut its power")
        self._signal_leader(_POWEROFF_SIGNAL)
        self._until(lambda: not self.running, "not shut down", _SHUTDOWN_TIMEOUT_S)
        self._bury()

    def power_off(self) -> None:
        """Pull the power plug: from this moment no frame, no ARP answer, and nothing in it runs on. Off is fine."""
        if not self.running:
            return
        for nic in self.spec.nics:  # the network first, so that not even dying processes say farewell
            run(["ip", "-n", self.state.netns, "link", "delete", nic.port], check=False)
        cgroups.kill(self._userland)
        self._bury()

    def reboot(self) -> None:
        """Reboot as an operator would, and wait until the host is up again."""
        before = self.pid
        self.run(["systemctl", "reboot"], check=False)
        self.wait_booted(not_pid=before)

    def destroy(self) -> None:
        """End all that runs for the host, whatever state it is in. Its folder stays for the lab to remove."""
        if self.folder.exists():
            cgroups.kill(self._userland)
            self._bury()

    # --- faults

    def hang(self) -> None:
        """All processes stand still; the kernel goes on answering ARP and ping and keeps all addresses: the nasty
        half of a hung box. Address lifetimes still run out."""
        cgroups.freeze(self._userland, frozen=True)

    def thaw(self) -> None:
        """Processes go on where they stood."""
        cgroups.freeze(self._userland, frozen=False)

    def cable_pull(self, nic: str = "eth0") -> None:
        """No carrier any more."""
        self._set_cable(nic, "down")

    def cable_plug(self, nic: str = "eth0") -> None:
        self._set_cable(nic, "up")

    def card_remove(self, nic: str = "eth0") -> None:
        """The network card is gone, with its addresses and routes, as when its driver is unloaded."""
        self.run(["ip", "link", "delete", nic])

    def card_insert(self, nic: str = "eth0") -> None:
        """A card of this name is there again, the same MAC, plugged in and configured by the host's ifupdown."""
        spec = next(each for each in self.spec.nics if each.name == nic)
        mac = f" address {self.mac}" if spec == self.spec.nics[0] else ""
        netns.ip_batch(
            self.state.netns,
            f"link add {spec.port} type veth peer name {nic}{mac} netns {self.pid}",
            f"link set {spec.port} master {spec.bridge} up",
        )
        self.run(["ifup", "--force", nic])

    # --- work in it

    def kernel_addresses(self) -> set[str]:
        """On all its interfaces, by the kernel's word: also of a host that hangs. One that is off has none."""
        leader = self.pid
        if leader is None or not self.running:
            return set()
        asked = run(["nsenter", f"--net=/proc/{leader}/ns/net", "ip", "-json", "address", "show"], check=False)
        if asked.returncode != 0:
            if self.pid == leader and self.running:
                raise FabricError(f"host {self.name}: its addresses cannot be read: {asked.stderr.strip()}")
            return set()  # it went off meanwhile
        return {info["local"] for link in json.loads(asked.stdout) for info in link["addr_info"] if "local" in info}

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The outer command that runs `argv` as root in the host: in all its namespaces and in its control groups,
        so that it hangs and dies with the host. Raises FabricError when the host is off."""
        leader = self.pid
        if leader is None or not self.running:
            raise FabricError(f"host {self.name} is off: boot it first")
        enter = ["nsenter", "--target", str(leader), "--all", "--", "env", "-i", *_ENVIRONMENT]
        if term := os.environ.get("TERM"):
            enter.append(f"TERM={term}")
        groups = [group / "payload" / "init.scope" for group in cgroups.of_host(self.state.name, self.name)]
        return cgroups.join_argv(groups, [*enter, *argv], must_exist=False)

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        stdin: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the host. Raises CommandError as command.run, FabricError when it is off or hung."""
        if self.hung:
            raise FabricError(f"host {self.name} is hung: thaw it before running {argv[0]} in it")
        try:
            return run(self.argv(argv), check=check, stdin=stdin, timeout_s=timeout_s)
        except CommandError as exc:
            raise CommandError([f"{self.name}:", *argv], exc.outcome, exc.stdout, exc.stderr) from exc

    def inside(self, function: Callable[[], T]) -> T:
        """What the function returns when it is run in the host's network, on this machine's disk; what it raises is
        raised here. Raises FabricError when the host is off."""
        leader = self.pid
        if leader is None or not self.running:
            raise FabricError(f"host {self.name} is off: boot it first")
        return call_inside(of_process(leader), function)

    def write_file(self, path: str, content: str, *, mode: int = 0o644) -> None:
        """Put a file into the host, folders too, atomically. On a host that is off: onto its disk."""
        if self.running:
            self.run(["sh", "-c", _WRITE, "write", path, f"{mode:o}"], stdin=content)
            return
        target = self._on_disk(path)
        target.write_text(content)
        target.chmod(mode)

    def read_file(self, path: str) -> str:
        """A file of the host as text; of a host that is off, from its disk. Raises FabricError if there is none."""
        if self.running:
            return self.run(["cat", path]).stdout
        layers = [self.folder / "up", *map(Path, self.spec.layers)]
        for layer in layers:
            if (layer / path.lstrip("/")).exists():
                return (layer / path.lstrip("/")).read_text()
        raise FabricError(f"host {self.name} has no {path}")

    def journal(self, unit: str | None = None, *matches: str) -> list[dict[str, Any]]:
        """Journal entries, oldest first, as fields by name; also of a host that is off or hung.

        `matches` are FIELD=value, as journalctl takes them.
        """
        which = [*(["--unit", unit] if unit else []), *matches]
        lines = self._journalctl(["--output=json", "--all", *which]).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def journal_text(self, unit: str | None = None) -> str:
        """The journal for people's eyes; also of a host that is off or hung."""
        return self._journalctl(["--output=short-precise", *(["--unit", unit] if unit else [])])

    def system_state(self) -> str:
        """systemd's own word: running, degraded, starting; or off, hung."""
        if not self.running or self.pid is None:
            return "off"
        if self.hung:
            return "hung"
        said = run(self.argv(["systemctl", "is-system-running"]), check=False).stdout.strip()
        return said or "starting"

    # --- inside

    @property
    def _keepers(self) -> Processes:
        return Processes(netns=self.state.netns, folder=self.state.folder / "keepers")

    @property
    def _keeper(self) -> str:
        return self.name

    @property
    def _userland(self) -> tuple[Path, ...]:
        """The groups of the host's own processes; nspawn, their parent, is outside and never frozen."""
        return tuple(group / "payload" for group in cgroups.of_host(self.state.name, self.name))

    def _bury(self) -> None:
        """Nothing of the host runs any more, its control groups are gone. Fine at any time, in any state.

        Once the host's processes are dead, nspawn and the keeper tidy up and end by themselves. If they do not, or if
        a kill came between them and their first act, they are ended: the keeper first, as it might boot the host anew.
        """
        groups = cgroups.of_host(self.state.name, self.name)
        give_up_at = time.monotonic() + _TIDY_WITHIN_S
        while self.running and self.pid is not None and time.monotonic() < give_up_at:
            time.sleep(_POLL_S)
        self._keepers.stop(self._keeper, grace_s=0)
        cgroups.kill(groups)
        cgroups.remove(groups)
        leader_file(self.folder).unlink(missing_ok=True)
        left_by_nspawn = Path("/run/systemd/nspawn/propagate") / f"{self.state.name}-{self.name}"
        if left_by_nspawn.is_dir():
            left_by_nspawn.rmdir()

    def _signal_leader(self, number: int) -> None:
        leader = self.pid
        if leader is None:
            raise FabricError(f"host {self.name} has no PID 1 yet: wait until it has booted")
        os.kill(leader, number)

    def _set_cable(self, nic: str, state: str) -> None:
        ports = [each.port for each in self.spec.nics if each.name == nic]
        if not ports:
            raise FabricError(f"host {self.name} has no network card {nic}")
        netns.ip_batch(self.state.netns, f"link set {ports[0]} {state}")

    def _journalctl(self, options: Sequence[str]) -> str:
        options = ["journalctl", "--no-pager", "--quiet", *options]
        if self.running and not self.hung and self.pid is not None:
            return self.run(options).stdout
        return run([*options, f"--directory={self.folder / 'up/var/log/journal'}"]).stdout

    def _on_disk(self, path: str) -> Path:
        """Where a file lies in the host's own layer, with its folders made as they are in the layers below.

        For a host that is off: a mounted overlay must not be written to from behind.
        """
        target = self.folder / "up"
        parts = Path(path.lstrip("/")).parts
        for depth, part in enumerate(parts[:-1], start=1):
            target /= part
            if not target.is_dir():
                target.mkdir()
                below = (Path(layer).joinpath(*parts[:depth]) for layer in self.spec.layers)
                for original in filter(Path.is_dir, below):
                    target.chmod(original.stat().st_mode)
                    break
        return target / parts[-1]

    def _console_tail(self) -> str:
        return self._keepers.tail(self._keeper, lines=20)

    def _until(self, done: Callable[[], bool], otherwise: str, timeout_s: float) -> None:
        give_up_at = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > give_up_at:
                raise FabricError(
                    f"host {self.name}: {otherwise} after {timeout_s:g} s; console:\n{self._console_tail()}"
                )
            time.sleep(_POLL_S)
