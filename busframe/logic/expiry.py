"""How long a message is valid."""

from collections.abc import Mapping

from busframe.logic.wire import EXPIRES_AT, format_time, from_timestamp, parse_time


def expires_at(now: float, delay_s: float, ttl_s: float) -> str:
    """What a message that is valid for ``ttl_s`` after its delay carries. Absurdly long is as good as for ever."""
    return format_time(from_timestamp(min(now + delay_s + ttl_s, 253402300799.0)))


def is_expired(carried: Mapping[str, str], now: float) -> bool:
    """Whether a stored message is no longer valid. One without, or with an unreadable, expiry is valid for ever."""
    at = parse_time(carried.get(EXPIRES_AT))
    return at is not None and at.timestamp() <= now
