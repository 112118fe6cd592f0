"""This host as its kernel has it."""

from __future__ import annotations

from dataclasses import dataclass

from hostagent.model.names import IP, InterfaceName, Mac, OnLink


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface."""

    index: int
    name: InterfaceName
    mac: Mac
    up: bool
    """Administratively up and with carrier."""
    enslaved: bool
    """Has a master (bond or bridge member): its master answers, not it."""
    loopback: bool
    addresses: tuple[OnLink, ...] = ()
    """Addresses that are not ours, with their prefixes; link-local IPv6 left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAddress:
    """A VIP on an interface: an address that carries our IFA_PROTO mark."""

    ip: IP
    interface: InterfaceName
    index: int
    left_s: float = 0.0
    """Until the kernel removes it, unless it is extended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRemoved:
    """One of our addresses went without our asking."""

    ip: IP
    interface: InterfaceName
    by: str
    """Who asked the kernel to, as far as it tells: `pid 4711 (networkd)`, `the kernel (link gone)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A host answered or announced for an address on a segment."""

    ip: IP
    mac: Mac
    interface: InterfaceName
