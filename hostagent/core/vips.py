"""All VIPs that one host knows, one record each, and who has them: by the claims, and by the kernel."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from dataclasses import dataclass, field

from hostagent.core.vip import Vip
from hostagent.model.names import IP, Instant, InterfaceName, NodeName
from hostagent.model.ownership import Claim


@dataclass(slots=True)
class Vips:
    """The records by VIP, and indices over them that are kept in step: ten thousand VIPs are never looked through to
    find those of one host.
    """

    me: NodeName
    held: dict[IP, InterfaceName] = field(default_factory=dict)
    """What is on this host's interfaces."""
    claims: dict[IP, Claim] = field(default_factory=dict)
    claimed: dict[NodeName, dict[IP, None]] = field(default_factory=dict)
    """The VIPs that claims give to each host, in the order in which they came."""
    replaced: dict[NodeName, dict[IP, Instant]] = field(default_factory=dict)
    """What this host took from silent hosts, and when it learnt so."""
    _known: dict[IP, Vip] = field(default_factory=dict)

    def __iter__(self) -> Iterator[IP]:
        return iter(self._known)

    def get(self, vip: IP) -> Vip | None:
        return self._known.get(vip)

    def of(self, vip: IP) -> Vip:
        """Its record; made when it is heard of first."""
        known = self._known.get(vip)
        if known is None:
            known = self._known[vip] = Vip()
        return known

    def items(self) -> ItemsView[IP, Vip]:
        return self._known.items()

    def records(self) -> ValuesView[Vip]:
        return self._known.values()

    def forget(self, vip: IP) -> None:
        """Nobody has or needs it."""
        self._known.pop(vip, None)

    def held_is(self, vip: IP, interface: InterfaceName | None) -> bool:
        """On which interface it is. False: as was known."""
        known = self.of(vip)
        if known.held_on == interface:
            return False
        known.held_on = interface
        if interface is not None:
            self.held[vip] = interface
        else:
            del self.held[vip]
        return True

    def lapsed(self, vip: IP) -> None:
        """The kernel ended the address by its lifetime."""
        known = self.of(vip)
        known.held_on, known.lapsed, known.arbitrated = None, True, False
        self.held.pop(vip, None)

    def claim_is(self, vip: IP, claim: Claim | None, now: Instant) -> bool:
        """The claim as it is now, or that there is none. False: it was known, or is older than what is known."""
        known = self.of(vip)
        before = known.holder
        if not known.claim_seen(claim, now):
            return False
        if claim is not None:
            self.claims[vip] = claim
        else:
            self.claims.pop(vip, None)
        if before == known.holder:
            return True
        if before is not None:
            self.claimed.get(before, {}).pop(vip, None)
        if known.holder is not None:
            self.claimed.setdefault(known.holder, {})[vip] = None
        for vips in self.replaced.values():
            vips.pop(vip, None)
        if claim is not None and claim.replaced is not None and known.holder == self.me:
            self.replaced.setdefault(claim.replaced, {})[vip] = now
        return True
