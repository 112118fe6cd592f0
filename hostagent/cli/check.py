"""`hostagent check`: what the agent would make of these files, without a cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hostagent.cli.manifests import ManifestError, read_resources
from hostagent.core.check import Report, Verdict
from hostagent.core.check import check as check_resources
from hostagent.model.cluster import Fault
from hostagent.model.errors import ConfigError

HOST_KIND = "HostConfiguration"
"""How a host's own configuration file is called in the output; it is no Kubernetes object."""


@click.command("check")
@click.argument("files", nargs=-1, metavar="[FILE|-]...")
@click.option("--host-config", "host_configs", multiple=True, metavar="FILE", help="Check a host's config.toml too.")
@click.option("--namespace", default="metallb-system", show_default=True, help="The configuration namespace.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def check(files: tuple[str, ...], host_configs: tuple[str, ...], namespace: str, output: str) -> None:
    """Check manifests as the agent would read them, all FILEs together.

    Needs no cluster. Knows pools, advertisements, peers, BFD profiles and communities; passes over other kinds.
    Exits with 0 if all is valid, 1 if something is not, 2 if something cannot be read.
    """
    if not files and not host_configs:
        raise click.UsageError("nothing to check; give one FILE or more, or - for standard input")
    try:
        resources = [each for name in files for each in read_resources(_read(name), source=name, namespace=namespace)]
    except ManifestError as exc:
        raise click.UsageError(str(exc)) from exc
    report = check_resources(resources, namespace=namespace)
    report = Report(
        verdicts=(*report.verdicts, *map(_host_config, host_configs)),
        skipped=report.skipped,
    )
    if output == "json":
        click.echo(json.dumps(to_json(report), indent=2))
    else:
        _print_table(report, namespace)
    sys.exit(0 if report.valid else 1)


def to_json(report: Report) -> dict[str, Any]:
    """The documented shape: `valid`, and `objects` with their errors and warnings; `skipped` names the rest."""
    return {
        "valid": report.valid,
        "objects": [
            {
                "kind": verdict.kind,
                "namespace": verdict.namespace,
                "name": verdict.name,
                "valid": verdict.valid,
                "errors": [_fault(fault) for fault in verdict.errors],
                "warnings": [_fault(fault) for fault in verdict.warnings],
            }
            for verdict in report.verdicts
        ],
        "skipped": list(report.skipped),
    }


def _fault(fault: Fault) -> dict[str, str]:
    return {"field": fault.field, "message": fault.message}


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as exc:
        raise click.UsageError(f"{name}: cannot be read ({exc.strerror}); give a file, or -") from exc
    except UnicodeDecodeError as exc:
        raise click.UsageError(f"{name}: is not UTF-8 text; give a YAML file") from exc


def _host_config(name: str) -> Verdict:
    # Here, because checking manifests on a control machine or in CI needs nothing of a host.
    from hostagent.edges import hostconfig  # noqa: PLC0415

    if not Path(name).is_file():
        raise click.UsageError(f"{name}: is no file; give a host's config.toml")
    try:
        hostconfig.load(Path(name))
    except ConfigError as exc:
        error = Fault(kind=HOST_KIND, namespace="", name=name, field="", message=str(exc))
        return Verdict(kind=HOST_KIND, namespace="", name=name, errors=(error,))
    return Verdict(kind=HOST_KIND, namespace="", name=name)


def _print_table(report: Report, namespace: str) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("OBJECT", overflow="fold", max_width=console.width // 3)
    table.add_column("VERDICT", no_wrap=True)
    table.add_column("WHERE AND WHY", overflow="fold")
    for verdict in report.verdicts:
        name = verdict.name if verdict.namespace in ("", namespace) else f"{verdict.namespace}/{verdict.name}"
        rows = [_row("red", "error", fault) for fault in verdict.errors]
        rows += [_row("yellow", "warning", fault) for fault in verdict.warnings]
        for index, row in enumerate(rows or [(Text("valid", "green"), Text())]):
            table.add_row(Text(f"{verdict.kind} {name}" if index == 0 else ""), *row)
    console.print(table)
    if report.skipped:
        console.print(Text(f"Not checked, as no configuration of ours: {', '.join(report.skipped)}", "dim"))
    faulty = sum(not verdict.valid for verdict in report.verdicts)
    console.print(f"{len(report.verdicts)} checked, {faulty or 'none'} faulty")


def _row(style: str, word: str, fault: Fault) -> tuple[Text, Text]:
    return Text(word, style), Text(f"{fault.field}: {fault.message}" if fault.field else fault.message)
