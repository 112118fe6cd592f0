"""From what FRR runs to what it shall run: only lines that differ, only lines that are ours. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hostagent.core.advertise import peer_fault
from hostagent.core.frr_text import (
    CLASS,
    MARK,
    NETWORK,
    PREFIX,
    Pair,
    Wanted,
    carries,
    render,
    router,
    to_lines,
    to_text,
)
from hostagent.model.bgp import Line, Observed, Peer, Secret
from hostagent.model.cluster import Fault

_ENDS = ("exit", "exit-address-family", "exit-vrf", "end")
_NOISE = ("Building configuration", "Current configuration", "frr version", "frr defaults")
_ROUTER = re.compile(r"router bgp (?P<asn>[\d.]+)(?: (?:vrf|view) (?P<vrf>\S+))?(?: as-notation \S+)?")
_NEIGHBOR = re.compile(r"(?:no )?neighbor (?P<who>\S+) (?P<what>.+)")
_ENTRY = re.compile(r"route-map (?P<name>\S+) (?P<verb>permit|deny) (?P<number>\d+)")
_WELL_KNOWN = {
    "graceful-shutdown": "65535:0", "accept-own": "65535:1", "route-filter-translated-v4": "65535:2",
    "route-filter-v4": "65535:3", "route-filter-translated-v6": "65535:4", "route-filter-v6": "65535:5",
    "llgr-stale": "65535:6", "no-llgr": "65535:7", "accept-own-nexthop": "65535:8", "blackhole": "65535:666",
    "no-export": "65535:65281", "no-advertise": "65535:65282", "local-AS": "65535:65283", "no-peer": "65535:65284",
    "internet": "0:0",
}  # fmt: skip
"""FRR prints some communities by name."""
_ATTRIBUTES = (
    "interface remote-as", "remote-as", "local-as", "description", "bfd profile", "bfd", "password", "port",
    "ebgp-multihop", "disable-connected-check", "update-source", "timers connect", "timers",
    "capability extended-nexthop", "graceful-restart", "activate",
)  # fmt: skip
"""What we say of a neighbour; anything else that somebody says of ours stays."""
_PROFILE_DEFAULTS = {
    "detect-multiplier": "detect-multiplier 3",
    "transmit-interval": "transmit-interval 300",
    "receive-interval": "receive-interval 300",
    "echo transmit-interval": "echo transmit-interval 50",
    "echo receive-interval": "echo receive-interval 50",
    "minimum-ttl": "minimum-ttl 254",
}
"""bfdd knows no `no` for these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What FRR is to be told; nothing at all if it runs as wanted."""

    lines: tuple[Line, ...] = ()
    """Before routes change."""
    last: tuple[Line, ...] = ()
    """After routes changed: classes that no route has any more."""
    text: str = field(default="", repr=False)
    """Our own file: what FRR shall restart into."""
    refused: tuple[Fault, ...] = ()
    """Peers that are not configured because of what the site wrote."""
    configured: tuple[str, ...] = ()
    """The names of the peers that are."""
    persist: bool = False
    """Our own file says something else than `text`."""


def parse(text: str) -> tuple[Pair, ...]:
    """The lines of a configuration with their contexts, each once; what FRR prints around them is left out."""
    stack: list[tuple[int, str]] = []
    found: list[Pair] = []
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith(("!", "#", *_NOISE)) or line in _ENDS:
            continue
        depth = len(raw) - len(raw.lstrip())
        while stack and stack[-1][0] >= depth:
            stack.pop()
        line = _normal(line)
        found.append((tuple(each for _, each in stack), line))
        stack.append((depth, line))
    return tuple(dict.fromkeys(found))


def _normal(line: str) -> str:
    if match := _ROUTER.fullmatch(line):
        vrf = f" vrf {match['vrf']}" if match["vrf"] else ""
        return f"router bgp {_asn(match['asn'])}{vrf}"
    if line.startswith("set community "):
        words = [_WELL_KNOWN.get(word, word) for word in line.split()[2:]]
        numbers = sorted((w for w in words if ":" in w), key=lambda c: tuple(map(int, c.split(":"))))
        return " ".join(["set community", *numbers, *(w for w in words if ":" not in w)])
    if line.endswith(" ebgp-multihop"):
        return f"{line} 255"
    return line


def _asn(text: str) -> int:
    high, dot, low = text.partition(".")
    return (int(high) << 16) + int(low) if dot else int(high)


def running_classes(pairs: Iterable[Pair]) -> dict[int, str]:
    """The classes that FRR has: number to digest. An entry that tells none has a digest of nothing."""
    classes: dict[int, str] = {}
    for context, text in pairs:
        entry = _ENTRY.fullmatch(context[0] if context else text)
        if entry and entry["name"] == CLASS:
            classes.setdefault(int(entry["number"]), "")
            if text.startswith("description class "):
                classes[int(entry["number"])] = text.removeprefix("description class ")
    return classes


def our_peers(pairs: Iterable[Pair]) -> frozenset[str]:
    """The names of the peers of ours that FRR has."""
    found = (re.fullmatch(rf"neighbor \S+ description {MARK}(\S+)", text) for _, text in pairs)
    return frozenset(match[1] for match in found if match)


def compare(wanted: Wanted, observed: Observed) -> Change:
    """What must change so that FRR runs `wanted` beside what the site wrote.

    A peer that is in conflict with the site's own lines is refused, everything else applies. Lines that the site had
    before us are left alone when we no longer need them.
    """
    running = parse(observed.running)
    ours = _Ours(running, parse(observed.persisted))
    peers, refused = _possible(wanted.peers, ours, observed.version)
    wanted = replace(wanted, peers=peers)
    unicast = {
        context[0]: False for context, text in running if text == "no bgp default ipv4-unicast" and len(context) == 1
    }
    desired = render(wanted, version=observed.version, unicast=unicast)
    taken = {ours.slot(pair): pair for pair in running if not ours.owns(pair)}
    held = [pair for pair in desired if ours.exclusive(pair) and taken.get(ours.slot(pair), pair) != pair]
    refused += [
        peer_fault(
            peer.name,
            "spec.routerID" if text.startswith("bgp router-id") else "spec",
            f'FRR is configured with "{taken[ours.slot((context, text))][1]}", which is not ours to change; '
            f'"{text}" is left out',
        )
        for context, text in held
        for peer in peers
        if not context or context[0] == router(peer)
    ]
    desired = tuple(pair for pair in desired if pair not in held)
    first, then, last = _differ(running, desired, ours)
    text = to_text(pair for pair in desired if pair not in running or ours.owns(pair) or _is_header(pair, desired))
    return Change(
        lines=(*first, *to_lines(then[0]), *then[1]),
        last=last,
        text=text,
        refused=tuple(refused),
        configured=tuple(peer.name for peer in peers),
        persist=text != observed.persisted and bool(desired or observed.persisted),
    )


def _is_header(pair: Pair, desired: tuple[Pair, ...]) -> bool:
    return any(context[: len(pair[0]) + 1] == (*pair[0], pair[1]) for context, _ in desired)


class _Ours:
    """Which lines of a running configuration are ours."""

    def __init__(self, running: tuple[Pair, ...], persisted: tuple[Pair, ...]) -> None:
        self.running = running
        self._persisted = frozenset(persisted)
        self._neighbors = {
            (context[0], match["who"])
            for context, text in (*running, *persisted)
            if context and (match := _NEIGHBOR.fullmatch(text)) and match["what"].startswith(f"description {MARK}")
        }
        self.routers = {
            match["vrf"] or "": (int(match["asn"]), text)
            for context, text in running
            if not context and (match := _ROUTER.fullmatch(text))
        }

    def owns(self, pair: Pair) -> bool:
        context, text = pair
        place = (*context, text)
        if any(each.startswith((f"route-map {PREFIX}", f"profile {PREFIX}")) for each in place):
            return True
        if (neighbor := _NEIGHBOR.fullmatch(text)) and context:
            return (context[0], neighbor["who"]) in self._neighbors and _attribute(neighbor["what"]) is not None
        if text.startswith("redistribute "):
            return text.endswith(f" route-map {CLASS}")
        return pair in self._persisted and not text.startswith(("router ", "address-family ", "bfd"))

    def neighbor(self, header: str, who: str) -> bool:
        return (header, who) in self._neighbors

    def password(self, header: str, who: str) -> Secret | None:
        start = f"neighbor {who} password "
        found = (text for context, text in self.running if context == (header,) and text.startswith(start))
        return next((Secret(text.removeprefix(start)) for text in found), None)

    def all_ours(self, header: str) -> bool:
        """Whether nothing in a router is the site's. The lines that FRR shows of a neighbour of ours do not count."""
        return all(
            self.owns(pair) or self._edges(pair) or pair[1].startswith("address-family ") or self._of_ours(pair)
            for pair in self.running
            if pair[0][:1] == (header,)
        )

    def _of_ours(self, pair: Pair) -> bool:
        match = _NEIGHBOR.fullmatch(pair[1])
        return match is not None and self.neighbor(pair[0][0], match["who"])

    @staticmethod
    def _edges(pair: Pair) -> bool:
        return f" route-map {NETWORK}" in pair[1]

    @staticmethod
    def exclusive(pair: Pair) -> bool:
        """Of these a router has one."""
        return pair[1].startswith(("bgp router-id ", "redistribute kernel ", "redistribute table"))

    @staticmethod
    def slot(pair: Pair) -> Pair:
        """What a line says something about: a later line about the same replaces it."""
        context, text = pair
        if match := _NEIGHBOR.fullmatch(text):
            what = match["what"]
            return context, f"neighbor {match['who']} {_attribute(what) or what}"
        if text.startswith("bgp router-id "):
            return context, "bgp router-id"
        if text.startswith("redistribute "):
            return context, text.partition(" route-map ")[0].partition(" metric ")[0]
        if context[:1] == ("bfd",):
            return context, next((key for key in _PROFILE_DEFAULTS if text.startswith(f"{key} ")), text)
        return pair


def _attribute(what: str) -> str | None:
    if what.startswith("route-map "):
        return f"route-map {what.rpartition(' ')[2]}"
    return next((each for each in _ATTRIBUTES if what == each or what.startswith(f"{each} ")), None)


# --- peers against the site's lines -----------------------------------------------------------------------------------


def _possible(peers: Iterable[Peer], ours: _Ours, version: tuple[int, int]) -> tuple[list[Peer], list[Fault]]:
    """The peers that can be configured, those whose password is kept with it; and why each other one cannot."""
    possible: list[Peer] = []
    refused: list[Fault] = []
    for peer in peers:
        header = router(peer)
        asn, present = ours.routers.get(peer.vrf, (peer.my_asn, header))
        where = f"VRF {peer.vrf}" if peer.vrf else "the default VRF"
        if asn != peer.my_asn and not ours.all_ours(present):
            message = f"FRR on this host runs as AS {asn} in {where}, which the site configured; set myASN to {asn}"
            refused.append(peer_fault(peer.name, "spec.myASN", message))
            continue
        mine = ours.neighbor(header, peer.neighbor)
        if not mine and any(
            context == (header,) and text.startswith(f"neighbor {peer.neighbor} ") for context, text in ours.running
        ):
            message = (
                f"the site's own FRR configuration has neighbor {peer.neighbor} already, and it is left alone; "
                "remove it there, or remove this BGPPeer"
            )
            refused.append(peer_fault(peer.name, "spec.peerAddress" if peer.address else "spec.interface", message))
            continue
        if peer.password_kept:
            kept = ours.password(header, peer.neighbor) if mine else None
            if kept is None:
                continue  # the configuration's own fault says why there is none; without it, it is about to be read
            peer = replace(peer, password=kept)  # noqa: PLW2901  the same peer, with what FRR has
        if not carries(peer, version):
            message = f"FRR {version[0]}.{version[1]} carries no prefixes into a VRF: the session runs empty; use 10.3"
            refused.append(peer_fault(peer.name, "spec.vrf", message))
        possible.append(peer)
    return possible, refused


# --- lines ------------------------------------------------------------------------------------------------------------


def _differ(
    running: tuple[Pair, ...], desired: tuple[Pair, ...], ours: _Ours
) -> tuple[tuple[Line, ...], tuple[tuple[Pair, ...], tuple[Line, ...]], tuple[Line, ...]]:
    """What makes room, what is new, what goes, and what goes last."""
    present, wanted = frozenset(running), frozenset(desired)
    wanted_routers = {text for context, text in desired if not context and text.startswith("router ")}
    gone_routers = [
        text
        for _, text in sorted(ours.routers.values())
        if text not in wanted_routers
        and ours.all_ours(text)
        and any(ours.owns(p) for p in running if p[0][:1] == (text,))
    ]
    first = [Line((), f"no {header}") for header in gone_routers]
    stale = {
        context
        for context, _ in wanted
        if context and _ENTRY.fullmatch(context[0]) and (((), context[0]) in present)
        if {t for c, t in wanted if c == context} != {t for c, t in running if c == context}
    }
    first += [Line((), f"no {context[0]}") for context in sorted(stale)]
    new = [pair for pair in desired if pair not in present or pair[0] in stale or (pair[1],) in stale]
    slots = {ours.slot(pair) for pair in desired}
    leaving = [
        pair
        for pair in running
        if ours.owns(pair) and pair not in wanted and pair[0][:1] not in [(header,) for header in gone_routers]
    ]
    removals, last = _removals(leaving, slots, ours, wanted)
    return tuple(first), (tuple(new), tuple(removals)), tuple(last)


def _removals(
    leaving: Iterable[Pair], slots: set[Pair], ours: _Ours, wanted: frozenset[Pair]
) -> tuple[list[Line], list[Line]]:
    """The lines that take others away; what belongs to a context that goes needs none of its own."""
    now: list[Line] = []
    last: list[Line] = []
    kept_neighbors = {
        (context[0], match["who"]) for context, text in wanted if context and (match := _NEIGHBOR.fullmatch(text))
    }
    dropped: set[tuple[str, str]] = set()
    for context, text in leaving:
        if not context and text.startswith(f"route-map {PREFIX}"):
            last.append(Line((), f"no {text}"))
        elif context == ("bfd",):
            last.append(Line(context, f"no {text}"))
        elif neighbor := _NEIGHBOR.fullmatch(text):
            who = (context[0], neighbor["who"])
            if who not in kept_neighbors:
                if who not in dropped:
                    interface = " interface" if any(
                        c == (who[0],) and t.startswith(f"neighbor {who[1]} interface ") for c, t in ours.running
                    ) else ""  # fmt: skip
                    now.append(Line((who[0],), f"no neighbor {who[1]}{interface}"))
                    dropped.add(who)
            elif ours.slot((context, text)) not in slots and not _goes_with_bfd(context, neighbor, slots):
                now.append(Line(context, _without(text)))
        elif context[:1] == ("bfd",):
            if (context, context[-1]) and (context[:-1], context[-1]) in wanted:
                slot = ours.slot((context, text))
                if slot not in slots:
                    now.append(Line(context, _PROFILE_DEFAULTS.get(slot[1], f"no {text}")))
        elif context and context[0].startswith("route-map "):
            continue  # entries are replaced or removed as a whole
        elif ours.slot((context, text)) not in slots:
            now.append(Line(context, f"no {text}"))
    return now, last


def _goes_with_bfd(context: tuple[str, ...], neighbor: re.Match[str], slots: set[Pair]) -> bool:
    """FRR 8.4 switches BFD on again when it is asked to take the profile away after it."""
    return neighbor["what"].startswith("bfd profile ") and (context, f"neighbor {neighbor['who']} bfd") not in slots


def _without(text: str) -> str:
    """The line that undoes what is said of a neighbour."""
    if text.startswith("no "):
        return text.removeprefix("no ")
    match = _NEIGHBOR.fullmatch(text)
    what = match["what"] if match else text
    attribute = _attribute(what) or what
    if attribute.startswith("route-map ") or attribute == "local-as":
        return f"no {text}"
    return f"no neighbor {match['who'] if match else ''} {attribute}"
