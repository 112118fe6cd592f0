"""What a Service asks for by annotation or by `spec.loadBalancerIP`."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from hostagent.model.cluster import Service, family_of
from hostagent.model.names import IP

PREFIXES = ("metallb.io", "metallb.universe.tf")
"""MetalLB's annotation prefixes, the present one before the old one."""
REQUESTS = ("loadBalancerIPs", "address-pool", "allow-shared-ip")


class RequestError(ValueError):
    """The request contradicts itself or cannot be read; the text says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    addresses: tuple[IP, ...] = ()
    pool: str = ""


def annotation(service: Service, name: str) -> str:
    """An annotation's value under either prefix; empty when neither is there."""
    return next((service.annotations[f"{p}/{name}"] for p in PREFIXES if service.annotations.get(f"{p}/{name}")), "")


def deprecation(service: Service) -> str:
    """What to say of requests that are written with the old prefix, which still works; empty where none are."""
    new, old = PREFIXES
    names = ", ".join(f"{old}/{name}" for name in REQUESTS if f"{old}/{name}" in service.annotations)
    return f"{names}: this prefix is MetalLB's old one, and still read; write {new}/ instead" if names else ""


def request_of(service: Service) -> Request:
    """Read what the Service asks for.

    Raises RequestError when an address does not parse, two of one family are asked for, or the annotation and
    `spec.loadBalancerIP` are both there.
    """
    text, field = annotation(service, "loadBalancerIPs"), "annotation metallb.io/loadBalancerIPs"
    if text and service.load_balancer_ip:
        raise RequestError(f"{field} and spec.loadBalancerIP are both set: remove one of them")
    if not text:
        text, field = service.load_balancer_ip, "spec.loadBalancerIP"
    addresses: list[IP] = []
    for word in (word.strip() for word in text.split(",")) if text else ():
        try:
            addresses.append(ip_address(word))
        except ValueError:
            raise RequestError(f'{field}: "{word}" is not an IP address') from None
    if len({family_of(ip) for ip in addresses}) != len(addresses):
        raise RequestError(f"{field}: at most one address of each family may be asked for")
    return Request(addresses=tuple(addresses), pool=annotation(service, "address-pool"))
