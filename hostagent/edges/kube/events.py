"""Kubernetes Events: what happened to an object, for those who `kubectl describe` it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec

from hostagent.edges.kube.clock import Clock, boottime, whole_seconds
from hostagent.edges.kube.transport import MERGE_PATCH, Api
from hostagent.model.cluster import Resource, Service
from hostagent.model.errors import EdgeError
from hostagent.model.names import Instant

log = logging.getLogger(__name__)

COMPONENT = "hostagent"
QUIET_S = 600.0
"""A repetition within this time is counted and not sent."""
REMEMBERED = 2048
"""Events kept to know repetitions by; API servers forget Events after an hour anyway."""
WAITING = 256
"""Of what is only told; as many warnings more, and these go first: they must not wait behind hundreds of moved VIPs."""
RATE_PER_S = 5.0
BURST = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str = ""


def about_service(service: Service) -> Subject:
    return Subject(
        api_version="v1",
        kind="Service",
        namespace=service.key.namespace,
        name=service.key.name,
        uid=service.uid,
        resource_version=service.resource_version,
    )


def about_resource(resource: Resource) -> Subject:
    return Subject(
        api_version=resource.api_version,
        kind=resource.kind,
        namespace=resource.namespace,
        name=resource.name,
        uid=resource.uid,
    )


@dataclass(frozen=True, slots=True)
class _Happening:
    subject_uid: str
    reason: str
    message: str


@dataclass(slots=True, kw_only=True)
class _Told:
    """An Event that was sent, or waits to be."""

    name: str
    sent_at: Instant
    count: int = 1
    stored: bool = False


class Events:
    """Sends Events beside everything else: nothing waits for them, and their loss is counted, never raised."""

    def __init__(self, api: Api, *, node: str, now: Clock = boottime) -> None:
        self._api = api
        self._node = node
        self._now = now
        self._told: OrderedDict[_Happening, _Told] = OrderedDict()
        self._queue: asyncio.PriorityQueue[tuple[bool, int, _Happening, Subject]] = asyncio.PriorityQueue()
        self._order = itertools.count()
        self._tokens = BURST
        self._filled_at = now()
        self.failed = 0
        """Events that the API did not take."""
        self.dropped = 0
        """Events given up because too many were waiting."""

    def emit(self, subject: Subject, *, reason: str, message: str, warning: bool = False) -> None:
        """Tell about `subject`. Returns at once; the same again within ten minutes only counts.

        `reason` is one CamelCase word, `message` a sentence for people (the API takes 1 024 characters of it).
        """
        happening = _Happening(subject.uid or f"{subject.kind}/{subject.namespace}/{subject.name}", reason, message)
        told = self._told.get(happening)
        if told is not None:
            self._told.move_to_end(happening)
            told.count += 1
            if self._now() < told.sent_at + QUIET_S:
                return
            told.sent_at = self._now()
        if self._queue.qsize() >= (2 * WAITING if warning else WAITING):
            self.dropped += 1
            return
        if told is None:
            self._told[happening] = _Told(name=_name(subject, happening, self._node), sent_at=self._now())
            if len(self._told) > REMEMBERED:
                self._told.popitem(last=False)
        self._queue.put_nowait((not warning, next(self._order), happening, subject))

    async def run(self) -> None:
        """Send what is waiting, warnings first, at most 5 a second after a burst of 25, until cancelled."""
        while True:
            await self._take_token()
            told, _, happening, subject = await self._queue.get()
            await self._tell(happening, subject, warning=not told)

    async def _take_token(self) -> None:
        now = self._now()
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * RATE_PER_S)
        self._filled_at = now
        self._tokens -= 1.0
        if self._tokens < 0.0:
            await asyncio.sleep(-self._tokens / RATE_PER_S)

    async def _tell(self, happening: _Happening, subject: Subject, *, warning: bool) -> None:
        told = self._told.get(happening)
        if told is None:  # pushed out by two thousand others while it waited
            self.dropped += 1
            return
        path = f"/api/v1/namespaces/{subject.namespace or 'default'}/events"
        try:
            if told.stored and await self._count_up(path, told):
                return
            body = event_object(
                told.name,
                subject,
                reason=happening.reason,
                message=happening.message,
                warning=warning,
                node=self._node,
                count=told.count,
            )
            await self._api.request("POST", path, body=msgspec.json.encode(body))
            told.stored = True
        except EdgeError as error:
            # A 409: an earlier life of this agent told it, as to a new one everything is news; or our POST came twice.
            told.stored = error.status == 409
            if not told.stored:
                self.failed += 1
                log.warning("event %s about %s %s not stored: %s", happening.reason, subject.kind, subject.name, error)

    async def _count_up(self, path: str, told: _Told) -> bool:
        """Raise the count of the Event sent before; False when the API has forgotten it."""
        patch = {"count": told.count, "lastTimestamp": whole_seconds()}
        try:
            await self._api.request(
                "PATCH", f"{path}/{told.name}", body=msgspec.json.encode(patch), content_type=MERGE_PATCH
            )
        except EdgeError as error:
            if error.status != 404:
                raise
            return False
        return True


def _name(subject: Subject, happening: _Happening, node: str) -> str:
    """The same for the same happening, in every life of the agent: the API takes it once."""
    what = f"{happening.subject_uid}/{node}/{happening.reason}/{happening.message}"
    return f"{subject.name[:230]}.{hashlib.sha256(what.encode()).hexdigest()[:16]}"


def event_object(
    name: str, subject: Subject, *, reason: str, message: str, warning: bool, node: str, count: int
) -> dict[str, Any]:
    """A core/v1 Event, as `kubectl describe` and `kubectl get events` show it."""
    at = whole_seconds()
    reference = {
        "apiVersion": subject.api_version,
        "kind": subject.kind,
        "namespace": subject.namespace,
        "name": subject.name,
        "uid": subject.uid,
        "resourceVersion": subject.resource_version,
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": subject.namespace or "default"},
        "involvedObject": {key: value for key, value in reference.items() if value},
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message if len(message) <= 1024 else message[:1023] + "…",
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": count,
    }
