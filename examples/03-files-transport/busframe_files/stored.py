"""How a message is stored. Pure: text and bytes, no files.

A file's name is ``<due>.<deliveries>.<position>``: when it may be handed out (microseconds since the epoch), how often
it was, and what names it for good. So a sorted listing is the order of delivery, and delivering is a rename.

Its first line is ``busframe`` and a JSON object of all headers, those of the framework as well; the rest is the body.
A file of any other name or content is a foreign message, and is taken as it is: ``mv order.json shop/emails/ready/``.
"""

import json
import re
from math import isfinite
from typing import NamedTuple, Self
from uuid import uuid4

from busframe.logic import wire
from busframe.model.message import FrozenHeaders
from busframe.spi import Headers, Message

MAGIC = b"busframe "
LATEST_US = 10**16 - 1  # what sixteen digits hold: the year 2286
_NAME = re.compile(r"(\d{16})\.(\d+)\.(.+)")


class Name(NamedTuple):
    """The name of a stored message's file; its text sorts by ``due_us``."""

    due_us: int
    deliveries: int
    position: str

    def __str__(self) -> str:
        return f"{self.due_us:016d}.{self.deliveries}.{self.position}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What a name says; None: a foreign program chose it."""
        found = _NAME.fullmatch(text)
        return cls(int(found[1]), int(found[2]), found[3]) if found else None


def new_position(stored_us: int) -> str:
    """A position that no other message has; positions sort by the time at which they were stored."""
    return f"{stored_us:016d}-{uuid4().hex[:12]}"


def encode(message: Message, carried: Headers) -> bytes:
    """A file's content. ``carried`` is kept verbatim: the core alone knows what it means."""
    fields = {
        wire.ID: message.id,
        wire.TYPE: message.type,
        wire.CONTENT_TYPE: message.content_type,
        wire.KEY: message.key,
        wire.CORRELATION_ID: message.correlation_id,
        wire.REPLY_TO: message.reply_to,
        wire.PUBLISHED_AT: message.published_at and wire.format_time(message.published_at),
        wire.TTL: message.ttl_s and repr(message.ttl_s),
    }
    headers = {name: value for name, value in fields.items() if value is not None} | {**message.headers, **carried}
    return MAGIC + json.dumps(headers).encode() + b"\n" + message.body


def decode(content: bytes, position: str) -> tuple[Message, Headers]:
    """A message and what it carries. Never raises: whatever a foreign program stored is delivered, with defaults."""
    headers: dict[str, object] = {}
    body = content
    if content.startswith(MAGIC):
        line, _, rest = content.removeprefix(MAGIC).partition(b"\n")
        try:
            headers, body = dict(json.loads(line)), rest
        except (ValueError, TypeError, RecursionError):  # it only looks like one of ours
            pass
    fields, carried, own = wire.split_headers((name, wire.text_of(value)) for name, value in headers.items())
    message = Message(
        body,
        fields.get(wire.ID) or position,
        fields.get(wire.TYPE),
        fields.get(wire.CONTENT_TYPE),
        FrozenHeaders(own),  # what a handler changed would be in the next attempt's copy
        fields.get(wire.KEY),
        fields.get(wire.CORRELATION_ID),
        fields.get(wire.REPLY_TO),
        wire.parse_time(fields.get(wire.PUBLISHED_AT)),
        _seconds(fields.get(wire.TTL)),
    )
    return message, carried


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if isfinite(seconds) and seconds > 0 else None
