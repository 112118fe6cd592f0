"""What this service and systemd tell each other."""

from __future__ import annotations

import asyncio
import os
import time

from systemd import daemon

UNIT = "hostagent.service"
JOB_QUERY_S = 2.0


class Notifier:
    """Messages to the service manager, without ever waiting for it.

    `sd_notify` blocks when the manager does not read (11 messages fit), and a loop that blocks loses its addresses.
    So one message at a time is sent from a thread, and what comes meanwhile is merged into the next one.
    """

    def __init__(self) -> None:
        self._pending: dict[str, str] = {}
        self._sending: asyncio.Task[None] | None = None

    def ready(self, status: str) -> None:
        self._send({"READY": "1", "STATUS": status})

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self._send({"STATUS": text})

    def alive(self) -> None:
        """Feed the watchdog: only from a loop that really turned."""
        self._send({"WATCHDOG": "1"})

    def starting(self, status: str, *, more_s: float) -> None:
        """Still starting, and getting on with it: ask for more time."""
        self._send({"STATUS": status, "EXTEND_TIMEOUT_USEC": str(int(more_s * 1_000_000))})

    def reloading(self) -> None:
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send({"RELOADING": "1", "MONOTONIC_USEC": str(usec)})

    def stopping(self, status: str) -> None:
        self._send({"STOPPING": "1", "STATUS": status})

    async def flush(self) -> None:
        """Wait until everything was sent (bounded by the caller)."""
        while self._sending is not None and not self._sending.done():
            await asyncio.shield(self._sending)

    def _send(self, fields: dict[str, str]) -> None:
        if "NOTIFY_SOCKET" not in os.environ:
            return
        if "READY" in fields:
            self._pending.pop("RELOADING", None)
        self._pending |= fields
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        while self._pending:
            message = "\n".join(f"{key}={value}" for key, value in self._pending.items())
            self._pending.clear()
            await asyncio.to_thread(daemon.notify, message)


async def restart_is_under_way() -> bool:
    """Whether this service is being stopped only to be started again (`systemctl restart`, an upgrade).

    While a restart job runs its type is still `restart`; after the stop half it becomes `start`. When systemd cannot
    be asked the answer is no: handing over needlessly costs nothing, keeping needlessly could leave VIPs unanswered.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            "systemctl", "list-jobs", "--plain", "--no-legend", UNIT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return False
    try:
        out, _ = await asyncio.wait_for(process.communicate(), JOB_QUERY_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
    return any(UNIT in line.split() and "restart" in line.split() for line in out.decode().splitlines())
