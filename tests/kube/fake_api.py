"""A small API server that fails on command, and who asks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from hostagent.edges.kube.credentials import Credentials
from hostagent.edges.kube.decode import ObjectKey, object_key, to_meta
from hostagent.edges.kube.informer import Informer
from hostagent.edges.kube.transport import Api

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PATH = "/api/v1/services"


def play(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 30))


class FakeApi:
    """Answers what its `script` says; requests are kept in `seen` as (method, path, query)."""

    def __init__(self, script: Handler) -> None:
        self._script = script
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.url = ""
        self.dead = asyncio.Event()
        """Set when the server goes down: what hangs on purpose waits for it."""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path, dict(request.query)))
        return await self._script(request)


@asynccontextmanager
async def serve(script: Handler) -> AsyncIterator[FakeApi]:
    fake = FakeApi(script)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", fake._handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        fake.dead.set()
        await runner.cleanup()


@asynccontextmanager
async def api_at(*servers: str, authorization: str | None = None) -> AsyncIterator[Api]:
    creds = Credentials(servers=servers, tls=None, authorization=authorization)

    async def load() -> Credentials:
        return creds

    api = Api(creds, load, user_agent="hostagent/test")
    try:
        yield api
    finally:
        await api.close()


class Watcher:
    """An informer of versions, with what it reported."""

    def __init__(self, api: Api, *, idle_s: float = 5.0) -> None:
        self.informer: Informer[ObjectKey, str] = Informer(
            api,
            PATH,
            decode=lambda raw: to_meta(raw).resource_version,
            key=object_key,
            idle_s=idle_s,
            chance=lambda: 0.0,
        )
        self.told: list[tuple[str, str | None]] = []

    async def run(self) -> None:
        await self.informer.run(lambda key, value: self.told.append((key[1], value)))


def item(name: str, version: str, *, namespace: str = "default", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "resourceVersion": version, **more}}


def listing(version: str, *items: dict[str, Any], more: str = "") -> web.Response:
    return web.json_response({"metadata": {"resourceVersion": version, "continue": more}, "items": list(items)})


def failure(code: int, reason: str = "", message: str = "", **headers: str) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message or reason}
    return web.json_response(body, status=code, headers=headers)


async def events(
    request: web.Request, *changes: tuple[str, dict[str, Any]], then: str = "end", fake: FakeApi | None = None
) -> web.StreamResponse:
    """A watch: these changes, and then the `end`, a `cut` in the middle of a chunk, or `silence`."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for kind, body in changes:
        await response.write(json.dumps({"type": kind, "object": body}).encode() + b"\n")
    if then == "silence":
        assert fake is not None
        await fake.dead.wait()
    if then == "cut":
        await response.write(b'{"type": "ADD')
        assert request.transport is not None
        request.transport.abort()
        return response
    await response.write_eof()
    return response
