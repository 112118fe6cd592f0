"""A world for the ownership rules: N hosts running the real state machine, a simulated API, segment, kernel, clock.

Everything happens in virtual time, one event after the other, from one seed. After each event the promises are
checked; a broken one raises `PromiseBrokenError` with the story so far.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import NoReturn

from hostagent.core.candidates import Candidate, Ranking, rendezvous
from hostagent.core.ownership import Ownership
from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName
from hostagent.model.ownership import (
    Act,
    AddAddress,
    Claim,
    DeleteClaim,
    Probe,
    RemoveAddress,
    ReportConflict,
    Session,
    Write,
    WriteClaim,
)

DURATION_S, RENEW_S, LIFETIME_S, EXTEND_S, STOP_S = 15.0, 5.0, 10.0, 3.0, 8.0
ETH0 = InterfaceName("eth0")
P1_S = 0.1
WELL_S = 2 * DURATION_S
"""A host that was well for so long has renewed its session, whatever befell it before."""


class PromiseBrokenError(AssertionError):
    """One of the promises of the ownership protocol does not hold; the text is the story that led there."""


@dataclass
class Host:
    """A host: its kernel outlives its agent, its agent may be running, paused or dead."""

    name: NodeName
    boot: int = 0
    powered: bool = True
    running: bool = True
    paused: bool = False
    synced: bool = False
    """The agent has seen the API's lists and its own kernel; before that it decides nothing."""
    reaches_api: bool = True
    kernel: dict[IP, float] = field(default_factory=dict)
    inbox: list[Callable[[], None]] = field(default_factory=list)
    """What its watches keep while the agent is paused, in order; read one by one, as each may take a while."""
    replies: list[Callable[[], None]] = field(default_factory=list)
    """What other sockets keep meanwhile, each its own: replies, frames, timers that have run out."""
    isolated: bool = False
    """Neither heard nor hearing on the segment, though its link is up: a switch forwards nothing."""
    well_since: float | None = None
    """Since when this host has done nothing that could cost it a VIP; an API that is away is not its doing."""
    agent: Ownership = field(init=False)
    session_rv: str = ""
    session_ended: bool = False

    def __post_init__(self) -> None:
        self.start_agent()

    def start_agent(self) -> None:
        self.agent = Ownership(me=self.name, duration_s=DURATION_S, renew_s=RENEW_S)
        self.session_ended = self.synced = False
        self.well_since = None
        self.inbox.clear()
        self.replies.clear()

    @property
    def turning(self) -> bool:
        return self.powered and self.running and not self.paused

    def answers(self, vip: IP, now: float) -> bool:
        """A hung or dead agent's kernel still answers, until the lifetime ends."""
        return self.powered and self.kernel.get(vip, 0.0) > now


class World:
    def __init__(self, *, hosts: int, vips: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.hosts = {NodeName(f"h{i}"): Host(name=NodeName(f"h{i}")) for i in range(1, hosts + 1)}
        self.vips: list[IP] = [ip_address(f"198.51.100.{64 + i}") for i in range(vips)]
        self.wanted = set(self.vips)
        self.not_entitled: set[NodeName] = set()
        self.api_up = True
        self.lost_reply_chance = 0.0
        self.claims: dict[IP, Claim] = {}
        self.sessions: dict[NodeName, Session] = {}
        self.story: list[str] = [f"seed {seed}"]
        self.moves = 0
        self.unserved_since: dict[IP, float | None] = dict.fromkeys(self.vips, 0.0)
        self.longest_gap: dict[IP, float] = dict.fromkeys(self.vips, 0.0)
        self._twice_since: dict[IP, float] = {}
        self._rv = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        for host in self.hosts.values():
            self._boot(host)

    # The passing of time

    def at(self, delay_s: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._order, event))

    def run(self, until_s: float) -> None:
        while self._queue and self._queue[0][0] <= until_s:
            self.now, _, event = heapq.heappop(self._queue)
            event()
            self._check()
        self.now = until_s
        self._check()

    def tell(self, text: str) -> None:
        self.story.append(f"{self.now:9.3f} {text}")

    def broken(self, promise: str) -> NoReturn:
        raise PromiseBrokenError("\n".join([*self.story, promise]))

    def holders(self, vip: IP) -> list[NodeName]:
        return [host.name for host in self.hosts.values() if host.answers(vip, self.now)]

    def _check(self) -> None:
        for vip in self.vips:
            holders = self.holders(vip)
            together = [name for name in holders if not self.hosts[name].isolated]
            if len(together) > 1:
                twice_since = self._twice_since.setdefault(vip, self.now)
                # An agent that hangs while it hands over is fenced by the lifetime alone (docs/ownership.md, limits).
                hung = any(self.hosts[name].paused for name in together)
                if self.now - twice_since > (LIFETIME_S if hung else P1_S):
                    self.broken(f"P1: {together} both answer for {vip} since {twice_since:.3f}")
            else:
                self._twice_since.pop(vip, None)
            since = self.unserved_since[vip]
            if holders and since is not None:
                self.longest_gap[vip] = max(self.longest_gap[vip], self.now - since)
                self.unserved_since[vip] = None
            elif not holders and since is None:
                self.unserved_since[vip] = self.now

    # Faults and operators

    def power_off(self, host: Host) -> None:
        self.tell(f"{host.name} loses power")
        host.powered = False
        host.well_since = None
        host.kernel.clear()

    def power_on(self, host: Host) -> None:
        if not host.powered:
            self.tell(f"{host.name} boots")
            host.powered, host.running, host.paused = True, True, False
            host.boot += 1
            host.start_agent()
            self._boot(host)

    def pause(self, host: Host) -> None:
        if host.turning:
            self.tell(f"the agent of {host.name} hangs")
            host.paused, host.well_since = True, None

    def resume(self, host: Host) -> None:
        """It acts on what it knows before it has read all that came meanwhile."""
        if host.paused:
            self.tell(f"the agent of {host.name} runs on")
            host.paused, host.well_since = False, self.now if host.synced else None
            self._turn(host)
            self._read(host, host.agent)
            for reply in host.replies:
                self.at(self.random.uniform(0.0, 0.02), reply)
            host.replies.clear()

    def _read(self, host: Host, agent: Ownership) -> None:
        if host.agent is agent and host.turning and host.inbox:
            host.inbox.pop(0)()
            self.at(self.random.uniform(0.0, 0.2), lambda: self._read(host, agent))

    def restart_agent(self, host: Host) -> None:
        """SIGKILL or `systemctl restart`: the kernel keeps the addresses, the next agent adopts them."""
        if host.powered:
            self.tell(f"the agent of {host.name} is restarted")
            host.paused, host.running = False, True
            host.start_agent()
            self.at(1.0, lambda: self._boot(host))

    def stop_agent(self, host: Host) -> None:
        """`systemctl stop`: hand over, end the session."""
        if host.turning:
            self.tell(f"the agent of {host.name} is asked to stop")
            agent = host.agent
            host.well_since = None
            agent.stop()
            self._turn(host)
            self.at(STOP_S, lambda: self._give_up(host, agent))

    def _give_up(self, host: Host, agent: Ownership) -> None:
        """What could not be handed over in time (no API) is let go all the same: systemd waits for nobody."""
        if host.agent is agent and host.powered and host.running:
            self.tell(f"the agent of {host.name} gives up stopping in order")
            host.kernel.clear()
            host.running = host.paused = False

    def start_stopped(self, host: Host) -> None:
        if host.powered and not host.running:
            self.tell(f"the agent of {host.name} is started")
            host.running = True
            host.start_agent()
            self._boot(host)

    def api(self, *, up: bool) -> None:
        self.tell(f"the API is {'back' if up else 'gone'}")
        self.api_up = up

    # A holder that is cut off from the API, and that does not hear its rival on the segment, while clients hear both:
    # three faults at once are where P1 ends (docs/ownership.md, limits), so the world never lets them coincide.

    def cut(self, host: Host, *, off: bool) -> None:
        if off and any(each.isolated for each in self.hosts.values() if each is not host):
            return
        self.tell(f"{host.name} is {'cut off from' if off else 'connected to'} the API")
        host.reaches_api = not off
        host.well_since = self.now if host.reaches_api and host.turning and host.synced else None
        if not off:
            self._later(host, 0.001, self._relist, watched=True)

    def isolate(self, host: Host) -> None:
        if all(each.reaches_api for each in self.hosts.values() if each is not host):
            self.tell(f"the segment no longer carries frames of {host.name}")
            host.isolated = True

    def join(self, host: Host) -> None:
        if host.isolated and not host.paused:
            self.cut(host, off=False)
            self.at(1.0, lambda: self._join(host))

    def _join(self, host: Host) -> None:
        if host.paused or not host.reaches_api or not self.api_up:
            self.at(0.5, lambda: self._join(host))
            return
        self.tell(f"the segment carries frames of {host.name} again")
        host.isolated = False

    def entitle(self, host: Host, *, yes: bool) -> None:
        self.tell(f"{host.name} is {'a' if yes else 'no'} candidate")
        (self.not_entitled.discard if yes else self.not_entitled.add)(host.name)
        for each in self.hosts.values():
            self._later(each, 0.001, self._rank, watched=True)

    def delete_service(self, vip: IP) -> None:
        self.tell(f"the Service of {vip} is deleted")
        self.wanted.discard(vip)
        for each in self.hosts.values():
            self._later(each, 0.001, self._rank, watched=True)

    def create_service(self, vip: IP) -> None:
        self.tell(f"a Service has {vip}")
        self.wanted.add(vip)
        for each in self.hosts.values():
            self._later(each, 0.001, self._rank, watched=True)

    def delete_claim(self, vip: IP) -> None:
        """`kubectl delete lease`."""
        if self.api_up and self.claims.pop(vip, None) is not None:
            self.tell(f"somebody deletes the claim of {vip}")
            self._broadcast(lambda h: h.agent.claim_seen(vip, None, Instant(self.now)))

    def take_off(self, host: Host, vip: IP) -> None:
        """`ip address del`, by hand or by a network manager."""
        if host.kernel.pop(vip, None) is not None:
            self.tell(f"somebody takes {vip} off {host.name}")
            self._later(host, 0.001, lambda h: h.agent.held_is(vip, None))

    # A host's life

    def _boot(self, host: Host) -> None:
        agent = host.agent

        def begin() -> None:
            if host.agent is not agent or not (host.powered and host.running):
                return
            if host.paused or not (host.reaches_api and self.api_up):
                self.at(0.5, begin)
                return
            host.synced, host.well_since = True, self.now
            self._relist(host)
            self._expire(host)
            for vip in host.kernel:
                agent.held_is(vip, ETH0)
            before = self.sessions.get(host.name)
            same_boot = before is not None and before.instance == str(host.boot)
            for vip, claim in agent.claims.items():
                if same_boot and claim.holder == host.name and vip not in host.kernel:
                    agent.lapsed(vip)
            self._renew(host, agent)
            self._extend(host, agent)

        self.at(self.random.uniform(0.0, 0.5), begin)

    def _relist(self, host: Host) -> None:
        if not (host.turning and host.synced and host.reaches_api and self.api_up):
            return
        for node, session in self.sessions.items():
            known = host.agent.sessions.get(node)
            if known is None or known.resource_version != session.resource_version:
                host.agent.session_seen(node, replace(session, seen_at=Instant(self.now)), Instant(self.now))
        for vip in self.vips:
            claim = self.claims.get(vip)
            seen = replace(claim, seen_at=Instant(self.now)) if claim else None
            host.agent.claim_seen(vip, seen, Instant(self.now))
        self._rank(host)

    def _rank(self, host: Host) -> None:
        for vip in self.vips:
            nodes = [n for n in self.hosts if n not in self.not_entitled]
            nodes.sort(key=lambda n: rendezvous(n, str(vip)))
            ranked = tuple(Candidate(node=n, weight=0, interface=ETH0) for n in nodes)
            host.agent.ranking_is(vip, Ranking(ranked=ranked, excluded={}) if vip in self.wanted else None)

    def _renew(self, host: Host, agent: Ownership) -> None:
        if host.agent is not agent or not host.running or not host.powered:
            return
        if host.turning and host.reaches_api and self.api_up and not agent.stopping:
            self._write_session(host, ended=False)
            self.at(RENEW_S * self.random.uniform(0.9, 1.1), lambda: self._renew(host, agent))
        else:
            self.at(self.random.uniform(0.5, 1.0), lambda: self._renew(host, agent))

    def _write_session(self, host: Host, *, ended: bool) -> None:
        session = Session(
            node=host.name,
            instance="" if ended else str(host.boot),
            resource_version=self._next_rv(),
            seen_at=Instant(self.now),
            duration_s=DURATION_S,
        )
        self.sessions[host.name] = session
        self._broadcast(lambda h: self._see_session(h, session))

    def _see_session(self, host: Host, session: Session) -> None:
        host.agent.session_seen(session.node, replace(session, seen_at=Instant(self.now)), Instant(self.now))

    def _extend(self, host: Host, agent: Ownership) -> None:
        """The loop that keeps the kernel's addresses alive: it runs only while the agent turns."""
        if host.agent is not agent or not host.running or not host.powered:
            return
        if host.turning:
            self._expire(host)
            for vip in host.kernel:
                host.kernel[vip] = self.now + LIFETIME_S
            living = [node for node in self.hosts if host.agent.alive(node, Instant(self.now))]
            host.agent.sweeps = living[:1] == [host.name]
            self._turn(host)
        self.at(EXTEND_S, lambda: self._extend(host, agent))

    def _expire(self, host: Host) -> None:
        """What the kernel did by itself, as the agent learns of it on its next turn."""
        for vip in [v for v, until in host.kernel.items() if until <= self.now]:
            del host.kernel[vip]
            host.agent.lapsed(vip)

    def _turn(self, host: Host) -> None:
        if not (host.turning and host.synced):
            return
        agent = host.agent
        self._expire(host)
        for _ in range(10):
            acts = agent.turn(Instant(self.now))
            for act in acts:
                self._apply(host, agent, act)
            if not acts:
                break
        if agent.stopped and not host.session_ended and host.reaches_api and self.api_up:
            host.session_ended, host.running = True, False
            self._write_session(host, ended=True)
        wake = agent.next_wake()
        if wake is not None:
            self._later(host, max(0.0, wake - self.now), lambda _: None)

    def _later(self, host: Host, delay_s: float, event: Callable[[Host], None], *, watched: bool = False) -> None:
        """Let something reach a host's agent; what is `watched` comes behind what it has not read yet."""
        agent = host.agent

        def happen() -> None:
            event(host)
            self._turn(host)

        def arrive() -> None:
            if host.agent is not agent or not (host.powered and host.running):
                return
            if watched and (host.paused or host.inbox):
                host.inbox.append(happen)
            elif host.paused:
                host.replies.append(arrive)
            else:
                happen()

        self.at(delay_s, arrive)

    def _broadcast(self, event: Callable[[Host], None]) -> None:
        for host in self.hosts.values():
            if host.reaches_api and host.synced:
                self._later(host, self.random.uniform(0.001, 0.05), event, watched=True)

    # Acts

    def _apply(self, host: Host, agent: Ownership, act: Act) -> None:
        match act:
            case AddAddress(vip=vip, why=why):
                self.tell(f"{host.name} adds {vip} ({why})")
                claim = agent.claims.get(vip)
                if claim is None or claim.holder != host.name:
                    self.broken(f"P1: {host.name} adds {vip} and knows of no claim that names it")
                host.kernel[vip] = self.now + LIFETIME_S
                agent.held_is(vip, ETH0)
                for other in self.hosts.values():
                    if other is not host and not (other.isolated or host.isolated):
                        self._later(other, 0.001, lambda h: h.agent.heard(vip, Instant(self.now)))
            case RemoveAddress(vip=vip, why=why):
                self.tell(f"{host.name} removes {vip} ({why})")
                host.kernel.pop(vip, None)
                agent.held_is(vip, None)
            case Probe(vip=vip):
                self._probe(host, agent, vip)
            case WriteClaim() | DeleteClaim():
                self._write(host, agent, act)
            case ReportConflict(vip=vip, mac=mac):
                self.tell(f"{host.name} reports that {mac} answers for {vip}")

    def _probe(self, host: Host, agent: Ownership, vip: IP) -> None:
        heard: list[NodeName] = []

        def ask() -> None:
            others = [name for name in self.holders(vip) if name != host.name and not self.hosts[name].isolated]
            heard.extend(others if not host.isolated else ())

        def conclude(_: Host) -> None:
            agent.probed(vip, Mac(f"mac-of-{heard[0]}") if heard else None, Instant(self.now))

        for i in range(3):
            self.at(0.03 * i, ask)
        self._later(host, 0.11, conclude)

    def _write(self, host: Host, agent: Ownership, act: WriteClaim | DeleteClaim) -> None:
        def arrive() -> None:
            if not (host.reaches_api and self.api_up):
                self._later(host, 2.0, lambda _: agent.wrote(act.vip, Write.UNKNOWN, Instant(self.now)))
                return
            outcome = self._commit(act, host)
            if self.random.random() < self.lost_reply_chance:
                self._later(host, 2.0, lambda _: agent.wrote(act.vip, Write.UNKNOWN, Instant(self.now)))
                return
            current = self.claims.get(act.vip)

            def reply(_: Host) -> None:
                seen = replace(current, seen_at=Instant(self.now)) if current else None
                agent.claim_seen(act.vip, seen, Instant(self.now))
                agent.wrote(act.vip, outcome, Instant(self.now))

            self._later(host, self.random.uniform(0.001, 0.01), reply)

        self.at(self.random.uniform(0.001, 0.01), arrive)

    def _commit(self, act: WriteClaim | DeleteClaim, host: Host) -> Write:
        current = self.claims.get(act.vip)
        have = current.resource_version if current else ""
        want = act.expected.resource_version if act.expected else ""
        if have != want:
            return Write.LOST
        self._check_write(act, host, current)
        if isinstance(act, DeleteClaim):
            del self.claims[act.vip]
            self.tell(f"{host.name} deletes the claim of {act.vip}")
            self._broadcast(lambda h: h.agent.claim_seen(act.vip, None, Instant(self.now)))
            return Write.WON
        claim = Claim(
            holder=act.holder,
            predecessor=act.predecessor,
            resource_version=self._next_rv(),
            seen_at=Instant(self.now),
        )
        if act.holder is not None:
            self.moves += 1
        self.claims[act.vip] = claim
        self.tell(f"{host.name} writes {act.vip} -> {act.holder} ({act.why}: {act.detail})")
        self._broadcast(
            lambda h: h.agent.claim_seen(act.vip, replace(claim, seen_at=Instant(self.now)), Instant(self.now))
        )
        return Write.WON

    def _check_write(self, act: WriteClaim | DeleteClaim, host: Host, current: Claim | None) -> None:
        """P6: silence that has other causes than the holder takes nothing from it."""
        if current is None or current.holder in (None, host.name) or act.vip not in self.wanted:
            return
        well_since = self.hosts[current.holder].well_since
        if well_since is not None and self.now - well_since > WELL_S:
            self.broken(f"P6: {host.name} takes {act.vip} from {current.holder}, which is well since {well_since:.3f}")

    def _next_rv(self) -> str:
        self._rv += 1
        return str(self._rv)
