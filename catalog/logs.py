"""Logs on stderr: lines for people, or one JSON object a line for machines; never a secret.

A JSON line has ``time`` (UTC, ISO 8601), ``level``, ``logger`` and ``message``, then the fields of
its event where there are any: ``scene``, ``band``, ``href``, ``branch``, ``snapshot``, ``crawl``,
``watch``, counts. An unexpected error has ``error`` (its class) and ``traceback``.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from catalog.printable import json_escaped, printable, printable_lines
from catalog.redaction import LONGEST, redacted

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
            "message": redacted(record.getMessage()[:LONGEST]),
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD and name not in document and value is not None:
                document[name] = without_secrets_in(value)
        if record.exc_info and record.exc_info[0] is not None:
            document["error"] = record.exc_info[0].__name__
            document["traceback"] = redacted(self.formatException(record.exc_info))
        return json_escaped(json.dumps(document, ensure_ascii=False, default=_plain))


class TextFormatter(logging.Formatter):
    """One visible line for people; a traceback's lines stand below it, indented: no message can
    look like another line of the log."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if record.name == "py.warnings":
            # Without the line of code that Python adds.
            record.message = record.message.strip().rpartition("\n  ")[0] or record.message.strip()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        text = printable(redacted(self.formatMessage(record)[:LONGEST]), LONGEST)
        if record.exc_info and record.exc_info[0] is not None:
            trace = printable_lines(redacted(self.formatException(record.exc_info)))
            text += "".join(f"\n  {line}" for line in trace.split("\n"))
        return text


def without_secrets_in(value: Any) -> Any:
    """A JSON value with each of its strings ``redacted``; what is no JSON stays as it is."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: without_secrets_in(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets_in(held) for held in value]
    return value


def configure(
    style: str = "text", level: str = "info", *, terminal: logging.Handler | None = None
) -> Callable[[], None]:
    """Sends the package's logs, Python's warnings, and what other libraries warn of without a
    handler of their own, to stderr.

    Args:
        style: of ``FORMATS``.
        level: of ``LEVELS``; what is less is left out.
        terminal: handler for text, where stderr is a terminal that can do more.

    Returns:
        What takes all but the package's handler back.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    elif terminal is not None:
        terminal.setFormatter(TextFormatter("%(message)s"))
        handler = terminal
    else:
        handler.setFormatter(TextFormatter(LINES))
    log, warned = logging.getLogger("catalog"), logging.getLogger("py.warnings")
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    before = warned.handlers[:], warned.propagate, logging.lastResort, threading.excepthook
    warned.handlers[:], warned.propagate = [handler], False
    logging.captureWarnings(True)
    logging.lastResort = logging.StreamHandler(sys.stderr)
    logging.lastResort.setLevel(logging.WARNING)
    logging.lastResort.setFormatter(handler.formatter)
    threading.excepthook = _log_thread

    def undo() -> None:
        logging.captureWarnings(False)
        warned.handlers[:], warned.propagate, logging.lastResort, threading.excepthook = before

    return undo


def _log_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and failed.exc_type is not SystemExit:
        where = "a thread" if failed.thread is None else f"thread {failed.thread.name}"
        trace = (failed.exc_type, failed.exc_value, failed.exc_traceback)
        logging.getLogger("catalog").error("%s ended: %s", where, failed.exc_value, exc_info=trace)


def is_json() -> bool:
    """Whether the logs are JSON, and so whatever else goes to stderr must be."""
    handlers = logging.getLogger("catalog").handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else redacted(str(value))
