"""What one event looks like in the journal, and in words."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.telemetry import journal
from hostagent.telemetry.journal import error, message_id, say, set_up, warn

systemd_journal = pytest.importorskip("systemd.journal")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("hostagent")
    before = (list(root.handlers), root.level, ours.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The entries that would go to the journal; standard error is its stream."""
    entries: list[dict[str, str]] = []
    monkeypatch.setattr(journal, "_leads_to_journal", lambda: True)
    monkeypatch.setattr(
        systemd_journal, "sendv", lambda *fields: entries.append(dict(field.split("=", 1) for field in fields))
    )
    set_up("info")
    return entries


def test_the_journal_is_where_standard_error_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert journal._leads_to_journal()
    assert not journal._leads_to_journal(), "a closed one leads nowhere"


def test_facts_become_fields_that_journalctl_selects_by(sent: list[dict[str, str]]) -> None:
    say("vip.announced", "198.51.100.7 is answered", vip="198.51.100.7", moves=0, interface=None, service="")
    [entry] = sent
    assert entry["MESSAGE"] == "198.51.100.7 is answered"
    assert entry["MESSAGE_ID"] == message_id("vip.announced")
    ours = {name: value for name, value in entry.items() if name.startswith("HOSTAGENT_")}
    assert ours == {"HOSTAGENT_EVENT": "vip.announced", "HOSTAGENT_VIP": "198.51.100.7", "HOSTAGENT_MOVES": "0"}
    assert entry["SYSLOG_IDENTIFIER"] == "hostagent"


def test_levels_are_syslogs(sent: list[dict[str, str]]) -> None:
    for tell in (say, warn, error):
        tell("x.y", "text")
    say("x.y", "detail", level=logging.DEBUG)
    assert [entry["PRIORITY"] for entry in sent] == ["6", "4", "3"]


def test_the_level_can_be_set_and_set_again(sent: list[dict[str, str]]) -> None:
    set_up("debug")
    say("x.y", "detail", level=logging.DEBUG)
    set_up("error")
    warn("x.y", "text")
    assert [(entry["PRIORITY"], entry["MESSAGE"]) for entry in sent] == [("7", "detail")]


def test_other_libraries_are_heard_from_warnings_on(sent: list[dict[str, str]]) -> None:
    logging.getLogger("aiohttp").info("chatter")
    logging.getLogger("aiohttp").warning("trouble")
    assert [(entry["MESSAGE"], entry["LOGGER"]) for entry in sent] == [("trouble", "aiohttp")]
    assert "MESSAGE_ID" not in sent[0]


def test_a_journal_that_is_away_does_not_stop_the_agent(
    sent: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: str) -> None:
        raise OSError("no journal")

    monkeypatch.setattr(systemd_journal, "sendv", refuse)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    set_up("info")
    say("x.y", "text")
    assert sent == []


@pytest.mark.parametrize("stream", [None, "1:1"])
def test_elsewhere_events_are_told_in_words(
    stream: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where JOURNAL_STREAM is inherited and names another program's stream, as in a desktop's terminal."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if stream is not None:
        monkeypatch.setenv("JOURNAL_STREAM", stream)
    set_up("info")
    warn("vip.conflict", "somebody answers", vip="198.51.100.7")
    assert capsys.readouterr().err.rstrip().endswith("WARNING somebody answers")


def test_message_ids_are_stable_and_differ() -> None:
    assert message_id("vip.announced") == message_id("vip.announced")
    assert message_id("vip.announced") != message_id("vip.let-go")
    assert len(message_id("vip.announced")) == 32
    assert journal.message_id("vip.conflict").isalnum()
