"""HTTP to the API servers: every wait bounded, endpoints tried in turn, failures sorted for those who must decide."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from hostagent.edges.kube import credentials
from hostagent.edges.kube.clock import Clock, boottime
from hostagent.edges.kube.credentials import Credentials
from hostagent.edges.kube.wire import CONNECT_TIMEOUT_S, Lane, Wire
from hostagent.model.errors import ConfigError, EdgeError
from hostagent.model.names import Instant

log = logging.getLogger(__name__)

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
"""Of the API's own kinds only. Costs the API server a tenth less than a merge patch."""
APPLY_PATCH = "application/apply-patch+yaml"

WRITE_TIMEOUT_S = 2.0
LIST_TIMEOUT_S = 30.0
WATCH_HEADERS_TIMEOUT_S = 10.0
"""An API server sends a watch's headers at once, before any event."""
LOOK_AGAIN_S = 1.0
"""Credentials that the API refuses are looked for on disk at most so often, however many requests are refused."""
EXPIRY_MARGIN_S = 60.0
"""Tokens are renewed this long before they expire; clocks of issuer and host differ by less."""

T = TypeVar("T")
Load = Callable[[], Awaitable[Credentials]]


class ApiError(EdgeError):
    """A request that did not succeed."""

    def __init__(
        self,
        op: str,
        target: object,
        cause: str,
        *,
        status: int | None = None,
        reason: str = "",
        retry_after_s: float | None = None,
        unanswered: bool = False,
    ) -> None:
        super().__init__(op, target, cause, status=status)
        self.reason = reason
        """The API's one-word reason: `Conflict`, `AlreadyExists`, `Expired`, …"""
        self.retry_after_s = retry_after_s
        """How long the server asks to be left alone (429, 503)."""
        self.unanswered = unanswered
        """It may have been carried out: the request left, no reply came."""


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""


_status_decoder = msgspec.json.Decoder(_Status)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: bytes | None = None
    content_type: str = JSON
    lane: Lane = Lane.BULK
    limits: aiohttp.ClientTimeout

    @property
    def op(self) -> str:
        return f"api.{self.method.lower()}"


class Api:
    """The Kubernetes API as this host reaches it. Make one with `await Api.open(...)`, end it with `await close()`.

    All methods raise ApiError and nothing else for what goes wrong outside; `reload` also raises ConfigError.
    """

    def __init__(self, creds: Credentials, load: Load, *, user_agent: str, now: Clock = boottime) -> None:
        self._load = load
        self._user_agent = user_agent
        self._now = now
        self._wire = Wire(creds, user_agent=user_agent)
        self._reloading = asyncio.Lock()
        self._looked_at: Instant | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._preferred = creds.servers[0]
        self.last_ok: Instant | None = None
        """When a request was answered last (any answer below 500)."""
        self.unreachable_since: Instant | None = None
        """The first failure since then; None while the API answers."""

    @classmethod
    async def open(cls, kubeconfig: Path | str, *, servers: tuple[str, ...] = (), user_agent: str = "hostagent") -> Api:
        """Load credentials; nothing is sent yet. Raises ConfigError or EdgeError as `credentials.load` does."""
        load = partial(credentials.load, kubeconfig, servers=servers)
        return cls(await load(), load, user_agent=user_agent)

    @property
    def credentials(self) -> Credentials:
        return self._wire.credentials

    @property
    def server(self) -> str:
        """The endpoint that is tried first: the one that worked last."""
        return self._preferred

    async def reload(self) -> None:
        """Load the credentials again and use them from now on, also if they are the same.

        Requests under way end as they are; watches are cut, and go on with the new credentials. Raises ConfigError or
        EdgeError when the new ones cannot be used: the old ones stay in force.
        """
        async with self._reloading:
            await self._replace_wire(await self._load())

    async def close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewal
        await self._wire.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        timeout_s: float = WRITE_TIMEOUT_S,
        lane: Lane = Lane.BULK,
    ) -> bytes:
        """One request, its body read; answers of 400 and more raise ApiError with that status.

        An endpoint that cannot be connected to costs at most a second before the next is tried. A write that was sent
        and not answered is not sent again: it raises ApiError with `unanswered`, and the next request goes elsewhere.
        """
        request = _Request(
            method=method,
            path=path,
            query=query,
            body=body,
            content_type=content_type,
            lane=lane,
            limits=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s)),
        )
        _, answer = await self._accepted(self._exchange, request)
        return answer

    async def stream(self, path: str, *, query: Mapping[str, str], idle_s: float) -> AsyncGenerator[bytes, None]:
        """The lines of an endless answer (a watch), until the server ends it.

        Raises ApiError when nothing at all comes for `idle_s`, and when the connection breaks. Iterate under
        `contextlib.aclosing`, so that leaving early closes the connection.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_s)
        request = _Request(method="GET", path=path, query=query, limits=limits)
        wire, response = await self._accepted(self._open_stream, request)
        try:
            rest = b""
            # Not readline(): aiohttp bounds a line to 128 KiB, a Node object with many images is longer.
            with wire.watching(response):
                async for chunk in response.content.iter_any():
                    self.last_ok = self._now()
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield line
        except (aiohttp.ClientError, TimeoutError) as exc:
            if wire is not self._wire:  # our own doing says nothing about the endpoint
                raise ApiError(request.op, path, "cut, as the credentials were replaced", unanswered=True) from exc
            raise self._broken(request, str(response.url.origin()), exc) from exc
        finally:
            # Not a farewell by TLS: the server may be gone, and the loop may end before it answers.
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()
            response.close()

    async def _accepted(self, act: Callable[[Wire, _Request], Awaitable[T]], request: _Request) -> tuple[Wire, T]:
        """What `act` brings, and over which wire.

        Refused credentials (401) are replaced once by others on disk. If there are none, every endpoint is asked: one
        API server of several may be the only one that does not know who issued them.
        """
        self._renew_if_due()
        wire, refusals = self._wire, 0
        while True:
            try:
                return wire, await act(wire, request)
            except ApiError as refusal:
                endpoints = len(wire.credentials.servers)
                refusals += 1
                if refusal.status != 401 or refusals > endpoints:
                    raise
                refused, wire = wire, await self._after_refusal(wire, refusal)
                if wire is refused and refusals == endpoints:
                    raise

    async def _exchange(self, wire: Wire, request: _Request) -> bytes:
        async with wire.in_use():
            return await self._read(await self._send(wire, request), request)

    async def _open_stream(self, wire: Wire, request: _Request) -> aiohttp.ClientResponse:
        """A watch whose headers are there; answers of 400 and more raise ApiError with that status."""
        try:
            # In use: a session that is closed under a handshake leaves the connection open, and nobody's.
            async with wire.in_use(), asyncio.timeout(WATCH_HEADERS_TIMEOUT_S):
                response = await self._send(wire, request)
                if response.status >= 400:
                    raise await self._error(response, request)
                return response
        except TimeoutError as exc:
            raise self._broken(request, self._preferred, exc) from exc

    async def _send(self, wire: Wire, request: _Request) -> aiohttp.ClientResponse:
        """Send to the first endpoint that takes it; returns when the headers are there."""
        failures: list[str] = []
        for server in wire.in_turn(self._preferred):
            try:
                response = await wire.send(
                    request.method,
                    server + request.path,
                    lane=request.lane,
                    query=request.query,
                    body=request.body,
                    content_type=request.content_type,
                    limits=request.limits,
                )
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
                failures.append(f"{server}: {_why(exc)}")  # never sent: safe to send elsewhere
                continue
            except (aiohttp.ClientError, TimeoutError) as exc:
                if request.method != "GET":
                    raise self._broken(request, server, exc) from exc
                failures.append(f"{server}: {_why(exc)}")
                continue
            self._preferred = server if _serves(response.status) else wire.after(server)
            self._answered(response.status)
            return response
        self._unanswered()
        raise ApiError(request.op, request.path, "no API endpoint answers: " + "; ".join(failures))

    async def _read(self, response: aiohttp.ClientResponse, request: _Request) -> bytes:
        if response.status >= 400:
            raise await self._error(response, request)
        try:
            return await response.read()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise self._broken(request, str(response.url.origin()), exc) from exc
        finally:
            response.release()

    async def _error(self, response: aiohttp.ClientResponse, request: _Request) -> ApiError:
        try:
            said = _status_decoder.decode(await response.read())
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
            said = _Status()  # a proxy's page, or cut off: the status code says enough
        finally:
            response.release()
        return ApiError(
            request.op,
            request.path,
            said.message or f"HTTP {response.status} {response.reason or ''}".strip(),
            status=response.status,
            reason=said.reason,
            retry_after_s=retry_after_s(response.headers.get("Retry-After")),
        )

    def _broken(self, request: _Request, server: str, exc: BaseException) -> ApiError:
        """The request left and the answer did not come, or not whole. The next request starts at another endpoint."""
        self._unanswered()
        self._preferred = self._wire.after(server)
        return ApiError(request.op, request.path, f"{server}: {_why(exc)}", unanswered=True)

    def _answered(self, status: int) -> None:
        if status >= 500:  # it is there, but cannot work (etcd gone, overloaded): as good as away
            self._unanswered()
            return
        self.last_ok = self._now()
        self.unreachable_since = None

    def _unanswered(self) -> None:
        if self.unreachable_since is None:
            self.unreachable_since = self._now()

    async def _after_refusal(self, refused: Wire, refusal: ApiError) -> Wire:
        """401: the credentials may have been renewed on disk, or by their plugin. Load them once for all who wait.

        The same wire if there are no others: it stays, with its watches, as another endpoint may accept it.
        """
        async with self._reloading:
            looked = self._looked_at is not None and self._now() - self._looked_at < LOOK_AGAIN_S
            if self._wire is refused and not looked:
                try:
                    found = await self._load()
                except (ConfigError, EdgeError) as exc:
                    log.warning("credentials refused by the API, and loading them again failed: %s", exc)
                    raise refusal from exc
                finally:
                    self._looked_at = self._now()
                if found != refused.credentials:
                    log.warning("credentials refused by the API: going on with others that were found on disk")
                    await self._replace_wire(found)
        return self._wire

    async def _replace_wire(self, creds: Credentials) -> None:
        wire = Wire(creds, user_agent=self._user_agent)
        old, self._wire = self._wire, wire
        if self._preferred not in wire.credentials.servers:
            self._preferred = wire.credentials.servers[0]
        await old.retire()

    def _renew_if_due(self) -> None:
        """Renew an expiring token beside the requests, so that none waits for a plugin."""
        expires_at = self.credentials.expires_at
        due = expires_at is not None and self._now() >= expires_at - EXPIRY_MARGIN_S
        if due and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew(), name="credentials")

    async def _renew(self) -> None:
        try:
            await self.reload()
        except (ConfigError, EdgeError) as exc:
            log.warning("credentials expire soon, and renewing them failed: %s", exc)


def _serves(status: int) -> bool:
    """This endpoint can work for us: it knows who we are (not 401), and has its etcd (not 5xx)."""
    return status < 500 and status != 401


def retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header; both of its forms (RFC 9110 §10.2.3), nonsense is None."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (until - type(until).now(until.tzinfo)).total_seconds())


def _why(exc: BaseException) -> str:
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted by the kubeconfig's certificate-authority ({exc.certificate_error})"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return exc.os_error.strerror or str(exc.os_error)
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return "no connection in time"
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return str(exc) or type(exc).__name__
