"""The documents say what is so: links resolve, make targets exist, every journal event and setting is explained."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml

from hostagent.core.candidates import WhyNot
from hostagent.core.config.objects import KINDS
from hostagent.edges.hostconfig import BgpConfig, HostConfig, KubernetesConfig, LogConfig, MetricsConfig, SessionConfig
from hostagent.model.names import InterfaceName
from hostagent.model.ownership import Why
from hostagent.telemetry.journal import message_id
from hostagent.telemetry.metrics import BgpSession, families
from tests.repo.catalog import ALERTS, CATALOG, alerts, catalog
from tests.unit.builders import a_snapshot

ROOT = Path(__file__).parents[2]
OURS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**/*.md", "roles/*/README.md")
DOCUMENTS = sorted(path for pattern in OURS for path in ROOT.glob(pattern))
LONGEST_LINE = 120

_FENCE = re.compile(r"^\s*```.*?^\s*```\s*?$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)|^\[[^\]\n]+\]:\s*(?P<reference>\S+)", re.MULTILINE)
_MAKE = re.compile(r"^[ `]*make (?P<words>[a-zA-Z][^`\n#;&|]*)", re.MULTILINE)
_EVENT_ROW = re.compile(r"^\| `(?P<event>[a-z]+\.[a-z-]+)` \| (?P<level>[iwe]) \|", re.MULTILINE)
_LEVELS = {"say": "i", "warn": "w", "error": "e"}

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(path: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def events() -> dict[str, str]:
    """Every journal event of the code, with its severity as the table in docs/operate.md writes it."""
    found: dict[str, str] = {}
    for path in (ROOT / "hostagent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in _LEVELS:
                    found |= dict.fromkeys(_texts(first), _LEVELS[name])
                case _:
                    pass
    return found


def _texts(node: ast.expr) -> Iterator[str]:
    """The string that an argument is, or either of those that a condition chooses from."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=orelse):
            yield from _texts(body)
            yield from _texts(orelse)
        case _:
            pass  # a variable: `warn` passing its own argument on


@each_document
def test_every_link_leads_somewhere(path: Path) -> None:
    text = _CODE.sub("", _FENCE.sub("", path.read_text()))
    for match in _LINK.finditer(text):
        target, _, anchor = (match["target"] or match["reference"]).partition("#")
        if ":" in target:
            continue  # another site's matter
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), f"{match[0]}: there is no {target}"
        if anchor:
            assert anchor in anchors(there), f"{match[0]}: {there.name} has no such heading"


@each_document
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = path.read_text()
    code = "\n".join((*_FENCE.findall(text), *_CODE.findall(_FENCE.sub("", text))))  # in prose, make is a verb
    named = {word for match in _MAKE.finditer(code) for word in match["words"].split() if "=" not in word}
    assert named <= targets


@each_document
def test_lines_fit_a_terminal_unless_they_are_tables(path: Path) -> None:
    if path.parent.parent.name == "roles":
        pytest.skip("made in part from argument_specs.yml")
    long = [
        f"{path.name}:{number}"
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > LONGEST_LINE and not line.lstrip().startswith("|")
    ]
    assert not long


def test_every_journal_event_is_explained_with_its_severity_and_none_is_made_up() -> None:
    rows = _EVENT_ROW.finditer((ROOT / "docs" / "operate.md").read_text())
    assert {row["event"]: row["level"] for row in rows} == events()


def test_every_warning_and_error_has_a_cure() -> None:
    text = (ROOT / "docs" / "troubleshoot.md").read_text()
    assert [event for event, level in events().items() if level != "i" and event not in text] == []


def test_the_journals_catalog_explains_every_warning_as_the_documents_do() -> None:
    assert CATALOG.read_text() == catalog(), "run: python -m tests.repo.catalog"
    explained = set(re.findall(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), re.MULTILINE))
    assert explained == {message_id(event) for event, level in events().items() if level != "i"}


def test_the_alert_rules_of_the_role_are_those_of_the_documents() -> None:
    assert ALERTS.read_text() == alerts(), "run: python -m tests.repo.catalog"
    rules = yaml.safe_load(alerts())["groups"][0]["rules"]
    assert all(rule["alert"] and rule["expr"] for rule in rules)


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "roles" / "hostagent_monitoring" / "files" / "dashboard.json").read_text())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"hostagent_\w+", target["expr"])
    }
    snapshot = a_snapshot(moves={Why.FREE: 1}, held={ip_address("198.51.100.64"): InterfaceName("eth0")})
    assert shown <= {sample.name for family in families(snapshot) for sample in family.samples}


def test_every_field_of_the_status_document_is_explained() -> None:
    text = (ROOT / "docs" / "operate.md").read_text()
    section = text[text.index("## hostagent status --output json") : text.index("## Journal")]
    tree = ast.parse((ROOT / "hostagent" / "agent" / "status.py").read_text())
    keys = {
        key.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    explained = set(re.findall(r"\w+", " ".join(_CODE.findall(section))))
    assert keys <= explained
    assert {reason.value for reason in (*Why, *WhyNot)} <= set(re.findall(r"`([a-z-]+)`", section))


def test_every_metric_is_explained_and_none_is_made_up() -> None:
    text = (ROOT / "docs" / "operate.md").read_text()
    section = text[text.index("## Metrics") : text.index("## Journal")]
    table, _, alerts = section.partition("### What to alert on")
    session = BgpSession(
        peer="tor",
        neighbor="192.0.2.1",
        vrf="",
        up=True,
        bfd_up=True,
        sent=1,
        pending=0,
        received=0,
        updates_sent=1,
        dropped=0,
    )
    snapshot = a_snapshot(
        moves={Why.FREE: 1}, held={ip_address("198.51.100.64"): InterfaceName("eth0")}, bgp_sessions=(session,)
    )
    samples = [sample for family in families(snapshot) for sample in family.samples]
    rows = re.finditer(r"^\| `(?P<name>hostagent_\w+)(?:\{(?P<labels>[\w, ]+)\})?` \|", table, re.MULTILINE)
    explained = {row["name"]: set((row["labels"] or "").split(", ")) - {""} for row in rows}
    assert explained == {sample.name: set(sample.labels) for sample in samples}
    assert set(re.findall(r"hostagent_\w+", alerts)) <= explained.keys()


def test_every_key_of_the_host_configuration_and_every_kind_is_explained() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    structs = (HostConfig, KubernetesConfig, SessionConfig, LogConfig, MetricsConfig, BgpConfig)
    keys = {name for struct in structs for name in struct.__struct_fields__} | set(KINDS)
    assert [key for key in keys if f"`{key}`" not in text and f"`[{key}]`" not in text] == []
