"""FRR's configuration and state: read, changed line by line, written down for its next start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from hostagent.edges.frr import state
from hostagent.edges.frr.vty import NO_SUCH_COMMAND, Vty
from hostagent.model.bgp import Line, Observed, PeerState
from hostagent.model.errors import EdgeError
from hostagent.model.names import Network

T = TypeVar("T")

RUN_DIR = Path("/run/frr")
FILE = Path("/var/lib/hostagent/frr.conf")
"""What FRR is started into by hostagent-frr.service. Not below /etc/frr, where only FRR's own user may write."""

_DAEMONS = ("zebra", "bgpd", "bfdd")
_VERSION = re.compile(r"FRRouting (\d+)\.(\d+)")
_VTYSH_PATH = "/usr/bin:/bin:/usr/local/bin"
_VTYSH_WITHIN_S = 30.0
_REFUSAL = re.compile(r"^line (\d+): *(.*)$", re.MULTILINE)


def frr_present(run_dir: Path = RUN_DIR) -> bool:
    """Whether FRR's bgpd runs here, or ran and left its socket."""
    return (run_dir / "bgpd.vty").exists()


class FrrRouter:
    """FRR on this host. Knows its sockets and daemons; what the lines mean is `core.frr_text`'s matter."""

    def __init__(self, run_dir: Path = RUN_DIR, file: Path = FILE) -> None:
        self._file = file
        self._vty = {daemon: Vty(run_dir, daemon) for daemon in _DAEMONS}
        self._version: tuple[int, tuple[int, int]] | None = None
        """Of which connection, and what it was."""

    @property
    def bgpd(self) -> Vty:
        return self._vty["bgpd"]

    async def close(self) -> None:
        for vty in self._vty.values():
            await vty.close()

    async def version(self) -> tuple[int, int]:
        """Such as (8, 4). Raises EdgeError."""
        if self._version is None or self._version[0] != self.bgpd.connections:
            text = await self.bgpd.ask("show version")
            found = _VERSION.search(text)
            if found is None:
                raise EdgeError("frr.version", "bgpd", f"it does not tell its version: {text[:80]!r}")
            self._version = self.bgpd.connections, (int(found[1]), int(found[2]))
        return self._version[1]

    async def observe(self) -> Observed:
        """What runs in the daemons, one after the other, and our own file. A few milliseconds.

        Raises EdgeError.
        """
        version = await self.version()
        running = [await self._vty[each].ask("show running-config") for each in _DAEMONS if self._there(each)]
        try:
            persisted = await asyncio.to_thread(self._file.read_text)
        except FileNotFoundError:
            persisted = ""
        except OSError as exc:
            raise EdgeError("frr.observe", self._file, str(exc), status=exc.errno) from exc
        return Observed(version=version, running="\n".join(running), persisted=persisted)

    async def check(self, text: str) -> None:
        """Let FRR's own parser read this, without a daemon hearing of it. About 50 ms.

        It knows all commands and the ranges of their numbers; what only a daemon can tell (the form of a community,
        say) shows when it is applied.

        Raises:
            EdgeError: quotes the first line that is refused, passwords left out; or vtysh is missing, or hangs.
        """
        program = shutil.which("vtysh", path=_VTYSH_PATH)
        if program is None:
            raise EdgeError("frr.check", "vtysh", "not found: install the package frr on this host")
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            program, "--dryrun", "--inputfile", "/dev/stdin", stdin=pipe, stdout=pipe, stderr=pipe, env={"LC_ALL": "C"}
        )
        try:
            async with asyncio.timeout(_VTYSH_WITHIN_S):
                out, err = await process.communicate(text.encode())
        except TimeoutError:
            raise EdgeError("frr.check", "vtysh", f"it did not finish within {_VTYSH_WITHIN_S:.0f} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        # FRR 10 says "processing failure: 11" for its own vtysh.conf, which only FRR's user may read: no verdict.
        refused = _REFUSAL.search((out + err).decode(errors="replace"))
        if refused:
            raise EdgeError("frr.check", f"line {refused[1]}", _without_secret(refused[2]), status=process.returncode)
        if process.returncode:
            said = (out + err).decode(errors="replace").strip().splitlines()
            raise EdgeError(
                "frr.check", "vtysh", _without_secret(said[-1] if said else "failed"), status=process.returncode
            )

    async def apply(self, lines: Sequence[Line]) -> None:
        """Give the daemons these lines, in this order; 0.2 ms for each.

        Raises:
            EdgeError: the first that is refused, and FRR's answer. Those before it stay.
        """
        for daemon, group in groupby(lines, key=_daemon_of):
            async with self._vty[daemon].configuring() as configuration:
                for line in group:
                    answer = await configuration.say(line.context, line.text)
                    removes = line.text.startswith("no ")  # and what is not there need not be removed
                    if answer.ok or (removes and answer.status != NO_SUCH_COMMAND):
                        continue
                    cause = _without_secret(answer.text.strip()) or f"refused (status {answer.status})"
                    raise EdgeError("frr.apply", line.shown, cause, status=answer.status)

    async def persist(self, text: str) -> None:
        """Replace our own file, at once or not at all. Nobody but the agent and root can read it. Raises EdgeError."""
        try:
            await asyncio.to_thread(_replace, self._file, text)
        except OSError as exc:
            raise EdgeError("frr.persist", self._file, str(exc), status=exc.errno) from exc

    async def peers(self) -> tuple[PeerState, ...]:
        """All neighbours of all VRFs. Half a millisecond, whatever the number of prefixes. Raises EdgeError."""
        return _read(state.peers_of, await self.bgpd.ask("show bgp vrf all neighbors json"))

    async def taken_up(self) -> frozenset[Network]:
        """The prefixes that bgpd brings in itself: ours, and what the site's configuration adds.

        20 ms of bgpd's time for a thousand, 0.2 s for ten thousand. Raises EdgeError.
        """
        found: set[Network] = set()
        for family in ("ipv4", "ipv6"):
            text = await self.bgpd.ask(f"show bgp {family} unicast regexp ^$ json")
            found |= await asyncio.to_thread(_read, lambda said: frozenset(state.prefixes_of(said)), text)
        return frozenset(found)

    def _there(self, daemon: str) -> bool:
        # bfdd is not needed without a BFDProfile; without the other two nothing works, and asking them says so.
        return daemon != "bfdd" or self._vty[daemon].exists


def _daemon_of(line: Line) -> str:
    first = (*line.context, line.text)[0].removeprefix("no ")
    if first == "bfd" or first.startswith("bfd "):
        return "bfdd"
    return "zebra" if first.startswith("ip import-table") else "bgpd"


def _read(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as exc:
        raise EdgeError("frr.read", "bgpd", str(exc)) from exc


def _without_secret(text: str) -> str:
    head, found, _ = text.partition(" password ")
    return f"{head} password <secret>" if found else text


def _replace(file: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # 0600 from the beginning
    try:
        with os.fdopen(handle, "w") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
