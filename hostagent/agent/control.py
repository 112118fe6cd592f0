"""The agent's own socket: one question, one answer; everybody may look, only root and the agent's user may change."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

SOCKET = "agent.sock"
ANSWER_TIMEOUT_S = 5.0
"""For a whole conversation: a client that dawdles is hung up on."""
LONGEST_QUESTION = 16 * 1024
CONNECTIONS_PER_USER = 8
"""At a time: no user can keep the others from asking, or use up the agent's file descriptors."""

Refusal = Literal["malformed", "unknown-verb", "not-permitted", "refused", "busy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who asks, as the kernel says (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int

    @property
    def may_change(self) -> bool:
        return self.uid in (0, os.geteuid())


class RefusedError(Exception):
    """A verb cannot do what it was asked for; the text is for whoever asked, and tells the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """What the socket can be asked for. `arguments` is a msgspec type, unknown names are errors."""

    answer: Callable[[Any, Peer], dict[str, Any]]
    """Given arguments of that type; raises RefusedError. Must not wait for anything."""
    arguments: type[msgspec.Struct]
    changes: bool
    """Then it is not for everybody."""


class NoArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For verbs that need none."""


@dataclass(slots=True)
class Server:
    """Listens until closed."""

    path: Path
    verbs: Mapping[str, Verb]
    _connections: Counter[int] = field(default_factory=Counter)
    _server: asyncio.Server | None = None

    async def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._converse, self.path, limit=LONGEST_QUESTION)
        self.path.chmod(0o666)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _peer(writer)
        self._connections[peer.uid] += 1
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await self._answer(reader, peer)
                if answer is not None:
                    writer.write(msgspec.json.encode(answer))
                    await writer.drain()
        except (TimeoutError, ConnectionError):
            pass  # who asked went away, or does not read: nobody is left to be told
        finally:
            writer.close()
            self._connections[peer.uid] -= 1
            if not self._connections[peer.uid]:
                del self._connections[peer.uid]

    async def _answer(self, reader: asyncio.StreamReader, peer: Peer) -> dict[str, Any] | None:
        """None for a client that hung up without a word."""
        if self._connections[peer.uid] > CONNECTIONS_PER_USER:
            return _no("busy", f"more than {CONNECTIONS_PER_USER} conversations at a time: wait for those before")
        try:
            question = await reader.readline()
        except ValueError:  # StreamReader's word for a line beyond its limit
            return _no("malformed", f"the question is longer than {LONGEST_QUESTION} bytes")
        return self.answer(question, peer) if question else None

    def answer(self, question: bytes, peer: Peer) -> dict[str, Any]:
        """The answer to one line: `ok` with `answer`, or not `ok` with `error` for people and `refusal`, its kind."""
        try:
            asked = msgspec.json.decode(question, type=dict[str, Any])
        except msgspec.DecodeError as exc:
            return _no("malformed", f'the question is not a line of JSON like {{"verb": "status"}}: {exc}')
        name = asked.pop("verb", None)
        verb = self.verbs.get(name) if isinstance(name, str) else None
        if verb is None:
            return _no("unknown-verb", f"there is no verb {name!r}; there are {', '.join(sorted(self.verbs))}")
        if verb.changes and not peer.may_change:
            return _no("not-permitted", f"{name} is for root and the agent's own user: use sudo")
        try:
            arguments = msgspec.convert(asked, verb.arguments)
        except msgspec.ValidationError as exc:
            return _no("malformed", f"{name}: {exc}")
        try:
            return {"ok": True, "error": "", "answer": verb.answer(arguments, peer)}
        except RefusedError as exc:
            return _no("refused", str(exc))


async def serve(path: Path, status: Callable[[], dict[str, Any]], verbs: Mapping[str, Verb] | None = None) -> Server:
    """Answer `status` to every local user (0666: nothing of it is secret), and `verbs` to whom each is for.

    The client sends one line, `{"verb": "status"}` with the verb's arguments beside; it gets one JSON document, and is
    hung up on.
    """
    look = Verb(answer=lambda _arguments, _peer: status(), arguments=NoArguments, changes=False)
    server = Server(path=path, verbs={"status": look, **(verbs or {})})
    await server.open()
    return server


def _peer(writer: asyncio.StreamWriter) -> Peer:
    size = struct.calcsize("3i")
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", credentials)
    return Peer(pid=pid, uid=uid)


def _no(refusal: Refusal, error: str) -> dict[str, Any]:
    return {"ok": False, "error": error, "refusal": refusal}
