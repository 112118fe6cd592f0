"""The open connections that belong to one set of credentials."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from typing import Any

import aiohttp

from hostagent.edges.kube.credentials import Credentials

CONNECT_TIMEOUT_S = 1.0
"""For TCP and TLS together: what a fail-over to the next endpoint may cost."""


class Lane(StrEnum):
    """Connections kept apart, so that what is urgent never queues behind what is big."""

    BULK = "bulk"
    CLAIMS = "claims"
    SESSION = "session"
    """This host's sign of life. A burst of claims after a host's death must not delay it."""


_LIMITS = {Lane.BULK: 0, Lane.CLAIMS: 16, Lane.SESSION: 2}
"""Connections at a time, 0 is no limit; idle ones are kept, so that a renewal needs no handshake."""


class Wire:
    """Connections made with one Credentials. Replaced as a whole when these change."""

    def __init__(self, credentials: Credentials, *, user_agent: str) -> None:
        self.credentials = credentials
        headers = {"User-Agent": user_agent, "Accept": "application/json"}
        if credentials.authorization:
            headers["Authorization"] = credentials.authorization
        self._sessions = {
            lane: aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=credentials.tls if credentials.tls is not None else True,
                    limit=limit,
                    keepalive_timeout=60,
                    socket_factory=_socket,
                ),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            for lane, limit in _LIMITS.items()
        }
        self._busy = 0
        self._retired = False
        self._closed = False
        self._watches: set[aiohttp.ClientResponse] = set()

    def in_turn(self, preferred: str) -> tuple[str, ...]:
        """All endpoints, `preferred` first."""
        servers = self.credentials.servers
        at = servers.index(preferred) if preferred in servers else 0
        return servers[at:] + servers[:at]

    def after(self, server: str) -> str:
        """The endpoint to try when `server` (its origin will do) fails."""
        servers = self.credentials.servers
        at = next((i for i, known in enumerate(servers) if known.startswith(server)), -1)
        return servers[(at + 1) % len(servers)]

    async def send(
        self,
        method: str,
        url: str,
        *,
        lane: Lane,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        return await self._sessions[lane].request(
            method,
            url,
            params=query,
            data=body,
            headers={"Content-Type": content_type} if body is not None else None,
            timeout=limits,
            allow_redirects=False,
            proxy=self.credentials.proxy,
            server_hostname=self.credentials.server_name,
        )

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Keeps the connections open while a request is under way, also when the wire is retired meanwhile."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            if self._retired and not self._busy:
                await self.close()

    async def retire(self) -> None:
        """Close as soon as no request is under way; watches count until they have begun, then they are cut."""
        self._retired = True
        if not self._busy:
            await self.close()

    @contextmanager
    def watching(self, response: aiohttp.ClientResponse) -> Iterator[None]:
        """A watch is being read: it ends with ClientConnectionError when the connections close, or have closed."""
        if self._closed:
            raise _closed_by_us()
        self._watches.add(response)
        try:
            yield
        finally:
            self._watches.discard(response)

    async def close(self) -> None:
        self._closed = True
        for response in self._watches:
            # Closing a session forgets its answers half-read: without this their readers would wait for ever.
            response.content.set_exception(_closed_by_us())
        for session in self._sessions.values():
            await session.close()


def _closed_by_us() -> aiohttp.ClientConnectionError:
    return aiohttp.ClientConnectionError("the connection was closed on our side")


def _socket(address: Any) -> socket.socket:
    """A socket that notices within about ten seconds that its peer is gone, also when only listening (a watch).

    Linux would take two hours (tcp_keepalive_time), and a quarter of an hour for data under way (tcp_retries2).
    """
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
