"""A world for the ownership rules: hosts running the real state machine, a simulated API, segment, kernels and clocks.

Everything happens in virtual time, one event after the other, from one seed. After each event the promises are
checked; a broken one raises `PromiseBrokenError` with the story so far. Here is what can go wrong, and what people do.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from hostagent.model.names import IP, NodeName
from hostagent.model.ownership import OnApiLoss
from tests.simulation.api import Api, Services
from tests.simulation.host import LIFETIME_S, RESTART_S, STOP_S, Host
from tests.simulation.promises import Promises
from tests.simulation.segment import Segment
from tests.simulation.timeline import Timeline
from tests.simulation.uplink import DURATION_S

WELL_S = 2 * DURATION_S
"""A host that was well for so long has renewed its session, whatever befell it before."""


class _Address(IPv4Address):
    """An address that works out its hash once: a tenth of a run's time would go there."""

    __slots__ = ("_hash",)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class World:
    def __init__(self, *, hosts: int, vips: int, seed: int, on_api_loss: OnApiLoss = "hold") -> None:
        self.time = Timeline(seed)
        self.vips: list[IP] = [_Address(f"198.51.100.{64 + i}") for i in range(vips)]
        names = [NodeName(f"h{number}") for number in range(1, hosts + 1)]
        self.api = Api(self.time, Services(wanted=frozenset(self.vips), weights=dict.fromkeys(names, 0)))
        self.segment = Segment(self.time)
        self.promises = Promises(self.time, self.vips, lifetime_s=LIFETIME_S, duration_s=DURATION_S)
        self.hosts = {
            name: Host(
                number,
                time=self.time,
                api=self.api,
                wire=self.segment,
                promises=self.promises,
                vips=self.vips,
                on_api_loss=on_api_loss,
            )
            for number, name in enumerate(names, start=1)
        }
        self.segment.attach(self.hosts.values())
        self.promises.watch(self.hosts.values(), self.api, self.segment)
        for host in self.hosts.values():
            host.boot_agent()

    @property
    def now(self) -> float:
        return self.time.now

    @property
    def story(self) -> list[str]:
        return self.time.story

    def run(self, until_s: float) -> None:
        self.time.run(until_s, after_each=self.promises.check)

    def holders(self, vip: IP) -> list[NodeName]:
        """Whose kernels have the address and would answer, heard or not."""
        return [host.name for host in self.hosts.values() if host.powered and host.has(vip)]

    def _fault(self, text: str, *, agent: Host | None = None, wire: bool = False, api: bool | Host = False) -> None:
        self.time.tell(text)
        self.promises.fault()
        if agent is not None:
            self.promises.agent_fault(agent)
        if wire:
            self.promises.wire_fault()
            self.segment.changed = True
        if api:
            self.promises.api_fault(api if isinstance(api, Host) else None)

    # Hosts and their agents

    def power_off(self, host: Host) -> None:
        if host.powered:
            self.promises.dies(host)
            self._fault(f"{host.name} loses power", agent=host)
            host.die(power=True)

    def power_on(self, host: Host) -> None:
        if not host.powered:
            self._fault(f"{host.name} boots", agent=host)
            host.powered = True
            host.boot += 1
            host.start_agent()
            host.boot_agent()

    def pause(self, host: Host) -> None:
        if host.turning:
            self._fault(f"the agent of {host.name} hangs", agent=host)
            host.pause()

    def resume(self, host: Host) -> None:
        if host.paused and not host.frozen:
            self._fault(f"the agent of {host.name} runs on", agent=host)
            host.resume()

    def freeze(self, host: Host) -> None:
        """The hypervisor stops a virtual machine, as a snapshot does."""
        if host.powered and not host.frozen:
            self._fault(f"{host.name} stands still", agent=host, wire=True)
            host.freeze()

    def thaw(self, host: Host) -> None:
        if host.frozen:
            self._fault(f"{host.name} runs on where it stood", agent=host, wire=True)
            host.thaw()

    def restart_agent(self, host: Host) -> None:
        """SIGKILL or `systemctl restart`: the kernel keeps the addresses, the next agent adopts them."""
        if host.powered and not host.frozen:
            well = self.promises.all_well() and not host.agent.stopping
            self._fault(f"the agent of {host.name} is restarted", agent=host)
            if well:
                self.promises.stays(host, DURATION_S, f"the agent of {host.name} is restarted")
            host.start_agent()
            self.time.after(RESTART_S, host.boot_agent)

    def stop_agent(self, host: Host) -> None:
        """`systemctl stop`."""
        if host.turning and not host.agent.stopping:
            well = self.promises.all_well()
            self._fault(f"the agent of {host.name} is asked to stop", agent=host)
            if well:
                self.promises.leaves(host, STOP_S + 2)
            host.stop()

    def start_stopped(self, host: Host) -> None:
        if host.powered and not host.running and not host.frozen:
            self._fault(f"the agent of {host.name} is started", agent=host)
            host.start_agent()
            host.boot_agent()

    def drain(self, host: Host, *, yes: bool) -> None:
        if host.draining != yes and host.turning:
            well = self.promises.all_well()
            self._fault(f"{host.name} {'drains' if yes else 'takes part again'}", agent=host)
            if well and yes:
                self.promises.leaves(host, STOP_S + 2)
            host.drain(yes=yes)

    def step_clock(self, host: Host) -> None:
        """Somebody sets the wall clock. Nothing may come of it."""
        self.time.tell(f"the wall clock of {host.name} is set")
        host.wall_s += self.time.random.choice((-3600.0, 3600.0))

    # The API

    def api_is(self, *, up: bool) -> None:
        if up != self.api.up:
            self._fault(f"the API is {'back' if up else 'gone'}", api=True)
            self.api.up = up
            if up:
                self.promises.api_back_at = self.now
            else:
                self.promises.api_gone_at = self.now
            for host in self.hosts.values():
                host.uplink.changed()

    def slow(self, *, yes: bool) -> None:
        if yes != self.api.slow:
            self._fault(f"the API is {'slow' if yes else 'quick again'}", api=True)
            self.api.slow = yes

    def throttle(self, *, yes: bool) -> None:
        if yes != self.api.throttled:
            self._fault(f"the API {'throttles' if yes else 'no longer throttles'}", api=True)
            self.api.throttled = yes

    def cut(self, host: Host, *, off: bool) -> None:
        if host.reaches_api == off:
            self._fault(f"{host.name} is {'cut off from' if off else 'connected to'} the API", api=host)
            host.reaches_api = not off
            host.uplink.changed(silently=off and self.time.random.random() < 0.5)

    def end_of_chance(self) -> None:
        """From now on replies arrive, and the watch is in time."""
        if self.api.lost_reply_chance or self.api.spike_chance:
            self._fault("replies are lost no longer", api=True)
            self.api.lost_reply_chance = self.api.spike_chance = 0.0

    def stall_watch(self, host: Host) -> None:
        for_s = self.time.random.uniform(0.2, 8.0)
        self._fault(f"the watch of {host.name} stalls for {for_s:.1f} s", api=host)
        stream = host.uplink.stream
        hold = stream.hold()

        def release() -> None:
            self._fault(f"the watch of {host.name} flows", api=host)
            stream.release(hold)

        self.time.after(for_s, release)

    def lose_watch(self, host: Host) -> None:
        self._fault(f"the watch of {host.name} breaks", api=host)
        host.uplink.lose_watch()

    # The segment

    def isolate(self, host: Host, *, mute: bool = True, deaf: bool = True) -> None:
        """A switch forwards nothing, or nothing in one direction; the host's link stays up."""
        ways = "nothing to or from" if mute and deaf else "nothing from" if mute else "nothing to"
        self._fault(f"the segment carries {ways} {host.name}", wire=True)
        host.mute, host.deaf = host.mute or mute, host.deaf or deaf

    def join(self, host: Host) -> None:
        if host.mute or host.deaf or host.part or any(host.name in pair for pair in self.segment.blocked):
            self._fault(f"the segment carries frames of {host.name} again", wire=True)
            host.mute = host.deaf = False
            host.part = 0
            self.segment.blocked = {pair for pair in self.segment.blocked if host.name not in pair}
            self.segment.healed_at = self.now

    def block(self, source: Host, target: Host) -> None:
        self._fault(f"frames of {source.name} do not reach {target.name}", wire=True)
        self.segment.blocked.add((source.name, target.name))

    def split(self, host: Host) -> None:
        """The host ends up in another part of the segment than before."""
        self._fault(f"the segment is split: {host.name} changes sides", wire=True)
        host.part = 1 - host.part
        self.segment.healed_at = self.now

    def unplug(self, host: Host, *, card: bool = False) -> None:
        """A cable is pulled: no carrier, no segment, no API. Or the card goes, with all that was on it."""
        if host.carrier and host.powered:
            self.promises.dies(host)
            what = "card" if card else "cable"
            self._fault(f"the {what} of {host.name} is pulled", agent=host, wire=True, api=host)
            host.reaches_api = False
            if card:
                host.lose_card()
            host.plug(plugged=False)
            host.uplink.changed()

    def plug(self, host: Host) -> None:
        if not host.carrier:
            self._fault(f"the cable of {host.name} is plugged in", agent=host, wire=True, api=host)
            host.reaches_api = True
            host.plug(plugged=True)
            host.uplink.changed()
            self.segment.healed_at = self.now

    def lossy(self, rate: float) -> None:
        if rate != self.segment.loss_rate:
            self._fault(f"the segment loses {rate:.0%} of all frames", wire=True)
            self.segment.loses(rate)

    def strange(self, vip: IP) -> None:
        """A machine that is nobody's answers for a VIP, and goes away after a while."""
        if vip not in self.segment.strangers:
            for_s = self.time.random.uniform(0.5, 15.0)
            self._fault(f"a stranger answers for {vip} for {for_s:.1f} s", wire=True)
            self.segment.strange(vip)

            def leave() -> None:
                self._fault(f"the stranger on {vip} is gone", wire=True)
                self.segment.strangers.discard(vip)

            self.time.after(for_s, leave)

    # What people want

    def entitle(self, host: Host, *, yes: bool) -> None:
        if yes != (host.name in self.api.services.weights):
            well = self.promises.all_well()
            self._fault(f"{host.name} is {'a' if yes else 'no'} candidate", agent=host)
            if well and not yes:
                self.promises.leaves(host, STOP_S + 2)
            weights = {name: 0 for name in self.hosts if name in self.api.services.weights or host.name == name}
            if not yes:
                del weights[host.name]
            self._want(weights=weights)

    def prefer(self, host: Host) -> None:
        """A preference for a host comes or goes."""
        weights = dict(self.api.services.weights)
        if host.name in weights:
            weights[host.name] = 0 if weights[host.name] else 10
            self._fault(f"{host.name} has preference {weights[host.name]}")
            self._want(weights=weights)

    def delete_service(self, vip: IP) -> None:
        self._fault(f"the Service of {vip} is deleted")
        self._want(wanted=self.api.services.wanted - {vip})

    def create_service(self, vip: IP) -> None:
        self._fault(f"a Service has {vip}")
        self._want(wanted=self.api.services.wanted | {vip})

    def delete_claim(self, vip: IP) -> None:
        """`kubectl delete lease`."""
        if self.api.up and self.api.delete_claim(vip):
            self._fault(f"somebody deletes the claim of {vip}")

    def take_off(self, host: Host, vip: IP) -> None:
        """`ip address del`, by hand or by a network manager."""
        if host.take_off(vip):
            self._fault(f"somebody takes {vip} off {host.name}", agent=host)

    def _want(self, *, wanted: frozenset[IP] | None = None, weights: dict[NodeName, int] | None = None) -> None:
        before = self.api.services
        self.api.services_are(
            Services(
                wanted=before.wanted if wanted is None else wanted,
                weights=before.weights if weights is None else weights,
            )
        )
