"""A VIP's life in the journal: one line per change, its facts in fields that `journalctl` can select by.

`journalctl -u hostagent HOSTAGENT_VIP=198.51.100.7` tells what happened to one address.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid

_LOG = logging.getLogger("hostagent")
_FIELDS = "hostagent_fields"
_NAMESPACE = uuid.UUID("6a0c8f6e-58a1-4f2c-9c59-0d6c8e0a7b11")
"""Event names become MESSAGE_IDs under this namespace, so that both are stable and neither needs a registry."""


def message_id(event: str) -> str:
    """The journal's MESSAGE_ID of an event name, as 32 hexadecimal digits."""
    return uuid.uuid5(_NAMESPACE, event).hex


def say(event: str, message: str, *, level: int = logging.INFO, **facts: object) -> None:
    """Log one event. `facts` become journal fields HOSTAGENT_<NAME>; those that are None or empty are left out."""
    fields = {name: str(value) for name, value in facts.items() if value is not None and str(value)}
    _LOG.log(level, message, extra={_FIELDS: {"event": event, **fields}})


def warn(event: str, message: str, **facts: object) -> None:
    say(event, message, level=logging.WARNING, **facts)


def error(event: str, message: str, **facts: object) -> None:
    say(event, message, level=logging.ERROR, **facts)


def set_up(level: str) -> None:
    """Log to the journal when standard error leads there, else to standard error in words."""
    handler: logging.Handler = _JournalHandler() if _leads_to_journal() else _text_handler()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOG.setLevel(level.upper())


def _leads_to_journal() -> bool:
    """Whether standard error is the stream that JOURNAL_STREAM names (systemd.exec(5)).

    The variable alone says nothing: every program started from a terminal of a desktop inherits it.
    """
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _JournalHandler(logging.Handler):
    """Sends only our own fields; the library's handler adds about twenty that nobody asked for."""

    def __init__(self) -> None:
        super().__init__()
        from systemd import journal  # noqa: PLC0415  (only where there is a journal)

        self._send = journal.sendv

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, str] = dict(getattr(record, _FIELDS, {}))
            entry = {
                "MESSAGE": self.format(record),
                "PRIORITY": _priority(record.levelno),
                "SYSLOG_IDENTIFIER": "hostagent",
                "LOGGER": record.name,
                "CODE_FILE": record.pathname,
                "CODE_LINE": str(record.lineno),
                "CODE_FUNC": record.funcName or "",
            }
            if "event" in fields:
                entry["MESSAGE_ID"] = message_id(fields["event"])
            entry |= {f"HOSTAGENT_{name.upper()}": value for name, value in fields.items()}
            self._send(*(f"{name}={value}" for name, value in entry.items()))
        except OSError:
            self.handleError(record)


def _priority(level: int) -> str:
    """Syslog's numbers for Python's levels."""
    steps = ((logging.ERROR, "3"), (logging.WARNING, "4"), (logging.INFO, "6"))
    return next((priority for least, priority in steps if level >= least), "7")


def _text_handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    return handler
