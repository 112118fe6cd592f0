"""Make from the documents what roles bring to machines: `python -m tests.repo.catalog`.

The journal's catalog, what `journalctl -x` adds to a line, and the alert rules that docs/operate.md has as an example.
An entry for each warning and error: what it means, from docs/operate.md, and what to do, from docs/troubleshoot.md.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from hostagent.telemetry.journal import message_id

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "roles" / "hostagent" / "files" / "hostagent.catalog"
ALERTS = ROOT / "roles" / "hostagent_monitoring" / "files" / "alerts.yml"
EVENT_ROW = re.compile(
    r"^\| `(?P<event>[a-z]+\.[a-z-]+)` \| (?P<level>[iwe]) \| (?P<text>.+) \|$",
    re.MULTILINE,
)
HEADER = """\
# What `journalctl --catalog` (-x) says beside hostagent's warnings and errors.
# Made from docs/operate.md and docs/troubleshoot.md by `python -m tests.repo.catalog`.
"""
WIDTH = 100


def catalog() -> str:
    """The file as it should be."""
    operate = (ROOT / "docs" / "operate.md").read_text()
    troubleshoot = (ROOT / "docs" / "troubleshoot.md").read_text()
    rows = {row["event"]: row["text"] for row in EVENT_ROW.finditer(operate) if row["level"] != "i"}
    return HEADER + "".join(_entry(event, text, list(_remedies(event, troubleshoot))) for event, text in rows.items())


def _entry(event: str, meaning: str, remedies: list[str]) -> str:
    paragraphs = [_sentence(meaning), *remedies, "More: docs/troubleshoot.md of hostagent"]
    body = "\n\n".join(
        textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False)
        for text in paragraphs
        for line in text.split("\n")
    )
    return f"\n-- {message_id(event)}\nSubject: hostagent: {event}\nDefined-By: hostagent\n\n{body}\n"


def _remedies(event: str, text: str) -> Iterator[str]:
    """What the document says of it: rows of its tables, bullets and paragraphs."""
    named = re.compile(rf"`{re.escape(event)}(?![\w-])")
    found: list[tuple[str, str, str]] = []
    cause = ""
    for block in re.split(r"\n(?=\n|\||- )", text):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", block.strip())[1:-1]] if "|" in block[:2] else []
        if len(cells) == 3:
            says, now, cure = cells
            cause = cause if now == "the same" else now
            if named.search(says) and not re.fullmatch(r"\[[^]]*\]\(#[^)]*\)", cure):
                found.append((_plain(says), cause, cure))
        elif not cells and named.search(block):
            yield _sentence(" ".join(block.split()).removeprefix("- "))
    for says, cause, cure in found:
        quoted = f"If it says {says!r}\n" if len(found) > 1 else ""
        yield f"{quoted}Cause: {_sentence(cause)}\nTo do: {_sentence(cure)}"


def _sentence(markdown: str) -> str:
    text = _plain(markdown)
    text = f"{text[:1].upper()}{text[1:]}" if text[:1].islower() and text.split()[0].isalpha() else text
    return text if text.endswith((".", ":", "?")) else f"{text}."


def _plain(markdown: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown.replace("\\`", "`").replace("\\|", "|"))
    return re.sub(r"(?<!\\)`|\*\*", "", text).strip()


def alerts() -> str:
    """Prometheus's rules, as docs/operate.md shows them."""
    section = (ROOT / "docs" / "operate.md").read_text().partition("### What to alert on")[2]
    return (
        f"---\n# What each means: docs/operate.md of hostagent\n{section.split('```')[1].removeprefix('yaml').lstrip()}"
    )


def main() -> None:
    CATALOG.write_text(catalog())
    ALERTS.write_text(alerts())


if __name__ == "__main__":
    main()
