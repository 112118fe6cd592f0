"""The client on the segment: what somebody who uses a Service sees of it.

Not an agent's word and not a kernel table: requests answered or not, pings lost or not, and for how long.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import IO, Any, Self

from tests.fabric import netns
from tests.fabric.command import DEFAULT_TIMEOUT_S, FabricError, run
from tests.fabric.hosts import PROJECT
from tests.fabric.processes import connect_in, in_namespace
from tests.fabric.state import LabState

PING_INTERVAL_MS = 10.0
# An answer later than this is no answer. Longer than any scheduling delay on a busy machine, so that only
# real silence counts as loss.
ANSWER_DEADLINE_MS = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """What came back. Lab backends answer with their host's name and a line break."""

    status: int
    body: str
    took_ms: float

    @property
    def backend(self) -> str:
        return self.body.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWindow:
    """A time in which no ping was answered: from the first lost one to the first answered again (or the last sent)."""

    from_s: float
    until_s: float
    lost: int

    @property
    def duration_ms(self) -> float:
        return (self.until_s - self.from_s) * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PingResult:
    """All that a pinger saw. Times are seconds of the monotonic clock."""

    sent: int
    lost: int
    windows: tuple[LossWindow, ...]
    # Between two answers that came after each other; also grows when pings queued and were answered late.
    longest_silence_ms: float

    @property
    def longest_gap_ms(self) -> float:
        """The longest time in which pings were lost; 0 when none was."""
        return max((window.duration_ms for window in self.windows), default=0.0)


def ping_result(
    sent_at: Sequence[float], answered_at: Mapping[int, float], *, deadline_ms: float = ANSWER_DEADLINE_MS
) -> PingResult:
    """Count what was sent (times by number) against what was answered (times by that number)."""
    lost = [
        number not in answered_at or (answered_at[number] - at) * 1000 > deadline_ms
        for number, at in enumerate(sent_at)
    ]
    windows: list[LossWindow] = []
    start: int | None = None
    for number, is_lost in enumerate([*lost, False]):
        if is_lost and start is None:
            start = number
        elif not is_lost and start is not None:
            until_s = sent_at[min(number, len(sent_at) - 1)]
            windows.append(LossWindow(from_s=sent_at[start], until_s=until_s, lost=number - start))
            start = None
    arrivals = sorted(answered_at.values())
    silences = (later - earlier for earlier, later in pairwise(arrivals))
    return PingResult(
        sent=len(sent_at),
        lost=sum(lost),
        windows=tuple(windows),
        longest_silence_ms=max(silences, default=0.0) * 1000,
    )


def by_address(
    addresses: Sequence[str], sent_at: Sequence[float], answered_at: Mapping[int, float]
) -> dict[str, PingResult]:
    """Tell apart the pings to several addresses, which took turns: number n went to address n modulo their count."""
    count = len(addresses)
    own: list[dict[int, float]] = [{} for _ in addresses]
    for number, at in answered_at.items():
        own[number % count][number // count] = at
    return {address: ping_result(sent_at[index::count], own[index]) for index, address in enumerate(addresses)}


class Pinger:
    """Pings addresses from the client, each every 10 ms, while its `with` block runs; the results are there after it.

    The block is entered once each address has answered a ping, unless `must_answer` is off: one that does not answer
    at all raises FabricError then.
    """

    def __init__(
        self,
        state: LabState,
        addresses: Sequence[str],
        *,
        interval_ms: float = PING_INTERVAL_MS,
        must_answer: bool = True,
    ) -> None:
        self._addresses = tuple(addresses)
        self._who = addresses[0] if len(addresses) == 1 else f"{len(addresses)} addresses"
        self._must_answer = must_answer
        argv = [sys.executable, "-P", "-m", "tests.fabric.pinger", str(interval_ms), *addresses]
        self._argv = in_namespace(state.client_netns, argv)
        self._process: subprocess.Popen[bytes] | None = None
        self._results: dict[str, PingResult] = {}

    @property
    def results(self) -> Mapping[str, PingResult]:
        """By address."""
        if not self._results:
            raise FabricError(f"pings to {self._who}: the result is there when the `with` block has ended")
        return self._results

    @property
    def result(self) -> PingResult:
        """Of the first address, which often is the only one."""
        return self.results[self._addresses[0]]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a second line in a buffer of ours would be one that select() never tells of
            env={"PYTHONPATH": str(PROJECT)},
        )
        try:
            self._expect("sending", "the pinger did not start")
            if self._must_answer:
                self._expect("answered", f"pings to {self._who} not answered")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        text = self._stop()
        if kind is None:
            last = text.splitlines()[-1] if text else ""
            if not last.startswith("{"):
                raise FabricError(f"pings to {self._who}: the pinger ended without a result (its stderr says why)")
            said: dict[str, Any] = json.loads(last)
            answered = {int(number): at for number, at in said["answered_at"].items()}
            self._results = by_address(self._addresses, said["sent_at"], answered)

    def _expect(self, word: str, otherwise: str, timeout_s: float = 10.0) -> None:
        pipe = self._pipe()
        ready, _, _ = select.select([pipe], [], [], timeout_s)
        if not ready or pipe.readline().decode().strip() != word:
            raise FabricError(f"{otherwise} within {timeout_s:g} s")

    def _pipe(self) -> IO[bytes]:
        if self._process is None or self._process.stdout is None:
            raise FabricError(f"pings to {self._who}: not started")
        return self._process.stdout

    def _stop(self) -> str:
        if self._process is None:
            return ""
        with self._process as process:
            try:
                return process.communicate(timeout=10.0)[0].decode()
            except subprocess.TimeoutExpired:
                process.kill()
                raise


class HttpProber:
    """Asks one URL again and again, each time over a fresh connection, while its `with` block runs."""

    def __init__(self, state: LabState, url: str, *, interval_ms: float = 50.0, timeout_s: float = 1.0) -> None:
        self._state, self._url = state, url
        self._interval_s, self._timeout_s = interval_ms / 1000, timeout_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._probe, name=f"probe {url}")
        # When asked (monotonic, s), and who answered; None: nobody did.
        self.answers: list[tuple[float, str | None]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _probe(self) -> None:
        while not self._stop.is_set():
            at = time.monotonic()
            try:
                backend: str | None = get(self._state, self._url, timeout_s=self._timeout_s).backend
            except (OSError, http.client.HTTPException):
                backend = None
            self.answers.append((at, backend))
            self._stop.wait(max(0.0, at + self._interval_s - time.monotonic()))


def get(state: LabState, url: str, *, timeout_s: float = 2.0) -> HttpAnswer:
    """One GET over a fresh connection from the client. Raises OSError or http.client.HTTPException: no answer."""
    authority, _, path = url.removeprefix("http://").partition("/")
    host, _, port = authority.rpartition(":") if not authority.endswith("]") else (authority, "", "80")
    if not host:
        host, port = authority, "80"
    began = time.monotonic()
    connection = http.client.HTTPConnection(authority, timeout=timeout_s)
    try:
        connection.sock = connect_in(state.client_netns, host.strip("[]"), int(port), timeout_s)
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        return HttpAnswer(status=answer.status, body=body, took_ms=(time.monotonic() - began) * 1000)
    finally:
        connection.close()


def url_of(address: str, port: int) -> str:
    host = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    return f"http://{host}:{port}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The client of one lab."""

    state: LabState

    def get(self, url: str, *, timeout_s: float = 2.0) -> HttpAnswer:
        """As the function of this name."""
        return get(self.state, url, timeout_s=timeout_s)

    def answers(self, url: str, *, timeout_s: float = 2.0) -> str | None:
        """The backend that answers, or None: the question that tests wait for."""
        try:
            return self.get(url, timeout_s=timeout_s).backend
        except (OSError, http.client.HTTPException):
            return None

    def pinging(self, *addresses: str, interval_ms: float = PING_INTERVAL_MS, must_answer: bool = True) -> Pinger:
        """`with lab.client.pinging(vip) as pings: ...`, then `pings.result`; of several addresses `pings.results`."""
        return Pinger(self.state, addresses, interval_ms=interval_ms, must_answer=must_answer)

    def probing(self, url: str, *, interval_ms: float = 50.0, timeout_s: float = 1.0) -> HttpProber:
        return HttpProber(self.state, url, interval_ms=interval_ms, timeout_s=timeout_s)

    def pings(self, address: str, *, count: int = 1, timeout_s: float = 1.0) -> bool:
        """The address answers at least one of a few pings."""
        argv = ["ping", "-n", "-q", "-c", str(count), "-i", "0.2", "-W", str(timeout_s), address]
        return self.run(argv, check=False).returncode == 0

    def neighbour(self, address: str) -> str | None:
        """The MAC that the client's kernel believes in for an address, in lower case; None if it has none."""
        shown = json.loads(self.run(["ip", "-json", "neighbour", "show", address]).stdout or "[]")
        return next((entry["lladdr"] for entry in shown if "lladdr" in entry), None)

    def forget_neighbours(self) -> None:
        """The next packet to any address asks for its MAC again."""
        netns.ip_batch(self.state.client_netns, "neighbour flush all")

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the outer machine's programs in the client's network namespace."""
        return run(in_namespace(self.state.client_netns, argv), check=check, timeout_s=timeout_s)
