"""The headers that busframe writes beside the application's own, and how a stored message's headers are told apart.

``bf-*`` headers are of two kinds. *Fields* are parts of the ``Message`` for which a broker may have no property of its
own; the transport maps them. *Carried* ones are the core's state of one stored copy (attempts, expiry, failure record):
the transport keeps them verbatim and never looks inside.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

PREFIX = "bf-"

ID = "bf-id"
KEY = "bf-key"
TTL = "bf-ttl"
PUBLISHED_AT = "bf-published-at"
TYPE = "bf-type"
CONTENT_TYPE = "bf-content-type"
CORRELATION_ID = "bf-correlation-id"
REPLY_TO = "bf-reply-to"
FIELDS = frozenset({ID, KEY, TTL, PUBLISHED_AT, TYPE, CONTENT_TYPE, CORRELATION_ID, REPLY_TO})

ATTEMPT = "bf-attempt"
FIRST_FAILED_AT = "bf-first-failed-at"
EXPIRES_AT = "bf-expires-at"
REPLAYS = "bf-replays"
DEAD_PREFIX = "bf-dead-"

_BROKERS = frozenset({"x-death", "x-delivery-count", "x-acquired-count"})
_ROUTING = frozenset({"CC", "BCC"})
"""RabbitMQ routes copies by these two, in capitals only, and closes the channel where they are text."""
_BROKERS_PREFIXES = ("x-first-death-", "x-last-death-", "x-opt-", "nats-")


def is_brokers_own(name: str) -> bool:
    """Whether a header is one that a broker writes itself: never shown to the application, never accepted from it."""
    lowered = name.lower()
    return name in _ROUTING or lowered in _BROKERS or lowered.startswith(_BROKERS_PREFIXES)


def split_headers(stored: Iterable[tuple[str, str]]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Tell a stored message's headers apart.

    A ``bf-*`` name counts in any case, and comes out in small letters: Go's libraries send ``Bf-Id``.

    Returns:
        (fields, carried, the application's own); a broker's own headers are in none of them.
    """
    fields: dict[str, str] = {}
    carried: dict[str, str] = {}
    own: dict[str, str] = {}
    for name, value in stored:
        lowered = name.lower()
        if lowered.startswith(PREFIX):
            (fields if lowered in FIELDS else carried)[lowered] = value
        elif not is_brokers_own(name):
            own[name] = value
    return fields, carried, own


def text_of(value: object) -> str:
    """The canonical text of a header value that a foreign program sent typed: it is delivered, never refused.

    Booleans are ``true`` and ``false``, None is empty, times are RFC 3339, bytes are UTF-8 with U+FFFD for what is not,
    also in text. What has no text at all (an endless list, a number of 5000 digits) is its type: ``<int>``.
    """
    try:
        return _text_of(value)
    except Exception:  # a foreign value may fail in any way, and is no reason to hold its message up
        return f"<{type(value).__name__}>"


def _text_of(value: object) -> str:
    match value:
        case str():
            return value if value.isascii() else value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))  # a subclass may print itself otherwise: pika's long is '3L'
        case bytes() | bytearray() | memoryview():
            return bytes(value).decode("utf-8", "replace")
        case datetime():
            return format_time(value)
        case Mapping():
            return ", ".join(f"{_text_of(key)}={_text_of(item)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(map(_text_of, value))
        case _:
            return _text_of(str(value))


def format_time(at: datetime) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    if at.tzinfo is not UTC:
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    second = _second(at.year, at.month, at.day, at.hour, at.minute, at.second)
    return "%s.%06dZ" % (second, at.microsecond)  # noqa: UP031 - an f-string takes longer


@lru_cache(maxsize=64)  # of all messages that are published now, this part is the same
def _second(*parts: int) -> str:
    # Not by strftime, of which nobody could read '1-01-01' again.
    return "%04d-%02d-%02dT%02d:%02d:%02d" % parts  # noqa: UP031


def parse_time(text: str | None) -> datetime | None:
    """The time that ``format_time`` wrote, or any ISO 8601 one; None where it is none."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError:  # 0001-01-01 with an offset: foreign nonsense is no reason to fail
        return None


def from_timestamp(seconds: float) -> datetime:
    """A time from seconds since the epoch, UTC."""
    return datetime.fromtimestamp(seconds, UTC)
