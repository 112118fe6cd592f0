"""`hostagent explain`: asks the agent's socket, prints the account, and tells by its exit code whether all is well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hostagent.agent import control
from hostagent.agent.control import RefusedError, Verb
from hostagent.agent.explain import Which
from hostagent.cli.explain import explain
from tests.unit.sockets import an_agents_socket

ADDRESS: dict[str, Any] = {
    "address": "198.51.100.64",
    "pool": "public",
    "why": "it was the lowest that could be given in pool public",
    "shared_with": [],
    "holder": "h1",
    "why_holder": "the best of 2 candidates",
    "holder_alive": True,
    "last_move": "free: nobody held it",
    "moves": 1,
    "here": True,
    "for_s": 4.2,
    "this_host": "holds",
    "conflict": None,
    "advertised": [],
    "not_advertised": {},
    "set_aside": [],
    "nodes": [
        {"node": "h1", "rank": 1, "weight": 0, "interface": "eth0", "reason": None, "why": "candidate", "change": None},
        {
            "node": "h2", "rank": None, "weight": 0, "interface": None, "reason": "draining",
            "why": "it is being drained", "change": "`hostagent undrain` on the host",
        },
    ],
    "change": [],
}  # fmt: skip
ACCOUNT: dict[str, Any] = {
    "service": "shop/web",
    "node": "h1",
    "ours": True,
    "why_not_ours": None,
    "pending": None,
    "addresses": [ADDRESS],
    "faults": [],
    "change": [],
}


def asked(tmp_path: Path, account: dict[str, Any], *options: str) -> Result:
    def answer(asked: Which, _: control.Peer) -> dict[str, Any]:
        if asked.service != "shop/web":
            raise RefusedError(f"there is no Service {asked.service}")
        return account

    verb = Verb(answer=answer, arguments=Which, changes=False)
    path = tmp_path / control.SOCKET
    with an_agents_socket(path, dict, {"explain": verb}):
        arguments = ["--socket", str(path), *(options or ("shop/web",))]
        return CliRunner(env={"COLUMNS": "140"}).invoke(explain, arguments)


def test_an_account_names_address_holder_and_each_node(tmp_path: Path) -> None:
    result = asked(tmp_path, ACCOUNT)
    assert result.exit_code == 0
    for words in (
        "shop/web, as h1 sees it",
        "198.51.100.64 from pool public",
        "held by h1, this host",
        "being drained",
    ):
        assert words in result.output


def test_an_advertisement_that_is_set_aside_is_told(tmp_path: Path) -> None:
    of = "BGPAdvertisement b for 198.51.100.64/32: spec.localPref 2 contradicts 1 of BGPAdvertisement a, which applies"
    result = asked(tmp_path, {**ACCOUNT, "addresses": [{**ADDRESS, "set_aside": [of]}]})
    assert f"set aside: {of}" in result.output


def test_json_is_what_the_agent_says(tmp_path: Path) -> None:
    result = asked(tmp_path, ACCOUNT, "shop/web", "--output", "json")
    assert json.loads(result.output) == ACCOUNT


@pytest.mark.parametrize(
    ("account", "says"),
    [
        ({**ACCOUNT, "addresses": [], "pending": "no free address"}, "It has no address: no free address"),
        ({**ACCOUNT, "addresses": [], "ours": False, "why_not_ours": "its type is ClusterIP"}, "leaves it alone"),
        (
            {**ACCOUNT, "addresses": [{**ADDRESS, "holder": None, "here": False}], "change": ["plug it in"]},
            "plug it in",
        ),
        ({**ACCOUNT, "addresses": [{**ADDRESS, "holder_alive": False}]}, "(SILENT)"),
    ],
    ids=["pending", "not-ours", "nobody", "silent"],
)
def test_what_is_not_well_ends_with_1(tmp_path: Path, account: dict[str, Any], says: str) -> None:
    result = asked(tmp_path, account)
    assert result.exit_code == 1
    assert says in result.output


def test_a_service_that_is_not_there_ends_with_1(tmp_path: Path) -> None:
    result = asked(tmp_path, ACCOUNT, "shop/other")
    assert result.exit_code == 1
    assert "there is no Service shop/other" in result.stderr


def test_no_agent_ends_with_3(tmp_path: Path) -> None:
    result = CliRunner().invoke(explain, ["--socket", str(tmp_path / "none"), "web"])
    assert result.exit_code == 3
