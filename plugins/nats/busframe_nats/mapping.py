"""Message ↔ NATS message. Pure.

The payload is the body. The application's headers are native ones, so that foreign programs see and set them; all that
busframe adds is packed into one header, ``Bf``, as JSON: each native header costs the server and both clients. It holds
the message's fields by short names and, in ``bf``, what the core carries verbatim. ``Nats-Msg-Id`` names the write and
not the message; the server drops a second one within its window.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from math import isfinite
from typing import Any

from busframe.errors import InvalidHeader
from busframe.logic import wire
from busframe.model.message import NO_HEADERS, FrozenHeaders, Headers, Message

PACKED = "Bf"
MAX_HEADER_BYTES = 64 * 1024 - 1
"""What the server takes of headers (its error 10097)."""

_WITH_LINES = len(b"NATS/1.0\r\n\r\n")
_BEFORE_PACKED = b"\r\nBf: "
_escape = json.encoder.encode_basestring_ascii
_parse = json.JSONDecoder().raw_decode

# ---------------------------------------------------------------------------------------------- to the wire


def encode(message: Message, carried: Headers, dedup_key: str) -> bytes:
    """The headers of a stored message, as they stand on the wire.

    Raises:
        InvalidHeader: a header cannot travel.
    """
    packed = f'"id":{_escape(message.id)}{_kind(message.type, message.content_type)}'
    if message.key is not None:
        packed += f',"key":{_escape(message.key)}'
    if message.correlation_id is not None:
        packed += f',"corr":{_escape(message.correlation_id)}'
    if message.reply_to is not None:
        packed += f',"reply":{_escape(message.reply_to)}'
    if message.published_at is not None:
        packed += f',"at":{round(message.published_at.timestamp() * 1e6)}'
    if message.ttl_s is not None:
        packed += f',"ttl":{float(message.ttl_s)!r}'
    if carried:
        inner = ",".join([f"{_escape(name)}:{_escape(value)}" for name, value in carried.items()])
        packed += f',"bf":{{{inner}}}'
    own = "".join([f"{name}: {value}\r\n" for name, value in message.headers.items()]) if message.headers else ""
    text = f"NATS/1.0\r\nNats-Msg-Id: {dedup_key or message.id}\r\n{PACKED}: {{{packed}}}\r\n{own}\r\n"
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidHeader(f"a header cannot travel over NATS: {error}", message_id=message.id) from error
    if data.count(b"\n") != 4 + len(message.headers) or data.count(b"\r") != 4 + len(message.headers):
        raise InvalidHeader("a header with a line break cannot travel over NATS", message_id=message.id)
    return data


@lru_cache(maxsize=1024)
def _kind(type: str | None, content_type: str | None) -> str:
    """What most messages of a program have in common."""
    said = "" if type is None else f',"type":{_escape(type)}'
    return said if content_type is None else f'{said},"ct":{_escape(content_type)}'


def with_schedule(headers: bytes, at: str, target: str) -> bytes:
    """The same headers of a message that the server is to move at a time.

    Args:
        headers: those of ``encode``.
        at: RFC 3339, UTC.
        target: the subject that it goes to then.
    """
    return headers[:-2] + f"Nats-Schedule: @at {at}\r\nNats-Schedule-Target: {target}\r\n\r\n".encode()


# ---------------------------------------------------------------------------------------------- from the wire


def split(raw: bytes | None) -> list[tuple[str, str]]:
    """The names and values of native headers. Never raises: what is no header is left out.

    ``NATS/1.0\\r\\nName: value\\r\\n\\r\\n``
    """
    if not raw or len(raw) <= _WITH_LINES:
        return []
    lines = raw.decode("utf-8", "replace").split("\r\n")
    found: list[tuple[str, str]] = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found.append((name.strip(), value.strip()))
    return found


def status(raw: bytes | None) -> tuple[int, str]:
    """The code and the text of what the server itself says; (0, ""): it is no such message.

    ``NATS/1.0 409 Consumer Deleted\\r\\n…``
    """
    if not raw or raw[8:9] != b" ":
        return 0, ""
    code, _, text = raw[9 : raw.find(b"\r\n")].decode("utf-8", "replace").partition(" ")
    return (int(code) if code.isdigit() else 0), text


def decode(raw: bytes | None, body: bytes, stream: str, seq: int) -> tuple[Message, Headers]:
    """A received message, and what it carries. Never raises.

    What a foreign program sent is taken as it is, with defaults for what it did not say.

    Args:
        raw: its headers, as on the wire.
        body: its payload.
        stream: where it is stored; with its place there this makes the id of a message that has none.
        seq: its place there.
    """
    own: Mapping[str, str] | None = None
    packed: Mapping[str, Any] = {}
    carried: Mapping[str, str] | None = None
    if raw:
        packed = _read_alone(raw) or {}
        if not packed:
            packed, carried, own = _read(raw)
    get = packed.get
    inner = get("bf")
    if isinstance(inner, dict):
        carried = {**(carried or {}), **{name: value for name, value in inner.items() if value.__class__ is str}}
    texts = [get("id"), get("type"), get("ct"), get("key"), get("corr"), get("reply")]
    for value in texts:
        if value is not None and value.__class__ is not str:
            texts = [each if each is None or each.__class__ is str else wire.text_of(each) for each in texts]
            break
    id, kind, content_type, key, correlation_id, reply_to = texts
    at, ttl = get("at"), get("ttl")
    return (
        Message(
            body,
            id or _stable_id(stream, seq),
            kind,
            content_type,
            FrozenHeaders(own) if own else NO_HEADERS,  # a handler that changed them would change the copies
            key,
            correlation_id,
            reply_to,
            None if at is None else _time(at),
            None if ttl is None else _ttl(ttl),
        ),
        carried or NO_HEADERS,
    )


def _read_alone(raw: bytes) -> Mapping[str, Any] | None:
    """The packed header of a message of ours that has no others, which most are; None: read it slowly."""
    begin = raw.find(_BEFORE_PACKED)
    if begin < 0 or raw.count(b"\r\n", 0, begin) != 1 or raw.find(b"\r\n", begin + 2) != len(raw) - 4:
        return None
    return _unpack(raw[begin + len(_BEFORE_PACKED) : -4].decode("utf-8", "replace"))


def _read(raw: bytes) -> tuple[Mapping[str, Any], dict[str, str], dict[str, str]]:
    """(what is packed or stands in headers of its own, what is carried in headers of its own, the application's)"""
    own: dict[str, str] = {}
    packed: Mapping[str, Any] = {}
    carried: dict[str, str] = {}
    fields: dict[str, str] = {}
    for name, value in split(raw):
        place, short = _place(name)
        if place == _OWN:
            own[name] = f"{own[name]}, {value}" if name in own else value
        elif place == _PACKED:
            packed = _unpack(value)
        elif place == _FIELD:
            fields[short] = value
        elif place == _CARRIED:
            carried[short] = value
    if not packed and fields:
        packed = {short: fields[name] for short, name in _SHORT.items() if name in fields}
    return packed, carried, own


_SHORT = {
    "id": wire.ID,
    "type": wire.TYPE,
    "ct": wire.CONTENT_TYPE,
    "key": wire.KEY,
    "corr": wire.CORRELATION_ID,
    "reply": wire.REPLY_TO,
    "at": wire.PUBLISHED_AT,
    "ttl": wire.TTL,
}
_OWN, _PACKED, _FIELD, _CARRIED, _NOBODYS = range(5)


@lru_cache(maxsize=2048)
def _place(name: str) -> tuple[int, str]:
    """What a native header is, and its name there. ``bf-*`` ones are of programs that cannot pack."""
    if name == PACKED:
        return _PACKED, name
    for place, headers in zip((_FIELD, _CARRIED, _OWN), wire.split_headers([(name, "")]), strict=True):
        for short in headers:
            return place, short
    return _NOBODYS, name


def _unpack(text: str) -> Mapping[str, Any]:
    try:
        packed, _ = _parse(text)
    except (ValueError, RecursionError):
        return {}
    return packed if isinstance(packed, dict) else {}


def _time(value: Any) -> datetime | None:
    if value.__class__ is int:  # in microseconds: text takes ten times as long, at both ends
        try:
            return datetime.fromtimestamp(value / 1e6, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    return wire.parse_time(value) if isinstance(value, str) else None


def _ttl(value: object) -> float | None:
    try:
        ttl_s = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return ttl_s if isfinite(ttl_s) and ttl_s > 0 else None


def _stable_id(stream: str, seq: int) -> str:
    """The same for each delivery of one stored message that has no id."""
    return f"foreign-{sha256(f'{stream}/{seq}'.encode()).hexdigest()[:32]}"


# ---------------------------------------------------------------------------------------------- deliveries


def read_reply(reply: bytes) -> tuple[int, int, str]:
    """(deliveries, place in the stream, position) from the subject of acknowledgements.

    ``$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>``, and since server 2.10
    possibly with domain and account before the stream, and something random behind (ADR-15). The position has the time
    at which the message was stored: in a stream that was deleted and made anew, another one has its place.
    """
    parts = reply.decode("utf-8", "replace").split(".")
    at = 4 if len(parts) < 11 else 6
    try:
        return int(parts[at]), int(parts[at + 1]), f"{parts[at + 1]}.{parts[at + 3]}"
    except (ValueError, IndexError):
        return 1, 0, ""
