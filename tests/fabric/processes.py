"""Long-running programs in a network namespace that outlive their starter and can be ended by any other process."""

import os
import select
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.fabric.inside import call_inside, named

# The child records itself before it becomes the program: had the parent to do it, a SIGKILL of the parent between
# fork and write would leave a process nobody knows. Process number and start time (fields 1 and 22 of its stat line,
# proc(5)) survive exec, and together name a process for as long as the machine is up.
_RECORD_THEN_EXEC = 'read -r stat < /proc/$$/stat && printf "%s\\n" "$stat" > "$0" && exec "$@"'
_START_TIME = 22

_KILLED_WITHIN_S = 10.0


def in_namespace(netns: str, argv: Sequence[str | Path]) -> list[str]:
    """`argv`, to be run in `netns` under the same process number."""
    return ["nsenter", f"--net=/run/netns/{netns}", "--", *map(str, argv)]


def connect_in(netns: str, address: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP connection made inside `netns`, for use from here: a socket stays in the namespace it was made in.

    Raises OSError as connecting does, or when there is no such namespace.
    """

    def connect() -> socket.socket:
        connection = socket.create_connection((address, port), timeout=timeout_s)
        # else a small request waits 40 ms for the acknowledgement of the handshake's last bytes
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    return call_inside(named(netns), connect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The programs recorded in one folder: `NAME.stat` says which process, `NAME.log` is what it says."""

    netns: str
    folder: Path

    def start(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        """Run `argv` in the namespace, its own session, output appended to its log; a running one is left alone.

        It has `env` and nothing else of our environment but PATH.
        """
        if self.running(name):
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = self._record(name)
        record.unlink(missing_ok=True)
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        child = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _RECORD_THEN_EXEC, str(record), *in_namespace(self.netns, argv)],
            {"PATH": os.environ["PATH"], **(env or {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log(name)), log_flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
        )
        while self._identity(name) is None and _is_there(child):  # so that `stop` finds it from here on
            time.sleep(0.001)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def tail(self, name: str, lines: int = 15) -> str:
        """The last it said, for an error message."""
        log = self.log(name)
        if not log.exists():
            return ""
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

    def names(self) -> list[str]:
        """All that have been started and not stopped, running or dead."""
        return sorted(path.stem for path in self.folder.glob("*.stat"))

    def pid(self, name: str) -> int | None:
        """The process number while it runs; it may end at any time, so signal it only by `signal`."""
        identity = self._identity(name)
        return identity[0] if identity and _start_time(identity[0]) == identity[1] else None

    def running(self, name: str) -> bool:
        return self.pid(name) is not None

    def signal(self, name: str, *signals: signal.Signals) -> None:
        """Send `signals` to it, and never to another process that got its number. None is sent to a dead one."""
        handle = self._open(name)
        if handle is None:
            return
        try:
            for each in signals:
                signal.pidfd_send_signal(handle, each)
        except ProcessLookupError:
            pass  # it ended meanwhile
        finally:
            os.close(handle)

    def stop(self, name: str, grace_s: float) -> None:
        """It is gone and forgotten when this returns: asked first, also if paused; killed after `grace_s`."""
        handle = self._open(name)
        if handle is not None:
            try:
                if grace_s > 0:
                    self.signal(name, signal.SIGTERM, signal.SIGCONT)
                if not _ended(handle, grace_s):
                    self.signal(name, signal.SIGKILL)
                    if not _ended(handle, _KILLED_WITHIN_S):
                        raise TimeoutError(
                            f"{name} (process {self.pid(name)}) is still there {_KILLED_WITHIN_S:.0f} s after SIGKILL: "
                            f"stuck in the kernel, see /proc/{self.pid(name)}/stack"
                        )
            finally:
                os.close(handle)
        _reap_if_ours(self._identity(name))
        self._record(name).unlink(missing_ok=True)

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.stat"

    def _identity(self, name: str) -> tuple[int, int] | None:
        """Process number and start time as recorded."""
        try:
            stat = self._record(name).read_text()
        except FileNotFoundError:
            return None
        return (int(stat.split()[0]), _start_time_in(stat)) if stat.endswith("\n") else None

    def _open(self, name: str) -> int | None:
        """A handle on exactly the recorded process: opened first, then checked, so no other can slip in."""
        identity = self._identity(name)
        if identity is None:
            return None
        try:
            handle = os.pidfd_open(identity[0])
        except ProcessLookupError:
            return None
        if _start_time(identity[0]) == identity[1]:
            return handle
        os.close(handle)
        return None


def _start_time_in(stat: str) -> int:
    # the second field, the program's name, may hold blanks and parentheses; fields count on after the last one
    return int(stat.rpartition(")")[2].split()[_START_TIME - 3])


def _start_time(pid: int, *, zombie_counts: bool = False) -> int | None:
    """When process `pid` started, in clock ticks since boot; None if it is not there, or a mere zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state = stat.rpartition(")")[2].split()[0]
    return None if state in "ZX" and not zombie_counts else _start_time_in(stat)


def _is_there(pid: int) -> bool:
    return _start_time(pid) is not None


def _ended(handle: int, within_s: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def _reap_if_ours(identity: tuple[int, int] | None) -> None:
    if identity is None or _start_time(identity[0], zombie_counts=True) != identity[1]:
        return
    with suppress(ChildProcessError):  # another process may have started it
        os.waitpid(identity[0], os.WNOHANG)
