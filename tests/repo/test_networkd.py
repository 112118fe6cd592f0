"""Which of networkd's files the role adds to, so that networkd keeps VIPs."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

from tests.repo.role_docs import ROLES

SPEC = importlib.util.spec_from_file_location("networkd_files", ROLES / "hostagent" / "files" / "networkd_files.py")


def link(file: str | None, *sources: str) -> dict[str, Any]:
    """An interface as `networkctl --json=short list` has it."""
    shown: dict[str, Any] = {"Name": "eth0", "Addresses": [{"Family": 2, "ConfigSource": each} for each in sources]}
    return shown if file is None else shown | {"NetworkFile": file}


def files(*links: dict[str, Any]) -> list[str]:
    assert SPEC
    assert SPEC.loader
    module = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(module)
    found: list[str] = module.files(json.loads(json.dumps({"Interfaces": links})))
    return found


def test_files_with_static_addresses_are_added_to_once_wherever_they_are() -> None:
    netplan = "/run/systemd/network/10-netplan-eth1.network"
    own = "/etc/systemd/network/10-eth0.network"
    links = [link(own, "static", "foreign"), link(own, "static"), link(netplan, "static")]
    assert files(*links) == ["10-eth0.network", "10-netplan-eth1.network"]


def test_a_lease_is_never_kept_beyond_its_end() -> None:
    own = "/etc/systemd/network/10-eth0.network"
    assert files(link(own, "DHCPv4"), link(own, "static", "NDisc"), link(own, "foreign"), link(own)) == []


def test_what_networkd_does_not_manage_or_ships_itself_is_left_alone() -> None:
    assert files(link(None, "static"), link("/usr/lib/systemd/network/80-container-ve.network", "static")) == []
