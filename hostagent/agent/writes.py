"""Carries the allocator's decisions out at the API: in their order, a few at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from hostagent.core.allocate import Decision
from hostagent.edges.kube.status import ServiceStatus
from hostagent.model.cluster import Service
from hostagent.model.errors import EdgeError
from hostagent.model.names import ServiceKey
from hostagent.model.ownership import Write
from hostagent.telemetry.journal import warn

AT_ONCE = 16
REFUSED_RETRY_S = 2.0
UNKNOWN_RETRY_S = 0.2


class Writes:
    """Decisions that are to be written. A Service has at most one here at a time."""

    def __init__(
        self,
        status: ServiceStatus,
        *,
        won: Callable[[Service, Decision, Service], None],
        refused: Callable[[Service, EdgeError], Awaitable[None]],
        over: Callable[[ServiceKey, float | None], None],
    ) -> None:
        """`won` tells how the Service is now, `refused` that the API does not take it, and `over`, always and last,
        that the Service may be decided about anew: at once, or after so many seconds.
        """
        self._status = status
        self._won = won
        self._refused = refused
        self._over = over
        self._waiting: deque[tuple[Service, Decision, Callable[[], bool]]] = deque()
        self._under_way: set[ServiceKey] = set()
        self._writers: set[asyncio.Task[None]] = set()

    def __contains__(self, key: ServiceKey) -> bool:
        return key in self._under_way

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def put(self, service: Service, decision: Decision, *, may: Callable[[], bool]) -> None:
        """Write it as soon as it is its turn, unless `may` says then that it must not be written any more.

        A queue and a few tasks, as ten thousand Services with a task each take 30 MB.
        """
        self._under_way.add(service.key)
        self._waiting.append((service, decision, may))
        if len(self._writers) < AT_ONCE:
            self._writers.add(asyncio.create_task(self._work()))

    async def _work(self) -> None:
        try:
            while self._waiting:
                service, decision, may = self._waiting.popleft()
                retry_s = None
                try:
                    if may():
                        retry_s = await self._write(service, decision)
                finally:
                    self._under_way.discard(service.key)
                    self._over(service.key, retry_s)
        finally:  # in the same breath as the look at what waits: whoever puts something next sees that one is missing
            self._writers.discard(asyncio.current_task())

    async def _write(self, service: Service, decision: Decision) -> float | None:
        """Returns after how many seconds the Service must be looked at again; None: at once."""
        key = service.key
        try:
            outcome, found = await self._status.write(service, decision.addresses, pool=decision.pool or None)
        except EdgeError as error:
            warn("service.status-failed", f"the address of {key} could not be written: {error}", service=key)
            await self._refused(service, error)
            return REFUSED_RETRY_S  # at once, a refusal would be asked for several times a second
        if outcome is Write.WON and found is not None:
            self._won(service, decision, found)
            return None
        return None if outcome is Write.LOST and found is None else UNKNOWN_RETRY_S
