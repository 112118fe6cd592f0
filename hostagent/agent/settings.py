"""The host's own configuration and credentials: followed while the agent runs, the last good ones staying in force."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from hostagent.edges import hostconfig
from hostagent.edges.hostconfig import HostConfig
from hostagent.edges.kube.transport import Api
from hostagent.edges.systemd import Notifier
from hostagent.model.errors import ConfigError, EdgeError
from hostagent.telemetry.journal import say, set_up, warn


class Settings:
    """What is in force, and why what the file says now is not."""

    def __init__(self, config: HostConfig, path: Path, *, notify: Notifier, line: Callable[[], str]) -> None:
        """`line` is what systemd shows of the agent."""
        self.config = config
        self.trouble = ""
        """Why the configuration file as it is now is not in force; empty when it is."""
        self.waiting: tuple[str, ...] = ()
        """Settings that the file changes and only a restart puts in force."""
        self._path = path
        self._notify = notify
        self._line = line
        self._api: Api | None = None
        self._reloading: asyncio.Task[None] | None = None

    async def watch(self, api: Api) -> None:
        """Read again whatever changes, until cancelled."""
        self._api = api
        kubeconfig = Path(self.config.kubernetes.kubeconfig)
        await hostconfig.watch([self._path, kubeconfig, *map(Path, api.credentials.files)], self.reload)

    def reload(self) -> None:
        """Read the configuration file and the credentials again; what is wrong leaves the last good ones in force."""
        self._notify.reloading()
        try:
            fresh = hostconfig.load(self._path)
        except ConfigError as exc:
            if self.trouble != str(exc):
                warn("config.file-refused", f"{exc}; the configuration read before stays in force")
            self.trouble = str(exc)
        else:
            self.trouble, self.waiting = "", ()
            if fresh != self.config:
                self._take(fresh)
        self._reloading = asyncio.create_task(self._reload_credentials())

    def _take(self, fresh: HostConfig) -> None:
        """Put in force what can be at once, the log level; the rest waits for a restart, which moves nothing."""
        old, self.config = self.config, msgspec.structs.replace(self.config, log=fresh.log)
        if fresh.log != old.log:
            set_up(fresh.log.level)
            say("config.file-read", f"{self._path} read again: log.level is {fresh.log.level}")
        changed = (name for name in fresh.__struct_fields__ if getattr(fresh, name) != getattr(self.config, name))
        self.waiting = tuple(changed)
        if self.waiting:
            self.trouble = (
                f"{self._path}: {', '.join(self.waiting)} changed: takes effect with "
                "`systemctl restart hostagent`, which moves nothing"
            )
            warn("config.needs-restart", self.trouble)

    async def _reload_credentials(self) -> None:
        try:
            if self._api is not None:
                await self._api.reload()
        except (ConfigError, EdgeError) as exc:
            warn("credentials.refused", f"{exc}; the credentials read before stay in force")
        self._notify.ready(self._line())
