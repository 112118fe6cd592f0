"""This host's sign of life: one Lease, renewed for as long as the agent runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from hostagent.agent.clock import now
from hostagent.edges.kube.leases import Leases
from hostagent.model.errors import ConfigError, EdgeError
from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import Segment, Session, Write
from hostagent.telemetry.journal import say, warn

RETRY_S = (0.5, 1.0)
"""Between attempts while the API does not take a renewal; drawn anew each time."""
JITTER = 0.1
"""Renewals of many hosts must not arrive together."""


class SessionKeeper:
    """Renews this host's session; ends it when asked."""

    def __init__(self, leases: Leases, session: Session, *, renew_s: float) -> None:
        self._leases = leases
        self._renew_s = renew_s
        self._established = False
        self._soon = asyncio.Event()
        self.session = session
        self.renewed_at: Instant | None = None
        """When the last renewal that the API took was *sent*: others count from later."""
        self.failing_since: Instant | None = None

    async def establish(self) -> bool:
        """Take over the Lease from an earlier boot or life. True if it is this boot's already (the agent restarted)."""
        found = await self._leases.read_session(self.session.node)
        if found is None:
            return False
        self.session = replace(self.session, resource_version=found.resource_version)
        return found.instance == self.session.instance

    def describe(self, segments: tuple[Segment, ...]) -> None:
        """Tell others about a change of this host's interfaces, at once."""
        if segments != self.session.segments:
            self.session = replace(self.session, segments=segments)
            self._soon.set()

    def renew_soon(self) -> None:
        """Renew now instead of at the next interval."""
        self._soon.set()

    async def renew(self) -> bool:
        """Renew once. Raises ConfigError when another host runs under this node's name."""
        asked = self.session
        try:
            outcome, found = await self._leases.renew_session(asked)
        except EdgeError as error:
            self._failed(str(error))
            return False
        match outcome:
            case Write.WON if found is not None:
                self._won(found, asked)
                return True
            case Write.LOST:
                version = found.resource_version if found else ""
                if found is not None and not found.ended and self._established and found.instance != asked.instance:
                    raise ConfigError(
                        f"another host runs hostagent as node {asked.node} (its session is {found.instance}): "
                        "give each host its own name, `node` in config.toml"
                    )
                self.session = replace(self.session, resource_version=version)
                return False
            case _:
                self._failed("no reply")
                return False

    async def run(self, lost: Callable[[ConfigError], None]) -> None:
        """Renew until cancelled; `lost` is called if the session can never be ours again."""
        while True:
            try:
                renewed = await self.renew()
            except ConfigError as exc:
                lost(exc)
                return
            spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
            pause_s = self._renew_s * spread if renewed else random.uniform(*RETRY_S)  # noqa: S311
            try:
                async with asyncio.timeout(pause_s):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()

    async def end(self) -> None:
        """Say that this host left on purpose, so that nobody waits for it. Tells when that did not work."""
        try:
            outcome, _ = await self._leases.end_session(self.session)
        except EdgeError as error:
            warn("session.end-failed", f"the session could not be ended, others will wait for it to expire: {error}")
            return
        if outcome is Write.WON:
            say("session.ended", f"session of {self.session.node} ended")
        else:
            warn("session.end-failed", f"the session could not be ended ({outcome}), others wait for it to expire")

    def _won(self, found: Session, asked: Session) -> None:
        if not self._established:
            self._established = True
            say("session.begun", f"session of {found.node} is {found.instance}")
        if self.failing_since is not None:
            say("session.renewed-again", f"renewed again after {now() - self.failing_since:.1f} s")
        self.failing_since = None
        self.renewed_at = found.seen_at
        self.session = replace(self.session, resource_version=found.resource_version)
        if asked.segments != self.session.segments:
            self._soon.set()

    def _failed(self, cause: str) -> None:
        if self.failing_since is None:
            self.failing_since = now()
            warn("session.not-renewed", f"this host's session cannot be renewed: {cause}")


def own_session(
    *, node: NodeName, instance: str, duration_s: float, version: str, allocator: bool, segments: tuple[Segment, ...]
) -> Session:
    """The session that this host will write first."""
    return Session(
        node=node,
        instance=instance,
        resource_version="",
        seen_at=now(),
        duration_s=duration_s,
        version=version,
        segments=segments,
        allocator=allocator,
    )
