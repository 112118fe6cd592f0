"""The wire: one bridge that all hosts hang on, in a network namespace of its own, with a client beside it.

No frame of a lab reaches the machine's own network. The bridge has an address itself, 198.51.100.1: the control plane
listens there. Faults are dropped frames, by nftables in the bridge.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from pyroute2 import IPRoute

from tests.fabric import netns
from tests.fabric.command import run
from tests.fabric.inside import call_inside, named
from tests.fabric.processes import in_namespace
from tests.fabric.state import LabState

BRIDGE = "br0"
CLIENT = "client"
STRANGER = "stranger"
V4_PREFIX_LEN = 24
V6_PREFIX_LEN = 64
SEGMENT_V4, SEGMENT_V6 = "198.51.100.1", "2001:db8:51::1"
CLIENT_V4, CLIENT_V6 = "198.51.100.200", "2001:db8:51::200"

_FAULTS = "hostagent_faults"


class Direction(StrEnum):
    """Seen from the host."""

    SENDS = "sends"
    HEARS = "hears"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Of the frames that `host` sends, or should hear, `percent` are lost.

    `only` narrows it by an nftables match, as `ether type arp` or `ip6 nexthdr icmpv6`.
    """

    host: str
    direction: Direction
    percent: int = 100
    only: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """No frame passes between a host of `one` and a host of `other`. All of them still reach the control plane,
    as that sits on the bridge itself: cut it off by its own faults."""

    one: frozenset[str]
    other: frozenset[str]


Fault = Loss | Partition


def port(host: str, nic: str = "eth0") -> str:
    """The bridge's end of a host's cable."""
    return f"p-{host}" if nic == "eth0" else f"p-{host}-{nic}"


def _bridge_mac(name: str) -> str:
    """Locally administered, the same for every lab: their wires never meet."""
    return f"02:00:5e:00:53:{zlib.crc32(name.encode()) & 0xFF:02x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The segment of one lab."""

    state: LabState

    def up(self) -> None:
        """Make bridge and client. Raises CommandError if they exist."""
        lab, client = self.state.netns, self.state.client_netns
        netns.create(lab)
        self.add_bridge(BRIDGE)
        netns.create(client)
        netns.ip_batch(
            lab,
            f"address add {SEGMENT_V4}/{V4_PREFIX_LEN} dev {BRIDGE}",
            f"address add {SEGMENT_V6}/{V6_PREFIX_LEN} dev {BRIDGE} nodad",
            f"link add {port(CLIENT)} type veth peer name eth0 netns {client}",
            f"link set {port(CLIENT)} master {BRIDGE} up",
        )
        netns.ip_batch(
            client,
            f"address add {CLIENT_V4}/{V4_PREFIX_LEN} dev eth0",
            f"address add {CLIENT_V6}/{V6_PREFIX_LEN} dev eth0 nodad",
            "link set eth0 up",
        )

    def add_bridge(self, name: str) -> None:
        """A further wire. Frames pass from the first moment (no forward delay), and multicast goes to all ports:
        a bridge that snoops without a querier would lose neighbour discovery. Its MAC is set: of itself a bridge takes
        the lowest of its ports', so that a host losing power would cut the others off from the API server."""
        netns.ip_batch(
            self.state.netns,
            f"link add {name} address {_bridge_mac(name)} type bridge forward_delay 0 mcast_snooping 0",
            f"link set {name} up",
        )

    @contextmanager
    def stranger(self, *addresses: str) -> Iterator[None]:
        """A machine that no claim names has these addresses (with prefix length), and says so when it comes up."""
        lab, own = self.state.netns, self.state.stranger_netns
        netns.create(own)
        try:
            netns.ip_batch(
                lab,
                f"link add {port(STRANGER)} type veth peer name eth0 netns {own}",
                f"link set {port(STRANGER)} master {BRIDGE} up",
            )
            run(in_namespace(own, ["sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=1"]))
            netns.ip_batch(own, *(f"address add {each} dev eth0" for each in addresses), "link set eth0 up")
            yield
        finally:
            netns.ip_batch(lab, f"link delete {port(STRANGER)}")  # at once; a namespace takes its time to go
            netns.delete(own)

    def down(self) -> None:
        """Remove all namespaces and all that is in them; what is not there is fine."""
        netns.delete(self.state.stranger_netns)
        netns.delete(self.state.client_netns)
        netns.delete(self.state.netns)

    def set_faults(self, *faults: Fault) -> None:
        """From now on exactly these faults, put in force in one step; none at all heals the wire."""
        rules = [rule for fault in faults for rule in _rules(fault)]
        chains = [
            f"  chain on_{hook} {{\n    type filter hook {hook} priority 0; policy accept;\n"
            + "".join(f"    {text}\n" for where, text in rules if where == hook)
            + "  }\n"
            for hook in ("forward", "input", "output")
        ]
        # Declared before it is deleted, so that deleting works the first time too.
        text = f"table bridge {_FAULTS}\ndelete table bridge {_FAULTS}\n"
        text += f"table bridge {_FAULTS} {{\n{''.join(chains)}}}\n" if rules else ""
        run(in_namespace(self.state.netns, ["nft", "-f", "-"]), stdin=text)

    def set_deaf_and_mute(self, host: str, *, so: bool) -> float:
        """The host's port leaves the bridge, or is back: no frame passes, and the host's carrier stays. Returns the
        moment (monotonic, s), right before the kernel was told: no program has to start first, as for `set_faults`."""

        def tell() -> float:
            with IPRoute() as kernel:
                (index,) = kernel.link_lookup(ifname=port(host))
                (bridge,) = kernel.link_lookup(ifname=BRIDGE)
                at = time.monotonic()
                kernel.link("set", index=index, master=0 if so else bridge)
                return at

        return call_inside(named(self.state.netns), tell)

    def set_cable(self, host: str, nic: str = "eth0", *, plugged: bool) -> None:
        """Pull or plug a cable at the bridge's end: the host sees its carrier go and come."""
        netns.ip_batch(self.state.netns, f"link set {port(host, nic)} {'up' if plugged else 'down'}")

    def set_client_cable(self, *, plugged: bool) -> None:
        self.set_cable(CLIENT, plugged=plugged)


def _rules(fault: Fault) -> list[tuple[str, str]]:
    """The hook and the text of each rule. `input` and `output` are the frames from and to the bridge's own address,
    where the control plane is: they do not pass `forward`."""
    match fault:
        case Loss():
            dice = "" if fault.percent >= 100 else f"numgen random mod 100 < {fault.percent} "
            only = f"{fault.only} " if fault.only else ""
            if fault.direction is Direction.SENDS:
                text = f'iifname "{port(fault.host)}" {only}{dice}drop'
                return [("forward", text), ("input", text)]
            text = f'oifname "{port(fault.host)}" {only}{dice}drop'
            return [("forward", text), ("output", text)]
        case Partition():
            one, other = (
                "{ " + ", ".join(f'"{port(host)}"' for host in sorted(side)) + " }" for side in (fault.one, fault.other)
            )
            return [
                ("forward", f"iifname {one} oifname {other} drop"),
                ("forward", f"iifname {other} oifname {one} drop"),
            ]
        case _:
            assert_never(fault)
