"""Message ↔ AMQP properties. Pure: the properties to send are made as bytes, the received ones are any object.

The fields stand where any AMQP program looks for them: ``message_id``, ``type``, ``content_type``, ``correlation_id``,
``reply_to``, ``timestamp`` (whole seconds), ``delivery_mode`` 2; the rest in headers: ``bf-key``, ``bf-ttl``,
``bf-published-at`` (the exact time). The application's headers are native strings, what the core carries is verbatim.
There is no ``dedup_key`` on the wire: RabbitMQ does not look for duplicates. And never an ``expiration``: it would end
a retry's delay early.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from math import isfinite
from typing import Any, Protocol

from busframe.errors import InvalidHeader
from busframe.logic import wire
from busframe.logic.dead_letter import broker_made, read_dead_letter
from busframe.model.message import NO_HEADERS, FrozenHeaders, Headers, Message

# The flags of AMQP 0-9-1's basic properties, in the order in which their values follow.
CONTENT_TYPE, HEADERS, DELIVERY_MODE, CORRELATION_ID = 1 << 15, 1 << 13, 1 << 12, 1 << 10
REPLY_TO, MESSAGE_ID, TIMESTAMP, TYPE = 1 << 9, 1 << 7, 1 << 6, 1 << 5

_U16 = struct.Struct(">H").pack
_U32 = struct.Struct(">I").pack
_U64 = struct.Struct(">Q").pack
_PERSISTENT = b"\x02"

_KEY, _TTL, _PUBLISHED_AT = wire.KEY, wire.TTL, wire.PUBLISHED_AT
BROKER_REASONS = {"delivery_limit": "crash-loop", "expired": "expired", "rejected": "rejected", "maxlen": "maxlen"}
"""Why the broker itself dead-lettered, and what busframe calls it."""


class Properties(Protocol):
    """What is read of received properties; pika's ``BasicProperties`` has it. None: not said."""

    content_type: str | None
    headers: Mapping[Any, Any] | None
    correlation_id: str | None
    reply_to: str | None
    message_id: str | None
    timestamp: int | None
    type: str | None


# ---------------------------------------------------------------------------------------------- to the wire


def encode(message: Message, carried: Headers) -> bytes:
    """The property list of a stored message.

    Raises:
        InvalidHeader: a header or field does not fit into AMQP.
    """
    try:
        return _encode(message, carried)
    except (ValueError, AttributeError, struct.error, UnicodeEncodeError) as error:
        raise InvalidHeader(
            f"a header or field cannot travel over AMQP: {error}; names and fields have at most 255 bytes of text",
            message_id=message.id,
        ) from error


def _encode(message: Message, carried: Headers) -> bytes:
    flags = HEADERS | DELIVERY_MODE | MESSAGE_ID
    table: list[bytes] = []
    for name, value in message.headers.items():
        data = value.encode()
        table += (_field(name), _U32(len(data)), data)
    for name, value in carried.items():
        data = value.encode()
        table += (_field(name), _U32(len(data)), data)
    if message.key is not None:
        data = message.key.encode()
        table += (_field(_KEY), _U32(len(data)), data)
    if message.ttl_s is not None:
        data = repr(float(message.ttl_s)).encode()
        table += (_field(_TTL), _U32(len(data)), data)
    published_at = message.published_at
    if published_at is not None:
        data = wire.format_time(published_at).encode()
        table += (_field(_PUBLISHED_AT), _U32(len(data)), data)
    headers = b"".join(table)

    parts: list[bytes] = [b""]
    if message.content_type is not None:
        flags |= CONTENT_TYPE
        parts.append(_short(message.content_type))
    parts += (_U32(len(headers)), headers, _PERSISTENT)
    if message.correlation_id is not None:
        flags |= CORRELATION_ID
        parts.append(_short(message.correlation_id))
    if message.reply_to is not None:
        flags |= REPLY_TO
        parts.append(_short(message.reply_to))
    parts.append(_short(message.id))
    if published_at is not None:
        flags |= TIMESTAMP
        parts.append(_U64(max(0, int(published_at.timestamp()))))
    if message.type is not None:
        flags |= TYPE
        parts.append(_short(message.type))
    parts[0] = _U16(flags)
    return b"".join(parts)


@lru_cache(maxsize=2048)
def _field(name: str) -> bytes:
    """A header's name and the mark of a long string, as they stand in the table."""
    data = name.encode()
    return bytes((len(data),)) + data + b"S"


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data


# ---------------------------------------------------------------------------------------------- from the wire


def decode(properties: Properties, body: bytes, redelivered: bool = False) -> tuple[Message, Headers, int]:
    """A received message, what it carries, and how often the broker has delivered it. Never raises.

    What a foreign program sent is taken as it is, its headers as their text, with defaults for what it did not say.
    """
    fields: dict[str, str] = {}
    carried: dict[str, str] = {}
    own: dict[str, str] = {}
    deliveries = 2 if redelivered else 1
    if properties.headers:
        places = (fields, carried, own)
        for name, value in properties.headers.items():
            if name.__class__ is not str:
                name = wire.text_of(name)
            place = _place(name)
            if place < 3:
                places[place][name] = value if value.__class__ is str else wire.text_of(value)
            elif name in _COUNTS and isinstance(value, int):
                # Quorum queues: absent at the first delivery. Since 4.3 a hand-back raises the second one only.
                deliveries = max(deliveries, 1 + value)
    message_id = properties.message_id
    published_at = wire.parse_time(fields.get(_PUBLISHED_AT)) or _whole_seconds(properties.timestamp)
    return (
        Message(
            body,
            _text(message_id) or _stable_id(properties, body, own),
            _text(properties.type),
            _text(properties.content_type),
            FrozenHeaders(own) if own else NO_HEADERS,  # a handler that changed them would change the retry's copy
            fields.get(_KEY),
            _text(properties.correlation_id),
            _text(properties.reply_to),
            published_at,
            _ttl(fields.get(_TTL)),
        ),
        carried or NO_HEADERS,
        int(deliveries),
    )


_COUNTS = frozenset({"x-delivery-count", "x-acquired-count"})


@lru_cache(maxsize=2048)
def _place(name: str) -> int:
    """Which of fields, carried and own a header belongs to; 3: it is the broker's."""
    for place, headers in enumerate(wire.split_headers([(name, "")])):
        if headers:
            return place
    return 3


def _text(value: Any) -> str | None:
    return value if value is None or value.__class__ is str else wire.text_of(value)


def _ttl(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        ttl_s = float(text)
    except ValueError:
        return None
    return ttl_s if isfinite(ttl_s) and ttl_s > 0 else None


def _whole_seconds(timestamp: object) -> datetime | None:
    if not isinstance(timestamp, int):
        return None
    try:
        return wire.from_timestamp(int(timestamp))
    except (ValueError, OverflowError, OSError):  # milliseconds, or nonsense
        return None


def _stable_id(properties: Properties, body: bytes, own: Mapping[str, str]) -> str:
    """The same for each delivery of one stored message: RabbitMQ has no position, and redelivery changes ``x-…``."""
    said = (
        properties.type,
        properties.content_type,
        properties.correlation_id,
        properties.reply_to,
        properties.timestamp,
    )
    digest = sha256(repr([str(value) for value in said]).encode())
    digest.update(repr(sorted(own.items())).encode())
    digest.update(body)
    return f"foreign-{digest.hexdigest()[:32]}"


# ---------------------------------------------------------------------------------------------- dead letters


def decode_letter(
    properties: Properties, body: bytes, redelivered: bool, source: str, queue: str
) -> tuple[Message, Headers, int]:
    """The same for a dead letter; the message says why it is one.

    Args:
        properties: the received ones.
        body: the received one.
        redelivered: what the broker says.
        source: the text form of the source that the letters are of.
        queue: its queue.
    """
    message, carried, deliveries = decode(properties, body, redelivered)
    carried = letter_carried(carried, properties, source, queue)
    return replace(message, dead=read_dead_letter(carried)), carried, deliveries


def letter_position(message: Message, carried: Headers) -> str:
    """Names a stored letter: the same at each look, another one for a letter of another failure."""
    digest = sha256(message.body)
    digest.update(repr(sorted(carried.items())).encode())
    return f"{message.id}:{digest.hexdigest()[:24]}"


def letter_carried(carried: Headers, properties: Properties, source: str, queue: str) -> Headers:
    """What a dead letter carries, also one that the broker itself made.

    Args:
        carried: of the stored message.
        properties: of the stored message; their ``x-death`` says what the broker did.
        source: the text form of the source that the letters are of.
        queue: its queue.
    """
    if "bf-dead-reason" in carried or not properties.headers:
        return carried
    death = _death(properties.headers.get("x-death"), queue)
    if death is None:
        return carried
    reason = wire.text_of(death.get("reason"))
    at = death.get("time")
    now = wire.format_time(at) if isinstance(at, datetime) else wire.format_time(wire.from_timestamp(0))
    kept = {name: value for name, value in carried.items() if name not in _NOT_IN_LETTERS}
    return {**kept, **broker_made(BROKER_REASONS.get(reason, reason), source, now)}


_NOT_IN_LETTERS = frozenset({wire.ATTEMPT, wire.FIRST_FAILED_AT, wire.EXPIRES_AT})


def _death(deaths: object, queue: str) -> Mapping[str, object] | None:
    """The entry of the queue that dead-lettered it; a message that was delayed has entries of the cascade as well."""
    entries: Iterable[object] = deaths if isinstance(deaths, (list, tuple)) else ()
    return next((entry for entry in entries if isinstance(entry, Mapping) and entry.get("queue") == queue), None)
