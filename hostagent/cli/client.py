"""How commands ask the agent on this host: one line to its socket, one JSON document back."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import IO, Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from hostagent.agent.control import SOCKET

TIMEOUT_S = 5.0

socket_option = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default=Path("/run/hostagent") / SOCKET,
    show_default=True,
    help="The agent's socket.",
)
output_option = click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)


class AgentError(click.ClickException):
    """The agent refuses, or did not do in time what was asked. Ends the command with `exit_code`."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, err=file is None, file=file)


class AgentDownError(AgentError):
    """It does not answer."""

    exit_code = 3  # as `systemctl status` of a unit that is not running


class NotPermittedError(AgentError):
    """This user may not ask for that."""

    exit_code = 4


def ask(socket: Path, verb: str, **arguments: object) -> dict[str, Any]:
    """Ask the agent that listens there, and return its answer.

    Raises AgentDownError, NotPermittedError, or AgentError when it refuses for another reason.
    """
    try:
        reply = asyncio.run(_converse(socket, {"verb": verb, **arguments}))
    except (OSError, TimeoutError, msgspec.DecodeError) as exc:
        cause = "it does not answer; it may hang" if isinstance(exc, TimeoutError) else str(exc)
        raise AgentDownError(f"the agent cannot be asked: {cause}\nSee: systemctl status hostagent") from exc
    if reply.get("ok") is True:
        answer: dict[str, Any] = reply["answer"]
        return answer
    if "error" not in reply:
        raise AgentDownError("the agent is of another release than this command: systemctl restart hostagent")
    refused = NotPermittedError if reply.get("refusal") == "not-permitted" else AgentError
    raise refused(f"the agent refuses: {reply['error']}")


def console() -> Console:
    """For people. A pipe has no width: rich would cut columns at 80."""
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or "160")
    return Console(width=width, highlight=False)


def table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:  # the first is what the row is about: in one piece, so that it can be found and copied
        made.add_column(column, overflow="fold", no_wrap=column == columns[0])
    return made


async def _converse(socket: Path, question: dict[str, object]) -> dict[str, Any]:
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            writer.write(msgspec.json.encode(question) + b"\n")
            return msgspec.json.decode(await reader.read(), type=dict[str, Any])
        finally:
            writer.close()
