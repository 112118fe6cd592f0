"""One object for many equal values: ten thousand Services have a handful of port lists between them."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import TypeVar

H = TypeVar("H", bound=Hashable)


def shared(value: H) -> H:
    """An object equal to the value: the same one for all that are equal, while they are asked for often enough."""
    found: H = _first(value)
    return found


@lru_cache(maxsize=4096)
def _first(value: H) -> H:
    return value
