"""Who configures a lab host's network cards: Debian's ifupdown, or one of those that watch over addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

GATEWAYS = {4: "198.51.100.1", 6: "2001:db8:51::1"}


class Network(StrEnum):
    """What a host's network is configured by."""

    IFUPDOWN = "ifupdown"  # Debian's default: sets up at boot, and looks no more
    NETWORKD = "networkd"
    NETWORK_MANAGER = "network-manager"  # a package that the disk must have


@dataclass(frozen=True, slots=True)
class NetworkFile:
    path: str
    text: str
    mode: int = 0o644


def network_file(network: Network, nic: str, addresses: Sequence[str]) -> NetworkFile:
    """The configuration of one card: static addresses, with the gateways on eth0."""
    if network == Network.NETWORKD:
        return NetworkFile(f"/etc/systemd/network/10-{nic}.network", _networkd(nic, addresses))
    if network == Network.NETWORK_MANAGER:
        path = f"/etc/NetworkManager/system-connections/{nic}.nmconnection"
        return NetworkFile(path, _keyfile(nic, addresses), mode=0o600)  # it reads no others
    return NetworkFile(f"/etc/network/interfaces.d/{nic}", _ifupdown(nic, addresses))


def enabled_units(network: Network) -> tuple[str, ...]:
    """Units that Debian leaves off, to be started at boot."""
    return ("systemd-networkd.service",) if network == Network.NETWORKD else ()


def _ifupdown(nic: str, addresses: Sequence[str]) -> str:
    """As Debian's installer sets it up: static addresses stay when the carrier goes, unlike networkd's."""
    lines = [f"auto {nic}"]
    if not addresses:
        lines += [f"iface {nic} inet6 manual", f"  up ip link set {nic} up"]
    for address in addresses:
        version = _version(address)
        lines += [f"iface {nic} {'inet6' if version == 6 else 'inet'} static", f"  address {address}"]
        if version == 6:
            # Duplicate address detection costs a second per boot, and nobody else has the address.
            lines += ["  dad-attempts 0", "  accept_ra 0"]
        if nic == "eth0":
            lines.append(f"  gateway {GATEWAYS[version]}")
    return "\n".join(lines) + "\n"


def _networkd(nic: str, addresses: Sequence[str]) -> str:
    lines = ["[Match]", f"Name={nic}", "[Network]", "IPv6AcceptRA=no", *(f"Address={each}" for each in addresses)]
    if nic == "eth0":
        lines += [f"Gateway={GATEWAYS[_version(each)]}" for each in addresses]
    return "\n".join(lines) + "\n"


def _keyfile(nic: str, addresses: Sequence[str]) -> str:
    lines = ["[connection]", f"id={nic}", "type=ethernet", f"interface-name={nic}"]
    for version, section in ((4, "ipv4"), (6, "ipv6")):
        own = [each for each in addresses if _version(each) == version]
        lines += [
            f"[{section}]",
            "method=manual" if own else "method=disabled" if version == 4 else "method=link-local",
        ]
        lines += [f"address{n}={each}" for n, each in enumerate(own, 1)]
        if own and nic == "eth0":
            lines.append(f"gateway={GATEWAYS[version]}")
    return "\n".join(lines) + "\n"


def _version(address: str) -> int:
    return 6 if ":" in address else 4
