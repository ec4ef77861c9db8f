import json
import logging
import re

from busframe.cli.logs import JsonLines, Lines


def record(message: str, *, error: BaseException | None = None, **extra: object) -> logging.LogRecord:
    """A record as a logger would make it."""
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.getLogger("busframe.worker").makeRecord(
        "busframe.worker", logging.INFO, "file.py", 1, message, (), info, extra=extra
    )


def test_text_is_one_line() -> None:
    """A record is one line, with its extra fields, whatever line feeds are in it."""
    line = Lines().format(record("two\nlines", source="emails", attempt=2))
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    busframe\.worker  two\\nlines  source=emails attempt=2", line)
    assert Lines().format(record("plain")).endswith("  plain")


def test_traceback_is_below() -> None:
    """An exception's traceback follows its line."""
    assert Lines().format(record("failed", error=ValueError("x"))).splitlines()[-1] == "ValueError: x"


def test_json_is_one_object() -> None:
    """A record is one JSON object with its extra fields, which cannot hide the others."""
    line = JsonLines().format(record("two\nlines", error=ValueError("x"), source="emails", level="mine", kind=object))
    assert "\n" not in line
    data = json.loads(line)
    assert (data["event"], data["level"], data["logger"]) == ("two\nlines", "info", "busframe.worker")
    assert (data["source"], data["kind"]) == ("emails", "<class 'object'>")
    assert data["error"].endswith("ValueError: x")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", data["time"])
