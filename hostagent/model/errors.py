"""Three families of failure, sorted by what the caller does about them."""

from __future__ import annotations


class EdgeError(Exception):
    """An outside system did not do what was asked: try again later."""

    def __init__(self, op: str, target: object, cause: str, *, status: int | None = None) -> None:
        super().__init__(f"{op} {target}: {cause}")
        self.op = op
        self.target = str(target)
        self.cause = cause
        self.status = status
        """HTTP status or errno, where there was one."""


class ConfigError(Exception):
    """The host's own configuration cannot be used: refuse to start (exit 78), or keep the last good one."""


class InvariantError(Exception):
    """A bug: let go, exit, be restarted."""
