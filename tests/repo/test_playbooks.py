"""Playbooks and example inventory: every setting that they name is one that is taken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.repo.role_docs import ROLES, options, roles

ROOT = ROLES.parent
OF_PLAYBOOKS = set(yaml.safe_load((ROLES / "hostagent/vars/main.yml").read_text())["__hostagent_of_playbooks"])
TAKEN = OF_PLAYBOOKS | {name for role in roles() for name in options(role)} | {role.name for role in roles()}


@pytest.mark.parametrize("playbook", sorted((ROOT / "playbooks").glob("*.yml")), ids=lambda path: path.name)
def test_a_setting_of_a_playbook_is_not_refused_as_misspelt(playbook: Path) -> None:
    """settings.yml refuses what it does not know: it must know all that playbooks ask for."""
    read = {name for name in re.findall(r"\bhostagent_[a-z_]+", playbook.read_text()) if not name.endswith("_")}
    assert read - TAKEN == set()


@pytest.mark.parametrize("name", sorted(OF_PLAYBOOKS))
def test_what_is_known_of_playbooks_is_read_by_one(name: str) -> None:
    texts = [path.read_text() for path in (ROOT / "playbooks").glob("*.yml")]
    texts += [path.read_text() for path in ROLES.glob("*/tasks/*.yml")]
    assert any(name in text for text in texts)


def test_the_example_inventory_names_only_settings_that_exist() -> None:
    folder = ROOT / "inventories" / "example"
    named = {
        found
        for path in folder.rglob("*.yml")
        for found in re.findall(r"^\s*(?:# )?(hostagent_[a-z_]+):", path.read_text(), re.MULTILINE)
    }
    assert named
    assert named - TAKEN == set()
