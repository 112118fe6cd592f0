"""Names, addresses and instants, each with a type of its own."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import NewType

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
OnLink = IPv4Interface | IPv6Interface

NodeName = NewType("NodeName", str)
InterfaceName = NewType("InterfaceName", str)
Mac = NewType("Mac", str)
"""Lower-case and colon-separated, as the kernel prints it."""

Instant = NewType("Instant", float)
"""Seconds on this host's CLOCK_BOOTTIME, so that a suspended host knows that it slept. Never compared across hosts."""

Labels = dict[str, str]


@dataclass(frozen=True, slots=True, order=True)
class ServiceKey:
    """Which Service: namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
