"""The wire that hosts and clients share: who hears whom, what is announced, asked and answered on it.

What it hides: frames that are lost, go one way only, or stay in one part of a split segment; a stranger's machine; and
that watching a VIP is a question every 150 ms, of which only the findings are simulated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from hostagent.model.names import IP, Mac, NodeName
from hostagent.model.ownership import Watched
from tests.simulation.timeline import Timeline

if TYPE_CHECKING:
    from tests.simulation.host import Host

FRAME_S = 0.0005
PROBES, PROBE_GAP_S, PROBE_WAIT_S = 3, (0.03, 0.04), 0.05
SILENT_AFTER_S = (0.12, 0.35)
"""From the first unanswered question to the finding: up to one interval, then the quick questions."""
REMIND_S = 1.0
QUESTION_S = 0.15
STRANGER = Mac("02:00:00:00:66:66")
GATEWAY = ip_address("198.51.100.1")
"""A router that is always on the segment, in its first part when it is split."""


class Segment:
    def __init__(self, time: Timeline) -> None:
        self.hosts: list[Host] = []
        self.loss_rate = 0.0
        self.lossy_until = 0.0
        """Frames were lost by chance until then: infinity while they are."""
        self.blocked: set[tuple[NodeName, NodeName]] = set()
        """Whose frames do not reach whom, though both work for everybody else."""
        self.strangers: set[IP] = set()
        self.changed = True
        """Something happened that may change who answers for what."""
        self.healed_at = 0.0
        """When frames reached somebody again whom they had not reached."""
        self._time = time
        self._owners: dict[Mac, Host] = {}
        self._watches: dict[tuple[NodeName, IP], _Watch] = {}

    def attach(self, hosts: Iterable[Host]) -> None:
        self.hosts = list(hosts)
        self._owners = {host.mac: host for host in self.hosts}

    # Who hears whom

    def carries(self, source: Host, target: Host) -> bool:
        """Whether frames get from one host to the other, but for chance."""
        return (
            source.wired
            and target.wired
            and not (source.mute or target.deaf)
            and source.part == target.part
            and (source.name, target.name) not in self.blocked
        )

    def converse(self, one: Host, other: Host) -> bool:
        return self.carries(one, other) and self.carries(other, one)

    def served(self, host: Host) -> bool:
        """Whether the clients in the host's part of the segment can talk to it."""
        return host.wired and not (host.mute or host.deaf)

    def answering(self, vip: IP) -> list[Host]:
        """Who answers clients for a VIP, in whatever part of the segment."""
        return [host for host in self.hosts if host.has(vip) and self.served(host)]

    def arrives(self) -> bool:
        """Whether chance lets one frame through."""
        return not self.loss_rate or self._time.random.random() >= self.loss_rate

    def troubled(self) -> bool:
        """Somebody, or some frames, do not get through; or somebody is there who should not be."""
        apart = any(not self.served(host) or host.part for host in self.hosts if host.wired)
        return apart or bool(self.blocked or self.loss_rate or self.strangers)

    def loses(self, rate: float) -> None:
        self.loss_rate = rate
        self.lossy_until = float("inf") if rate else self._time.now

    # Announcements and questions

    def announce(self, source: Host, vip: IP) -> None:
        for host in self.hosts:
            if host is not source and self.carries(source, host) and self.arrives():
                host.hears(vip, source.mac, source.name, FRAME_S)

    def strange(self, vip: IP) -> None:
        """A machine that is nobody's comes and says that it has the VIP."""
        self.strangers.add(vip)
        for host in self.hosts:
            if self._hears_others(host) and self.arrives():
                host.hears(vip, STRANGER, None, FRAME_S)

    def ask(self, asker: Host, vip: IP) -> list[Mac]:
        """One question to everybody: the MACs that answer and are heard."""
        others = [host for host in self.hosts if host is not asker and host.has(vip) and self.converse(asker, host)]
        found = [host.mac for host in others if self.arrives() and self.arrives()]
        if vip in self.strangers and self._reaches_others(asker) and self.arrives() and self.arrives():
            found.append(STRANGER)
        return found

    def witnesses(self, asker: Host, addresses: Sequence[IP]) -> set[IP]:
        """Which machines answer for an address of their own."""
        found = {
            host.address
            for host in self.hosts
            if host.address in addresses and self.converse(asker, host) and self.arrives() and self.arrives()
        }
        if GATEWAY in addresses and asker.part == 0 and self._reaches_others(asker):
            found.add(GATEWAY)
        return found

    def node_of(self, mac: Mac) -> NodeName | None:
        owner = self._owners.get(mac)
        return owner.name if owner is not None else None

    def _reaches_others(self, host: Host) -> bool:
        return self.served(host)

    def _hears_others(self, host: Host) -> bool:
        return host.wired and not host.deaf

    # Watching

    def look(self) -> None:
        """Find out which watched VIPs fell silent or are answered again, after something changed."""
        self.changed = False
        before, self._watches = self._watches, {}
        for host in self.hosts:
            for vip, target in host.watched.items():
                watch = before.get((host.name, vip))
                if watch is None or watch.target != target or watch.agent is not host.agent:
                    watch = _Watch(self, self._time, host, vip, target)
                self._watches[host.name, vip] = watch
                watch.look()
        for key, watch in before.items():
            if self._watches.get(key) is not watch:
                watch.end()

    def answers(self, asker: Host, vip: IP, mac: Mac) -> bool:
        """Whether a question to this MAC alone would be answered."""
        host = self._owners.get(mac)
        return host is not None and host.has(vip) and self.converse(asker, host)


class _Watch:
    """One host's watch of one VIP."""

    def __init__(self, segment: Segment, time: Timeline, host: Host, vip: IP, target: Watched) -> None:
        self.target = target
        self._segment, self._time, self._host, self._vip = segment, time, host, vip
        self.agent = host.agent
        self._answered: bool | None = None
        self._finding = 0
        """Findings under way are void when something else turns out meanwhile."""

    def end(self) -> None:
        self._finding = -1

    def look(self) -> None:
        answered = self._segment.answers(self._host, self._vip, self.target.mac)
        if answered == self._answered:
            return
        self._answered = answered
        self._finding += 1
        finding = self._finding
        if answered:
            self._time.between(0.0, 0.2, lambda: self._answer(finding))
            self._mishear(finding)
        else:
            self._time.between(*SILENT_AFTER_S, lambda: self._remind(finding))

    def _answer(self, finding: int) -> None:
        """It is answered. What this host holds itself is nobody else's to answer for: each answer counts."""
        if self._tell(finding, silent=False) and self._host.has(self._vip):
            self._host.hears(self._vip, self.target.mac, self.target.holder, FRAME_S)
            self._time.after(QUESTION_S, lambda: self._answer(finding))

    def _remind(self, finding: int) -> None:
        if self._tell(finding, silent=True):
            self._time.after(REMIND_S, lambda: self._remind(finding))

    def _mishear(self, finding: int) -> None:
        """Now and then all three questions are lost by chance."""
        rate = self._segment.loss_rate
        lost = (1 - (1 - rate) ** 2) ** PROBES
        if not lost or finding != self._finding:
            return

        def silent() -> None:
            if self._tell(finding, silent=True):
                self._time.between(0.1, 0.2, lambda: self._tell(finding, silent=False))
                self._mishear(finding)

        self._time.after(self._time.random.expovariate(lost / QUESTION_S), silent)

    def _tell(self, finding: int, *, silent: bool) -> bool:
        """Tell the agent, unless it turned out otherwise, or the agent hangs: nothing is asked then."""
        host = self._host
        if finding != self._finding or host.agent is not self.agent or not host.turning:
            return False
        host.finds(self._vip, silent=silent)
        if not silent:
            host.hears(self._vip, self.target.mac, self._segment.node_of(self.target.mac), FRAME_S)
        return True
