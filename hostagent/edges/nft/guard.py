"""On a VIP only the Service's ports are reachable, and none of the host's own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterable, Mapping

import msgspec

from hostagent.edges.nft import ruleset
from hostagent.edges.nft.ruleset import Listed, Wanted
from hostagent.model.cluster import Port
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, Network

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
        self._known: dict[IP, frozenset[Port]] | None = None
        """What was seen in the table last, and written since; None when that is in doubt."""

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
            self._known = None
            listed = await self._list()
            if listed and listed.shape == self._shape and not listed.stray:
                text = await asyncio.to_thread(
                    ruleset.update_text, listed.wanted, wanted, was_routed=listed.routed, routed=prefixes
                )
                if not text:
                    self._known = dict(wanted)
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
            self._shape, self._known = written.shape, dict(wanted)

    async def change(self, wanted: Mapping[IP, frozenset[Port] | None]) -> None:
        """These VIPs alone, None for one that goes; all others stay. Costs the same however many there are, as the
        table is not read: `ensure` says what it is to be, and looks after it.

        Raises:
            EdgeError: nothing was ensured before, or nft refused, as it does when somebody took the table or what is
                to be changed in it away: `ensure` is needed.
        """
        async with self._lock:
            known, self._known = self._known, None
            if known is None:
                raise EdgeError("guard.change", f"table {ruleset.TABLE}", "nobody knows what is in it")
            before = {vip: known[vip] for vip in wanted if vip in known}
            after = {vip: ports for vip, ports in wanted.items() if ports is not None}
            if text := ruleset.update_text(before, after):
                await _nft("guard.change", text)
            for vip in before:
                del known[vip]
            known.update(after)
            self._known = known

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
            self._shape = self._known = None

    async def _list(self) -> Listed | None:
        family, name = ruleset.TABLE.split()
        try:
            listing = await _nft("guard.read", "", "--json", "list", "table", family, name)
            return await asyncio.to_thread(ruleset.parse_listing, listing)  # of ten thousand VIPs 0.2 s
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
