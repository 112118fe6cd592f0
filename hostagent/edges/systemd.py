"""What this service and systemd tell each other."""

from __future__ import annotations

import asyncio
import os
import socket
import time

UNIT = "hostagent.service"
JOB_QUERY_S = 2.0
FLUSH_S = 1.0


class Notifier:
    """Messages to the service manager, without ever waiting for it.

    A manager that does not read lets 11 messages in; then `sd_notify` blocks, and as python-systemd keeps the GIL
    meanwhile, not even a thread would save the loop that keeps addresses alive. So the messages (sd_notify(3): lines
    of KEY=value in a datagram) are sent from here; what comes while there is no room is merged into one.
    """

    def __init__(self) -> None:
        self._pending: dict[str, str] = {}
        self._socket: socket.socket | None = None
        self._waiting = False
        self._sent = asyncio.Event()

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
        """Wait until everything was sent, or the manager was given `FLUSH_S` to read it: a stop does not hang on it."""
        try:
            async with asyncio.timeout(FLUSH_S):
                while self._pending:
                    self._sent.clear()
                    await self._sent.wait()
        except TimeoutError:
            pass  # whoever does not read does not want to know

    def close(self) -> None:
        """Send nothing any more."""
        if self._socket is not None:
            self._stop_waiting(self._socket)
            self._socket.close()
            self._socket = None
        self._pending.clear()

    def _send(self, fields: dict[str, str]) -> None:
        address = os.environ.get("NOTIFY_SOCKET")
        if not address:
            return
        for later, earlier in (("READY", "RELOADING"), ("RELOADING", "READY")):
            if later in fields:
                self._pending.pop(earlier, None)
        self._pending |= fields
        if not self._waiting:
            self._push(address)

    def _push(self, address: str) -> None:
        message = "\n".join(f"{key}={value}" for key, value in self._pending.items())
        try:
            if self._socket is None:
                self._socket = _connected(address)
            self._socket.send(message.encode())
        except BlockingIOError:
            if self._socket is not None and not self._waiting:
                self._waiting = True
                asyncio.get_running_loop().add_writer(self._socket, self._push, address)
            return
        except OSError:  # the manager starts anew (`systemctl daemon-reexec`): what comes next finds it again
            self.close()
        self._pending.clear()
        self._sent.set()
        if self._socket is not None:
            self._stop_waiting(self._socket)

    def _stop_waiting(self, end: socket.socket) -> None:
        if self._waiting:
            self._waiting = False
            asyncio.get_running_loop().remove_writer(end)


def _connected(address: str) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        end.setblocking(False)
        end.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        end.close()
        raise
    return end


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
