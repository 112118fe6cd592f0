"""The `hostagent` command. Each subcommand is imported when it is asked for: the agent needs no tables and no YAML."""

from __future__ import annotations

import importlib

import click

from hostagent import __version__

COMMANDS = {
    "run": "run",
    "status": "status",
    "explain": "explain",
    "who-has": "who_has",
    "drain": "drain",
    "undrain": "drain",
    "move": "move",
    "rebalance": "move",
    "check": "check",
    "simulate": "simulate",
    "access": "access",
    "migrate": "migrate",
}
"""Where each of them is."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*COMMANDS, *super().list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"hostagent.cli.{COMMANDS[cmd_name]}")
        found: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def hostagent() -> None:
    """LoadBalancer addresses for bare-metal Kubernetes, answered by the hosts themselves.

    On a host, `run` is what the systemd service starts, `status` asks it what it does, `explain` asks it why, and
    `who-has` asks the segment who answers; `drain`, `undrain`, `move` and `rebalance` tell it where VIPs shall be. On
    the control machine, `access` prepares the cluster, `check` validates manifests before they are applied, and
    `simulate` says what the cluster would do with them; `migrate` takes a MetalLB's addresses over.
    """


@hostagent.command("version")
def version() -> None:
    """Print the version."""
    click.echo(__version__)
