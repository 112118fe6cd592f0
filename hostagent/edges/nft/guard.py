"""On a VIP only the Service's ports are reachable, and none of the host's own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterable

import msgspec

from hostagent.edges.nft import ruleset
from hostagent.edges.nft.ruleset import Listed, Wanted
from hostagent.model.errors import EdgeError
from hostagent.model.names import Network

_TIMEOUT_S = 20.0  # a transaction waited 2.7 s for others' large ones; a hanging nft must not hang the agent for ever
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Guard:
    """The nftables table `inet hostagent`, ours alone. Knows nft; has never heard of leases.

    Every change is one transaction: packets see the table as before or as after. One change at a time.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._shape: bytes | None = None
        """Of the table as we made it: nft's own rendering, so that its version does not matter."""

    async def ensure(self, wanted: Wanted, *, routed: Iterable[Network] = ()) -> None:
        """Make the table guard exactly these VIPs, each open on these ports (none: closed but for ping). Packets to
        `routed`, of which this host may draw traffic from routers, are not forwarded.

        Where the table is as this object left it, only elements that differ are changed. Otherwise (missing, edited by
        others, or the agent's first call) the whole table is replaced at once. Nothing is written if nothing differs.

        Raises:
            EdgeError: nft is missing, not permitted, refused, or hangs; or what it lists afterwards is not what was
                written. The table is as before, or as wanted.
        """
        prefixes = ruleset.disjoint(routed)
        async with self._lock:
            listed = await self._list()
            if listed and listed.shape == self._shape and not listed.stray:
                text = ruleset.update_text(listed.wanted, wanted, was_routed=listed.routed, routed=prefixes)
                if not text:
                    return
            else:
                text = ruleset.rebuild_text(wanted, prefixes)
            await _nft("guard.ensure", text)
            written = await self._list()
            if written is None or written.stray or (dict(written.wanted), written.routed) != (dict(wanted), prefixes):
                self._shape = None  # made whole next time
                raise EdgeError(
                    "guard.ensure", f"table {ruleset.TABLE}", "somebody else changes it: find out who edits this table"
                )
            self._shape = written.shape

    async def read(self) -> Wanted | None:
        """The VIPs that the kernel guards, and the ports open on each; None if there is no table. Raises EdgeError."""
        async with self._lock:
            listed = await self._list()
        return listed.wanted if listed else None

    async def refused(self) -> int:
        """Packets dropped since the table was made (rebuilding starts anew). Raises EdgeError."""
        async with self._lock:
            listed = await self._list()
        return listed.refused if listed else 0

    async def remove(self) -> None:
        """Take the table away; no table is success. Raises EdgeError."""
        async with self._lock:
            await _nft("guard.remove", ruleset.remove_text())
            self._shape = None

    async def _list(self) -> Listed | None:
        family, name = ruleset.TABLE.split()
        try:
            listing = await _nft("guard.read", "", "--json", "list", "table", family, name)
            return ruleset.parse_listing(listing)
        except ValueError as exc:
            raise EdgeError("guard.read", f"table {ruleset.TABLE}", str(exc)) from exc
        except EdgeError:
            if name in await _tables(family):
                raise
            return None  # nft says so by failing, in words that differ by version


async def _tables(family: str) -> set[str]:
    listing = await _nft("guard.read", "", "--json", "list", "tables", family)
    return {each["table"]["name"] for each in msgspec.json.decode(listing)["nftables"] if "table" in each}


async def _nft(op: str, text: str, *arguments: str) -> bytes:
    """Run nft on `text`, or with these arguments; return what it printed. Raises EdgeError."""
    target = f"table {ruleset.TABLE}"
    program = shutil.which("nft", path=_PATH)  # /usr/sbin is not on every unit's PATH
    if program is None:
        raise EdgeError(op, target, "nft was not found: install the package nftables on this host")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        program, *(arguments or ("--file", "-")), stdin=pipe, stdout=pipe, stderr=pipe, env={"LC_ALL": "C"}
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate(text.encode())
    except TimeoutError:
        raise EdgeError(op, target, f"nft did not finish within {_TIMEOUT_S:.0f} s: see what it waits for") from None
    finally:
        if process.returncode is None:  # hung, or we were cancelled
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        raise EdgeError(op, target, _cause(err.decode(errors="replace")), status=process.returncode)
    return out


def _cause(err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    said = lines[0].removeprefix("/dev/stdin:") if lines else "nft failed without a word"
    return f"nft: {said} (needs CAP_NET_ADMIN, nftables 1.0 and the kernel's nf_tables)"
