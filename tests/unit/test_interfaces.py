"""What others are told of this host's interfaces, from moment to moment."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

from hostagent.agent.interfaces import READDRESSED_S, Settling
from hostagent.model.host import Link
from hostagent.model.names import Instant, InterfaceName, Mac

V4, V6 = ip_interface("198.51.100.11/24"), ip_interface("2001:db8:51::11/64")
ETH0 = Link(
    index=2, name=InterfaceName("eth0"), mac=Mac("02:00:00:00:00:01"), up=True, enslaved=False, loopback=False,
    addresses=(V4, V6),
)  # fmt: skip


def told(settling: Settling, link: Link | None, at: float) -> tuple[str, ...]:
    segments = settling.settle([link] if link else [], Instant(at))
    return tuple(str(subnet) for segment in segments for subnet in segment.subnets)


def looks_again(settling: Settling) -> bool:
    return bool(settling.lacking)


def test_addresses_that_are_back_in_a_moment_are_never_missed() -> None:
    settling = Settling()
    before = told(settling, ETH0, 10.0)
    assert told(settling, replace(ETH0, addresses=()), 20.0) == before
    assert looks_again(settling)
    assert told(settling, replace(ETH0, addresses=(V4,)), 20.5) == before
    assert told(settling, ETH0, 20.9) == before
    assert not looks_again(settling)
    assert told(settling, replace(ETH0, addresses=()), 20.9 + READDRESSED_S) == before  # counted anew


def test_addresses_that_stay_away_are_told_after_a_while() -> None:
    settling = Settling()
    told(settling, ETH0, 10.0)
    told(settling, replace(ETH0, addresses=(V6,)), 20.0)
    assert told(settling, replace(ETH0, addresses=(V6,)), 20.0 + READDRESSED_S) == (str(V6),)
    assert not looks_again(settling)
    assert told(settling, replace(ETH0, addresses=(V6,)), 30.0) == (str(V6),)


def test_a_new_address_is_told_at_once() -> None:
    settling = Settling()
    told(settling, replace(ETH0, addresses=(V4,)), 10.0)
    assert told(settling, ETH0, 10.0) == (str(V4), str(V6))
    other = ip_interface("203.0.113.11/24")
    assert told(settling, replace(ETH0, addresses=(V4, other)), 10.1) == (str(V4), str(V6), str(other))


def test_without_carrier_interface_or_the_same_card_it_is_told_at_once() -> None:
    for lost in (
        replace(ETH0, addresses=(), up=False),
        replace(ETH0, addresses=(), mac=Mac("02:00:00:00:00:02")),
        replace(ETH0, addresses=(), enslaved=True),
        None,
    ):
        settling = Settling()
        told(settling, ETH0, 10.0)
        assert told(settling, lost, 10.1) == ()
        assert not looks_again(settling)
