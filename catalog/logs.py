"""Logs on stderr: lines for people, or one JSON object a line for machines; never a secret.

A JSON line has ``time`` (UTC, ISO 8601), ``level``, ``logger`` and ``message``, then the fields of
its event where there are any: ``scene``, ``band``, ``href``, ``branch``, ``snapshot``, ``crawl``,
``watch``, counts. An unexpected error has ``error`` (its class) and ``traceback``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from catalog.errors import redacted

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
LINES = "%(asctime)s %(levelname)s %(message)s"
_STANDARD = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One object a line: a line break in a message or traceback is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        document: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD and name not in document and value is not None:
                document[name] = redacted(value) if isinstance(value, str) else value
        if record.exc_info and record.exc_info[0] is not None:
            document["error"] = record.exc_info[0].__name__
            document["traceback"] = redacted(self.formatException(record.exc_info))
        return json.dumps(document, ensure_ascii=False, default=_plain)


class TextFormatter(logging.Formatter):
    """The line for people, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def configure(
    style: str = "text", level: str = "info", *, terminal: logging.Handler | None = None
) -> Callable[[], None]:
    """Sends the package's logs, and Python's warnings in JSON, to stderr.

    Args:
        style: of ``FORMATS``.
        level: of ``LEVELS``; what is less is left out.
        terminal: handler for text, where stderr is a terminal that can do more.

    Returns:
        What takes the capture of warnings back.
    """
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    elif terminal is not None:
        terminal.setFormatter(TextFormatter("%(message)s"))
        handler = terminal  # type: ignore[assignment]
    else:
        handler.setFormatter(TextFormatter(LINES))
    log, warned = logging.getLogger("catalog"), logging.getLogger("py.warnings")
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    before = warned.handlers[:]
    if style == "json":
        warned.handlers[:] = [handler]
    logging.captureWarnings(style == "json")

    def undo() -> None:
        logging.captureWarnings(False)
        warned.handlers[:] = before

    return undo


def is_json() -> bool:
    """Whether the logs are JSON, and so whatever else goes to stderr must be."""
    handlers = logging.getLogger("catalog").handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else redacted(str(value))
