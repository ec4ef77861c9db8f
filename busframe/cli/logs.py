"""Logging, which only the command line configures; the library never does."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(style: Literal["text", "json"]) -> None:
    """Write the log to standard error, from INFO on: lines for people, or one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if style == "json" else Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


class Lines(logging.Formatter):
    """``12:00:00 INFO    busframe.worker  handled  source=emails attempt=2``, and a traceback below if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever line feeds are in the text."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        text = record.getMessage()
        # What the text says already, or what is not known, would only make the line longer.
        new = {name: value for name, value in extra(record).items() if value is not None and str(value) not in text}
        fields = " ".join(f"{name}={value}" for name, value in new.items())
        line = f"{time} {record.levelname:<7} {record.name}  {text}" + (f"  {fields}" if fields else "")
        line = line.replace("\r", "\\r").replace("\n", "\\n")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event, the record's extra fields, and ``error`` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON; what it has no word for is text."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in extra(record).items() if name not in line}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def extra(record: logging.LogRecord) -> dict[str, object]:
    """What was given as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
