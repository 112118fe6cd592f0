"""This host's sign of life: one Lease, renewed for as long as the agent runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hostagent.agent.clock import now
from hostagent.core.hosts import older
from hostagent.edges.kube.leases import Leases
from hostagent.model.errors import ConfigError, EdgeError
from hostagent.model.names import Instant, NodeName
from hostagent.model.ownership import Segment, Session, Write
from hostagent.telemetry.journal import say, warn

RETRY_S = (0.5, 1.0)
"""Between attempts while the API does not take a renewal; drawn anew each time."""
JITTER = 0.1
"""Renewals of many hosts must not arrive together."""
REFUTED_TOLD_S = 10.0
"""One line in the journal per suspecter and this long: where a segment is broken, suspicions come several a second."""


class SessionKeeper:
    """Renews this host's session; refutes rivals' suspicions; ends it when asked.

    `on_renewed` is told of each renewal that the API took: its resourceVersion, and when the last one was sent.
    """

    def __init__(
        self,
        leases: Leases,
        session: Session,
        *,
        renew_s: float,
        on_renewed: Callable[[str, Instant], None] | None = None,
    ) -> None:
        self._leases = leases
        self._renew_s = renew_s
        self._on_renewed = on_renewed
        self._established = False
        self._soon = asyncio.Event()
        self._suspected = asyncio.Event()
        self._suspecters: dict[NodeName, Instant] = {}
        """Who wrote a note that no renewal sent since has taken off, and when this host was told."""
        self._refuted_told: dict[NodeName, Instant] = {}
        self.session = session
        self.renewed_at: Instant | None = None
        """When the last renewal that the API took was *sent*: others count from later."""
        self.failing_since: Instant | None = None
        self.refutations = 0
        """Suspicions answered by a renewal."""

    async def establish(self) -> bool:
        """Take over the Lease from an earlier boot or life. True if it is this boot's already (the agent restarted)."""
        found = await self._leases.read_session(self.session.node)
        if found is None:
            return False
        self.session = replace(self.session, resource_version=found.resource_version)
        return found.instance == self.session.instance

    def describe(self, segments: tuple[Segment, ...] | None = None, *, draining: bool | None = None) -> None:
        """Tell others about a change of this host's interfaces, or that it drains, at once. None: as before."""
        before = self.session
        self.session = replace(
            before,
            segments=before.segments if segments is None else segments,
            draining=before.draining if draining is None else draining,
        )
        if self.session != before:
            self._soon.set()

    def renew_soon(self) -> None:
        """Renew now instead of at the next interval."""
        self._soon.set()

    def refute(self, by: NodeName, *, version: str = "") -> None:
        """Renew now, as `by` noted in the session that this host's VIPs are silent: others may claim them 300 ms later.

        Leaves at once even if a renewal is under way, whose reply may never come. `version` is the session's with the
        note, as the watch told it: without it the API refuses the first write, and two more requests are needed.
        """
        self._suspecters.setdefault(by, now())
        if older(self.session.resource_version, version):
            self.session = replace(self.session, resource_version=version)
        self._suspected.set()

    async def renew(self) -> bool:
        """Renew once. Raises ConfigError when another host runs under this node's name."""
        asked, answered = self.session, dict(self._suspecters)
        try:
            outcome, found = await self._leases.renew_session(asked)
        except EdgeError as error:
            self._failed(str(error))
            return False
        match outcome:
            case Write.WON if found is not None:
                self._won(found, asked)
                self._refuted(answered)
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
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew_at_intervals())
                tasks.create_task(self._renew_when_suspected())
        except* ConfigError as refused:
            for exc in refused.exceptions:
                if isinstance(exc, ConfigError):
                    lost(exc)

    async def _renew_at_intervals(self) -> None:
        while True:
            renewed = await self.renew()
            spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
            pause_s = self._renew_s * spread if renewed else random.uniform(*RETRY_S)  # noqa: S311
            try:
                async with asyncio.timeout(pause_s):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()

    async def _renew_when_suspected(self) -> None:
        """Beside the others, so that one whose reply does not come holds up no refutation.

        Two may be under way at once: the API takes one, and the other is written again on top of it.
        """
        while True:
            await self._suspected.wait()
            self._suspected.clear()
            if not await self.renew():
                self._soon.set()

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
        if self.renewed_at is None or found.seen_at >= self.renewed_at:  # of two at once, the one sent last
            self.renewed_at = found.seen_at
            self.session = replace(self.session, resource_version=found.resource_version)
        if (asked.segments, asked.draining) != (self.session.segments, self.session.draining):
            self._soon.set()
        if self._on_renewed is not None:
            self._on_renewed(found.resource_version, self.renewed_at)

    def _refuted(self, answered: dict[NodeName, Instant]) -> None:
        at = now()
        for by, since in answered.items():
            if self._suspecters.get(by) != since:
                continue  # the renewal beside this one has answered it
            del self._suspecters[by]
            self.refutations += 1
            if at - self._refuted_told.get(by, Instant(-REFUTED_TOLD_S)) >= REFUTED_TOLD_S:
                self._refuted_told[by] = at
                took_ms = (at - since) * 1000
                warn(
                    "session.refuted",
                    f"{by} got no answer from this host's VIPs and suspects it to be dead: refuted in {took_ms:.0f} ms",
                    by=by,
                    took_ms=round(took_ms),
                )

    def _failed(self, cause: str) -> None:
        if self.failing_since is None:
            self.failing_since = now()
            warn("session.not-renewed", f"this host's session cannot be renewed: {cause}")


def own_session(
    *,
    node: NodeName,
    instance: str,
    duration_s: float,
    version: str,
    allocator: bool,
    segments: tuple[Segment, ...],
    draining: bool = False,
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
        draining=draining,
    )


def boot_instance() -> str:
    """New at every boot of the host, the same for every life of the agent in between.

    The kernel's boot id and when PID 1 began: containers that are hosts of their own share the first.
    """
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    # After the command name, which may hold anything, `starttime` is field 22 of proc_pid_stat(5).
    began = Path("/proc/1/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return f"{boot_id[:8]}-{began}"
