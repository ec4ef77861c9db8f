"""How often a message has failed, and how often the broker has delivered it: two different things (semantics A.3).

``attempt`` is failures recorded + 1. A failure is recorded in the stored copy, as ``bf-attempt: <n> <source>``; one
that another source recorded does not count here. ``deliveries`` is the broker's count: a message that was prefetched
and handed back by a clean restart has many, and no failure.
"""

from collections.abc import Mapping
from enum import Enum

from busframe.logic.wire import ATTEMPT, FIRST_FAILED_AT
from busframe.model.message import Headers

SUSPECT_FROM = 3
"""So many deliveries without a recorded failure, at least, make a suspect: it may be what kills the process."""


def failures_recorded(carried: Mapping[str, str], source: str) -> int:
    """How many failures of this source's handlers are recorded in a stored message."""
    text = carried.get(ATTEMPT)
    if text is None:
        return 0
    count, _, where = text.partition(" ")
    if where != source or not count.isascii() or not count.isdigit() or len(count) > 9:
        return 0
    return int(count)


def record_failure(carried: Headers, source: str, failures: int, now: str) -> Headers:
    """What a stored message carries after so many failures of this source's handlers."""
    first = carried.get(FIRST_FAILED_AT, now) if failures_recorded(carried, source) else now
    return {**carried, ATTEMPT: f"{failures} {source}", FIRST_FAILED_AT: first}


class Verdict(Enum):
    """What a delivery count says about a message."""

    CLEAR = "clear"
    SUSPECT = "suspect"
    """It may have killed a process: it runs alone, with a prefetch of 1."""
    CRASH_LOOP = "crash-loop"
    """It came back once too often: a dead letter."""


def judge_deliveries(deliveries: int, max_deliveries: int, *, max_attempts: int, attempt_exact: bool) -> Verdict:
    """The crash guard.

    The first delivery beyond ``max_deliveries`` still runs, alone: only when that one comes back as well is it a crash
    loop. So twenty clean restarts with a full prefetch kill no healthy message. And since brokers count what was only
    fetched ahead and handed back, a message is not suspected before half of the deliveries that it may have.

    Args:
        deliveries: the broker's count since the copy was stored or its last failure recorded.
        max_deliveries: the setting. Where attempts are deliveries it is at least ``max_attempts`` + 10; elsewhere a
            failed attempt begins the count anew, so that any number of attempts goes with it.
        max_attempts: of the policies of the source.
        attempt_exact: False where a failed attempt is a delivery as well (NATS), so that many are normal.
    """
    limit = max_deliveries if attempt_exact else max(max_deliveries, max_attempts + 10)
    if deliveries > limit + 1:
        return Verdict.CRASH_LOOP
    if deliveries >= (max(SUSPECT_FROM, limit // 2) if attempt_exact else max_attempts + SUSPECT_FROM):
        return Verdict.SUSPECT
    return Verdict.CLEAR
