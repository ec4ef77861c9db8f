"""The way out: from a payload to a confirmed message."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from os import urandom
from typing import Any, TypeAlias

from busframe.codecs import Codecs
from busframe.errors import (
    BusframeError,
    ClosedError,
    EncodeFailed,
    InvalidHeader,
    MessageTooLarge,
    PublishError,
    PublishFailed,
    PublishOutcomeUnknown,
    Unsupported,
)
from busframe.logic.batching import batches
from busframe.logic.expiry import expires_at
from busframe.logic.headers import check_message
from busframe.logic.size import message_bytes
from busframe.logic.wire import EXPIRES_AT
from busframe.model.delivery import Outgoing
from busframe.model.destination import Destination, Queue, Topic
from busframe.model.message import NO_HEADERS, FrozenHeaders, Headers, Message
from busframe.model.types import type_ids
from busframe.spi.transport import Transport

PublishMiddleware: TypeAlias = Callable[
    [Destination[Any], Message, Callable[[Message], Awaitable[None]]], Awaitable[None]
]
"""Called around each publish: (destination, message, send). It may change the message, or not send it."""

WINDOW_MESSAGES = 1000
WINDOW_BYTES = 16 * 1024 * 1024

_PUBLISHED_TO = (Queue, Topic)  # a union would be made anew for each message
_BUILTIN = (bytes, bytearray, memoryview, str, dict, list, tuple, int, float, bool, type(None))


class Outlet:
    """Prepares messages and sends them through a transport; made when a bus opens."""

    def __init__(
        self,
        transport: Transport,
        codecs: Codecs,
        middleware: Sequence[PublishMiddleware],
        clock: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._codecs = codecs
        self._middleware = tuple(middleware)
        self._clock = clock
        self._types: dict[tuple[tuple[type, ...], type], str | None] = {}
        self.closed = False

    def prepare(
        self,
        to: Destination[Any],
        body: object,
        key: str | None,
        headers: Headers | None,
        delay_s: float,
        ttl_s: float | None,
        id: str | None,
        correlation_id: str | None,
        reply_to: str | None,
    ) -> Outgoing:
        """A message that is ready to be sent.

        Raises:
            EncodeFailed: the body is not of the destination's types, or no codec takes it.
            InvalidHeader: a header or field could not travel unchanged.
            MessageTooLarge: it is over the limit.
            Unsupported: the transport cannot delay so long.
        """
        if not isinstance(to, _PUBLISHED_TO):
            raise EncodeFailed(f"{to!r} is not a queue or a topic: messages are published to those")
        message_id = urandom(16).hex() if id is None else id
        now = self._clock()
        if isinstance(body, Message):
            message = replace(
                body,
                id=message_id,
                headers=_frozen(body.headers if headers is None else headers, message_id),
                key=body.key if key is None else key,
                correlation_id=correlation_id or body.correlation_id,
                reply_to=reply_to,
                published_at=datetime.fromtimestamp(now, UTC),
                ttl_s=ttl_s,
                dead=None,
            )
        else:
            kind = self._types.get((to.types, type(body)), "")
            if kind == "":
                kind = self._type_of(to, body, message_id)
                if not isinstance(body, dict):  # of two dicts each may be of another TypedDict
                    self._types[to.types, type(body)] = kind
            try:
                content, content_type = self._codecs.encode(body)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a serializer may raise anything; nothing waits, so it is no cancellation
                raise EncodeFailed(
                    f"{type(body).__name__} cannot be encoded for {to}: {error}", message_id=message_id
                ) from error
            message = Message(
                content,
                message_id,
                kind,
                content_type,
                NO_HEADERS if not headers else _frozen(headers, message_id),
                key,
                correlation_id,
                reply_to,
                datetime.fromtimestamp(now, UTC),
                ttl_s,
            )
        check_message(message)
        self._check_limits(message, delay_s, ttl_s)
        return Outgoing(to, message, delay_s, "", NO_HEADERS if ttl_s is None else _expiry(now, delay_s, ttl_s))

    def _type_of(self, to: Destination[Any], body: object, message_id: str) -> str | None:
        if not to.types:
            return None if isinstance(body, _BUILTIN) else type_ids(type(body))[0]
        declared = _declared(to.types, body)
        if declared is None:
            names = ", ".join(kind.__name__ for kind in to.types)
            what, cure = type(body).__name__, "add the class to its declaration"
            if isinstance(body, dict) and any(map(_is_typed_dict, to.types)):
                what, cure = f"a dict with the keys {_shorten(', '.join(map(str, body)))}", "correct the keys"
            raise EncodeFailed(f"{to} carries {names}, not {what}: {cure}", message_id=message_id)
        # The only type of a destination, if every program has it, needs no name; of several each does.
        return None if declared in _BUILTIN and len(to.types) == 1 else type_ids(declared)[0]

    def _check_limits(self, message: Message, delay_s: float, ttl_s: float | None) -> None:
        limit = self._transport.capabilities.max_message_bytes
        if limit is not None and (size := message_bytes(message)) > limit:
            raise MessageTooLarge(size, limit, message_id=message.id)
        if delay_s != 0 and not (isinstance(delay_s, int | float) and 0 < delay_s < inf):
            raise PublishFailed(
                f"delay_s must be 0 or more seconds, not {delay_s!r}", message_id=message.id, transient=False
            )
        if ttl_s is not None and not (isinstance(ttl_s, int | float) and 0 < ttl_s < inf):
            raise PublishFailed(
                f"ttl_s must be more than 0 seconds, not {ttl_s!r}", message_id=message.id, transient=False
            )
        longest = self._transport.capabilities.publish_delay_max_s
        if delay_s > longest:
            raise Unsupported(
                f"this transport delays a publish by at most {longest} s, not {delay_s} s: "
                "keep the message until it is due, or use another transport"
            )

    def send_one(self, outgoing: Outgoing, timeout_s: float) -> Awaitable[Message]:
        """Send one prepared message; raises its outcome, or returns what was sent."""
        return (self._through_middleware if self._middleware else self._send)(outgoing, timeout_s)

    async def _send(self, outgoing: Outgoing, timeout_s: float) -> Message:
        if self.closed:
            raise ClosedError("the bus is closed: publish inside `async with bus`")
        (outcome,) = await self._transport.publish((outgoing,), timeout_s=timeout_s)
        if outcome is not None:
            raise _named(outcome, outgoing)
        return outgoing.message

    async def _through_middleware(self, outgoing: Outgoing, timeout_s: float) -> Message:
        sent = outgoing.message

        async def send(message: Message) -> None:
            nonlocal sent
            changed = outgoing
            if message is not outgoing.message:
                check_message(message)
                self._check_limits(message, outgoing.delay_s, message.ttl_s)
                carried = outgoing.carried
                if message.ttl_s != outgoing.message.ttl_s:
                    now, ttl_s = self._clock(), message.ttl_s
                    carried = NO_HEADERS if ttl_s is None else _expiry(now, outgoing.delay_s, ttl_s)
                changed = replace(outgoing, message=message, carried=carried)
            await self._send(changed, timeout_s)
            sent = message

        call: Callable[[Message], Awaitable[None]] = send
        for middleware in reversed(self._middleware):
            call = _bind(middleware, outgoing.to, call)
        await call(outgoing.message)
        return sent

    async def send_many(self, prepared: Iterable[Outgoing], timeout_s: float) -> Sequence[Message]:
        """Send prepared messages in order, a window at a time; raises the first outcome that is an error."""
        sent: list[Message] = []
        windows = batches(
            prepared, size_of=lambda out: len(out.message.body), max_items=WINDOW_MESSAGES, max_bytes=WINDOW_BYTES
        )
        try:
            for window in windows:
                if self._middleware:
                    for outgoing in window:
                        sent.append(await self._through_middleware(outgoing, timeout_s))  # noqa: PERF401 - counted
                else:
                    await self._send_window(window, timeout_s)
                    sent += [outgoing.message for outgoing in window]
        except PublishError as error:
            if sent:
                error.add_note(f"{len(sent)} messages before these were confirmed")
            raise
        return sent

    async def _send_window(self, window: Sequence[Outgoing], timeout_s: float) -> None:
        if self.closed:
            raise ClosedError("the bus is closed: publish inside `async with bus`")
        outcomes = await self._transport.publish(window, timeout_s=timeout_s)
        failed = [
            _named(outcome, outgoing) for outgoing, outcome in zip(window, outcomes, strict=True) if outcome is not None
        ]
        if failed:
            confirmed = len(window) - len(failed)
            failed[0].add_note(f"of its window {len(failed)} messages failed and {confirmed} were confirmed")
            for other in failed[1:4]:
                failed[0].add_note(f"also: {other}")
            raise failed[0]


def _frozen(headers: Headers, message_id: str) -> Headers:
    if isinstance(headers, FrozenHeaders):
        return headers
    try:
        return FrozenHeaders(headers)
    except (TypeError, ValueError) as error:
        raise InvalidHeader(
            f"headers must be a mapping of text to text, not {_shorten(repr(headers))}", message_id=message_id
        ) from error


def _expiry(now: float, delay_s: float, ttl_s: float) -> Headers:
    return {EXPIRES_AT: expires_at(now, delay_s, ttl_s)}


def _declared(types: Sequence[type], body: object) -> type | None:
    """The declared class and not the payload's own: a subclass reaches the handlers of its nearest base."""
    if isinstance(body, dict):
        for kind in types:
            if _is_typed_dict(kind) and _has_keys_of(kind, body):
                return kind
    for kind in type(body).__mro__:
        if kind in types:
            return kind
    if isinstance(body, int) and float in types:  # as type checkers have it
        return float
    return next((kind for kind in types if not _is_typed_dict(kind) and _is_of(kind, body)), None)


def _is_typed_dict(kind: type) -> bool:
    return hasattr(kind, "__required_keys__")  # typing and typing_extensions each have a class of their own


def _has_keys_of(kind: Any, body: dict[Any, Any]) -> bool:
    return bool(kind.__required_keys__ <= body.keys() <= kind.__annotations__.keys())


def _is_of(kind: type, body: object) -> bool:
    try:
        return isinstance(body, kind)
    except TypeError:  # a protocol that is not to be asked
        return False


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."


def _bind(
    middleware: PublishMiddleware, to: Any, call: Callable[[Message], Awaitable[None]]
) -> Callable[[Message], Awaitable[None]]:
    return lambda message: middleware(to, message, call)


def _named(outcome: Exception, outgoing: Outgoing) -> BusframeError:
    if isinstance(outcome, PublishError):
        if not outcome.message_id:
            outcome.message_id = outgoing.message.id
        return outcome
    if isinstance(outcome, Unsupported | ClosedError):
        return outcome
    unknown = PublishOutcomeUnknown(str(outcome), message_id=outgoing.message.id)
    unknown.__cause__ = outcome
    return unknown
