"""Values that are written as text: addresses and ranges, durations, communities, names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

from hostagent.core.config.decode import Finding
from hostagent.model.cluster import AddressRange
from hostagent.model.names import IP

_DURATION = re.compile(r"(?P<count>\d+(?:\.\d*)?|\.\d+)(?P<unit>ns|us|µs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_UNUSABLE = tuple(
    (ipaddress.ip_network(text), why)
    for text, why in (
        ("0.0.0.0/8", "means this network, which is no address of a host"),
        ("127.0.0.0/8", "is loopback, which never leaves a host"),
        ("169.254.0.0/16", "is link-local, which routers do not forward"),
        ("224.0.0.0/4", "is multicast"),
        ("255.255.255.255/32", "is broadcast"),
        ("::/128", "is the unspecified address"),
        ("::1/128", "is loopback, which never leaves a host"),
        ("fe80::/10", "is link-local, which routers do not forward"),
        ("ff00::/8", "is multicast"),
    )
)


def parse_ip(text: str) -> IP:
    """One address, strictly: no zone, leading zeros or IPv4 inside IPv6. Raises ValueError with the remedy."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an IP address; write one such as 192.0.2.1 or 2001:db8::1') from None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            raise ValueError(f'"{text}" has a zone; write it without %{ip.scope_id}')
        if ip in _MAPPED:
            raise ValueError(f'"{text}" is an IPv4 address written as IPv6; write {ip.ipv4_mapped}')
    return ip


def parse_range(text: str) -> AddressRange:
    """An entry of `addresses`: a CIDR (host bits are masked) or `first-last`. Raises ValueError with the remedy."""
    if "-" in text:
        return _parse_first_last(text)
    address, slash, length = text.strip().partition("/")
    ip = parse_ip(address)
    if not slash:
        raise ValueError(f'"{text}" has no prefix length; for this one address write {ip}/{ip.max_prefixlen}')
    if not (length.isascii() and length.isdigit()) or str(int(length)) != length or int(length) > ip.max_prefixlen:
        raise ValueError(f'"{text}" has no valid prefix length; write a number from 0 to {ip.max_prefixlen} after /')
    network = ipaddress.ip_network((ip, int(length)), strict=False)
    return AddressRange(network[0], network[-1])


def _parse_first_last(text: str) -> AddressRange:
    parts = text.split("-")
    if len(parts) != 2:
        raise ValueError(f'"{text}" is not a range; write the first and the last address with one - between them')
    first, last = (parse_ip(part.strip()) for part in parts)
    if first.version != last.version:
        raise ValueError(f'"{text}" goes from IPv{first.version} to IPv{last.version}; write one entry per family')
    if int(first) > int(last):
        raise ValueError(f'"{text}" starts after its end; write {last}-{first}')
    return AddressRange(first, last)


def never_answered(addresses: AddressRange) -> str | None:
    """Why some of these addresses can be given out but never reached, if so."""
    for network, why in _UNUSABLE:
        if network[0] in addresses or (addresses.first.version == network.version and addresses.first in network):
            return f"{network} {why}"
    return None


def parse_duration_s(text: str) -> float:
    """Seconds of a duration as Go writes it (`90s`, `1m30s`, `500ms`). Raises ValueError with the remedy."""
    if text == "0":
        return 0.0
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part.group() for part in parts) != text:
        raise ValueError(f'"{text}" is not a duration; write a number with its unit, such as 90s or 1m30s')
    return sum(float(part["count"]) * _UNIT_S[part["unit"]] for part in parts)


def check_community(text: str) -> None:
    """Raise ValueError unless this is `N:N` (RFC 1997, 16 bits each) or `large:A:B:C` (RFC 8092, 32 bits each)."""
    large = text.startswith("large:")
    parts = text.removeprefix("large:").split(":")
    bits, count = (32, 3) if large else (16, 2)
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if len(parts) != count or len(numbers) != count or max(numbers) >= 1 << bits:
        raise ValueError(
            f'"{text}" is not a community; write 65000:100 (two numbers up to 65535) '
            "or large:65000:100:200 (three numbers up to 4294967295)"
        )


def repeated(values: Sequence[str], field: str) -> Iterator[Finding]:
    """A finding for each value that stands in the list before."""
    for index, value in enumerate(values):
        if (first := values.index(value)) < index:
            yield Finding(f"{field}[{index}]", f'"{value}" is there already, as {field}[{first}]; remove one of them')
