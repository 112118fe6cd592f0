"""BGP: peers, policies and prefixes as the agent decides them, and what it needs of the host's routing daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

from hostagent.model.names import IP, InterfaceName, Network

if TYPE_CHECKING:
    from hostagent.model.cluster import Family, Selector

GRACEFUL_SHUTDOWN = "65535:0"
"""RFC 8326: whoever hears it prefers another way before this one goes."""
LONGEST_PASSWORD = 80
"""TCP_MD5SIG_MAXKEYLEN in linux/tcp.h, and FRR's limit."""
SMALLEST_CLASS, LARGEST_CLASS = 32_768, 65_535
"""A class is a route's metric (24 bits reach FRR) and the number of a route-map entry (16 bits). FRR 8 tells our IPv6
routes from the site's by metric alone, so we keep off those that kernels and network managers use."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A password: never shown by accident, in a log, a traceback or a test's message."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return "<secret>"


def why_unusable(password: str) -> str:
    """Why TCP-MD5 or FRR does not take a password, as the end of a sentence; empty if they do."""
    if not password:
        return "is empty"
    if len(password) > LONGEST_PASSWORD:
        return f"is longer than {LONGEST_PASSWORD} characters"
    plain = password.isascii() and password.isprintable() and " " not in password
    return "" if plain else "has blanks, control characters or letters that are not ASCII"


@dataclass(frozen=True, slots=True, kw_only=True)
class BfdProfile:
    """A BFDProfile, valid. None: FRR's default applies (300 ms, 3, 50 ms, 254)."""

    name: str
    receive_interval_ms: int | None = None
    transmit_interval_ms: int | None = None
    detect_multiplier: int | None = None
    echo_interval_ms: int | None = None
    echo_mode: bool = False
    passive_mode: bool = False
    minimum_ttl: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A BGPPeer, valid; its password resolved."""

    name: str
    my_asn: int
    peer_asn: int | None = None
    """None: `dynamic_asn` says it."""
    dynamic_asn: Literal["", "internal", "external"] = ""
    local_asn: int | None = None
    address: IP | None = None
    interface: InterfaceName | None = None
    """Unnumbered. Exactly one of `address` and `interface` is set."""
    port: int = 179
    source_address: IP | None = None
    hold_time_s: int | None = None
    """Both timers or none of them."""
    keepalive_time_s: int | None = None
    connect_time_s: int | None = None
    router_id: str = ""
    password: Secret | None = None
    password_kept: bool = False
    """The password cannot be read now: a session that runs keeps the one it has, a new one is not begun."""
    bfd: bool = False
    bfd_profile: str = ""
    """Empty, while `bfd` is set: the profile is missing, FRR's own timing applies."""
    graceful_restart: bool = False
    ebgp_multi_hop: bool = False
    vrf: str = ""
    dual_stack: bool = False
    node_selectors: tuple[Selector, ...] = ()

    @property
    def neighbor(self) -> str:
        """As FRR spells it: the address, or the interface of an unnumbered session."""
        return str(self.address) if self.address is not None else str(self.interface)

    @property
    def internal(self) -> bool:
        return self.dynamic_asn == "internal" or self.peer_asn == self.my_asn

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that the session carries: that of its address, or both."""
        return (4, 6) if self.dual_stack or self.address is None else (self.address.version,)


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Grant:
    """What one advertisement says: these peers hear the prefix, with these attributes."""

    peers: tuple[str, ...] = ()
    """Names of BGPPeers, sorted; empty means all."""
    communities: tuple[str, ...] = ()
    """`A:B`, sorted by number."""
    large_communities: tuple[str, ...] = ()
    """`A:B:C`, sorted by number."""
    local_pref: int = 0
    """0: not set."""
    med: int = 0
    prepend: int = 0
    """How many times the own AS is put in front once more."""

    def reaches(self, peer: str) -> bool:
        return not self.peers or peer in self.peers


@dataclass(frozen=True, slots=True, order=True)
class AttributeClass:
    """What is announced alike. Peers that no grant reaches do not hear of a prefix of this class."""

    grants: tuple[Grant, ...]
    """Sorted, each once."""

    def toward(self, peer: str) -> Grant | None:
        """The attributes for one peer: communities of all grants that reach it together; None if none does.

        The other attributes are alike in all of them: advertisements that contradict each other were set aside.
        """
        mine = [grant for grant in self.grants if grant.reaches(peer)]
        if not mine:
            return None
        return Grant(
            peers=(peer,),
            communities=tuple(sorted({c for g in mine for c in g.communities}, key=_numbers)),
            large_communities=tuple(sorted({c for g in mine for c in g.large_communities}, key=_numbers)),
            local_pref=max(grant.local_pref for grant in mine),
            med=max(grant.med for grant in mine),
            prepend=max(grant.prepend for grant in mine),
        )


def _numbers(community: str) -> tuple[int, ...]:
    return tuple(map(int, community.split(":")))


@dataclass(frozen=True, slots=True, kw_only=True)
class BgpAdvertisement:
    """A BGPAdvertisement, valid; its pools, community aliases and annotations resolved."""

    name: str
    pools: frozenset[str]
    aggregation_length: int = 32
    aggregation_length_v6: int = 128
    grant: Grant
    graceful_shutdown: bool = True
    """Whether a drain announces GRACEFUL_SHUTDOWN before it withdraws."""
    node_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BgpConfig:
    """All of BGP in one configuration, for all nodes; sorted by name."""

    peers: tuple[Peer, ...] = ()
    bfd_profiles: tuple[BfdProfile, ...] = ()
    advertisements: tuple[BgpAdvertisement, ...] = ()


# --- the routing daemon -----------------------------------------------------------------------------------------------


class SessionState(StrEnum):
    """RFC 4271's states, as FRR spells them; `Unknown` for what is none of them."""

    IDLE = "Idle"
    CONNECT = "Connect"
    ACTIVE = "Active"
    OPEN_SENT = "OpenSent"
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerState:
    """What FRR says of one neighbour."""

    neighbor: str
    """`Peer.neighbor`."""
    vrf: str = ""
    """Empty: the default one."""
    state: SessionState
    for_s: float | None = None
    """For how long the session has been up; None while it is not."""
    remote_asn: int | None = None
    sent: Mapping[Family, int] = field(default_factory=dict)
    """Prefixes announced to it (`pfxSnt`)."""
    received: Mapping[Family, int] = field(default_factory=dict)
    updates_sent: int = 0
    """Counted since bgpd started."""
    dropped: int = 0
    """Sessions lost since bgpd started."""
    last_reset: str = ""
    bfd: Literal["", "up", "down", "init", "shutdown"] = ""
    """Empty: no BFD with it."""


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """One line of FRR configuration and the contexts that it stands in, outermost first; no indentation, no `exit`.

    `Line(("router bgp 65001", "address-family ipv4 unicast"), "neighbor 192.0.2.1 activate")`. A context that is
    entered by a line (`route-map x permit 10`) is no line of its own, unless it is empty and must exist.
    """

    context: tuple[str, ...]
    text: str = field(repr=False)

    @property
    def shown(self) -> str:
        """For logs and messages: with a password left out."""
        head, found, _ = self.text.partition(" password ")
        return " / ".join((*self.context, f"{head} password <secret>" if found else self.text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What runs in FRR, and what it would restart into."""

    version: tuple[int, int]
    """Such as (8, 4) or (10, 3)."""
    running: str = field(repr=False)
    """`show running-config` of the daemons that we configure, one after another (it may repeat itself)."""
    persisted: str = field(repr=False)
    """Our own file, empty if there is none."""


class Router(Protocol):
    """FRR on this host. Every method raises EdgeError: FRR does not run, or does not do what was asked."""

    async def observe(self) -> Observed:
        """Read what runs. A few milliseconds."""

    async def check(self, text: str) -> None:
        """Let FRR's own parser read this configuration without applying it; EdgeError quotes the line it refuses."""

    async def apply(self, lines: Sequence[Line]) -> None:
        """Give FRR these lines in this order, over its sockets.

        The first that is refused ends it with an EdgeError (naming `Line.shown` and FRR's answer); those before it
        stay. What is already so is no error, neither is removing what is not there.
        """

    async def persist(self, text: str) -> None:
        """Replace our own file (not readable by others) at once or not at all."""

    async def peers(self) -> tuple[PeerState, ...]:
        """All neighbours, the site's too. Cheap: may be asked every second."""

    async def close(self) -> None:
        """Hang up; what FRR was told stays."""

    async def taken_up(self) -> frozenset[Network]:
        """The prefixes of ours that are in FRR's BGP table: kernel events that zebra lost show here. Not cheap."""


class Routes(Protocol):
    """Our prefixes, where the routing daemon picks them up. Every method raises EdgeError."""

    async def present(self) -> Mapping[Network, int]:
        """What is there of ours, with its class number; survives the agent."""

    async def change(self, *, add: Mapping[Network, int], remove: frozenset[Network]) -> None:
        """Make it so, and read nothing back: `present` does. In `add`, a prefix that has another class changes it
        without a gap: the new route is there before the old one goes.
        """

    async def close(self) -> None:
        """The routes stay."""
