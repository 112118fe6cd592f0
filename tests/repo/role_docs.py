"""Make the tables of variables in roles/*/README.md from argument_specs: `python -m tests.repo.role_docs`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).parents[2] / "roles"
BEGIN, END = "<!-- variables: begin (made by `python -m tests.repo.role_docs`) -->", "<!-- variables: end -->"


def roles() -> list[Path]:
    return sorted(path for path in ROLES.iterdir() if (path / "meta" / "argument_specs.yml").exists())


def options(role: Path) -> dict[str, dict[str, Any]]:
    """The role's variables as its contract names them."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
    found: dict[str, dict[str, Any]] = specs["argument_specs"]["main"]["options"]
    return found


def defaults(role: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    return found


def table(role: Path) -> str:
    rows = ["| Variable | Type | Default | What it does |", "| --- | --- | --- | --- |"]
    rows += [" | ".join(("", *_row(name, option), "")).strip() for name, option in options(role).items()]
    return "\n".join(rows)


def _row(name: str, option: dict[str, Any]) -> tuple[str, str, str, str]:
    kind = f"list of {option['elements']}" if "elements" in option else option["type"]
    default = "required" if option.get("required") else _code(option.get("default"))
    text = option["description"]
    sentences = " ".join(text) if isinstance(text, list) else text
    if "choices" in option:
        sentences += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
    return f"`{name}`", kind, default, _escaped(re.sub(r"C\(([^)]*)\)", r"`\1`", sentences.strip()))


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{_escaped(text)}`" if text else "empty"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


def with_table(role: Path) -> str:
    """The role's README as it should be. Raises ValueError when its markers are gone."""
    readme = (role / "README.md").read_text()
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{role.name}/README.md lacks the lines {BEGIN} and {END}, between which its table stands")
    return f"{before}{BEGIN}\n{table(role)}\n{END}{after}"


def main() -> None:
    for role in roles():
        (role / "README.md").write_text(with_table(role))


if __name__ == "__main__":
    main()
