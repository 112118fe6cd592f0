"""`hostagent status`: asks the agent's socket, prints what people need, says when the agent is down."""

from __future__ import annotations

import importlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hostagent.agent import control
from hostagent.cli import client
from tests.unit.sockets import an_agents_socket

cli = importlib.import_module("hostagent.cli.status")  # the package has its command under the same name
WIDTH = 100
VIP: dict[str, Any] = {
    "vip": "198.51.100.64",
    "services": ["default/web"],
    "holder": "h1",
    "here": True,
    "interface": "eth0",
    "for_s": 4.21,
    "why": "holds",
    "moves": 3,
    "candidates": ["h1", "h2"],
    "excluded": {},
    "conflict": None,
}
DOCUMENT: dict[str, Any] = {
    "node": "h1",
    "version": "0.1.0",
    "status": "answers for 1 of 4 VIPs",
    "stopping": False,
    "api": {"server": "https://192.0.2.1:6443", "reachable": True, "unreachable_for_s": None},
    "session": {"instance": "3f1c", "renewed_ago_s": 1.2},
    "allocator": {"holder": "h2", "here": False},
    "vips": [
        VIP,
        {
            **VIP,
            "vip": "2001:db8:1234:5678:9abc:def0:1234:5678",
            "services": ["team-with-a-long-name/service-with-a-long-name", "team-with-a-long-name/another-service"],
            "holder": "worker-17.rack-3.example.org",
            "here": False,
            "interface": None,
            "for_s": None,
            "why": "stands-by",
        },
        {**VIP, "vip": "198.51.100.66", "conflict": "02:00:00:00:00:99"},
        {
            **VIP,
            "vip": "198.51.100.67",
            "holder": None,
            "candidates": [],
            "excluded": {"h1": "excluded-by-label", "h2": "no-serving-endpoint-on-the-node"},
        },
    ],
    "pending": [{"service": "default/late", "why": "no free IPv4 address in small: free one, or enlarge a pool"}],
    "hosts": [
        {"node": "h1", "alive": True, "ended": False, "seen_ago_s": 1.0, "version": "0.1.0", "interfaces": ["eth0"]},
        {"node": "h2", "alive": False, "ended": False, "seen_ago_s": 192.0, "version": "0.1.0", "interfaces": []},
        {
            "node": "h3",
            "alive": False,
            "ended": True,
            "seen_ago_s": 7e5,
            "version": "0.1.0",
            "interfaces": ["bond0.17"],
        },
    ],
    "problems": ["IPAddressPool metallb-system/bad: spec.addresses[0]: [not] an address"],
}


def asked(path: Path, *options: str, document: dict[str, Any] = DOCUMENT) -> Result:
    with an_agents_socket(path, lambda: document):
        result = CliRunner(env={"COLUMNS": str(WIDTH)}).invoke(cli.status, ["--socket", str(path), *options])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / control.SOCKET


def test_json_is_what_the_agent_says(path: Path) -> None:
    assert json.loads(asked(path, "--output", "json").output) == DOCUMENT


def test_the_table_fits_and_is_readable(path: Path) -> None:
    lines = asked(path).output.splitlines()
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(lines)
    assert lines[0] == "h1: answers for 1 of 4 VIPs"
    assert lines[1] == "API https://192.0.2.1:6443 reachable; allocator: h2"
    for words in ("2001:db8:1234:5678:9abc:def0:1234:5678", "pending  default/late: no free", "SILENT", "ended"):
        assert words in text
    assert "problem  IPAddressPool metallb-system/bad: spec.addresses[0]: [not] an address" in text


def test_a_row_names_the_vip_its_service_its_holder_and_why(path: Path) -> None:
    text = asked(path, document={**DOCUMENT, "vips": [VIP]}).output
    [row] = [line.split() for line in text.splitlines() if line.startswith("198.51.100.64 ")]
    assert row == ["198.51.100.64", "default/web", "this", "host", "eth0", "4.2s", "3", "holds"]


def test_an_outage_and_an_empty_cluster_are_told(path: Path) -> None:
    api = {"server": "https://192.0.2.1:6443", "reachable": False, "unreachable_for_s": 75.3}
    document = {**DOCUMENT, "api": api, "vips": [], "allocator": {"holder": None, "here": False}}
    text = asked(path, document=document).output
    assert "UNREACHABLE for 75 s; allocator: nobody" in text
    assert "No Service has an address." in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2s"), (59.99, "60.0s"), (192, "3m12s"), (18420, "5h07m"), (1.1e6, "12d")]
)
def test_durations_have_two_figures_of_use(seconds: float, text: str) -> None:
    assert cli._duration(seconds) == text


def test_no_socket_means_down(path: Path) -> None:
    result = CliRunner().invoke(cli.status, ["--socket", str(path)])
    assert result.exit_code == client.AgentDownError.exit_code
    assert "the agent cannot be asked" in result.stderr
    assert "systemctl status hostagent" in result.stderr
    assert result.stdout == ""


def test_a_socket_that_nobody_listens_on_means_down(path: Path) -> None:
    with an_agents_socket(path, lambda: DOCUMENT):
        left = path.with_name("left")
        left.hardlink_to(path)
    result = CliRunner().invoke(cli.status, ["--socket", str(left)])
    assert result.exit_code == client.AgentDownError.exit_code
    assert "Connection refused" in result.stderr


def test_an_agent_that_hangs_is_told_from_one_that_is_down(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.05)
    released = threading.Event()

    def hang() -> dict[str, Any]:
        released.wait(5)
        return DOCUMENT

    with an_agents_socket(path, hang):
        result = CliRunner().invoke(cli.status, ["--socket", str(path)])
        released.set()
    assert result.exit_code == client.AgentDownError.exit_code
    assert "it may hang" in result.stderr


def test_every_local_user_may_ask_and_nothing_is_left_behind(path: Path) -> None:
    path.write_text("left by an earlier life")
    with an_agents_socket(path, lambda: DOCUMENT):
        assert path.stat().st_mode & 0o777 == 0o666
    assert not path.exists()
