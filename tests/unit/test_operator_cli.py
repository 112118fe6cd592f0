"""`hostagent drain`, `undrain`, `move`, `rebalance`: what they ask of the agent, print, and end with."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hostagent.agent import control
from hostagent.agent.control import NoArguments, Peer, RefusedError, Verb
from hostagent.agent.verbs import MoveTo, Where
from hostagent.cli import client, hostagent
from tests.unit.sockets import an_agents_socket

# The package has its commands under the same names as their modules.
drain, move = (importlib.import_module(f"hostagent.cli.{name}") for name in ("drain", "move"))
WHY = "root asked for it at 2026-01-02T03:04:05Z"
A, B, C = "198.51.100.64", "198.51.100.65", "2001:db8::66"
Places = list[dict[str, Any]]


def place(vip: str, holder: str | None = "h1", *, stuck: bool = False, **excluded: str) -> dict[str, Any]:
    return {
        "vip": vip,
        "holder": holder,
        "here": holder == "h1",
        "why": "no-other-candidate" if stuck else "draining",
        "stuck": stuck,
        "excluded": excluded,
    }


class Agent:
    """Answers as the agent does, from a script: what is here each time it is asked, the last for ever."""

    def __init__(self, *here: Places) -> None:
        self.here = list(here)
        self.asked: list[Any] = []
        self.why_draining = WHY
        self.refuses = ""
        self.moves: Places = []

    @property
    def verbs(self) -> dict[str, Verb]:
        return {
            "drain": self._verb(NoArguments, lambda _: self._answer(self.here[0])),
            "undrain": self._verb(NoArguments, lambda _: self._answer([])),
            "move": self._verb(MoveTo, lambda _: self._answer(self.here[0])),
            "where": self._verb(Where, self._where),
            "plan": self._verb(NoArguments, lambda _: {"node": "h1", "moves": self.moves}),
            "rebalance": self._verb(NoArguments, lambda _: {"node": "h1", "moves": self.moves}),
        }

    def _verb(self, arguments: Any, answer: Callable[[Any], dict[str, Any]]) -> Verb:
        def noted(asked: Any, _: Peer) -> dict[str, Any]:
            self.asked.append(asked)
            if self.refuses:
                raise RefusedError(self.refuses)
            return answer(asked)

        return Verb(answer=noted, arguments=arguments, changes=False)

    def _where(self, asked: Where) -> dict[str, Any]:
        if asked.vips and len(self.here) == 1:  # they have left
            return self._answer([place(vip, None if vip == C else "h2") for vip in asked.vips])
        if len(self.here) > 1:
            self.here.pop(0)
        return self._answer(self.here[0])

    def _answer(self, places: Places) -> dict[str, Any]:
        return {"node": "h1", "why_draining": self.why_draining, "vips": places}


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (drain, move):
        monkeypatch.setattr(module, "POLL_S", 0.001)
    monkeypatch.setattr(drain, "SETTLE_S", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / control.SOCKET


def run(path: Path, agent: Agent, *words: str) -> Result:
    with an_agents_socket(path, dict, agent.verbs):
        return CliRunner(env={"COLUMNS": "120"}).invoke(hostagent, [*words, "--socket", str(path)])


def test_a_drain_without_waiting_says_what_is_to_come(path: Path) -> None:
    result = run(path, Agent([place(A), place(B)]), "drain")
    assert result.output == "h1 drains: 2 VIPs to hand over. To wait for that: hostagent drain --wait\n"
    assert result.exit_code == 0


def test_a_drain_tells_of_each_vip_that_left_and_ends_when_none_is_here(path: Path) -> None:
    result = run(path, Agent([place(A), place(C)], []), "drain", "--wait")
    assert result.output.splitlines() == [
        f"{A} is held by h2",
        f"{C} is held by nobody",
        "h1 is drained: 2 VIPs moved, none is left. To end it: hostagent undrain",
    ]
    assert result.exit_code == 0


def test_a_drain_asks_for_many_vips_in_portions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "ASKED_AT_ONCE", 2)
    agent = Agent([place(f"192.0.2.{n}") for n in range(5)], [])
    result = run(path, agent, "drain", "--wait")
    assert result.output.count(" is held by h2") == 5
    assert [len(asked.vips) for asked in agent.asked if isinstance(asked, Where)] == [0, 2, 2, 1]


def test_a_drain_ends_with_1_when_only_what_nobody_else_may_have_is_left(path: Path) -> None:
    lonely = place(B, stuck=True, h1="draining", h2="no-serving-endpoint-on-the-node", h3="excluded-by-label")
    forsaken = place(C, stuck=True)
    result = run(path, Agent([place(A), lonely, forsaken], [lonely, forsaken]), "drain", "--wait")
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    assert f"{A} is held by h2" in text
    others = "h2: no-serving-endpoint-on-the-node, h3: excluded-by-label"
    assert f"{B} no other host may answer for it ({others})" in text
    assert f"{C} no other host may answer for it (no other lives)" in text
    assert "h1 still holds 2 VIPs. Each leaves by itself as soon as another host may answer for it" in text
    assert "systemctl stop hostagent" in text


def test_what_is_stuck_only_for_a_moment_is_waited_for(path: Path) -> None:
    agent = Agent([place(A, stuck=True)], [place(A)], [place(A, stuck=True)], [])
    assert run(path, agent, "drain", "--wait").exit_code == 0


def test_a_drain_that_takes_too_long_says_what_is_left(path: Path) -> None:
    result = run(path, Agent([place(A)]), "drain", "--wait", "--timeout", "0.02")
    assert result.exit_code == 1
    assert f"{A}  there was no time: draining" in result.output


def test_a_drain_that_somebody_ended_is_not_waited_for(path: Path) -> None:
    agent = Agent([place(A)])
    agent.why_draining = ""
    result = run(path, agent, "drain", "--wait")
    assert (result.exit_code, result.stderr) == (1, "somebody ended the drain meanwhile: hostagent undrain\n")


def test_a_drain_in_json(path: Path) -> None:
    stuck = place(B, stuck=True, h2="excluded-by-label")
    result = run(path, Agent([place(A), stuck], [stuck]), "drain", "--wait", "--output", "json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "node": "h1",
        "draining": WHY,
        "drained": False,
        "moved": [{"vip": A, "holder": "h2"}],
        "prefixes": 0,
        "left": [{"vip": B, "why": "no-other-candidate", "stuck": True, "excluded": {"h2": "excluded-by-label"}}],
    }
    begun = json.loads(run(path, Agent([]), "drain", "--output", "json").output)
    assert (begun["drained"], begun["left"]) == (True, [])


def test_an_undrain_says_when_a_cordon_still_drains(path: Path) -> None:
    agent = Agent()
    agent.why_draining = ""
    done = run(path, agent, "undrain")
    assert (done.exit_code, done.output) == (0, "h1 takes VIPs again\n")
    agent.why_draining = "its Node h1 is cordoned"
    result = run(path, agent, "undrain")
    assert result.exit_code == 1
    assert "still drains: its Node h1 is cordoned" in result.stderr
    assert "kubectl uncordon h1" in result.stderr


def test_a_move_names_both_and_need_not_wait(path: Path) -> None:
    agent = Agent([place(A)])
    result = run(path, agent, "move", A, "h2")
    assert (result.exit_code, result.output) == (0, f"{A} is being handed over to h2\n")
    assert agent.asked == [MoveTo(vip=A, node="h2")]


def test_a_move_waits_until_this_host_has_let_go(path: Path) -> None:
    agent = Agent([place(A)], [{**place(A, "h2"), "here": True}], [place(A, "h2")])
    result = run(path, agent, "move", A, "h2", "--wait")
    assert (result.exit_code, result.output) == (0, f"{A} is held by h2\n")
    assert len(agent.asked) == 3


def test_a_move_that_takes_too_long_says_where_the_vip_is(path: Path) -> None:
    agent = Agent([place(A)], [place(A)], [place(A)])
    result = run(path, agent, "move", A, "h2", "--wait", "--timeout", "0")
    assert result.exit_code == 1
    assert result.stderr == f"{A} is not on h2 after 0 s: held by h1 and answered here (draining)\n"


def test_a_refusal_is_passed_on(path: Path) -> None:
    agent = Agent()
    agent.refuses = f"{A} is held by h2: run this there"
    result = run(path, agent, "move", A, "h3")
    assert (result.exit_code, result.stderr) == (1, f"the agent refuses: {A} is held by h2: run this there\n")


MOVES: Places = [
    {"vip": A, "holder": "h1", "to": "h2", "here": True},
    {"vip": B, "holder": "h3", "to": "h1", "here": False},
]


@pytest.mark.parametrize(("options", "verb"), [((), "are being"), (("--dry-run",), "would be")])
def test_a_rebalance_shows_the_plan_and_who_does_what(path: Path, options: tuple[str, ...], verb: str) -> None:
    agent = Agent()
    agent.moves = MOVES
    result = run(path, agent, "rebalance", *options)
    rows = [line.split() for line in result.output.splitlines()]
    assert rows[1:3] == [[A, "h1", "h2", "this", "host"], [B, "h3", "h1", "rebalance", "on", "h3"]]
    assert result.output.splitlines()[3:] == [
        f"1 of 2 {verb} handed over by this host",
        "For the others run this on h3",
    ]
    assert result.exit_code == 0


def test_a_rebalance_in_json_and_with_nothing_to_do(path: Path) -> None:
    agent = Agent()
    assert run(path, agent, "rebalance").output == "every VIP is where it is best placed\n"
    agent.moves = MOVES
    document = json.loads(run(path, agent, "rebalance", "--dry-run", "--output", "json").output)
    assert document == {"node": "h1", "moves": MOVES, "dry_run": True}


@pytest.mark.parametrize("words", [("drain",), ("undrain",), ("move", A, "h2"), ("rebalance",)])
def test_an_agent_that_is_down_ends_with_3(path: Path, words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(hostagent, [*words, "--socket", str(path)])
    assert result.exit_code == client.AgentDownError.exit_code == 3
    assert "systemctl status hostagent" in result.stderr


def test_who_may_not_ask_is_told_so_and_ends_with_4(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "may_change", False)
    verb = Verb(answer=lambda _arguments, _peer: {}, arguments=NoArguments, changes=True)
    with an_agents_socket(path, dict, {"drain": verb}):
        result = CliRunner().invoke(hostagent, ["drain", "--socket", str(path)])
    assert result.exit_code == 4
    assert result.stderr == "the agent refuses: drain is for root and the agent's own user: use sudo\n"


def test_an_agent_of_another_release_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with an_agents_socket(path, dict):
        unknown = CliRunner().invoke(hostagent, ["drain", "--socket", str(path)])
        monkeypatch.setattr(control.Server, "answer", lambda *_: {"node": "h1", "vips": []})
        other = CliRunner().invoke(hostagent, ["drain", "--socket", str(path)])
    assert (unknown.exit_code, unknown.stderr) == (1, "the agent refuses: there is no verb 'drain'; there are status\n")
    assert other.exit_code == 3
    assert "of another release than this command: systemctl restart hostagent" in other.stderr
