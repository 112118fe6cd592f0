"""The last good configuration, kept on disk: a restart while an object is faulty must not lose what it was before."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hostagent.model.cluster import ConfigSet, Resource
from hostagent.telemetry.journal import warn

FILE = "last-good.json"


def load(directory: Path) -> ConfigSet:
    """What the last run ended with; nothing where there is no such file. An unreadable one is told and passed over."""
    path = directory / FILE
    try:
        good = msgspec.json.decode(path.read_bytes(), type=tuple[Resource, ...])
    except FileNotFoundError:
        return ConfigSet()
    except (OSError, msgspec.DecodeError) as exc:
        warn("config.last-good-unreadable", f"{path} cannot be read and is ignored: {exc}")
        return ConfigSet()
    return ConfigSet(good=good)


def save(directory: Path, config: ConfigSet) -> None:
    """Replace the file at once or not at all. A disk that is full costs the memory, not the service."""
    path = directory / FILE
    fresh = path.with_suffix(".new")
    try:
        fresh.write_bytes(msgspec.json.encode(config.good))
        fresh.replace(path)
    except OSError as exc:
        warn("config.last-good-unwritable", f"{path} cannot be written: {exc}")
