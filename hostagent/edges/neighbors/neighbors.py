"""Tell the neighbours who has a VIP, ask them, and listen to what they say."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from hostagent.edges.neighbors import frames
from hostagent.edges.neighbors.counters import Counters
from hostagent.edges.neighbors.schedule import Schedule
from hostagent.edges.neighbors.socket import FULL, PacketSockets, cause_of
from hostagent.edges.neighbors.watching import Watching
from hostagent.model.errors import EdgeError
from hostagent.model.host import Heard
from hostagent.model.names import IP, InterfaceName, Mac
from hostagent.model.ownership import Watched

PROBES = 3
PROBE_GAP_S = (0.030, 0.040)
"""Between rounds, drawn anew each time so that two probing hosts do not stay in step."""
PROBE_WAIT_S = 0.050
"""After the last round. Owners answer in 0.1 ms; a busy one took 1.5 ms, one asked for a thousand at once 170 ms."""
_BATCH = 200  # VIPs per turn of the event loop: 2 to 4 ms
_RETRY_S = 0.005
_RETRIES = 200  # with a second's worth of full queue the interface is as good as down


@dataclass(eq=False)
class _Question:
    interface: InterfaceName
    open: set[IP]
    answers: dict[IP, Mac] = field(default_factory=dict)


class Neighbors:
    """ARP and NDP on this host's interfaces. Knows frames; has never heard of leases.

    One timer serves all VIPs: each is announced in a burst when it is taken, then about once a minute until silenced.
    Everything runs on the event loop and blocks it for a few milliseconds at most.
    """

    def __init__(
        self, heard: Callable[[Heard], None], *, watched: Callable[[IP, bool], None] = lambda _vip, _silent: None
    ) -> None:
        """`heard` is told of every answer and announcement of another machine, also of those that answer a probe.

        `watched` is told of a watched VIP and whether it is silent: of the first finding, of each change, and about
        once a second while silence lasts. Who never calls `watch` need not give it.
        """
        self.counters = Counters()
        self._heard = heard
        self._interfaces: dict[InterfaceName, PacketSockets] = {}
        self._own_macs: frozenset[Mac] = frozenset()
        self._announced: dict[IP, InterfaceName] = {}
        self._schedule = Schedule(random.random)
        self._unsent: deque[IP] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._questions: set[_Question] = set()
        self._watching = Watching(
            interfaces=self._interfaces, is_own=self._is_own, counters=self.counters, watched=watched
        )

    def own_macs(self, macs: Collection[Mac]) -> None:
        """All MACs of this host: what comes from one of them is not news, whichever interface hears it."""
        self._own_macs = frozenset(macs)

    async def open(self, interface: InterfaceName, mac: Mac) -> None:
        """Listen on the interface and be able to send there; cheap when that is so already, so call it on any change.

        Where the interface was re-created, changed its MAC, or was down, the VIPs announced there are announced anew
        with a full burst.

        Raises:
            EdgeError: no such interface, or no permission (CAP_NET_RAW).
        """
        known = self._interfaces.get(interface)
        if known and known.still_valid(mac) and not known.was_down:
            return
        fresh = PacketSockets.open(interface, mac)  # before the old ones go: if this fails nothing has changed
        self.close_interface(interface)
        self._interfaces[interface] = fresh
        fresh.listen(lambda frame: self._on_frame(frame, interface))
        for vip, where in self._announced.items():
            if where == interface:
                self._schedule.start(vip, _now())
        self._rearm()

    def close_interface(self, interface: InterfaceName) -> None:
        """Neither listen nor send there any more. VIPs announced there stay so, for when it is opened again."""
        if sockets := self._interfaces.pop(interface, None):
            sockets.close()

    def close(self) -> None:
        """Fall silent and close everything."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._watching.stop()
        self._announced.clear()
        for interface in tuple(self._interfaces):
            self.close_interface(interface)

    def announce(self, vip: IP, interface: InterfaceName) -> None:
        """Tell the neighbours, from now until `silence`, that the VIP is at this interface.

        The first frames leave when the event loop turns next (200 VIPs per turn); a VIP that is announced already
        begins its burst anew. Whether frames could leave is in the counters: an interface that is down is no error,
        as netlink will tell of it, and everything is announced again once `open` finds it up.

        Raises:
            EdgeError: the interface was not opened.
        """
        self._sockets(interface, "neighbors.announce")
        self._announced[vip] = interface
        self._schedule.start(vip, _now())
        self._rearm()

    def silence(self, vip: IP) -> None:
        """Announce the VIP no more; not announced is success."""
        self._announced.pop(vip, None)
        self._schedule.stop(vip)

    def hush(self, vip: IP) -> None:
        """Announce the VIP no more by itself, until `resume`; `defend` still does. Not announced is success."""
        self._schedule.stop(vip)

    def resume(self, vip: IP) -> None:
        """Begin the burst anew of a VIP that is announced, hushed or not; not announced is success."""
        if vip in self._announced:
            self._schedule.start(vip, _now())
            self._rearm()

    def defend(self, vip: IP) -> None:
        """Say once, now, that the VIP is here (RFC 5227 2.4 c), whatever its burst is at; not announced is success.

        That it is not done too often is up to the caller. Whether the frames could leave is in the counters.
        """
        try:
            self._send_announcement(vip)
        except OSError:
            self.counters.failed += 1

    def watch(self, targets: Mapping[IP, Watched]) -> None:
        """Ask for these VIPs from now on, and for no others, and tell `watched` which are answered and which silent.

        Cheap when nothing changed, so call it on any occasion. What stays as it was keeps its state; a VIP that is new,
        or has another holder, interface or MAC, starts anew: the first finding about it is told, whatever it is.

        An answer of any other machine counts, also of one that is not the holder: where somebody answers nobody may
        take over. Silence is three questions without an answer, found within 0.35 s for up to five VIPs (see
        `WatchSchedule` for more). It is a suspicion, never a proof: frames get lost, and so do those of a host that is
        starved of CPU, though a stall of this process accuses nobody. A VIP whose holder's MAC is one of this host's
        own, or whose interface is not open or is down, is not asked for and keeps its state: answers of one's own MACs
        are no news, so they would be taken for silence.
        """
        self._watching.replace(targets)

    async def probe(self, vips: Iterable[IP], interface: InterfaceName) -> dict[IP, Mac | None]:
        """Ask the segment who has each address; the MAC of the first other machine that answered, or None.

        Addresses of both families, VIPs or not, may be asked for together.

        Three questions for each that has not been answered, in common rounds: 0.12 s for one VIP that is free, 0.2 to
        0.3 s for a thousand. Silence proves nothing about a machine that is cut off: a brake, never a permission.

        Raises:
            EdgeError: the interface was not opened, is down or gone, or the questions could not be sent. Never None for
                a VIP for which nobody was asked.
        """
        sockets = self._sockets(interface, "neighbors.probe")
        question = _Question(interface, set(vips))
        asked = tuple(question.open)
        self._questions.add(question)
        try:
            for nth in range(1, PROBES + 1):
                if question.open:
                    await self._ask(question, sockets)
                    await asyncio.sleep(PROBE_WAIT_S if nth == PROBES else random.uniform(*PROBE_GAP_S))  # noqa: S311
                    sockets = self._sockets(interface, "neighbors.probe")
                    sockets.read_all()  # after a stall of the loop the answers are there, and the time is over
        finally:
            self._questions.discard(question)
        if sockets.was_down:
            raise EdgeError("neighbors.probe", interface, "the interface went down while its neighbours were asked")
        return {vip: question.answers.get(vip) for vip in asked}

    async def _ask(self, question: _Question, sockets: PacketSockets) -> None:
        pending = deque(question.open)
        retries = 0
        while pending:
            try:
                for _ in range(min(_BATCH, len(pending))):
                    sockets.send(frames.probe(pending[0], sockets.mac))
                    pending.popleft()
                    self.counters.probes += 1
                await asyncio.sleep(0)  # answers come in meanwhile
            except OSError as exc:
                retries += 1
                if exc.errno not in FULL or retries > _RETRIES:
                    raise EdgeError(
                        "neighbors.probe", question.interface, cause_of(exc.errno or 0), status=exc.errno
                    ) from exc
                await asyncio.sleep(_RETRY_S)

    def _on_frame(self, frame: bytes, interface: InterfaceName) -> None:
        heard = frames.parse(frame, interface)
        if heard is None or self._is_own(heard.mac):
            return
        self.counters.received += 1
        self.counters.foreign += heard.ip in self._announced
        self._watching.heard(heard)
        for question in self._questions:
            if heard.interface == question.interface and heard.ip in question.open:
                question.open.remove(heard.ip)
                question.answers[heard.ip] = heard.mac
        self._heard(heard)

    def _is_own(self, mac: Mac) -> bool:
        return mac in self._own_macs or any(sockets.mac == mac for sockets in self._interfaces.values())

    def _sockets(self, interface: InterfaceName, op: str) -> PacketSockets:
        try:
            return self._interfaces[interface]
        except KeyError:
            raise EdgeError(op, interface, "the interface is not open (down, gone, or of no advertisement)") from None

    def _turn(self) -> None:
        """Announce those whose turn it is, up to a batch; then wait for the next."""
        self._timer = None
        batch = self._unsent
        batch.extend(self._schedule.due(_now(), _BATCH - len(batch)))
        while batch:
            try:
                self._send_announcement(batch[0])
            except OSError as exc:
                if exc.errno in FULL:  # these first, in a moment
                    self._timer = asyncio.get_running_loop().call_later(_RETRY_S, self._turn)
                    return
                self.counters.failed += 1
            batch.popleft()
        self._rearm()

    def _send_announcement(self, vip: IP) -> None:
        interface = self._announced.get(vip)
        sockets = self._interfaces.get(interface) if interface else None
        if sockets is None:
            return  # silenced, or its interface closed, since its turn came
        for frame in frames.announcement(vip, sockets.mac):
            sockets.send(frame)
            self.counters.sent += 1

    def _rearm(self) -> None:
        at = self._schedule.next_at()
        if self._timer and (at is None or self._timer.when() > at):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._turn)


def _now() -> float:
    return asyncio.get_running_loop().time()
