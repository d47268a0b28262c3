"""The server's log: a message and fields a line, as text or as JSON. It holds no content of requests."""

import json
import logging
import math
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from proteus_cli.errors import printable

LOG_INTERVAL_S = 10.0
"""Between log lines of one kind, where that kind may happen often."""


class LogFormat(StrEnum):
    """How lines of the log look."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogStream(Protocol):
    """A stream for log lines."""

    def write(self, text: str, /) -> Any: ...

    def flush(self) -> Any: ...


def set_up(level: LogLevel, style: LogFormat, stream: LogStream, *, beside_view: bool = False) -> None:
    """Log to ``stream`` from now on: our lines of at least ``level``, warnings and errors of libraries.

    Text ``beside_view``, in the terminal that shows the live view, is brief, unless it is of level debug.
    """
    handler = logging.StreamHandler(stream)
    text = BriefLines() if beside_view and level is not LogLevel.DEBUG else TextLines()
    handler.setFormatter(JsonLines() if style is LogFormat.JSON else text)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("proteus").setLevel(level.upper())


def fields(**named: Any) -> dict[str, Any]:
    """The ``extra`` of a log call whose line has these fields."""
    return {"fields": named}


class JsonLines(logging.Formatter):
    """``ts`` (RFC 3339), ``level``, ``logger``, ``message``, the fields, and ``exception`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:  # it quotes the name of a file that is no UTF-8
            return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """Lines for people: ``time LEVEL logger: message name=value …``."""

    def format(self, record: logging.LogRecord) -> str:
        line = self._line(record, printable(record.getMessage()).replace("\n", "\\n"))  # one, whatever it quotes
        if record.exc_info:
            line = f"{line}\n{printable(self.formatException(record.exc_info))}"
        return line

    def _line(self, record: logging.LogRecord, message: str) -> str:
        named = "".join(f" {name}={_shown(value)}" for name, value in getattr(record, "fields", {}).items())
        return f"{_time(record)} {record.levelname} {record.name}: {message}{named}"


class BriefLines(TextLines):
    """For people who see the live view below: ``time message``, by the local clock, with the level of what is wrong."""

    def _line(self, record: logging.LogRecord, message: str) -> str:
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        return f"{datetime.fromtimestamp(record.created).astimezone():%H:%M:%S} {level}{message}"


class LogRateLimiter:
    """Limits log lines about what may happen often to one per kind and ``every_s``.

    There must be few kinds, as all are remembered.
    """

    def __init__(self, clock: Callable[[], float], every_s: float = LOG_INTERVAL_S) -> None:
        self._clock, self._every_s = clock, every_s
        self._kinds: dict[Hashable, tuple[float, int]] = {}  # when the next line is due, occurrences since the last

    def occurred(self, kind: Hashable) -> int:
        """Count an occurrence. Returns how many there were since the last line, if a line is due; else 0."""
        now_s = self._clock()
        due_s, occurrences = self._kinds.get(kind, (-math.inf, 0))
        if now_s < due_s:
            self._kinds[kind] = due_s, occurrences + 1
            return 0
        self._kinds[kind] = now_s + self._every_s, 0
        return occurrences + 1


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.isprintable() and not set(value) & set(' "='):
        return value
    return printable(msgspec.json.encode(value, enc_hook=str).decode())
