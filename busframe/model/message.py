"""What travels."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import NoReturn, TypeAlias

Headers: TypeAlias = Mapping[str, str]


class FrozenHeaders(dict[str, str]):
    """Headers that nobody can change. A dict all the same: a message can be pickled, copied and shown as JSON."""

    __slots__ = ()

    def _refuse(self, *args: object, **named: object) -> NoReturn:
        raise TypeError("the headers of a message cannot be changed: publish a new one with dict(headers) | {...}")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = _refuse
    setdefault = update = _refuse  # pyright: ignore[reportAssignmentType] - overloads, all of which refuse

    def __reduce__(self) -> tuple[type["FrozenHeaders"], tuple[dict[str, str]]]:
        return FrozenHeaders, (dict(self),)


NO_HEADERS: Headers = FrozenHeaders()


def no_headers() -> Headers:
    """The empty mapping, as a default."""
    return NO_HEADERS


@dataclass(frozen=True, slots=True)
class DeadLetterInfo:
    """Why a message is a dead letter.

    Attributes:
        reason: ``attempts``, ``gave-up``, ``rejected``, ``undecodable``, ``unknown-type``, ``expired``,
            ``crash-loop``, ``filtered``, or what a policy of one's own said.
        error_type: the qualified name of the last exception's class.
        error_message: its text, at most 1 KiB.
        stack: its traceback, at most 8 KiB.
        attempts: how many times a handler failed on it.
        first_failed_at: when a handler first failed on it.
        last_failed_at: when it was dead-lettered.
        source: where it came from, in text form.
        handler: the handler that failed, if one ran.
        host: the worker that gave it up.
        replays: how many times it was sent back before.
    """

    reason: str
    error_type: str | None
    error_message: str | None
    stack: str | None
    attempts: int
    first_failed_at: datetime | None
    last_failed_at: datetime
    source: str
    handler: str | None
    host: str
    replays: int


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """A message as it was published, the same on every broker.

    Attributes:
        body: what the codec made of the payload.
        id: names the message; every copy of it (retry, dead letter, replay) keeps it.
        type: the stable name of the payload's type, by which a worker finds the handler.
        content_type: how the body is encoded.
        headers: the application's own; never the framework's ``bf-*`` or a broker's, so they can be published again.
        key: messages of one key keep their order where the source has ``ordering="key"``.
        correlation_id: what it belongs to; messages published by a handler inherit it.
        reply_to: where an answer is expected.
        published_at: when it was published, UTC.
        ttl_s: for how many seconds it was meant to be valid.
        dead: why it is a dead letter, else None.
    """

    body: bytes
    id: str
    type: str | None = None
    content_type: str | None = None
    headers: Headers = field(default_factory=no_headers)
    key: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    published_at: datetime | None = None
    ttl_s: float | None = None
    dead: DeadLetterInfo | None = None

    def __init__(
        self,
        body: bytes,
        id: str,
        type: str | None = None,
        content_type: str | None = None,
        headers: Headers = NO_HEADERS,
        key: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        published_at: datetime | None = None,
        ttl_s: float | None = None,
        dead: DeadLetterInfo | None = None,
    ) -> None:
        # The __init__ of a frozen dataclass takes twice as long, and there is a message for each publish and delivery.
        _body(self, body)
        _id(self, id)
        _type(self, type)
        _content_type(self, content_type)
        _headers(self, headers)
        _key(self, key)
        _correlation_id(self, correlation_id)
        _reply_to(self, reply_to)
        _published_at(self, published_at)
        _ttl_s(self, ttl_s)
        _dead(self, dead)


_body, _id, _type, _content_type, _headers, _key, _correlation_id, _reply_to, _published_at, _ttl_s, _dead = (
    getattr(Message, each.name).__set__ for each in fields(Message)
)
