"""Drain, undrain, move, rebalance on the real ownership rules; and a drain that outlives the agent."""

from __future__ import annotations

import json
import logging
import os
import pwd
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

import pytest

from hostagent.agent.clock import now
from hostagent.agent.control import NoArguments, Peer, RefusedError
from hostagent.agent.verbs import FILE, Drained, MoveTo, Verbs, Where, load, save, why_draining
from hostagent.core.candidates import Candidate, Ranking, WhyNot
from hostagent.core.ownership import Ownership
from hostagent.model.cluster import Node
from hostagent.model.names import InterfaceName, NodeName
from hostagent.model.ownership import Claim, RemoveAddress, Write, WriteClaim
from tests.unit.builders import a_node, a_session

ROOT = Peer(pid=1, uid=0)
NOTHING = NoArguments()
VIP, OTHER_VIP, LONELY = (ip_address(f"198.51.100.{n}") for n in (64, 65, 66))
ETH0 = InterfaceName("eth0")


def ranking(*ranked: str, **excluded: WhyNot) -> Ranking:
    return Ranking(
        ranked=tuple(Candidate(node=NodeName(n), weight=0, interface=ETH0) for n in ranked),
        excluded={NodeName(n): why for n, why in excluded.items()},
    )


def a_claim(holder: str, version: int = 1) -> Claim:
    return Claim(holder=NodeName(holder), resource_version=str(version), seen_at=now())


class Host:
    """h1 holds VIP and LONELY, which only it may answer for; h2 holds OTHER_VIP."""

    def __init__(self, state_dir: Path, *, on_cordon: Literal["keep", "drain"] = "keep") -> None:
        self.ownership = Ownership(me=NodeName("h1"), duration_s=15.0, renew_s=5.0)
        for node in ("h1", "h2"):
            self.ownership.session_seen(NodeName(node), a_session(node, seen_at=now()), now())
        self.ownership.ranking_is(VIP, ranking("h1", "h2", h3=WhyNot.EXCLUDED))
        self.ownership.ranking_is(OTHER_VIP, ranking("h1", "h2"))
        self.ownership.ranking_is(LONELY, ranking("h1", h2=WhyNot.NO_LOCAL_ENDPOINT))
        for vip, holder in ((VIP, "h1"), (OTHER_VIP, "h2"), (LONELY, "h1")):
            self.ownership.claim_seen(vip, a_claim(holder), now())
        for vip in (VIP, LONELY):
            self.ownership.held_is(vip, ETH0)
        self.ownership.turn(now())
        self.told: list[bool] = []
        self.woken = 0
        self.verbs = Verbs(
            ownership=self.ownership,
            state_dir=state_dir,
            on_cordon=on_cordon,
            tell=self.told.append,
            wake=self.wake,
            prefixes=lambda: 3,
        )
        self.verbs.settle(None)

    def wake(self) -> None:
        self.woken += 1

    def turn(self) -> None:
        """Does what the rules say, as if API and kernel took no time."""
        for act in self.ownership.turn(now()):
            match act:
                case WriteClaim(vip=vip, holder=holder) if holder is not None:
                    self.ownership.claim_seen(vip, a_claim(holder, version=2), now())
                    self.ownership.wrote(vip, Write.WON, now())
                case RemoveAddress(vip=vip):
                    self.ownership.held_is(vip, None)
                case _:
                    pass

    def drains(self) -> bool:
        return self.ownership.draining

    def drain(self) -> dict[str, Any]:
        return self.verbs.drain(NOTHING, ROOT)

    def undrain(self) -> dict[str, Any]:
        return self.verbs.undrain(NOTHING, ROOT)

    def where(self, *vips: str) -> dict[str, dict[str, Any]]:
        return {place["vip"]: place for place in self.verbs.where(Where(vips=vips), ROOT)["vips"]}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_drained_host_hands_over_what_others_may_have(host: Host) -> None:
    answer = host.drain()
    assert answer["node"] == "h1"
    assert answer["why_draining"].startswith("root asked for it at 20")
    assert [place["vip"] for place in answer["vips"]] == [str(VIP), str(LONELY)]
    assert host.told[-1] is True
    assert host.woken > 0
    for _ in range(3):
        host.turn()
    [left] = host.where().values()
    assert left == {
        "vip": str(LONELY),
        "holder": "h1",
        "here": True,
        "why": "no-other-candidate",
        "stuck": True,
        "excluded": {"h2": "no-serving-endpoint-on-the-node"},
    }
    assert host.where(str(VIP))[str(VIP)]["holder"] == "h2"


def test_a_drain_is_remembered_until_it_is_ended(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.drain()
    path = tmp_path / FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["by"] == "root"
    later = Host(tmp_path)
    assert later.drains()
    assert later.told == [True]
    assert later.verbs.why_draining == host.verbs.why_draining
    assert later.undrain() == {"node": "h1", "why_draining": ""}
    assert not later.drains()
    assert list(tmp_path.iterdir()) == []
    assert not Host(tmp_path).drains()


def test_asking_again_changes_nothing(host: Host, tmp_path: Path) -> None:
    first = host.drain()["why_draining"]
    written = (tmp_path / FILE).read_bytes()
    assert host.drain()["why_draining"] == first
    assert (tmp_path / FILE).read_bytes() == written
    host.undrain()
    assert host.undrain() == {"node": "h1", "why_draining": ""}


def test_what_is_left_of_an_interrupted_write_is_no_obstacle(host: Host, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.new").write_text("half")
    assert not host.drains()
    host.drain()
    assert load(tmp_path) is not None
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("text", ["", "{}", '{"since": 1}', "drained"])
def test_a_file_that_cannot_be_read_still_says_that_the_host_is_drained(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_text(text)
    host = Host(tmp_path)
    assert host.drains()
    assert host.verbs.why_draining == "somebody asked for it at an unknown time"
    assert "cannot be read, so this host stays drained" in caplog.text
    host.undrain()
    assert not host.drains()


def test_a_drain_that_cannot_be_remembered_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RefusedError, match=r"not drained: .*drained cannot be written, .*No space left"):
        host.drain()
    assert not host.drains()


def test_an_undrain_that_would_not_last_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.drain()

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(RefusedError, match=r"still drained: .*cannot be removed: .*Read-only"):
        host.undrain()
    assert host.drains()


CORDONED, OPEN = a_node("h1", unschedulable=True), a_node("h1")
ASKED = Drained(since="2026-01-02T03:04:05Z", by="root", uid=0)


@pytest.mark.parametrize(
    ("drained", "node", "on_cordon", "why"),
    [
        (None, OPEN, "drain", ""),
        (None, None, "drain", ""),
        (None, CORDONED, "keep", ""),
        (None, CORDONED, "drain", "its Node h1 is cordoned"),
        (ASKED, None, "keep", "root asked for it at 2026-01-02T03:04:05Z"),
        (ASKED, CORDONED, "drain", "root asked for it at 2026-01-02T03:04:05Z"),
    ],
)
def test_why_a_host_drains(
    drained: Drained | None, node: Node | None, on_cordon: Literal["keep", "drain"], why: str
) -> None:
    assert why_draining(drained, node=node, on_cordon=on_cordon) == why


def test_a_cordon_drains_while_it_lasts_and_is_not_remembered(tmp_path: Path) -> None:
    host = Host(tmp_path, on_cordon="drain")
    host.verbs.settle(CORDONED)
    assert host.drains()
    assert host.undrain() == {"node": "h1", "why_draining": "its Node h1 is cordoned"}
    assert host.drains()
    assert list(tmp_path.iterdir()) == []
    host.verbs.settle(OPEN)
    assert not host.drains()
    assert host.told == [False, True, False]


def test_an_operators_drain_outlasts_a_cordon(tmp_path: Path) -> None:
    host = Host(tmp_path, on_cordon="drain")
    host.verbs.settle(CORDONED)
    host.drain()
    host.verbs.settle(OPEN)
    assert host.drains()


def test_the_journal_says_who_asked_and_what_came_of_it(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hostagent"):
        host.drain()
        host.drain()
        host.verbs.settle(OPEN)
        host.undrain()
    assert [record.getMessage().partition(" at ")[0] for record in caplog.records] == [
        "root asked to drain this host",
        "draining, 2 VIPs to hand over: root asked for it",
        "root asked to end the drain of this host",
        "no longer draining: this host may take VIPs again",
    ]


def test_a_vip_moves_to_the_node_that_was_asked_for(host: Host) -> None:
    answer = host.verbs.move(MoveTo(vip=str(VIP), node="h2"), ROOT)
    assert [place["vip"] for place in answer["vips"]] == [str(VIP)]
    host.turn()
    assert host.where(str(VIP))[str(VIP)]["holder"] == "h2"


@pytest.mark.parametrize(
    ("vip", "node", "says"),
    [
        ("nonsense", "h2", '"nonsense" is no IP address'),
        ("198.51.100.99", "h2", "198.51.100.99"),
        (str(OTHER_VIP), "h1", "held by h2"),
        (str(VIP), "h3", "h3 is no candidate for 198.51.100.64: excluded-by-label"),
        (str(VIP), "h9", "h9 is no candidate"),
    ],
)
def test_a_move_that_cannot_be_is_refused_with_the_reason(host: Host, vip: str, node: str, says: str) -> None:
    with pytest.raises(RefusedError) as refused:
        host.verbs.move(MoveTo(vip=vip, node=node), ROOT)
    assert says in str(refused.value)
    assert host.ownership.turn(now()) == []


def test_the_plan_covers_the_cluster_and_a_rebalance_this_host(host: Host) -> None:
    assert host.verbs.plan(NOTHING, ROOT) == {
        "node": "h1",
        "moves": [{"vip": str(OTHER_VIP), "holder": "h2", "to": "h1", "here": False}],
    }
    host.ownership.ranking_is(VIP, ranking("h2", "h1"))
    planned = host.verbs.plan(NOTHING, ROOT)
    assert [(move["vip"], move["to"], move["here"]) for move in planned["moves"]] == [
        (str(VIP), "h2", True),
        (str(OTHER_VIP), "h1", False),
    ]
    assert host.verbs.rebalance(NOTHING, ROOT) == planned
    host.turn()
    assert host.where(str(VIP))[str(VIP)]["holder"] == "h2"


def test_nothing_to_rebalance_is_not_told(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hostagent"):
        host.verbs.rebalance(NOTHING, ROOT)
    assert caplog.records == []


def test_which_verbs_are_for_everybody(host: Host) -> None:
    assert {name for name, verb in host.verbs.table.items() if not verb.changes} == {"plan", "where"}


def test_a_user_without_a_name_is_called_by_number(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert "uid 0 asked for it" in host.drain()["why_draining"]


def test_saving_replaces_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, ASKED)
    save(tmp_path, Drained(since="later", by="ann", uid=7))
    assert load(tmp_path) == Drained(since="later", by="ann", uid=7)
