"""Who said which address is theirs, and when: the evidence that two hosts never answer for one VIP."""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fabric.admin import wait_for
from tests.fabric.hosts import PROJECT
from tests.fabric.processes import Processes
from tests.fabric.state import LabState

_STARTS_WITHIN_S = 15.0


class Kind(StrEnum):
    """See capture.claim."""

    REPLY = "reply"
    GARP = "garp"
    NA = "na"
    UNSOLICITED_NA = "unsolicited-na"
    REQUEST = "request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Somebody said that `vip` is at `mac`."""

    at_s: float  # monotonic, by the kernel's stamp
    vip: str
    mac: str
    host: str  # the lab's name for it; "?" for a MAC that no host of the lab has
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """A time in which all that was said about a VIP was said by one host."""

    host: str
    first_s: float
    last_s: float
    answers: int


def double_answers(answers: Sequence[Answer], window_ms: float) -> list[tuple[Answer, Answer]]:
    """Each moment in which two MACs spoke for one VIP less than `window_ms` apart, as the two neighbours in time.

    A hand-over is one such moment if it is quicker than the window; relapses() is what a hand-over never shows.
    """
    return [
        (earlier, later)
        for earlier, later in pairwise(answers)
        if earlier.mac != later.mac and (later.at_s - earlier.at_s) * 1000 < window_ms
    ]


def relapses(answers: Sequence[Answer], window_ms: float) -> list[tuple[Answer, Answer]]:
    """Each time a MAC spoke for the VIP again less than `window_ms` after another had begun to: two holders.

    As the answer of the newcomer, and that of the one who should have been silent by then.
    """
    found: list[tuple[Answer, Answer]] = []
    newcomer: Answer | None = None
    gone: set[str] = set()
    for earlier, later in pairwise(answers):
        if later.mac == earlier.mac:
            continue
        if newcomer and later.mac in gone and (later.at_s - newcomer.at_s) * 1000 < window_ms:
            found.append((newcomer, later))
        gone.add(earlier.mac)
        newcomer = later
    return found


def duplicate_ms(answers: Sequence[Answer], *, silence_ms: float = 200.0) -> float:
    """For how long two hosts or more spoke for one VIP at once, in all.

    A host's run of answers goes from its first to its last; it is broken by `silence_ms` without one. What is counted
    is the time in which two hosts are in their runs. Exact to the distance of the questions: a host whose last answer
    is before another's first has none in common with it.
    """
    runs: list[tuple[float, float]] = []
    by_mac: dict[str, list[float]] = {}
    for each in answers:
        by_mac.setdefault(each.mac, []).append(each.at_s)
    for times in by_mac.values():
        first = last = times[0]
        for at_s in times[1:]:
            if (at_s - last) * 1000 > silence_ms:
                runs.append((first, last))
                first = at_s
            last = at_s
        runs.append((first, last))
    edges = sorted([(first, 1) for first, _ in runs] + [(last, -1) for _, last in runs])
    twice_s, running, since_s = 0.0, 0, 0.0
    for at_s, step in edges:
        if running >= 2:
            twice_s += at_s - since_s
        running, since_s = running + step, at_s
    return twice_s * 1000


class Listener:
    """Records while its `with` block runs; what was recorded can be asked for at any time, also after it.

    A frame counts when a host sends it, whether or not a fault of the segment then loses it. With `ask`, these
    addresses are asked for every `ask_every_ms`, from an address that is nobody's, so that there are answers.
    """

    def __init__(
        self, state: LabState, hosts_by_mac: Mapping[str, str], *, ask: Sequence[str] = (), ask_every_ms: float = 50.0
    ) -> None:
        self._hosts_by_mac = dict(hosts_by_mac)
        self._processes = Processes(netns=state.netns, folder=state.folder / "listeners")
        self._name = f"listener-{len(list((state.folder / 'listeners').glob('*.log'))) + 1}"
        questions = [str(ask_every_ms), *ask] if ask else []
        self._argv: list[str | Path] = [sys.executable, "-P", "-m", "tests.fabric.capture", *questions]

    def __enter__(self) -> Self:
        self._processes.start(self._name, self._argv, env={"PYTHONPATH": str(PROJECT)})
        try:
            wait_for(self._lines, _STARTS_WITHIN_S, lambda: f"listening; it said: {self._processes.tail(self._name)}")
        except BaseException:
            self._processes.stop(self._name, grace_s=0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.stop(self._name, grace_s=1.0)

    def answers(self, vip: str | None = None, *, since_s: float = 0.0) -> list[Answer]:
        """What was said since a time, about one address or about all, in order of time."""
        wanted = str(ipaddress.ip_address(vip)) if vip else None
        said = [self._answer(line) for line in self._lines()[1:]]
        return sorted(
            (each for each in said if each.at_s >= since_s and wanted in (None, each.vip)), key=lambda each: each.at_s
        )

    def holders(self, vip: str) -> list[Tenure]:
        """Who spoke for the VIP one after another."""
        tenures = []
        for host, group in groupby(self.answers(vip), key=lambda each: each.host):
            said = list(group)
            tenures.append(Tenure(host=host, first_s=said[0].at_s, last_s=said[-1].at_s, answers=len(said)))
        return tenures

    def double_answers(self, vip: str, window_ms: float) -> list[tuple[Answer, Answer]]:
        """As the function of this name."""
        return double_answers(self.answers(vip), window_ms)

    def relapses(self, vip: str, window_ms: float) -> list[tuple[Answer, Answer]]:
        """As the function of this name."""
        return relapses(self.answers(vip), window_ms)

    def _lines(self) -> list[str]:
        log = self._processes.log(self._name)
        if not log.exists():
            return []
        # The last line may be half written; stderr shares the file.
        return [line for line in log.read_text().splitlines(keepends=True) if line[0] in '["' and line.endswith("\n")]

    def _answer(self, line: str) -> Answer:
        at_s, vip, mac, kind, _ = json.loads(line)
        return Answer(at_s=at_s, vip=vip, mac=mac, host=self._hosts_by_mac.get(mac, "?"), kind=Kind(kind))
