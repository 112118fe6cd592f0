"""The `hostagent` command."""

from __future__ import annotations

import click

from hostagent import __version__
from hostagent.cli.access import access
from hostagent.cli.check import check
from hostagent.cli.drain import drain, undrain
from hostagent.cli.explain import explain
from hostagent.cli.migrate import migrate
from hostagent.cli.move import move, rebalance
from hostagent.cli.run import run
from hostagent.cli.simulate import simulate
from hostagent.cli.status import status
from hostagent.cli.who_has import who_has


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


for command in (run, status, explain, who_has, drain, undrain, move, rebalance, check, simulate, access, migrate):
    hostagent.add_command(command)
