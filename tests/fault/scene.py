"""Whom a fault is done to: VIPs that one host holds, that host, the others, and how all of them were before."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.fabric.admin import ApiError, wait_for
from tests.fabric.controlplane import ControlPlane
from tests.fabric.hosts import Host
from tests.fabric.lab import Lab
from tests.system.cluster import Cluster

UNIT = "hostagent"
_SETTLED_WITHIN_S = 90.0
_DROP_INS = f"/run/systemd/system/{UNIT}.service.d"


def claim_name(vip: str) -> str:
    """Of the Lease that says who answers for the VIP."""
    return "vip." + ipaddress.ip_address(vip).exploded.replace(":", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """How things were when the fault began."""

    agents: Mapping[str, int]  # host → process


@dataclass(kw_only=True)
class Scene:
    """One fault's stage. Faults act on `holder`, which held all VIPs when the scene was made."""

    cluster: Cluster
    vips: tuple[str, ...]
    holder: Host
    before: Before
    undo: ExitStack = field(default_factory=ExitStack)  # for faults that are a context: closed by their cure

    @classmethod
    def of(cls, cluster: Cluster, vips: tuple[str, ...]) -> Scene:
        """The scene as it is now. Raises AssertionError if not all VIPs have the same holder."""
        claims = cluster.claims()
        holders = {claims.get(claim_name(vip)) for vip in vips}
        assert len(holders) == 1, f"{len(vips)} VIPs have several holders: {holders}"
        before = Before(agents={host.name: agent_process(host) for host in cluster.lab.hosts.values()})
        return cls(cluster=cluster, vips=vips, holder=cluster.lab.host(str(holders.pop())), before=before)

    @property
    def lab(self) -> Lab:
        return self.cluster.lab

    @property
    def plane(self) -> ControlPlane:
        return self.lab.control_plane

    @property
    def vip(self) -> str:
        """The first one, of IPv4."""
        return self.vips[0]

    @property
    def others(self) -> list[Host]:
        return [host for host in self.lab.hosts.values() if host.name != self.holder.name]

    # What faults wait for

    def placed(self) -> dict[str, list[str]]:
        """Each VIP, and the hosts whose kernels have it."""
        have = {host.name: host.kernel_addresses() for host in self.lab.hosts.values()}
        return {vip: [name for name, addresses in have.items() if vip in addresses] for vip in self.vips}

    def taken_over(self) -> bool:
        """Each VIP is on a host that is not the old holder, whatever that one still has."""
        return all(set(hosts) - {self.holder.name} for hosts in self.placed().values())

    def moved(self) -> bool:
        """Each VIP is on one host, and that is not the old holder."""
        return all(len(hosts) == 1 and hosts != [self.holder.name] for hosts in self.placed().values())

    def placed_once(self) -> bool:
        return all(len(hosts) == 1 for hosts in self.placed().values())

    def agent_replaced(self) -> bool:
        """systemd has started the holder's agent again."""
        return agent_process(self.holder) not in (0, self.before.agents[self.holder.name])

    def unsettled(self) -> str:
        """What is not yet as it should be when no fault is in force, or nothing: for the API, for each kernel and for
        each agent, every VIP is on the one host that its claim names, and everybody is alive."""
        hosts = self.lab.hosts.values()
        if off := [host.name for host in hosts if not host.running]:
            return f"{', '.join(off)}: off"
        try:
            claims = self.cluster.claims()
        except (OSError, ApiError) as exc:
            return f"the API server does not answer: {exc}"
        placed = self.placed()
        for vip in self.vips:
            if placed[vip] != [claims.get(claim_name(vip))]:
                return f"{vip} is on {placed[vip] or 'no host'}, and its claim names {claims.get(claim_name(vip))}"
        wrong = (self._agent_unsettled(host, claims) for host in hosts)
        return next(filter(None, wrong), "")

    def _agent_unsettled(self, host: Host, claims: Mapping[str, str]) -> str:
        status = self.cluster.status(host)
        if not status:
            return f"{host.name}: the agent does not answer"
        if not status["api"]["reachable"]:
            return f"{host.name}: the agent does not reach the API"
        seen: dict[str, dict[str, Any]] = {each["node"]: each for each in status["hosts"]}
        for name in self.lab.hosts:
            if not seen.get(name, {}).get("alive") or seen[name]["ended"]:
                return f"{host.name}: does not think that {name} is alive"
        knows = {each["vip"]: each["holder"] for each in status["vips"]}
        for vip in self.vips:
            if knows.get(vip) != claims[claim_name(vip)]:
                return f"{host.name}: believes that {knows.get(vip)} holds {vip}, not {claims[claim_name(vip)]}"
        return ""


def wait_settled(scene: Scene) -> None:
    """Raises TimeoutError that says what is not as it should be."""
    last = ""

    def settled() -> bool:
        nonlocal last
        last = scene.unsettled()
        return not last

    wait_for(settled, _SETTLED_WITHIN_S, lambda: last)


def agent_process(host: Host) -> int:
    """The agent's main process on a host; 0 if it does not run."""
    if not host.running or host.hung:
        return 0
    return int(host.run(["systemctl", "show", "--value", "--property=MainPID", UNIT]).stdout or "0")


def signal_agent(host: Host, name: str) -> None:
    host.run(["systemctl", "kill", f"--signal={name}", UNIT])


def restart_agent(host: Host) -> None:
    """Returns when the new one is ready."""
    host.run(["systemctl", "restart", UNIT])


def start_agent(host: Host) -> None:
    host.run(["systemctl", "reset-failed", UNIT], check=False)
    host.run(["systemctl", "start", UNIT])


def set_drop_in(host: Host, text: str) -> None:
    """Change the agent's unit until the next boot. Effective at once for what systemd does, at the next start for what
    the process is."""
    host.write_file(f"{_DROP_INS}/fault.conf", text)
    host.run(["systemctl", "daemon-reload"])


def remove_drop_in(host: Host) -> None:
    host.run(["rm", "-f", f"{_DROP_INS}/fault.conf"])
    host.run(["systemctl", "daemon-reload"])


# The agent's own idea of the time of day: all lab hosts share the machine's clock, so a library between the agent and
# its C library answers in the kernel's place. Clocks that nobody can set (CLOCK_BOOTTIME, CLOCK_MONOTONIC) go on as
# they are, as on a host whose clock is stepped.
_CLOCK_FILE = "/run/fault-clock"
_CLOCK_DROP_IN = f"""\
[Service]
Environment=LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1 FAKETIME_TIMESTAMP_FILE={_CLOCK_FILE}
Environment=FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1
"""


def prepare_clock(host: Host) -> None:
    """From now on the agent's clock can be set; it is right at first. Restarts the agent."""
    host.write_file(_CLOCK_FILE, "+0\n")
    set_drop_in(host, _CLOCK_DROP_IN)
    restart_agent(host)


def step_clock(host: Host, by_s: int) -> None:
    """The agent's time of day jumps."""
    host.write_file(_CLOCK_FILE, f"{by_s:+d}\n")


def restore_clock(host: Host) -> None:
    """The clock is right again, and after a restart of the agent it is the machine's own."""
    step_clock(host, 0)
    remove_drop_in(host)
    restart_agent(host)
