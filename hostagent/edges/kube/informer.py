"""List, then watch, for ever: a local copy of one kind, and a call for each change of it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Hashable
from contextlib import aclosing
from typing import Generic, TypeVar

import msgspec

from hostagent.edges.kube.clock import Clock, boottime
from hostagent.edges.kube.decode import DecodeError, Meta, to_meta
from hostagent.edges.kube.transport import LIST_TIMEOUT_S, Api, ApiError
from hostagent.model.names import Instant

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

PAGE = 500
"""Objects per list request: bounds what is in memory twice, and how long one decode holds the loop."""
IDLE_S = 100.0
"""An API server sends a bookmark about once a minute; silence of this length is a dead connection."""
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 8.0
"""What an agent may lag behind an API server that has come back."""
STEADY_S = 10.0
"""A watch that lasted this long was a good one: the next failure starts from the first delay again."""
ABSENT_DELAY_S = 30.0
"""Between looks for a kind that is not installed, or that we may not read: people change that, not time. What was read
before is asked for sooner: an API server that has just started refuses everybody for a moment."""


def delay_s(failures: int, chance: float) -> float:
    """How long to wait after so many failures in a row; `chance` in [0, 1) spreads a thousand hosts.

    Doubles from 0.2 s to 8 s, of which a half is random: after an API server's restart they do not come as one.
    """
    if failures <= 0:
        return 0.0
    longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + 0.5 * chance)


class _ListMeta(msgspec.Struct, rename={"resource_version": "resourceVersion", "more": "continue"}):
    resource_version: str = ""
    more: str = ""


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


_lists = msgspec.json.Decoder(_List)
_events = msgspec.json.Decoder(_Event)
_statuses = msgspec.json.Decoder(_Status)


class Informer(Generic[K, T]):
    """One kind, as the API has it.

    `key` makes the item's key from namespace and name, `decode` its value from JSON. An object that `decode` refuses
    is set aside and named in `set_aside`; if an earlier version of it was good, that one stays. A kind that is
    `optional` counts as empty where the cluster does not have it, or does not let us read it.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        *,
        decode: Callable[[bytes | msgspec.Raw], T],
        key: Callable[[str, str], K],
        label_selector: str = "",
        field_selector: str = "",
        optional: bool = False,
        idle_s: float = IDLE_S,
        now: Clock = boottime,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.path = path
        self.items: dict[K, T] = {}
        self.set_aside: dict[K, str] = {}
        """Objects that could not be decoded, with the reason."""
        self.synced = False
        """The list was complete at least once."""
        self.last_event_at: Instant | None = None
        """When the API last said anything about this kind: a list, a change, a bookmark."""
        self.listed_version = ""
        """Of the last complete list; empty before the first."""
        self.trouble: str | None = None
        """Why it cannot be read at the moment; None while it can."""
        self.answered = 0
        """The latest `relist` that a complete list was begun after."""
        self._api = api
        self._decode = decode
        self._key = key
        self._selectors = {
            name: value
            for name, value in (("labelSelector", label_selector), ("fieldSelector", field_selector))
            if value
        }
        self._optional = optional
        self._asked = 0
        self._idle_s = idle_s
        self._now = now
        self._chance = chance
        self._version = ""
        self._stream: asyncio.Future[None] | None = None
        self._reconnecting = False

    async def run(
        self, on_change: Callable[[K, T | None], object], on_sync: Callable[[], object] | None = None
    ) -> None:
        """Keep `items` up to date until cancelled.

        `on_change(key, value)` is called after `items` has it, None for an object that is gone; not for a change of
        fields that are not decoded. `on_sync` is called after every complete list, its changes reported before.
        """
        failures = 0
        while True:
            started = self._now()
            wait_s = 0.0
            try:
                while not self._version or self.answered < self._asked:
                    await self._list(on_change)
                    if on_sync is not None:
                        on_sync()
                    started = self._now()
                self._stream = asyncio.ensure_future(self._watch(on_change))
                await self._stream
            except ApiError as error:
                wait_s = self._after(error, first=not failures)
                if self._optional and error.status in (403, 404):
                    self.synced = True
                    if on_sync is not None:
                        on_sync()
            except asyncio.CancelledError:
                if not self._reconnecting:
                    raise
                log.debug("%s: asked to connect anew, going on from version %s", self.path, self._version)
            finally:
                self._reconnecting = False
                if self._stream is not None:
                    self._stream.cancel()
            failures = 0 if self._now() - started >= STEADY_S else failures + 1
            await asyncio.sleep(max(wait_s, delay_s(failures, self._chance())))

    def reconnect(self) -> None:
        """Drop the present watch and go on from where it was, over another connection: it tells nothing any more."""
        if self._stream is not None and not self._stream.done():
            self._reconnecting = True
            self._stream.cancel()

    def relist(self) -> int:
        """Read everything anew, whatever the watch has told: what was stored before now is known when `answered` has
        reached the number that this returns.
        """
        self._asked += 1
        self.reconnect()
        return self._asked

    async def _list(self, on_change: Callable[[K, T | None], object]) -> None:
        """Read everything, page by page, then report the difference to what was known."""
        asked = self._asked
        fresh: dict[K, T] = {}
        refused: dict[K, str] = {}
        more = ""
        while True:
            query = {**self._selectors, "limit": str(PAGE)} | ({"continue": more} if more else {})
            body = await self._api.request("GET", self.path, query=query, timeout_s=LIST_TIMEOUT_S)
            try:
                page = _lists.decode(body)
            except msgspec.DecodeError as exc:
                raise ApiError("api.list", self.path, f"not a list: {exc}") from exc
            for raw in page.items or ():
                self._take(raw, fresh, refused)
            more = page.metadata.more
            if not more:
                break
        self._version = self.listed_version = page.metadata.resource_version
        self._heard()
        gone = [key for key in self.items if key not in fresh]
        changed = [key for key, value in fresh.items() if self.items.get(key) != value]
        self.items, self.set_aside, self.synced, self.answered = fresh, refused, True, asked
        for key in gone:
            on_change(key, None)
        for key in changed:
            on_change(key, fresh[key])

    def _take(self, raw: msgspec.Raw, into: dict[K, T], refused: dict[K, str]) -> None:
        """Decode one object of a list."""
        try:
            meta = to_meta(raw)
        except msgspec.DecodeError as exc:
            log.warning("%s: an object without readable metadata is set aside: %s", self.path, exc)
            return
        key = self._key(meta.namespace, meta.name)
        value = self._decoded(raw, key, meta, refused)
        if value is None:
            value = self.items.get(key)
        if value is not None:
            into[key] = value

    def _decoded(self, raw: msgspec.Raw, key: K, meta: Meta, refused: dict[K, str]) -> T | None:
        try:
            value = self._decode(raw)
        except DecodeError as exc:
            if self.set_aside.get(key) != str(exc):
                kept = "its last good version stays in force" if key in self.items else "it is ignored"
                log.warning("%s: %s cannot be decoded, %s: %s", self.path, "/".join(filter(None, meta.key)), kept, exc)
            refused[key] = str(exc)
            return None
        refused.pop(key, None)
        return value

    async def _watch(self, on_change: Callable[[K, T | None], object]) -> None:
        """Follow changes until the server ends the watch, which it does every few minutes by our own wish."""
        query = {
            **self._selectors,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(240 + int(60 * self._chance())),
        }
        async with aclosing(self._api.stream(self.path, query=query, idle_s=self._idle_s)) as lines:
            async for line in lines:
                if line:
                    self._on_line(line, on_change)

    def _on_line(self, line: bytes, on_change: Callable[[K, T | None], object]) -> None:
        try:
            event = _events.decode(line)
            if event.type == "ERROR":
                status = _statuses.decode(event.object)
                raise ApiError("api.watch", self.path, status.message or "ended by the server", status=status.code)
            meta = to_meta(event.object)
        except msgspec.DecodeError as exc:
            self._version = ""  # what this line said is lost: look at everything again
            raise ApiError("api.watch", self.path, f"not a watch event: {exc}") from exc
        self._heard()
        self._version = meta.resource_version or self._version
        key = self._key(meta.namespace, meta.name)
        match event.type:
            case "ADDED" | "MODIFIED":
                value = self._decoded(event.object, key, meta, self.set_aside)
                if value is not None and self.items.get(key) != value:
                    self.items[key] = value
                    on_change(key, value)
            case "DELETED":
                self.set_aside.pop(key, None)
                if self.items.pop(key, None) is not None:
                    on_change(key, None)
            case _:  # BOOKMARK: only its version matters
                pass

    def _heard(self) -> None:
        self.last_event_at = self._now()
        if self.trouble is not None:
            log.debug("%s: readable again", self.path)
            self.trouble = None

    def _after(self, error: ApiError, *, first: bool) -> float:
        """What a failure means: list anew or not, and the shortest wait. Logged when it is not the last one again."""
        wait_s = error.retry_after_s or 0.0
        cause = str(error)
        if error.status == 410:  # our version is older than what the API server remembers
            self._version = ""
            log.debug("%s: version expired, listing again", self.path)
            return wait_s
        if self._optional and error.status in (403, 404):
            self._version = ""
            return max(wait_s, ABSENT_DELAY_S)
        if error.status == 404:
            self._version = ""
            cause = f"{self.path}: the cluster does not know this kind. Install it: `hostagent access apply`"
            wait_s = wait_s if self.synced else max(wait_s, ABSENT_DELAY_S)
        elif error.status == 403:
            cause = f"{error}. Give hosts the right to read it: `hostagent access apply`"
            wait_s = wait_s if self.synced else max(wait_s, ABSENT_DELAY_S)
        elif error.unanswered and self.synced and first:
            # A watch that breaks is everyday life (server restart, other endpoint): trouble only if the next fails too.
            log.debug("%s: watch broke, going on from version %s: %s", self.path, self._version, error)
            return wait_s
        if cause != self.trouble:
            # That the API is away is told once, by who has all its watches; what only this kind meets, here.
            log.log(logging.DEBUG if error.unanswered else logging.WARNING, "cannot follow %s", cause)
            self.trouble = cause
        return wait_s
