"""The control socket: whatever is said to it, it answers in one document or hangs up, and goes on."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hostagent.agent import control
from hostagent.agent.control import NoArguments, Peer, RefusedError, Server, Verb
from tests.unit.sockets import an_agents_socket

ROOT, SELF, SOMEBODY = Peer(pid=1, uid=0), Peer(pid=1, uid=os.geteuid()), Peer(pid=1, uid=4711)


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


def greet(asked: Named, peer: Peer) -> dict[str, Any]:
    if asked.name == "nobody":
        raise RefusedError("nobody cannot be greeted: give a name")
    return {"hello": asked.name, "uid": peer.uid}


VERBS = {
    "greet": Verb(answer=greet, arguments=Named, changes=False),
    "change": Verb(answer=lambda _arguments, _peer: {"done": True}, arguments=NoArguments, changes=True),
}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / control.SOCKET
    with an_agents_socket(path, lambda: {"node": "h1"}, VERBS):
        yield path


def open_to(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(path))
    return connection


def heard(connection: socket.socket) -> bytes:
    with connection, connection.makefile("rb") as stream:
        return stream.read()


def say(path: Path, line: bytes) -> Any:
    connection = open_to(path)
    connection.sendall(line)
    return json.loads(heard(connection))


def answer(line: bytes, peer: Peer = ROOT) -> dict[str, Any]:
    return Server(path=Path(), verbs=VERBS).answer(line, peer)


def test_an_answer_says_that_all_is_well_and_who_asked(path: Path) -> None:
    said = say(path, b'{"verb": "greet", "name": "h2"}\n')
    assert said == {"ok": True, "error": "", "answer": {"hello": "h2", "uid": os.geteuid()}}
    assert say(path, b'{"verb": "status"}\n')["answer"] == {"node": "h1"}


@pytest.mark.parametrize(
    ("line", "refusal", "says"),
    [
        (b"hello\n", "malformed", 'not a line of JSON like {"verb": "status"}'),
        (b"[1]\n", "malformed", "Expected `object`"),
        (b"\xff\xfe\n", "malformed", "not a line of JSON"),
        (b"{}\n", "unknown-verb", "there is no verb None; there are change, greet"),
        (b'{"verb": "dance"}\n', "unknown-verb", "there is no verb 'dance'"),
        (b'{"verb": ["greet"]}\n', "unknown-verb", "there is no verb ['greet']"),
        (b'{"verb": "greet"}\n', "malformed", "greet: Object missing required field `name`"),
        (b'{"verb": "greet", "name": 1}\n', "malformed", "greet: Expected `str`, got `int` - at `$.name`"),
        (b'{"verb": "greet", "nom": "h2", "name": "h2"}\n', "malformed", "unknown field `nom`"),
        (b'{"verb": "change", "now": true}\n', "malformed", "change: Object contains unknown field `now`"),
        (b'{"verb": "greet", "name": "nobody"}\n', "refused", "nobody cannot be greeted: give a name"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(line: bytes, refusal: str, says: str) -> None:
    said = answer(line)
    assert (said["ok"], said["refusal"]) == (False, refusal)
    assert says in said["error"]


def test_changing_verbs_are_for_root_and_the_agents_own_user() -> None:
    line = b'{"verb": "change"}\n'
    assert answer(line, ROOT)["ok"]
    assert answer(line, SELF)["ok"]
    refused = answer(line, SOMEBODY)
    assert refused["refusal"] == "not-permitted"
    assert refused["error"] == "change is for root and the agent's own user: use sudo"
    assert answer(b'{"verb": "greet", "name": "h2"}\n', SOMEBODY)["ok"]


def test_a_question_that_is_too_long_is_not_read_to_its_end(path: Path) -> None:
    connection = open_to(path)
    connection.sendall(b"x" * (control.LONGEST_QUESTION + 1))
    said = json.loads(connection.recv(4096))
    connection.close()
    assert said["refusal"] == "malformed"
    assert "longer than 16384 bytes" in said["error"]


def test_a_last_line_needs_no_end(path: Path) -> None:
    connection = open_to(path)
    connection.sendall(b'{"verb": "status"}')
    connection.shutdown(socket.SHUT_WR)
    assert json.loads(heard(connection))["ok"]


def test_a_client_that_dawdles_or_says_nothing_is_hung_up_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ANSWER_TIMEOUT_S", 0.05)
    slow = open_to(path)
    slow.sendall(b'{"verb": "sta')
    assert heard(slow) == b""
    silent = open_to(path)
    silent.shutdown(socket.SHUT_WR)
    assert heard(silent) == b""
    assert say(path, b'{"verb": "status"}\n')["ok"]


def test_no_user_can_hold_more_than_some_conversations(path: Path) -> None:
    waiting = [open_to(path) for _ in range(control.CONNECTIONS_PER_USER)]
    one_more = open_to(path)
    assert json.loads(heard(one_more))["refusal"] == "busy"
    waiting[0].sendall(b'{"verb": "status"}\n')
    assert json.loads(heard(waiting.pop(0)))["ok"]
    for connection in waiting:
        connection.close()
    assert say(path, b'{"verb": "status"}\n')["ok"]
