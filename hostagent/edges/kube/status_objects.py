"""Small objects in which a host tells what it does: each made, changed and deleted only when it is not as it should be.

Nothing waits for them and nothing is decided by them. Somebody else's edit is put back, as the watch tells of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from hostagent.edges.kube.clock import whole_seconds
from hostagent.edges.kube.decode import Meta
from hostagent.edges.kube.informer import Informer
from hostagent.edges.kube.transport import JSON, LIST_TIMEOUT_S, MERGE_PATCH, Api, ApiError
from hostagent.model.errors import EdgeError
from hostagent.model.status_objects import Kind, StatusObject

log = logging.getLogger(__name__)

SETTLE_S = 0.2
"""A burst of changes is one: a host that takes over two hundred VIPs is told of them one by one."""
RETRY_S = 5.0
AT_ONCE = 4
"""Writes at a time: these are the least urgent of all."""
PAGE = 500


class _Object(msgspec.Struct):
    metadata: Meta
    status: dict[str, Any] | None = None


class _ListMeta(msgspec.Struct, rename={"more": "continue"}):
    more: str = ""


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[_Object] | None = None


_objects = msgspec.json.Decoder(_Object)
_lists = msgspec.json.Decoder(_List)


def to_status_object(raw: bytes | msgspec.Raw) -> StatusObject:
    """Any object, of which name, labels and status are read; raises msgspec.DecodeError."""
    found = _objects.decode(raw)
    return _status_object(found)


class StatusObjects:
    """One kind's objects of one owner, kept as `want` said last. Run `run` beside everything else.

    `selector` are the labels by which the owner's objects are known; whatever carries them and is not wanted is
    deleted. Nothing is written or deleted before the first `want`. With `owned=False` the objects are other people's
    (pools): only their status is kept, and none is made or deleted.
    """

    def __init__(
        self, api: Api, kind: Kind, *, namespace: str, selector: Mapping[str, str] | None = None, owned: bool = True
    ) -> None:
        self._api = api
        self._kind = kind
        self._namespace = namespace
        self._path = _path(kind, namespace)
        self._owned = owned
        self._informer = Informer(
            api,
            self._path,
            decode=to_status_object,
            key=lambda _, name: name,
            label_selector=",".join(f"{key}={value}" for key, value in (selector or {}).items()),
        )
        self._have: dict[str, StatusObject] = {}
        """As the watch or the reply to our own write told last."""
        self._wanted: dict[str, StatusObject] | None = None
        self._doubtful: set[str] = set()
        """Names of objects that may not be as wanted."""
        self._woken = asyncio.Event()
        self._settling = False
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.failure = ""
        """Why the last round did not write everything; empty when it did."""
        self.written = 0
        """Writes and deletions that the API took."""

    @property
    def trouble(self) -> str:
        """What people should know; empty when all is well."""
        return self.failure or self._informer.trouble or ""

    @property
    def at_rest(self) -> bool:
        """Nothing is being written, or will be before something changes."""
        return not self._woken.is_set() and not self._settling

    def want(self, objects: Iterable[StatusObject]) -> None:
        """All of the owner's objects as they should be. Returns at once; the same again is no work."""
        wanted = {each.name: each for each in objects}
        if wanted != self._wanted:
            before = self._wanted or {}
            self._doubtful |= before.keys() - wanted.keys()
            self._doubtful.update(name for name, each in wanted.items() if before.get(name) != each)
            self._wanted = wanted
            self._woken.set()

    def want_also(self, changes: Mapping[str, StatusObject | None]) -> None:
        """As `want`, for some of them; None: not any more. Costs the same however many others there are."""
        wanted = self._wanted = {} if self._wanted is None else self._wanted
        for name, each in changes.items():
            if each is None:
                wanted.pop(name, None)
            else:
                wanted[name] = each
        self._doubtful |= changes.keys()
        self._woken.set()

    async def run(self) -> None:
        """Keep them so until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run(self._changed, self._woken.set))
            tasks.create_task(self._keep())

    async def settle(self) -> None:
        """Write what differs, once, without waiting for a burst to end: for an agent that is about to stop."""
        if not self._informer.synced or self._wanted is None:
            return
        names, self._doubtful = self._doubtful, set()
        said = dict(zip(names, await asyncio.gather(*map(self._right, names)), strict=True))
        failures = [each for each in said.values() if each]
        self._doubtful |= {name for name, failure in said.items() if failure}
        if failures and failures[0] != self.failure:
            log.warning("%s: %d not as they should be: %s", self._kind.plural, len(failures), failures[0])
        self.failure = failures[0] if failures else ""

    async def _keep(self) -> None:
        while True:
            await self._woken.wait()
            await asyncio.sleep(SETTLE_S)
            self._settling = True
            self._woken.clear()
            await self.settle()
            self._settling = False
            if self.failure:
                await asyncio.sleep(RETRY_S)
                self._woken.set()

    async def _right(self, name: str) -> str:
        """Make it as wanted. Returns why it is not, empty if it is."""
        wanted = (self._wanted or {}).get(name)
        if wanted is not None:
            return await self._put(wanted)
        return await self._delete(name) if self._owned and name in self._have else ""

    def _changed(self, name: str, value: StatusObject | None) -> None:
        self._doubtful.add(name)
        if value is None:
            self._have.pop(name, None)
        else:
            self._have[name] = value
        self._woken.set()

    async def _put(self, wanted: StatusObject) -> str:
        """Make one object as wanted. Returns why it is not, empty if it is."""
        have = self._have.get(wanted.name)
        if have is not None and not _missing(have, wanted) and not _differs(have.status, wanted.status):
            return ""
        if have is None and not self._owned:
            return ""  # people deleted it a moment ago
        async with self._slots:
            try:
                have = have or await self._create(wanted)
                if _missing(have, wanted):
                    have = await self._patch(wanted.name, {"metadata": {"labels": wanted.labels}})
                if _differs(have.status, wanted.status):
                    patch = {"status": status_patch(have.status, wanted.status, at=whole_seconds())}
                    have = await self._patch(f"{wanted.name}/status", patch)
            except ApiError as error:
                return await self._after(wanted.name, error)
        self._have[wanted.name] = have
        if _differs(have.status, wanted.status):
            return f"{self._kind.name} {wanted.name}: the API stored something else than was written: an older CRD?"
        return ""

    async def _create(self, wanted: StatusObject) -> StatusObject:
        """The status is not kept at creation: it is a sub-resource. A name that is there already is a lost reply."""
        body = {
            "apiVersion": "metallb.io/v1beta1",
            "kind": self._kind.name,
            "metadata": {"name": wanted.name, "namespace": self._namespace, "labels": wanted.labels},
        }
        try:
            return await self._send("POST", "", body)
        except ApiError as error:
            if error.status != 409:
                raise
            return await self._send("GET", f"/{wanted.name}")

    async def _patch(self, name: str, body: dict[str, Any]) -> StatusObject:
        return await self._send("PATCH", f"/{name}", body, content_type=MERGE_PATCH)

    async def _send(
        self, method: str, name: str, body: dict[str, Any] | None = None, *, content_type: str = JSON
    ) -> StatusObject:
        content = None if body is None else msgspec.json.encode(body)
        reply = await self._api.request(method, self._path + name, body=content, content_type=content_type)
        self.written += body is not None
        try:
            return to_status_object(reply)
        except msgspec.DecodeError as exc:
            raise ApiError("api.read", self._path + name, f"not such an object: {exc}") from exc

    async def _after(self, name: str, error: ApiError) -> str:
        """What a refusal means for the next round."""
        if error.status == 404:
            self._have.pop(name, None)  # deleted meanwhile: made anew in the next round
        elif error.status == 422 and self._owned:
            await self._delete(name)  # what may not be changed is wrong in it, by somebody's edit: made anew
        return f"{self._kind.name} {name}: {error.cause}"

    async def _delete(self, name: str) -> str:
        try:
            await self._api.request("DELETE", f"{self._path}/{name}")
        except ApiError as error:
            if error.status != 404:
                return f"{self._kind.name} {name}: {error.cause}"
        else:
            self.written += 1
        self._have.pop(name, None)
        return ""


async def owners(api: Api, kind: Kind, *, namespace: str) -> frozenset[str]:
    """The nodes that have objects of this kind, as their labels say. Raises EdgeError."""
    found: set[str] = set()
    more = ""
    while True:
        page = await _page(api, _path(kind, namespace), {"limit": str(PAGE)} | ({"continue": more} if more else {}))
        for each in page.items or ():
            found.add((each.metadata.labels or {}).get(kind.owner_label, ""))
        more = page.metadata.more
        if not more:
            return frozenset(found - {""})


async def remove_of(api: Api, kind: Kind, owner: str, *, namespace: str) -> int:
    """Delete what a host that is gone has left; returns how many there were. Raises EdgeError."""
    path = _path(kind, namespace)
    page = await _page(api, path, {"labelSelector": f"{kind.owner_label}={owner}"})
    for each in page.items or ():
        try:
            await api.request("DELETE", f"{path}/{each.metadata.name}")
        except ApiError as error:
            if error.status != 404:
                raise
    return len(page.items or ())


async def _page(api: Api, path: str, query: dict[str, str]) -> _List:
    body = await api.request("GET", path, query=query, timeout_s=LIST_TIMEOUT_S)
    try:
        return _lists.decode(body)
    except msgspec.DecodeError as exc:
        raise EdgeError("api.list", path, f"not a list: {exc}") from exc


def status_patch(have: Mapping[str, Any], wanted: Mapping[str, Any], *, at: str) -> dict[str, Any]:
    """A JSON merge patch (RFC 7386) from one status to another; `at` is when a condition that changes did so."""
    patch: dict[str, Any] = {**wanted, **dict.fromkeys(have.keys() - wanted.keys())}
    if "conditions" in wanted:
        before = {(each.get("type"), each.get("status")): each for each in have.get("conditions") or ()}
        patch["conditions"] = [
            {
                **each,
                "lastTransitionTime": before.get((each["type"], each["status"]), {}).get("lastTransitionTime", at),
            }
            for each in wanted["conditions"]
        ]
    return patch


def _differs(have: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return _timeless(have) != _timeless(wanted)


def _timeless(status: Mapping[str, Any]) -> dict[str, Any]:
    """Without what only says since when; an absent list is an empty one, as the API drops neither."""
    plain = {key: value for key, value in status.items() if value not in (None, [], "")}
    if "conditions" in plain:
        plain["conditions"] = [
            {key: value for key, value in each.items() if key != "lastTransitionTime"} for each in plain["conditions"]
        ]
    return plain


def _missing(have: StatusObject, wanted: StatusObject) -> bool:
    return any(have.labels.get(key) != value for key, value in wanted.labels.items())


def _status_object(found: _Object) -> StatusObject:
    return StatusObject(name=found.metadata.name, labels=found.metadata.labels or {}, status=found.status or {})


def _path(kind: Kind, namespace: str) -> str:
    return f"/apis/metallb.io/v1beta1/namespaces/{namespace}/{kind.plural}"
