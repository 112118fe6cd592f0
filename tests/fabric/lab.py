"""A whole lab: the segment, hosts on it, a control plane, a client. Up, found again, down."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.fabric import assets, cgroups, netns
from tests.fabric.assets import Progress, to_stderr
from tests.fabric.backends import install_kube_proxy, kube_proxy_bind, register_nodes
from tests.fabric.base import FRR, Disk
from tests.fabric.client import Client
from tests.fabric.command import FabricError, run
from tests.fabric.controlplane import ControlPlane
from tests.fabric.hosts import Host
from tests.fabric.listener import Listener
from tests.fabric.machine import allow_many_hosts, why_not
from tests.fabric.processes import Processes
from tests.fabric.segment import BRIDGE, SEGMENT_V4, SEGMENT_V6, V4_PREFIX_LEN, V6_PREFIX_LEN, Segment, port
from tests.fabric.state import DEFAULT_NAME, LabState, existing_labs
from tests.fabric.supervisor import HostSpec, Nic

FRR_ROUTER = {"tor": Disk(add=FRR)}
# Host h1 is .11; VIP pools begin at .64. The first router is .254, the next .253.
MAX_HOSTS, MAX_ROUTERS = 50, 10
_FIRST_ROUTER = 254
# Hosts booting at the same time; more do not boot faster on two cores, and each takes longer.
_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """One lab that is up. Cheap to make: holds names only, so any process may have one in hand."""

    state: LabState
    hosts: Mapping[str, Host]
    routers: Mapping[str, Host]
    plane: ControlPlane | None

    @classmethod
    def up(
        cls,
        name: str = DEFAULT_NAME,
        *,
        hosts: int = 3,
        disks: Mapping[str, Disk] | None = None,
        routers: Mapping[str, Disk] | None = None,
        wires: Sequence[tuple[str, ...]] = (),
        control_plane: bool = True,
        kube_proxy: bool = True,
        audited: bool = True,
        binds: Sequence[tuple[str, str]] = (),
        progress: Progress = to_stderr,
    ) -> Lab:
        """Make a lab: hosts h1.. booted, Nodes of the control plane, each with kube-proxy.

        `disks` says which hosts start from another disk than a bare Debian 12. `routers` are further machines on the
        segment, no Nodes. `wires` are further bridges, each with the machines on it: those have a further card there,
        eth1 and on, with link-local addresses only. A control plane that is `audited` tells the agents' writes.
        `binds` are paths of this machine, and where all hosts see them, read-only. Whatever goes wrong, an interrupt
        too, leaves nothing behind. Raises FabricError: also when a lab of this name exists.
        """
        if reason := why_not():
            raise FabricError(reason)
        if not 0 <= hosts <= MAX_HOSTS:
            raise FabricError(f"{hosts} hosts asked for: a lab has room for 0 to {MAX_HOSTS}")
        routers, disks = routers or {}, disks or {}
        if len(routers) > MAX_ROUTERS:
            raise FabricError(f"{len(routers)} routers asked for: a lab has room for {MAX_ROUTERS}")
        state = LabState(name=name)
        numbers = {f"h{n}": 10 + n for n in range(1, hosts + 1)}
        numbers |= {each: _FIRST_ROUTER - n for n, each in enumerate(routers)}
        if unknown := {*disks, *(each for wire in wires for each in wire)} - set(numbers):
            raise FabricError(f"no host or router of this lab: {', '.join(sorted(unknown))}")
        own_disks = {each: {**disks, **routers}.get(each, Disk()) for each in numbers}
        layers = {each: disk.layers(progress) for each, disk in own_disks.items()}
        with_proxy = kube_proxy and control_plane
        programs = assets.ensure_assets(progress) if control_plane else None
        shared = [*binds, *([kube_proxy_bind(programs.kube_proxy)] if programs and with_proxy else [])]
        specs = [
            replace(
                _spec(state, each, number, layers[each], binds=binds if each in routers else shared, wires=wires),
                network=own_disks[each].network,
            )
            for each, number in numbers.items()
        ]

        state.create()
        with _torn_down_on_failure(name) as run_all:
            allow_many_hosts()
            made = {"routers": list(routers), "control_plane": control_plane, "audited": audited}
            (state.folder / "lab.json").write_text(json.dumps(made))
            Segment(state=state).up()
            for number in range(1, len(wires) + 1):
                Segment(state=state).add_bridge(_wire(number))
            _make_keys(state, specs)
            key = state.private_key.with_suffix(".pub").read_text()
            for spec in specs:
                Host(state=state, name=spec.name).create(spec, key)
            lab = cls.find(name)
            machines = [*lab.hosts.values(), *lab.routers.values()]
            progress(f"lab {name}: booting {', '.join(spec.name for spec in specs)}")
            run_all([*([lab.plane.start] if lab.plane else []), *(machine.boot for machine in machines)])
            if lab.plane:
                progress(f"lab {name}: control plane at {lab.plane.server}")
                register_nodes(lab.plane, list(lab.hosts.values()))
                if with_proxy:
                    run_all([_kube_proxy_on(host, lab.plane) for host in lab.hosts.values()])
        progress(f"lab {name}: up")
        return lab

    @classmethod
    def find(cls, name: str = DEFAULT_NAME) -> Lab:
        """A lab that is up. Raises FabricError when there is none of the name."""
        state = LabState(name=name)
        try:
            made = json.loads((state.folder / "lab.json").read_text())
        except FileNotFoundError as exc:
            there = ", ".join(existing_labs()) or "none"
            raise FabricError(f"no lab {name} (there: {there}): python -m tests.fabric up --name {name}") from exc
        hosts = {host.name: host for host in _hosts_on_disk(state)}
        return cls(
            state=state,
            routers={each: hosts.pop(each) for each in made.get("routers", ()) if each in hosts},
            hosts=hosts,
            plane=_plane(state, audited=made["audited"]) if made["control_plane"] else None,
        )

    @staticmethod
    def down(name: str = DEFAULT_NAME) -> None:
        """Nothing of the lab is left: processes, namespaces, control groups, files. No such lab is fine.

        Works from the name alone, on a half-made lab too, and goes on past what fails; raises FabricError at the
        end with all that could not be removed.
        """
        state = LabState(name=name)
        group = cgroups.of_lab(name)
        troubles: list[str] = []
        steps: list[Callable[[], object]] = [
            *(host.destroy for host in _hosts_on_disk(state)),
            _plane(state).teardown,
            lambda: _stop_listeners(state),
            # What no record speaks of: children of the killed, somebody's shell in a namespace.
            lambda: cgroups.kill(group),
            lambda: cgroups.remove(group),
            lambda: _kill_all_in(state.client_netns),
            lambda: _kill_all_in(state.netns),
            Segment(state=state).down,
            state.forget,
        ]
        for step in steps:
            try:
                step()
            except (FabricError, OSError, TimeoutError) as exc:
                troubles.append(str(exc))
        for parent in {each.parent for each in group}:
            with suppress(OSError):  # another lab is in it, or it is not there
                parent.rmdir()
        if troubles:
            raise FabricError(f"lab {name} is not quite gone: {'; '.join(troubles)}")

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        Lab.down(self.state.name)

    @property
    def segment(self) -> Segment:
        return Segment(state=self.state)

    @property
    def client(self) -> Client:
        return Client(state=self.state)

    @property
    def control_plane(self) -> ControlPlane:
        """Raises FabricError when the lab was made without one."""
        if self.plane is None:
            raise FabricError(f"lab {self.state.name} has no control plane: make it with one")
        return self.plane

    def host(self, name: str) -> Host:
        """A host, or a router, by name. Raises FabricError when there is none of it."""
        everyone = {**self.hosts, **self.routers}
        if name not in everyone:
            raise FabricError(f"lab {self.state.name} has no host {name}: it has {', '.join(everyone)}")
        return everyone[name]

    def listening(self, *, ask: Sequence[str] = (), ask_every_ms: float = 50.0) -> Listener:
        """`with lab.listening(ask=[vip]) as listener: ...`; see listener.Listener."""
        macs = {host.mac: host.name for host in self.hosts.values()}
        return Listener(self.state, macs, ask=ask, ask_every_ms=ask_every_ms)

    def inventory(self, *, group: str = "lab_hosts", connection: str = "ssh") -> dict[str, Any]:
        """An Ansible inventory, in the form that dynamic inventories print.

        With `ssh`, Ansible must run in the lab's namespace: nsenter --net=/run/netns/<lab>. With `labhost` it may run
        anywhere on this machine, as root.
        """
        ssh = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.state.private_key),
            # All labs have the same addresses: connections kept open must not be shared between them.
            "ansible_control_path_dir": str(self.state.private_key.parent / "cp"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.state.known_hosts} -o StrictHostKeyChecking=yes",
        }
        labhost = {"ansible_connection": "labhost", "labhost_state": str(self.state.folder)}
        shared = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "lab_name": self.state.name,
            "lab_netns": self.state.netns,
            **(labhost if connection == "labhost" else ssh),
        }
        if self.plane:
            shared |= {"lab_api_url": self.plane.server, "lab_admin_kubeconfig": str(self.plane.admin.kubeconfig)}
        hostvars = {
            host.name: {
                "ansible_host": host.name if connection == "labhost" else host.addresses[0],
                "lab_addresses": list(host.addresses),
            }
            for host in self.hosts.values()
        }
        return {
            "_meta": {"hostvars": hostvars},
            "all": {"children": [group], "vars": shared},
            group: {"hosts": list(self.hosts)},
        }


RunAll = Callable[[Iterable[Callable[[], None]]], None]


@contextmanager
def _torn_down_on_failure(name: str) -> Iterator[RunAll]:
    """Gives a way to run jobs at once. When anything fails, or is interrupted, the lab is torn down."""
    pool = ThreadPoolExecutor(max_workers=_AT_ONCE)

    def run_all(jobs: Iterable[Callable[[], None]]) -> None:
        futures: list[Future[None]] = [pool.submit(job) for job in jobs]
        wait_for_all(futures, return_when="FIRST_EXCEPTION")
        for future in futures:
            if future.done():
                future.result()

    try:
        yield run_all
    except BaseException:
        # The first time so that jobs still waiting for a host or a server see it die, and end; the second time for
        # what they may have started meanwhile.
        pool.shutdown(wait=False, cancel_futures=True)
        with suppress(FabricError):
            Lab.down(name)
        pool.shutdown(wait=True)
        Lab.down(name)
        raise
    pool.shutdown(wait=True)


def _spec(
    state: LabState,
    name: str,
    number: int,
    layers: Sequence[Path],
    *,
    binds: Sequence[tuple[str, str]],
    wires: Sequence[tuple[str, ...]],
) -> HostSpec:
    addresses = (f"198.51.100.{number}/{V4_PREFIX_LEN}", f"2001:db8:51::{number}/{V6_PREFIX_LEN}")
    mine = [_wire(n) for n, wire in enumerate(wires, 1) if name in wire]
    further = (
        Nic(name=f"eth{n}", port=port(name, f"eth{n}"), bridge=wire, addresses=()) for n, wire in enumerate(mine, 1)
    )
    return HostSpec(
        lab=state.name,
        name=name,
        layers=tuple(map(str, layers)),
        nics=(Nic(name="eth0", port=port(name), bridge=BRIDGE, addresses=addresses), *further),
        binds=tuple(binds),
    )


def _wire(number: int) -> str:
    return f"wire{number}"


def _make_keys(state: LabState, specs: Sequence[HostSpec]) -> None:
    """A key for root on all hosts, and what ssh must know of theirs: hosts that share a base tree share a host key."""
    state.private_key.parent.mkdir(mode=0o700)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", state.name, "-f", str(state.private_key)])
    known = []
    for spec in specs:
        host_key = " ".join(Path(spec.layers[-1], "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])
        known += [f"{address.partition('/')[0]} {host_key}\n" for address in spec.nics[0].addresses]
    state.known_hosts.write_text("".join(known))


def _plane(state: LabState, *, audited: bool = True) -> ControlPlane:
    return ControlPlane(state.netns, SEGMENT_V4, state.folder / "api", [SEGMENT_V6], audited=audited)


def _kube_proxy_on(host: Host, plane: ControlPlane) -> Callable[[], None]:
    return lambda: install_kube_proxy(host, plane)


def _hosts_on_disk(state: LabState) -> list[Host]:
    """In the order of their numbers, h10 after h9."""
    folder = state.folder / "hosts"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [Host(state=state, name=name) for name in sorted(names, key=lambda name: (len(name), name))]


def _stop_listeners(state: LabState) -> None:
    listeners = Processes(netns=state.netns, folder=state.folder / "listeners")
    for name in listeners.names():
        listeners.stop(name, grace_s=0)


def _kill_all_in(namespace: str) -> None:
    for pid in netns.pids(namespace):
        if pid != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
