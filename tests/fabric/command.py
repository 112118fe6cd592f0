"""Running the machine's own tools: one way, with errors that say what was tried and what it answered."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

# Tools answer at once or are broken; a test must not hang on them.
DEFAULT_TIMEOUT_S = 60.0


class FabricError(Exception):
    """The lab could not be brought into the state asked for. The message names the thing and the remedy."""


class CommandError(FabricError):
    """A command ended with another code than 0, or took too long."""

    def __init__(self, argv: Sequence[str], outcome: str, stdout: str, stderr: str) -> None:
        said = (stderr.strip() or stdout.strip() or "(it said nothing)")[-4000:]
        super().__init__(f"{' '.join(argv)}: {outcome}: {said}")
        self.outcome = outcome
        self.stdout = stdout
        self.stderr = stderr


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """The command's outcome, with its output as text. Raises CommandError when it fails and `check` is set,
    and always when it takes longer than `timeout_s`."""
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise CommandError(argv, f"not done after {timeout_s:g} s", _text(exc.stdout), _text(exc.stderr)) from exc
    except FileNotFoundError as exc:
        raise FabricError(f"{argv[0]}: not installed; `make setup` installs what the lab needs") from exc
    if check and done.returncode != 0:
        raise CommandError(argv, f"exit code {done.returncode}", done.stdout, done.stderr)
    return done


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
