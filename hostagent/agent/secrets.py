"""Passwords of BGP sessions: each Secret that a BGPPeer names is read by its name, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from hostagent.agent.clock import now
from hostagent.edges.kube.secrets import read_password
from hostagent.edges.kube.transport import Api
from hostagent.model.bgp import Secret
from hostagent.model.errors import EdgeError
from hostagent.model.names import Instant

REFRESH_S = 15.0
"""A new password is used within this time. Watching would need the right to list Secrets, which shows all of them."""
LONGEST_WAIT_S = 5.0
"""For the first answers, at start."""


class Secrets:
    """What is known of the named Secrets; an outage of the API changes none of it."""

    def __init__(self, api: Api, *, namespace: str, changed: Callable[[], None]) -> None:
        self._api = api
        self._namespace = namespace
        self._changed = changed
        self._names: frozenset[str] = frozenset()
        self._read_at = Instant(0)
        self._woken = asyncio.Event()
        self.known: dict[str, Secret | str] = {}
        """By name: the password, or why there is none."""

    def want(self, names: Collection[str]) -> None:
        """These are named by BGPPeers."""
        wanted = frozenset(names)
        if wanted - self._names:
            self._woken.set()
        self._names = wanted
        for name in self.known.keys() - wanted:
            del self.known[name]

    async def first(self) -> None:
        """Read what is wanted now, and do not wait for an API that does not answer."""
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                await self._read()
        except TimeoutError:
            pass

    async def run(self) -> None:
        """Follow the Secrets, until cancelled."""
        while True:
            due = self._read_at + REFRESH_S - now()
            try:
                async with asyncio.timeout(max(0.0, due)):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            await self._read()

    async def _read(self) -> None:
        self._read_at = now()
        before = dict(self.known)
        for name in sorted(self._names):
            try:
                self.known[name] = await read_password(self._api, namespace=self._namespace, name=name)
            except EdgeError as error:
                # What is known stays: the API is away, or this host's rights are not what they were.
                self.known.setdefault(name, f"cannot be read: {error.cause}")
        if self.known != before:
            self._changed()
