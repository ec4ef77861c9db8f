"""The failure record that a dead letter carries, and how it is read (semantics A.4)."""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

from busframe.logic.wire import ATTEMPT, DEAD_PREFIX, EXPIRES_AT, FIRST_FAILED_AT, REPLAYS, format_time, parse_time
from busframe.model.message import DeadLetterInfo, Headers

MAX_MESSAGE_BYTES = 1024
MAX_STACK_BYTES = 8 * 1024
MAX_NAME_BYTES = 512

UNSTATED = "unstated"
"""The reason of a policy that gave an empty one."""

_CUT = "..."
_CHARACTER = re.compile(r"\\ud[89ab]\w\w\\ud[c-f]\w\w|\\u\w{4}|\\?.")
"""One character as JSON escapes it; beyond U+FFFF as two surrogates, which may not be parted."""

_REASON = DEAD_PREFIX + "reason"
_ERROR_TYPE = DEAD_PREFIX + "error-type"
_ERROR_MESSAGE = DEAD_PREFIX + "error-message"
_STACK = DEAD_PREFIX + "stack"
_ATTEMPTS = DEAD_PREFIX + "attempts"
_FIRST_FAILED_AT = DEAD_PREFIX + "first-failed-at"
_LAST_FAILED_AT = DEAD_PREFIX + "last-failed-at"
_SOURCE = DEAD_PREFIX + "source"
_HANDLER = DEAD_PREFIX + "handler"
_HOST = DEAD_PREFIX + "host"
_REPLAYS = DEAD_PREFIX + "replays"


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """What is known when a message is given up.

    Attributes:
        reason: one of those of semantics A.4, or a policy's own.
        error_type: the qualified name of the exception's class, or None.
        error_message: its text, or what happened.
        stack: its traceback, or None.
        attempts: how often a handler failed on it.
        now: RFC 3339, UTC.
        source: text form.
        handler: name, or None where none ran.
        host: the worker's.
    """

    reason: str
    error_type: str | None
    error_message: str | None
    stack: str | None
    attempts: int
    now: str
    source: str
    handler: str | None
    host: str


def dead_letter_headers(carried: Headers, record: FailureRecord) -> Headers:
    """What the dead letter carries: the record, without attempt and expiry, so that a replay begins afresh.

    Header-safe text whatever the error says: ASCII with JSON's escapes. At most 16 KiB in all.
    """
    kept = {
        name: value
        for name, value in carried.items()
        if name not in (ATTEMPT, FIRST_FAILED_AT, EXPIRES_AT) and not name.startswith(DEAD_PREFIX)
    }
    failed_first = parse_time(carried.get(FIRST_FAILED_AT)) if record.attempts > 1 else None
    parts = {
        _REASON: _escape(record.reason, MAX_NAME_BYTES) or UNSTATED,
        _ERROR_TYPE: record.error_type and _escape(record.error_type, MAX_NAME_BYTES),
        _ERROR_MESSAGE: record.error_message and _escape(record.error_message, MAX_MESSAGE_BYTES),
        _STACK: record.stack and _escape(record.stack, MAX_STACK_BYTES, keep_end=True),
        _ATTEMPTS: str(record.attempts),
        _FIRST_FAILED_AT: format_time(failed_first) if failed_first else (record.now if record.attempts else None),
        _LAST_FAILED_AT: record.now,
        _SOURCE: record.source,
        _HANDLER: record.handler and _escape(record.handler, MAX_NAME_BYTES),
        _HOST: _escape(record.host, MAX_NAME_BYTES),
        _REPLAYS: str(_number(carried.get(REPLAYS))),
    }
    return kept | {name: value for name, value in parts.items() if value}


def shrink(carried: Headers) -> Headers | None:
    """The same record for a broker that found it too large: without its stack, then without the error's text.

    Returns:
        A smaller one, or None where there is nothing left to leave out.
    """
    for name in (_STACK, _ERROR_MESSAGE):
        if name in carried:
            return {key: value for key, value in carried.items() if key != name}
    return None


def broker_made(reason: str, source: str, now: str) -> Headers:
    """The record of a letter that the broker itself made, which has no more than its reason."""
    return {_REASON: reason, _ATTEMPTS: "0", _LAST_FAILED_AT: now, _SOURCE: source, _HOST: "broker", _REPLAYS: "0"}


def read_dead_letter(carried: Mapping[str, str]) -> DeadLetterInfo | None:
    """Why a stored message is a dead letter; None where it is none. Nonsense in a field never raises."""
    if _REASON not in carried:
        return None
    return DeadLetterInfo(
        reason=_unescape(carried[_REASON]) or "",
        error_type=_unescape(carried.get(_ERROR_TYPE)),
        error_message=_unescape(carried.get(_ERROR_MESSAGE)),
        stack=_unescape(carried.get(_STACK)),
        attempts=_number(carried.get(_ATTEMPTS)),
        first_failed_at=parse_time(carried.get(_FIRST_FAILED_AT)),
        last_failed_at=parse_time(carried.get(_LAST_FAILED_AT)) or datetime.fromtimestamp(0, UTC),
        source=carried.get(_SOURCE, ""),
        handler=_unescape(carried.get(_HANDLER)),
        host=_unescape(carried.get(_HOST)) or "",
        replays=_number(carried.get(_REPLAYS)),
    )


def attempts_of(carried: Mapping[str, str]) -> int:
    """The number of attempts in a dead letter's record."""
    return _number(carried.get(_ATTEMPTS))


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 9 else 0


def _escape(text: str, limit: int, *, keep_end: bool = False) -> str:
    """JSON's escapes, cut to so many bytes between two characters; blanks at the edges are dropped."""
    short = text[-limit:] if keep_end else text[:limit]  # an escaped character has at least one byte
    escaped = json.dumps(short)[1:-1].strip()
    if len(short) == len(text) and len(escaped) <= limit:
        return escaped
    characters = _CHARACTER.findall(escaped)
    if keep_end:
        characters.reverse()
    count = bisect_right(list(accumulate(map(len, characters))), limit - len(_CUT))
    kept = characters[:count]
    return f"{_CUT}{''.join(reversed(kept))}" if keep_end else f"{''.join(kept)}{_CUT}"


def _unescape(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
