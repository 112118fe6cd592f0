"""One FRR daemon's vty socket: commands in, answers out.

The protocol is vtysh's own (lib/vty.c, the same from FRR 8.1 to 10.7): a line ends with NUL; the answer is text, three
NULs and a status byte. A connection keeps its mode and context (`configure terminal`, `router bgp ...`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from hostagent.model.errors import EdgeError

SUCCESS, WARNING, NO_SUCH_COMMAND, WARNING_CONFIG_FAILED = 0, 1, 2, 13
_END = b"\0\0\0"
_LARGEST_ANSWER = 256 << 20  # ten thousand prefixes are 3 MB
_CONNECT_WITHIN_S = 2
"""The daemons' backlog is 3: while it is full, a connect blocks or fails with EAGAIN."""
_ANSWER_WITHIN_S = 20.0
"""bgpd's main thread was busy for 0.2 s with ten thousand prefixes; a daemon that hangs must not hang the agent."""
_GONE = frozenset({errno.ENOENT, errno.ECONNREFUSED})


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    text: str

    @property
    def ok(self) -> bool:
        return self.status == SUCCESS


_Exchange = Callable[[str], Awaitable[Answer]]


class Vty:
    """A connection to one daemon, made when needed and made anew when the daemon was restarted. One command at a time.

    Raises EdgeError where the daemon does not run, does not answer, or may not be talked to.
    """

    def __init__(self, run_dir: Path, daemon: str) -> None:
        self.daemon = daemon
        self._path = run_dir / f"{daemon}.vty"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lock = asyncio.Lock()
        self.connections = 0
        """How often it was connected: another number means that the daemon may have forgotten what it was told."""

    @property
    def exists(self) -> bool:
        return self._path.exists()

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def ask(self, command: str) -> str:
        """The answer to one command outside of configuration, such as `show version`. Asked again if the daemon was
        restarted since the last one.
        """
        async with self._lock:
            for again in (True, False):
                try:
                    answer = await self._exchange(command)
                except (ConnectionError, asyncio.IncompleteReadError) as exc:
                    await self._drop()
                    if not again:
                        raise self._error(f"{self.daemon} closed the connection: does it keep restarting?") from exc
                else:
                    break
        if not answer.ok:
            raise self._error(f"`{command}`: {answer.text.strip() or answer.status}", answer.status)
        return answer.text

    @contextlib.asynccontextmanager
    async def configuring(self) -> AsyncIterator[Configuration]:
        """Configuration mode for a block; other commands wait meanwhile."""
        async with self._lock:
            try:
                # The first finds out whether the daemon was restarted, while nothing is lost by that.
                try:
                    await self._exchange("end")
                except (ConnectionError, asyncio.IncompleteReadError):
                    await self._drop()
                yield Configuration(self._exchange, self.daemon)
                await self._exchange("end")
            except (ConnectionError, asyncio.IncompleteReadError) as exc:
                await self._drop()
                raise self._error(f"{self.daemon} closed the connection while it was being configured") from exc
            except BaseException:
                await self._drop()  # in the midst of an answer, or in a context that the next one does not expect
                raise

    async def _exchange(self, command: str) -> Answer:
        reader, writer = self._streams or await self._connect()
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                writer.write(command.encode() + b"\0")
                await writer.drain()
                text = await reader.readuntil(_END)
                status = (await reader.readexactly(1))[0]
        except TimeoutError:
            await self._drop()
            raise self._error(f"{self.daemon} did not answer within {_ANSWER_WITHIN_S:.0f} s") from None
        except asyncio.CancelledError:
            await self._drop()  # what comes next on it would be the answer to this one
            raise
        return Answer(status, text[: -len(_END)].decode(errors="replace"))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            sock = await asyncio.get_running_loop().run_in_executor(None, _connected, self._path)
        except OSError as exc:
            raise self._error(_why_not(exc, self.daemon), exc.errno) from exc
        sock.setblocking(False)
        self._streams = await asyncio.open_unix_connection(sock=sock, limit=_LARGEST_ANSWER)
        self.connections += 1
        await self._exchange("enable")
        return self._streams

    async def _drop(self) -> None:
        if self._streams:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _error(self, cause: str, status: int | None = None) -> EdgeError:
        return EdgeError("frr.vty", self._path, cause, status=status)


class Configuration:
    """What can be said in configuration mode."""

    def __init__(self, exchange: _Exchange, daemon: str) -> None:
        self._exchange = exchange
        self._daemon = daemon
        self._context: tuple[str, ...] | None = None

    async def say(self, context: tuple[str, ...], text: str) -> Answer:
        """One line in its context, which is entered first unless it is the last one's. Raises EdgeError."""
        if context != self._context:
            self._context = None
            for command in ("end", "configure terminal", *context):
                answer = await self._exchange(command)
                if not answer.ok:
                    return answer
            self._context = context
        return await self._exchange(text)


def _connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _CONNECT_WITHIN_S, 0))
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


def _why_not(exc: OSError, daemon: str) -> str:
    if exc.errno in _GONE:
        return f"{daemon} does not run: is it `yes` in /etc/frr/daemons, and is frr.service active?"
    if exc.errno in (errno.EACCES, errno.EPERM):
        return "not permitted: the agent's user must be in the group frrvty (the role hostagent_frr sees to it)"
    if exc.errno == errno.EAGAIN:
        return f"{daemon} accepts no connection: too many others are waiting for it, or it hangs"
    return str(exc)
