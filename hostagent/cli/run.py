"""`hostagent run`: the agent, in the foreground."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from hostagent.agent.agent import Agent
from hostagent.edges import hostconfig
from hostagent.model.errors import ConfigError, EdgeError, InvariantError
from hostagent.telemetry.journal import error, set_up

EXIT_FAILED = 1
EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: the unit's RestartPreventExitStatus, as starting again would not help."""


@click.command("run")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=hostconfig.DEFAULT_PATH,
    show_default=True,
    help="The host's configuration file.",
)
def run(config_path: Path) -> None:
    """Run the agent until it is told to stop (SIGTERM). SIGHUP reads the configuration again.

    Exits with 0 after a stop in order, 78 if the configuration cannot be used, 1 on any other failure. Normally
    started by hostagent.service, which gives it its capabilities and directories.
    """
    set_up("info")
    try:
        config = hostconfig.load(config_path)
        set_up(config.log.level)
        agent = Agent(
            config,
            config_path=config_path,
            runtime_dir=Path(os.environ.get("RUNTIME_DIRECTORY", "/run/hostagent")),
            state_dir=Path(os.environ.get("STATE_DIRECTORY", "/var/lib/hostagent")),
        )
        asyncio.run(agent.run())
    except ConfigError as exc:
        error("agent.refused", f"cannot run: {exc}")
        sys.exit(EXIT_CONFIG)
    except (EdgeError, InvariantError) as exc:
        error("agent.failed", f"ended: {exc}")
        sys.exit(EXIT_FAILED)
