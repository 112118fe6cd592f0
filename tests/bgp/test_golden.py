"""The texts that the core writes, as a real FRR of each version reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostagent.core.frr_diff import Change, compare
from tests.bgp.speaker import Edges, Speaker
from tests.unit.bgp import EVERYTHING

GOLDEN = Path(__file__).parents[1] / "unit" / "golden"
_FILE = {"frr8": "frr-8.conf", "frr10": "frr-10.conf"}


def dry_run(speaker: Speaker, text: str) -> tuple[int, str]:
    """As `FrrRouter.check` asks; its program is the host's own."""
    done = speaker.host.run(["vtysh", "--dryrun", "--inputfile", "/dev/stdin"], stdin=text, check=False)
    return done.returncode, done.stdout + done.stderr


def test_frr_reads_the_golden_text_of_its_version(speaker: Speaker) -> None:
    code, said = dry_run(speaker, (GOLDEN / _FILE[speaker.host.name]).read_text())

    assert (code, "Unknown command" in said) == (0, False), said


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("neighbor 192.0.2.2 remote-as 65000", "neighbor 192.0.2.2 remote-as 4294967296"),
        ("  detect-multiplier 5", "  detect-multiplier 256"),
        ("  passive-mode", "  pasive-mode"),
    ],
)
def test_frr_refuses_a_spoiled_one_and_says_where(speaker: Speaker, good: str, bad: str) -> None:
    text = (GOLDEN / _FILE[speaker.host.name]).read_text()
    assert good in text

    code, said = dry_run(speaker, text.replace(good, bad, 1))

    assert code != 0
    assert "Unknown command" in said
    assert bad.strip() in said


def test_frr_runs_everything_and_shows_it_as_it_was_said(speaker: Speaker) -> None:
    """Read back and compared, nothing is left to do: no line is said again and again for being spelt otherwise."""
    speaker.wanted = EVERYTHING

    async def act(edges: Edges) -> tuple[Change, Change]:
        first = compare(EVERYTHING, await edges.router.observe())
        await edges.router.persist(first.text)
        await edges.router.apply([*first.lines, *first.last])
        return first, compare(EVERYTHING, await edges.router.observe())

    first, second = speaker.run(act)

    assert first.lines
    assert [line.shown for line in (*second.lines, *second.last)] == []


def test_frr_loads_what_it_was_told_from_our_file(speaker: Speaker) -> None:
    """The unit's way: the file alone, into an FRR that knows nothing of us."""
    speaker.wanted = EVERYTHING

    async def write(edges: Edges) -> None:
        await edges.router.persist(compare(EVERYTHING, await edges.router.observe()).text)

    speaker.run(write)
    speaker.host.run(["systemctl", "start", "hostagent-frr.service"])

    assert [line.shown for line in speaker.differs().lines] == []
