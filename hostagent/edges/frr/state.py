"""What bgpd and bfdd say about neighbours and prefixes, as JSON, read into our own values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from typing import Any, Literal

import msgspec

from hostagent.model.bgp import PeerState, SessionState
from hostagent.model.cluster import Family
from hostagent.model.names import Network

_FAMILIES = {"ipv4Unicast": Family.V4, "ipv6Unicast": Family.V6}
_BFD: Mapping[str, Literal["up", "down", "init", "shutdown"]] = {
    "up": "up",
    "down": "down",
    "init": "init",
    "shutdown": "shutdown",
    "admin-down": "shutdown",
    "admindown": "shutdown",
}


def peers_of(text: str) -> tuple[PeerState, ...]:
    """From `show bgp vrf all neighbors json`. Raises ValueError: not what it was expected to be."""
    return tuple(
        _peer(neighbor, "" if vrf == "default" else vrf, said)
        for vrf, neighbors in _decode(text).items()
        if isinstance(neighbors, dict)
        for neighbor, said in neighbors.items()
        if isinstance(said, dict)  # beside them stand vrfId and vrfName
    )


def _peer(neighbor: str, vrf: str, said: Mapping[str, Any]) -> PeerState:
    state = _state(str(said.get("bgpState", "")))
    up_ms = said.get("bgpTimerUpMsec") if state is SessionState.ESTABLISHED else None
    families = said.get("addressFamilyInfo") or {}
    bfd = str((said.get("peerBfdInfo") or {}).get("status", "")).lower()
    return PeerState(
        neighbor=neighbor,
        vrf=vrf,
        state=state,
        for_s=up_ms / 1000 if up_ms is not None else None,
        remote_asn=said.get("remoteAs") or None,
        sent={_FAMILIES[key]: of.get("sentPrefixCounter", 0) for key, of in families.items() if key in _FAMILIES},
        received={
            _FAMILIES[key]: of.get("acceptedPrefixCounter", 0) for key, of in families.items() if key in _FAMILIES
        },
        updates_sent=int((said.get("messageStats") or {}).get("updatesSent", 0)),
        dropped=int(said.get("connectionsDropped", 0)),
        last_reset=str(said.get("lastNotificationReason") or said.get("lastResetDueTo") or ""),
        bfd=_BFD.get(bfd, "down" if bfd else ""),
    )


def _state(text: str) -> SessionState:
    try:
        return SessionState(text)
    except ValueError:
        return SessionState.UNKNOWN


def prefixes_of(text: str) -> Iterator[Network]:
    """From `show bgp ipv4 unicast regexp ^$ json` and alike: what this bgpd itself brings in. Raises ValueError."""
    for prefix, paths in (_decode(text).get("routes") or {}).items():
        if any(path.get("weight") == _OF_OUR_OWN for path in paths):
            yield ip_network(prefix)


_OF_OUR_OWN = 32768
"""bgpd's weight for what it did not hear from a neighbour: an empty AS path alone may also be of an internal one."""


def _decode(text: str) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(text.strip() or "{}")
    except msgspec.DecodeError as exc:
        raise ValueError(f"FRR answered what is no JSON: {exc}") from exc
    if not isinstance(decoded, dict):
        raise ValueError("FRR answered JSON of an unknown form")  # noqa: TRY004 - one kind of failure for callers
    return decoded
