"""What hostagent can do with a pool and MetalLB cannot: annotations `hostagent.io/...` on the IPAddressPool.

On the pool and not in a host's file, because every host that may allocate has to follow the same rules. Without any of
them a pool behaves as MetalLB's.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from hostagent.core.config import schema
from hostagent.core.config.decode import Finding
from hostagent.core.config.values import parse_duration_s
from hostagent.model.cluster import OVERLAPS, QUARANTINE_S
from hostagent.model.names import Labels

PREFIX = "hostagent.io/"
EXCLUSIVE = f"{PREFIX}exclusive"
SHARING_SCOPE = f"{PREFIX}sharing-scope"
PARTNER = f"{PREFIX}dual-stack-partner"
QUARANTINE = f"{PREFIX}quarantine"
ALLOW_OVERLAP = f"{PREFIX}allow-overlap"
_SWITCHES = (EXCLUSIVE, SHARING_SCOPE, PARTNER, QUARANTINE, ALLOW_OVERLAP)
_ELSEWHERE = (f"{PREFIX}simulate",)
"""Read by others, on any object."""
_LONGEST_QUARANTINE_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """A pool's annotations, read; the defaults are MetalLB's behaviour."""

    exclusive: bool = False
    sharing_within_namespace: bool = False
    partner: str = ""
    quarantine_s: float = QUARANTINE_S
    allow_overlap: frozenset[str] = frozenset()


def switches_of(annotations: Labels) -> Switches:
    """What annotations without error say."""
    return Switches(
        exclusive=annotations.get(EXCLUSIVE) == "true",
        sharing_within_namespace=annotations.get(SHARING_SCOPE) == "namespace",
        partner=annotations.get(PARTNER, ""),
        quarantine_s=parse_duration_s(annotations[QUARANTINE]) if QUARANTINE in annotations else QUARANTINE_S,
        allow_overlap=frozenset(_words(annotations.get(ALLOW_OVERLAP, ""))),
    )


def check_switches(annotations: Labels, spec: schema.IPAddressPool) -> Iterator[Finding]:
    """Find what is wrong in a pool's annotations of ours: a value that means nothing must not count as the default."""
    yield from _unknown(annotations)
    yield from _one_of(annotations, EXCLUSIVE, ("true", "false"))
    yield from _one_of(annotations, SHARING_SCOPE, ("cluster", "namespace"))
    if annotations.get(EXCLUSIVE) == "true" and spec.service_allocation is None:
        message = "has no effect without spec.serviceAllocation: this pool is kept for nobody"
        yield Finding(_place(EXCLUSIVE), message, warning=True)
    if QUARANTINE in annotations:
        yield from _quarantine(annotations[QUARANTINE])
    for word in _words(annotations.get(ALLOW_OVERLAP, "")):
        if word not in OVERLAPS:
            yield Finding(_place(ALLOW_OVERLAP), f'"{word}" is unknown; write {", ".join(OVERLAPS)}, or some of them')


def _quarantine(text: str) -> Iterator[Finding]:
    try:
        quarantine_s = parse_duration_s(text)
    except ValueError as exc:
        yield Finding(_place(QUARANTINE), str(exc))
        return
    if quarantine_s > _LONGEST_QUARANTINE_S:
        yield Finding(_place(QUARANTINE), f'"{text}" is longer than a day; write at most 24h')


def _unknown(annotations: Labels) -> Iterator[Finding]:
    for name in annotations:
        if name.startswith(PREFIX) and name not in (*_SWITCHES, *_ELSEWHERE):
            short = [each.removeprefix(PREFIX) for each in _SWITCHES]
            close = difflib.get_close_matches(name.removeprefix(PREFIX), short, n=1)
            remedy = f"did you mean {PREFIX}{close[0]}?" if close else "remove it"
            yield Finding(_place(name), f"there is no such annotation on a pool; {remedy}")


def _one_of(annotations: Labels, name: str, values: tuple[str, ...]) -> Iterator[Finding]:
    value = annotations.get(name, values[0])
    if value not in values:
        yield Finding(_place(name), f'is "{value}"; write "{values[0]}" or "{values[1]}"')


def _place(name: str) -> str:
    return f"metadata.annotations[{name}]"


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
