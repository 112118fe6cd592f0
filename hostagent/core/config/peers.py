"""BGPPeer, BFDProfile and Community: what one object alone can tell."""

from __future__ import annotations

from collections.abc import Iterator

from hostagent.core.config import schema
from hostagent.core.config.decode import Finding
from hostagent.core.config.selectors import check_selectors
from hostagent.core.config.values import check_community, parse_duration_s, parse_ip
from hostagent.model.bgp import why_unusable


def check_bgp_peer(spec: schema.BGPPeer) -> Iterator[Finding]:
    yield from _check_remote(spec)
    yield from _check_addresses(spec)
    yield from _check_timers(spec)
    yield from check_selectors(spec.node_selectors, "spec.nodeSelectors")
    if spec.password and spec.password_secret and spec.password_secret.name:
        yield Finding("spec.password", "is set, and so is passwordSecret.name; remove one, best the password")
    if spec.password and (why := why_unusable(spec.password)):
        yield Finding("spec.password", f"{why}, which FRR does not take; choose another")
    if spec.disable_mp:
        yield Finding("spec.disableMP", "has no effect; remove it", warning=True)


def check_bfd_profile(spec: schema.BFDProfile) -> Iterator[Finding]:
    """All that one profile can get wrong is a number out of range, which decoding has found."""
    if spec.echo_interval is not None and not spec.echo_mode:
        yield Finding("spec.echoInterval", "has no effect without echoMode: true", warning=True)


def check_communities(spec: schema.Community) -> Iterator[Finding]:
    names = [alias.name for alias in spec.communities]
    for index, alias in enumerate(spec.communities):
        field = f"spec.communities[{index}]"
        if not alias.name:
            yield Finding(f"{field}.name", "is empty; write the name that advertisements shall use")
        elif (first := names.index(alias.name)) < index:
            message = f'"{alias.name}" is already the name of spec.communities[{first}]; choose another'
            yield Finding(f"{field}.name", message)
        try:
            check_community(alias.value)
        except ValueError as exc:
            yield Finding(f"{field}.value", str(exc))


def _check_remote(spec: schema.BGPPeer) -> Iterator[Finding]:
    if bool(spec.peer_asn) == bool(spec.dynamic_asn):
        which = f"is {spec.peer_asn} and dynamicASN is {spec.dynamic_asn}" if spec.peer_asn else "is unset"
        yield Finding("spec.peerASN", f"{which}; give exactly one of peerASN and dynamicASN")
    if bool(spec.peer_address) == bool(spec.interface):
        which = f'is "{spec.peer_address}" and interface is "{spec.interface}"' if spec.interface else "is unset"
        yield Finding("spec.peerAddress", f"{which}; give exactly one of peerAddress and interface")
    if spec.ebgp_multi_hop and (spec.peer_asn == spec.my_asn or spec.dynamic_asn == "internal"):
        yield Finding("spec.ebgpMultiHop", "is only for peers in another AS, and this one is in ours; remove it")


def _check_addresses(spec: schema.BGPPeer) -> Iterator[Finding]:
    for name, text in (
        ("peerAddress", spec.peer_address),
        ("sourceAddress", spec.source_address),
        ("routerID", spec.router_id),
    ):
        if not text:
            continue
        try:
            ip = parse_ip(text)
        except ValueError as exc:
            yield Finding(f"spec.{name}", str(exc))
            continue
        if name == "routerID" and ip.version == 6:  # RFC 4271: 32 bits
            yield Finding(f"spec.{name}", f'"{text}" is IPv6; a router ID is written as an IPv4 address')


def _check_timers(spec: schema.BGPPeer) -> Iterator[Finding]:
    timers = {"holdTime": spec.hold_time, "keepaliveTime": spec.keepalive_time, "connectTime": spec.connect_time}
    timer_s: dict[str, float] = {}
    for name, text in timers.items():
        if text is not None:
            try:
                timer_s[name] = parse_duration_s(text)
            except ValueError as exc:
                yield Finding(f"spec.{name}", str(exc))
    hold_s, keepalive_s, connect_s = (timer_s.get(name) for name in timers)
    if hold_s is not None and int(hold_s) != 0 and not 3 <= int(hold_s) <= 65_535:  # RFC 4271, 4.2
        yield Finding("spec.holdTime", f'"{spec.hold_time}" is out of range; write 0s, or from 3s to 65535s')
    if hold_s is not None and keepalive_s is not None and keepalive_s > hold_s:
        message = f'"{spec.keepalive_time}" is longer than holdTime "{spec.hold_time}"; write at most a third of it'
        yield Finding("spec.keepaliveTime", message)
    if connect_s is not None and (connect_s != int(connect_s) or not 1 <= connect_s <= 65_535):
        message = f'"{spec.connect_time}" must be whole seconds, from 1s to 65535s'
        yield Finding("spec.connectTime", message)
