"""Message ↔ record. Pure.

The record's value is the body, its key the message's key, its headers the application's own as UTF-8 text, what the
core carries verbatim, and the fields that Kafka has no place for: ``bf-id``, ``bf-type``, ``bf-content-type``,
``bf-correlation-id``, ``bf-reply-to``, ``bf-ttl``, ``bf-published-at``. The record's time is when it was written and
not when the message was published: a copy with an old time could fall to the retention at once. In dead letters the
record's key names the letter, for compaction, and the message's key is in ``bf-key``. What waits in the ladder has two
headers more, which never leave this plugin.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from math import isfinite
from typing import Any

from busframe.logic import wire
from busframe.logic.dead_letter import read_dead_letter
from busframe.model.message import NO_HEADERS, FrozenHeaders, Headers, Message
from busframe_kafka import ladder

_WAITING = frozenset({ladder.TO, ladder.DUE})

WireHeaders = list[tuple[str, str | bytes | None]]
"""As a client gives them: of some names there may be several."""

OwnHeaders = dict[str, str | bytes | None]
"""As a message has them; made and let go more cheaply than pairs, of which the garbage collector looks at each."""

RECORD_OVERHEAD_BYTES = 128
"""More than what a record and its batch have besides key, value and headers."""

# ---------------------------------------------------------------------------------------------- to the wire


def encode(message: Message, carried: Headers, *, letter: bool = False) -> OwnHeaders:
    """The headers of a stored message.

    Args:
        message: what is stored.
        carried: what the core stores with it.
        letter: the record's key is not the message's.
    """
    headers: OwnHeaders = {wire.ID: message.id.encode()}
    if message.type is not None:
        headers[wire.TYPE] = message.type.encode()
    if message.content_type is not None:
        headers[wire.CONTENT_TYPE] = message.content_type.encode()
    if message.published_at is not None:
        headers[wire.PUBLISHED_AT] = wire.format_time(message.published_at).encode()
    if message.correlation_id is not None:
        headers[wire.CORRELATION_ID] = message.correlation_id.encode()
    if message.reply_to is not None:
        headers[wire.REPLY_TO] = message.reply_to.encode()
    if message.ttl_s is not None:
        headers[wire.TTL] = repr(float(message.ttl_s)).encode()
    if letter and message.key is not None:
        headers[wire.KEY] = message.key.encode()
    for more in (message.headers, carried):
        if more:
            for name, value in more.items():
                headers[name] = value.encode()
    return headers


def waiting(headers: WireHeaders, to: str, due: float) -> WireHeaders:
    """The same headers for a record that waits until *due* (seconds since the epoch) and then goes to *to*."""
    kept = [(name, value) for name, value in headers if name not in _WAITING]
    return [*kept, (ladder.TO, to.encode()), (ladder.DUE, ladder.format_due(due).encode())]


def wire_bytes(headers: OwnHeaders | WireHeaders, key: bytes | None, body: bytes) -> int:
    """What a record takes on its way, rather too much than too little."""
    size = RECORD_OVERHEAD_BYTES + len(body) + (len(key) if key is not None else 0)
    for name, value in headers.items() if isinstance(headers, dict) else headers:
        size += len(name) + 8 + (len(value) if value is not None else 0)
    return size


# ---------------------------------------------------------------------------------------------- from the wire


def position_of(topic: str, partition: int, offset: int, time_ms: int | None) -> str:
    """Names a stored message: the same at every redelivery.

    With the time at which it was stored: in a topic that was deleted and made anew, another one has its offset.
    """
    return f"{time_ms}/{topic}/{partition}/{offset}"


def decode(
    body: bytes | None, key: bytes | None, headers: Iterable[tuple[str, Any]] | None, position: str, time_ms: int | None
) -> tuple[Message, Headers]:
    """A received message and what it carries. Never raises.

    What a foreign program sent is taken as it is, its headers as their text (of several with one name the last), with
    defaults for what it did not say.

    Args:
        body: the record's value.
        key: the record's key; in dead letters it is not the message's.
        headers: the record's.
        position: of the record, from which a foreign message has its id.
        time_ms: the record's time, in milliseconds since the epoch.
    """
    fields: dict[str, str] = {}
    carried: dict[str, str] = {}
    own: dict[str, str] = {}
    if headers:
        places = (fields, carried, own)
        for name, value in headers:
            place, short = _place(name)
            if place < 3:
                places[place][short] = _text(value)
    published_at = wire.parse_time(fields.get(wire.PUBLISHED_AT))
    if published_at is None and wire.ID not in fields:  # of a foreign program, which does not say it anywhere else
        published_at = _from_ms(time_ms)
    return (
        Message(
            body if body is not None else b"",
            fields.get(wire.ID) or _stable_id(position),
            fields.get(wire.TYPE),
            fields.get(wire.CONTENT_TYPE),
            FrozenHeaders(own) if own else NO_HEADERS,  # a handler that changed them would change the retry's copy
            fields.get(wire.KEY) if wire.KEY in fields or key is None else _text(key),
            fields.get(wire.CORRELATION_ID),
            fields.get(wire.REPLY_TO),
            published_at,
            _ttl(fields.get(wire.TTL)),
        ),
        carried or NO_HEADERS,
    )


def decode_letter(
    body: bytes | None, headers: Iterable[tuple[str, Any]] | None, position: str, time_ms: int | None
) -> tuple[Message, Headers]:
    """The same for a dead letter, whose record's key is its name; the message says why it is one."""
    message, carried = decode(body, None, headers, position, time_ms)
    return _with_reason(message, carried), carried


def read_waiting(headers: Iterable[tuple[str, Any]] | None) -> tuple[str | None, float]:
    """(the topic to go to, or None; when it is due, in seconds since the epoch, or 0)."""
    found = {name: _text(value) for name, value in headers or () if name in _WAITING}
    return found.get(ladder.TO), ladder.parse_due(found.get(ladder.DUE))


def without_waiting(headers: Iterable[tuple[str, Any]] | None) -> WireHeaders:
    """The headers without those of the ladder."""
    return [(name, value) for name, value in headers or () if name not in _WAITING]


def _with_reason(message: Message, carried: Headers) -> Message:
    return Message(
        message.body, message.id, message.type, message.content_type, message.headers, message.key,
        message.correlation_id, message.reply_to, message.published_at, message.ttl_s, read_dead_letter(carried),
    )  # fmt: skip


@lru_cache(maxsize=2048)
def _place(name: str) -> tuple[int, str]:
    """Which of fields, carried and own a header belongs to, and its name there; 3: nobody's but ours."""
    for place, headers in enumerate(wire.split_headers([(name, "")])):
        for short in headers:
            return (3 if short in _WAITING else place), short
    return 3, name


def _text(value: bytes | str | None) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return wire.text_of(value)


def _ttl(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        ttl_s = float(text)
    except ValueError:
        return None
    return ttl_s if isfinite(ttl_s) and ttl_s > 0 else None


def _from_ms(time_ms: int | None) -> datetime | None:
    if time_ms is None or time_ms < 0:
        return None
    try:
        return wire.from_timestamp(time_ms / 1000)
    except (ValueError, OverflowError, OSError):
        return None


def _stable_id(position: str) -> str:
    """The same for each delivery of one stored message that has no id."""
    return f"foreign-{sha256(position.encode()).hexdigest()[:32]}"
