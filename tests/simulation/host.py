"""One host: a kernel that outlives its agent, a clock of its own, and an agent that runs, hangs, stops or is started.

What it hides: how the agent's acts are carried out, in which order it learns what, and what a hang, a restart, a power
cut or a pause of the whole machine does to all of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from hostagent.core.ownership import Ownership
from hostagent.core.situation import CARRIER_S
from hostagent.model.names import IP, Instant, Mac, NodeName
from hostagent.model.ownership import (
    Act,
    AddAddress,
    Announce,
    DeleteClaim,
    OnApiLoss,
    Probe,
    ReadClaim,
    ReadSession,
    Refute,
    RemoveAddress,
    ReportConflict,
    Suspect,
    Watched,
    WriteClaim,
)
from tests.simulation.api import Api
from tests.simulation.promises import Promises
from tests.simulation.segment import GATEWAY, PROBE_GAP_S, PROBE_WAIT_S, PROBES
from tests.simulation.segment import Segment as Wire
from tests.simulation.timeline import Clock, Event, Timeline
from tests.simulation.uplink import DURATION_S, ETH0, RENEW_S, Uplink

LIFETIME_S, STOP_S = 10.0, 8.0
EXTEND_S = LIFETIME_S / 4
PREEMPT_S = 30.0
RESTART_S = 1.0
BURST_S, REFRESH_S = (0.0, 0.05, 0.2, 1.0, 2.0, 5.0), 60.0
"""When a VIP is announced, as hostagent.edges.neighbors.schedule has it."""
LONGEST_RETRANSMISSION_S = 0.3
"""Until what waited for a machine that stood still is sent again."""
MOST_DRIFT = 200e-6
WAKE_SLACK_S = 0.001
TOLD_S = 0.005
UP_AGAIN_S = 0.05
"""A new interface takes addresses before it is set up and has a carrier."""
MOST_TURNS = 20
"""In a row, without anything happening: an act that leaves no trace would be asked for again for ever."""


class Host:
    def __init__(
        self,
        number: int,
        *,
        time: Timeline,
        api: Api,
        wire: Wire,
        promises: Promises,
        vips: Sequence[IP],
        on_api_loss: OnApiLoss,
    ) -> None:
        self.name = NodeName(f"h{number}")
        self.mac = Mac(f"02:00:00:00:00:{number:02x}")
        self.address: IP = ip_address(f"198.51.100.{10 + number}")
        self.boot = 0
        self.powered = self.running = True
        self.paused = False
        self.paused_at = 0.0
        self.frozen = False
        """The whole machine stands still, its kernel's timers included."""
        self.synced = False
        """The agent has seen the API's lists and its own kernel; before that it decides nothing."""
        self.session_ended = False
        self.reaches_api = True
        self.carrier = True
        self.card = True
        """There is an interface: without it the kernel takes no address."""
        self._refused_s: dict[IP, float] = {}
        self.deaf_since: Instant | None = None
        """As its agent was told, as the next."""
        self.back_at: Instant | None = None
        """When the interface was last there again, after others may have taken over what was on it."""
        self.mute = self.deaf = False
        self.part = 0
        """Of the segment, when it is split."""
        self.draining = False
        self.on_api_loss = on_api_loss
        self.wall_s = 1.7e9
        """By how much its wall clock is ahead of the world's time."""
        self.frozen_at = 0.0
        self._frozen_hold = 0
        self.thawed_at: float | None = None
        self.kernel: dict[IP, float] = {}
        """Until when the kernel keeps each VIP."""
        self._time, self._api, self._wire, self._promises = time, api, wire, promises
        draw = time.random
        self.clock = Clock(offset_s=draw.uniform(10, 1e6), rate=1 + draw.uniform(-MOST_DRIFT, MOST_DRIFT))
        self.uplink = Uplink(self, time=time, api=api, promises=promises, vips=vips)
        self._replies: list[Event] = []
        """What sockets keep while the agent hangs, each its own: replies, frames, timers that have run out."""
        self._wake_at: float | None = None
        self._bursts: dict[IP, int] = {}
        self._watched: Mapping[IP, Watched] = {}
        self.start_agent()

    @property
    def now(self) -> Instant:
        """What this host's own clock says: nothing else ever reaches its agent."""
        return self.clock.read(self._time.now)

    @property
    def watched(self) -> Mapping[IP, Watched]:
        """What its agent asks for on the wire, as of its last turn."""
        return self._watched if self.acts else {}

    @property
    def runs(self) -> bool:
        """There is an agent's process, in whatever state."""
        return self.powered and self.running

    @property
    def stands_still(self) -> bool:
        return self.paused or self.frozen

    @property
    def turning(self) -> bool:
        return self.powered and self.running and not (self.paused or self.frozen)

    @property
    def acts(self) -> bool:
        """Its agent takes part: it can claim, let go and announce."""
        return self.turning and self.synced

    @property
    def wired(self) -> bool:
        """Its kernel takes part in the segment."""
        return self.powered and self.carrier and not self.frozen

    def has(self, vip: IP) -> bool:
        """A hung or dead agent's kernel still answers, until the lifetime ends."""
        return self.kernel.get(vip, 0.0) > self._time.now

    # The agent's life

    def start_agent(self) -> None:
        """A new life of the agent, that knows nothing yet. What the kernel has is kept alive meanwhile."""
        self.agent = Ownership(
            me=self.name,
            duration_s=DURATION_S,
            renew_s=RENEW_S,
            on_api_loss=self.on_api_loss,
            preempt_delay_s=PREEMPT_S,
            gateways={ETH0: GATEWAY},
        )
        self.agent.draining = self.draining
        self.running, self.paused, self.synced, self.session_ended = True, False, False, False
        self._watched = {}
        self._replies.clear()
        self._bursts.clear()
        self._wake_at = None
        self.uplink.stop()
        self._changed()
        for vip in self.kernel:
            self._expect_expiry(vip)

    def boot_agent(self) -> None:
        """Wait for the API, then take part."""
        agent = self.agent
        self._extend(agent)

        def begin() -> None:
            if self.agent is not agent or not (self.powered and self.running):
                return
            if not self.turning or not self._api.reached_by(self):
                self._time.after(0.5, begin)
                return
            before = self._api.sessions.get(self.name)
            same_boot = before is not None and before.instance == str(self.boot)
            self._expire()
            self.uplink.start()
            for vip in self.kernel:
                agent.held_is(vip, ETH0)
                self._start_announcing(vip)
            for vip, claim in agent.claims.items():
                if same_boot and claim.holder == self.name and vip not in self.kernel:
                    agent.lapsed(vip)
            self.deaf_since = self.back_at = None
            if not self.carrier:
                self._carrier_told()
            self.uplink.begin()
            self.synced = True
            self.turn()

        self._time.between(0.0, 0.5, begin)

    def die(self, *, power: bool) -> None:
        """The agent is gone; without power, so is all that the kernel had."""
        self.running = self.paused = False
        if power:
            self.powered = self.frozen = False
            self.thawed_at = None
            self.kernel.clear()
        self.uplink.stop()
        self._changed()

    def pause(self) -> None:
        self.paused, self.paused_at = True, self._time.now
        self._changed()

    def resume(self) -> None:
        """It acts on what it knows before it has read all that came meanwhile."""
        self.paused = False
        self._changed()
        if self.synced:
            self.turn()
        self.uplink.read(self.agent)
        for reply in self._replies:
            self._time.between(0.0, 0.02, reply)
        self._replies.clear()
        if self.synced and self._time.random.random() < 0.5:  # questions that nobody was there to hear answered
            for vip in tuple(self.watched):
                self.finds(vip, silent=True)

    def freeze(self) -> None:
        self.frozen, self.frozen_at = True, self._time.now
        self._frozen_hold = self.uplink.stream.hold()
        self._changed()

    def thaw(self) -> None:
        """The machine runs on where it stood; it does not know that it stood still."""
        slept_s = self._time.now - self.frozen_at
        self.frozen, self.thawed_at = False, self._time.now
        self.clock.stood_still_s += slept_s
        self.paused_at += slept_s
        self.kernel = {vip: until + slept_s for vip, until in self.kernel.items()}
        for vip in self.kernel:
            self._expect_expiry(vip)
        self._changed()
        hold = self._frozen_hold
        self._time.between(0.0, min(slept_s, LONGEST_RETRANSMISSION_S), lambda: self.uplink.stream.release(hold))
        self.uplink.read(self.agent)
        for reply in self._replies:
            self._time.between(0.0, 0.02, reply)
        self._replies.clear()
        self._wake_at = None
        self._sleep()

    def stop(self) -> None:
        """`systemctl stop`: hand over, end the session; what is left after a while is let go all the same."""
        agent = self.agent
        agent.stop()
        if self.synced:
            self.turn()

        def give_up() -> None:
            if self.agent is agent and self.powered and self.running:
                self._time.tell(f"the agent of {self.name} gives up stopping in order")
                self.kernel.clear()
                self.die(power=False)

        self._time.after(STOP_S, give_up)

    def drain(self, *, yes: bool) -> None:
        self.draining = self.agent.draining = yes
        if self.synced:
            self.uplink.renew_soon()
            if self.turning:
                self.turn()

    # What the agent is told

    def later(self, delay_s: float, event: Event) -> None:
        """Let something reach this host's agent: a reply, a frame, a timer. It waits for an agent that hangs."""
        agent = self.agent

        def arrive() -> None:
            if self.agent is not agent or not (self.powered and self.running):
                return
            if self.paused or self.frozen:
                self._replies.append(arrive)
                return
            event()
            self.turn()

        self._time.after(delay_s, arrive)

    def hears(self, vip: IP, mac: Mac, by: NodeName | None, delay_s: float) -> None:
        def heard() -> None:
            self._promises.heard(self, vip, by)
            self.agent.heard(vip, mac, by, self.now)

        self.later(delay_s, heard)

    def finds(self, vip: IP, *, silent: bool) -> None:
        self.agent.watch_found(vip, silent=silent, now=self.now)
        self.turn()

    # The kernel

    def _extend(self, agent: Ownership) -> None:
        """The loop that keeps the kernel's addresses alive: it runs only while the agent turns."""
        if self.agent is not agent or not self.running or not self.powered:
            return
        if self.turning:
            self._expire()
            if self.synced or self.on_api_loss == "hold":  # how old the session is, a new agent does not know
                self.kernel = dict.fromkeys(self.kernel, self._lifetime_ends_at())
            if self.synced:
                living = sorted(node for node in agent.sessions if agent.hosts.alive(node, self.now))
                agent.sweeps = living[:1] == [self.name]
                self.turn()
        self._time.after(EXTEND_S, lambda: self._extend(agent))

    def _lifetime_ends_at(self) -> float:
        """Of what is added or extended now."""
        longest, fence_at = self._time.now + LIFETIME_S, self.agent.lifetime_ends_at
        return longest if fence_at is None else min(longest, self.clock.when(fence_at))

    def _expire(self) -> None:
        """What the kernel did by itself, as the agent learns of it on its next turn."""
        for vip in [v for v, until in self.kernel.items() if until <= self._time.now]:
            del self.kernel[vip]
            self._bursts.pop(vip, None)
            self.agent.lapsed(vip)
            self._changed()

    def _expect_expiry(self, vip: IP) -> None:
        """Others notice when the kernel ends an address, not when its agent does."""
        until = self.kernel[vip]
        if until > self._time.now:
            self._time.at(until, self._stirred)

    def _stirred(self) -> None:
        """What this host answers for may have changed."""
        self._wire.changed = True

    def _changed(self) -> None:
        self._stirred()
        if not self.turning:
            for vip in self.kernel:
                self._expect_expiry(vip)

    def take_off(self, vip: IP) -> bool:
        """`ip address del`, by hand or by a network manager."""
        if self.kernel.pop(vip, None) is None:
            return False
        self._changed()
        self.later(0.001, lambda: self._told_off(vip))
        return True

    def _told_off(self, vip: IP) -> None:
        if vip not in self.kernel:
            self.agent.held_is(vip, None)

    def lose_card(self) -> None:
        """The interface is gone, with all that was on it. Plugged in, there is one again."""
        self.card = False
        for vip in tuple(self.kernel):
            self.take_off(vip)

    def plug(self, *, plugged: bool) -> None:
        """A cable comes or goes: the kernel tells at once, and others are told of what can be reached where."""
        had_card = self.card
        self.carrier = plugged
        self.card |= plugged
        self._changed()
        if self.synced:

            def told() -> None:
                self._carrier_told()
                self.uplink.renew_soon()

            self.later(UP_AGAIN_S if plugged and not had_card else TOLD_S, told)

    def _carrier_told(self) -> None:
        self.agent.carrier_is(ETH0, up=self.carrier, now=self.now)
        if not self.carrier:
            self.deaf_since = self.deaf_since or self.now
        elif self.deaf_since is not None:
            self.back_at = self.now if self.long_deaf else self.back_at
            self.deaf_since = None

    @property
    def long_deaf(self) -> bool:
        """Others may have taken over what is, or was, on its interface."""
        return self.deaf_since is not None and self.now - self.deaf_since > CARRIER_S

    # Turning, and acting

    def turn(self) -> None:
        """Let the agent decide, and do what it decided, until it has nothing more to do."""
        if not (self.turning and self.synced):
            return
        agent = self.agent
        self._expire()
        turns = 0
        while acts := agent.turn(self.now):
            for act in acts:
                self._apply(agent, act)
            turns += 1
            if turns > MOST_TURNS:
                self._promises.broken(f"{self.name} does not come to rest: {acts}")
        watched = agent.watched
        if watched is not self._watched:
            self._wire.changed |= watched != self._watched
            self._watched = watched
        if agent.stopped and not self.session_ended and self._api.reached_by(self):
            self.session_ended = True
            self.uplink.write_session(ended=True)
            self.die(power=False)
            return
        self._sleep()

    def _sleep(self) -> None:
        wake = self.agent.next_wake(self.now)
        if wake is None:
            return
        at = max(self.clock.when(wake), self._time.now) + WAKE_SLACK_S
        if self._wake_at is None or at < self._wake_at or self._wake_at <= self._time.now:
            self._wake_at = at
            self.later(at - self._time.now, lambda: self._woken(at))

    def _woken(self, at: float) -> None:
        if self._wake_at == at:
            self._wake_at = None

    def _apply(self, agent: Ownership, act: Act) -> None:
        match act:
            case AddAddress(vip=vip) if not self.card:
                wait_s = self._refused_s[vip] = min(self._refused_s.get(vip, 0.0) * 2 or 0.02, 1.0)
                agent.ask_again(vip, Instant(self.now + wait_s))
            case AddAddress(vip=vip, why=why):
                self._refused_s.pop(vip, None)
                self._time.tell(f"{self.name} adds {vip} ({why})")
                self._promises.check_add(self.name, act, agent)
                self.kernel[vip] = self._lifetime_ends_at()
                self._changed()
                agent.held_is(vip, ETH0)
                self._start_announcing(vip)
            case RemoveAddress(vip=vip, why=why):
                self._time.tell(f"{self.name} removes {vip} ({why})")
                self.kernel.pop(vip, None)
                self._bursts.pop(vip, None)
                self._changed()
                agent.held_is(vip, None)
            case Probe():
                self._probe(agent, act)
            case WriteClaim() | DeleteClaim():
                self.uplink.write(agent, act)
            case ReportConflict(vip=vip, mac=mac):
                self._time.tell(f"{self.name} reports that {mac} answers for {vip}")
            case Announce(vip=vip):
                self._wire.announce(self, vip)
            case Suspect():
                self.uplink.suspect(agent, act)
            case Refute():
                self.uplink.renew_soon()
            case ReadSession(node=node):
                self.uplink.read_session(agent, node)
            case ReadClaim(vip=vip):
                self.uplink.read_claim(agent, vip)

    def _start_announcing(self, vip: IP) -> None:
        """A burst, then once a minute, for as long as the address is here and the agent turns."""
        burst = self._bursts[vip] = self._bursts.get(vip, 0) + 1
        agent, began_at = self.agent, self._time.now

        def announce(step: int) -> None:
            if self.agent is not agent or self._bursts.get(vip) != burst or vip not in self.kernel:
                return
            if self.turning:
                self._wire.announce(self, vip)
            at = began_at + BURST_S[step + 1] if step + 1 < len(BURST_S) else self._time.now + REFRESH_S
            self._time.at(max(at, self._time.now), lambda: announce(min(step + 1, len(BURST_S))))

        announce(0)

    def _probe(self, agent: Ownership, act: Probe) -> None:
        found: list[Mac] = []
        present: set[IP] = set()

        def ask() -> None:
            if self.frozen:
                return
            for mac in self._wire.ask(self, act.vip):
                found.append(mac)
                self.hears(act.vip, mac, self._wire.node_of(mac), 0.0)
            if act.witnesses:
                present.update(self._wire.witnesses(self, act.witnesses))

        def conclude() -> None:
            agent.probed(act.vip, found[0] if found else None, self.now, len(present))

        delay_s = 0.0
        for _ in range(PROBES):
            self._time.after(delay_s, ask)
            delay_s += self._time.random.uniform(*PROBE_GAP_S)
        self.later(delay_s + PROBE_WAIT_S, conclude)
