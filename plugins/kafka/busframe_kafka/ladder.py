"""How a record waits for its time: rung by rung, in topics of fixed dwell, the last seconds in a heap. Pure.

Kafka delays nothing by itself. A delayed record is stored in the topic of the highest rung that is not longer than what
remains, dwells there exactly that long, and is moved on: so each rung's topic is in the order of its times, and its
reader waits for the head alone. The last seconds (at most ``LAST_S``) are not in order: whoever reads them keeps a
heap. The rungs are fixed for ever and are never derived from a policy: a changed policy would strand what waits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

DUE = "bf-due"
"""The header with the time at which a record is due, in seconds since the epoch."""
TO = "bf-to"
"""The header with the topic that a waiting record is for."""

RUNGS: Mapping[str, float] = {"5s": 5.0, "30s": 30.0, "3m": 180.0, "20m": 1200.0, "2h": 7200.0, "12h": 43200.0}
"""The dwell of each rung in seconds, by its name."""
LAST = "last"
"""The topic of what is due within ``LAST_S``."""
LAST_S = 5.0
LONGEST_S = 366 * 86400.0
"""The longest delay; a record of a year is moved on 730 times."""

WAIT = "bf--wait"
RETRY = "--retry"
"""How the names of topics end whose readers keep a heap of the last seconds themselves."""


def rung_of(remaining_s: float) -> str:
    """Where a record goes that is due in so many seconds: a rung's name, or ``LAST``."""
    return next((name for name, dwell_s in reversed(list(RUNGS.items())) if dwell_s <= remaining_s), LAST)


def wait_topic(prefix: str, rung: str) -> str:
    """The topic of a rung, or of ``LAST``."""
    return f"{prefix}{WAIT}-{rung}"


def wait_topics(prefix: str) -> Mapping[str, float]:
    """All topics in which records wait, each with its dwell in seconds; that of ``LAST`` is 0: it is no rung."""
    return {wait_topic(prefix, LAST): 0.0} | {wait_topic(prefix, name): dwell_s for name, dwell_s in RUNGS.items()}


def forwarder_group(prefix: str) -> str:
    """The group of those who move records on."""
    return f"{prefix}{WAIT}"


def format_due(due: float) -> str:
    """The text of a due time."""
    return f"{due:.3f}"


def parse_due(text: str | None) -> float:
    """The due time that a record carries; 0.0 where it says none, or nonsense: it is due."""
    try:
        due = float(text) if text else 0.0
    except ValueError:
        return 0.0
    return due if isfinite(due) else 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of a waiting record next.

    Attributes:
        at: when, in seconds since the epoch.
        topic: where it goes then.
    """

    at: float
    topic: str


def next_step(prefix: str, topic: str, stored_at: float, due: float, to: str, *, held: bool) -> Step:
    """When a record leaves the topic that it waits in, and for where.

    Args:
        prefix: of the names.
        topic: where it waits.
        stored_at: when it was stored there, in seconds since the epoch.
        due: when it is due.
        to: the topic that it is for.
        held: the readers of ``to`` keep a heap of their own, as those of a retry topic do: it goes there for its
            last seconds.
    """
    dwell_s = wait_topics(prefix).get(topic, 0.0)
    if not dwell_s:
        return Step(due, to)
    at = min(stored_at + dwell_s, due)  # a clock that jumped may not hold it up for longer than was asked
    remaining_s = due - at
    if remaining_s >= LAST_S:
        return Step(at, wait_topic(prefix, rung_of(remaining_s)))
    return Step(at, to if held or remaining_s <= 0 else wait_topic(prefix, LAST))
