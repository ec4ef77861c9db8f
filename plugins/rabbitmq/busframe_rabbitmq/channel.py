"""A channel as coroutines: what is asked on it is answered, or fails with the channel."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from busframe_rabbitmq.client import (
    CLOSE_TIMEOUT_S,
    GET_EMPTY,
    NACK,
    AMQPError,
    Connection,
    DuplicateGet,
    Encoded,
    translate,
)
from busframe_rabbitmq.client import answer as answered

if TYPE_CHECKING:
    from busframe.errors import TransportError

log = logging.getLogger(__name__)
Arguments = Mapping[str, object]


class Got(NamedTuple):
    """One message as pika gives it."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Any
    body: bytes


async def open_channel(connection: Connection) -> "Channel":
    """Open a channel.

    Raises:
        TransportError: the connection is not open, or has no more channels.

    If cancelled: the channel is closed as soon as it is open.
    """
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    try:
        raw = connection.raw.channel(on_open_callback=lambda channel: answered(opened, channel))
    except AMQPError as error:
        raise translate(error) from error
    channel = Channel(raw)
    channel.waiting.add(opened)
    try:
        await opened
    except asyncio.CancelledError:
        channel.abandon()
        raise
    finally:
        channel.waiting.discard(opened)
    return channel


class Channel:
    """An open channel. Its calls may be made at any time; pika sends one at a time and queues the others.

    Attributes:
        closed: done, with the reason, when it is no longer open; what was asked and not answered has failed then.
        on_close: called with the reason at the very moment, before anything that waits is woken.
    """

    def __init__(self, raw: Any) -> None:
        self.closed: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.on_close: Callable[[TransportError], None] = lambda error: None
        self.waiting: set[asyncio.Future[Any]] = set()
        self._raw = raw
        self._on_empty: Callable[[], None] = lambda: None
        self._listens_for_empty = False
        raw.add_on_close_callback(self._closed)

    @property
    def is_open(self) -> bool:
        """Whether something can be sent on it."""
        return bool(self._raw.is_open)

    def _closed(self, _: object, error: BaseException) -> None:
        reason = translate(error)
        self.on_close(reason)
        for future in list(self.waiting):
            if not future.done():
                future.set_exception(translate(error))
        if not self.closed.done():
            self.closed.set_result(reason)

    def _begin(self, method: Callable[..., object], *arguments: object, **named: object) -> "asyncio.Future[Any]":
        """Call a method of pika; the future is the server's answer, or fails with the channel."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            method(*arguments, callback=lambda frame: answered(answer, frame), **named)
        except AMQPError as error:
            raise translate(error) from error
        self.waiting.add(answer)
        answer.add_done_callback(self.waiting.discard)
        return answer

    async def _ask(self, method: Callable[..., object], *arguments: object, **named: object) -> Any:
        return await self._begin(method, *arguments, **named)

    # ------------------------------------------------------------------------------------------ publishing

    def publish(self, exchange: str, routing_key: str, properties: bytes, body: bytes, *, mandatory: bool) -> None:
        """Send a message.

        Raises:
            TransportError: the channel is closed; nothing was sent.
        """
        try:
            self._raw.basic_publish(exchange, routing_key, body, Encoded(properties), mandatory)
        except AMQPError as error:
            raise translate(error) from error

    async def confirm(
        self, on_confirm: Callable[[int, bool, bool], None], on_return: Callable[[str, str, str | None], None]
    ) -> None:
        """Ask for confirms: (tag, multiple, refused), and for returns: (exchange, routing key, message id)."""

        def confirmed(frame: Any) -> None:
            method = frame.method
            on_confirm(method.delivery_tag, method.multiple, method.INDEX == NACK)

        def returned(_: object, method: Any, properties: Any, body: bytes) -> None:
            on_return(method.exchange, method.routing_key, properties.message_id)

        self._raw.add_on_return_callback(returned)
        await self._ask(self._raw.confirm_delivery, confirmed)

    # ------------------------------------------------------------------------------------------ consuming

    async def consume(
        self, queue: str, on_message: Callable[[int, bool, Any, bytes], None], *, prefetch: int, auto_ack: bool = False
    ) -> str:
        """Make a consumer; ``on_message`` gets (tag, redelivered, properties, body) and must not raise.

        Args:
            queue: what to consume.
            on_message: called for each message.
            prefetch: the most unsettled messages of this consumer; 0: no limit.
            auto_ack: the server forgets each message when it has sent it; there is no ``prefetch`` then.

        Returns:
            The consumer's tag.
        """
        await self._ask(self._raw.basic_qos, prefetch_count=prefetch)

        def delivered(_: object, method: Any, properties: Any, body: bytes) -> None:
            on_message(method.delivery_tag, method.redelivered, properties, body)

        frame = await self._ask(self._raw.basic_consume, queue, delivered, auto_ack=auto_ack)
        return str(frame.method.consumer_tag)

    def on_cancelled(self, callback: Callable[[str], None]) -> None:
        """Hear of consumers that the server cancels: their queue was deleted, or its node is gone."""
        self._raw.add_on_cancel_callback(lambda frame: callback(frame.method.consumer_tag))

    async def cancel(self, consumer_tag: str) -> None:
        """End a consumer. What arrives until the server has answered is still given to its ``on_message``."""
        if consumer_tag not in self._raw.consumer_tags:
            return  # the server was faster
        cancelled = self._begin(self._raw.basic_cancel, consumer_tag)
        # pika itself would reject each message that arrives for a consumer that is being cancelled, which counts as a
        # failed delivery of a message that nobody has seen, and drop it where the consumer acknowledges automatically.
        # It tells them apart by this set alone, and forgets the consumer with the server's answer.
        self._raw._cancelled.discard(consumer_tag)
        await cancelled

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Write an acknowledgement. Raises TransportError where the channel is closed."""
        try:
            self._raw.basic_ack(tag, multiple)
        except AMQPError as error:
            raise translate(error) from error

    def requeue(self, tag: int, *, multiple: bool = False) -> None:
        """Give a message back. Raises TransportError where the channel is closed.

        By ``basic.nack``: since RabbitMQ 4.3 that is no failed delivery, a ``basic.reject`` is.
        """
        try:
            self._raw.basic_nack(tag, multiple=multiple, requeue=True)
        except AMQPError as error:
            raise translate(error) from error

    async def get(self, queue: str) -> Got | None:
        """Take one message, to be settled; None where there is none. Called by one task at a time."""
        answer: asyncio.Future[Got | None] = asyncio.get_running_loop().create_future()

        def got(_: object, method: Any, properties: Any, body: bytes) -> None:
            if not answer.done():
                answer.set_result(
                    Got(method.delivery_tag, method.redelivered, method.exchange, method.routing_key, properties, body)
                )

        self._on_empty = lambda: answered(answer, None)
        if not self._listens_for_empty:
            self._listens_for_empty = True
            self._raw.add_callback(lambda frame: self._on_empty(), [GET_EMPTY], False)
        try:
            self._raw.basic_get(queue, got)
        except (AMQPError, DuplicateGet) as error:
            raise translate(error) from error
        self.waiting.add(answer)
        answer.add_done_callback(self.waiting.discard)
        return await answer

    # ------------------------------------------------------------------------------------------ topology

    async def declare_queue(
        self, name: str, arguments: Arguments | None = None, *, passive: bool = False
    ) -> tuple[int, int]:
        """Declare a durable queue, or with ``passive`` only look. Returns (ready messages, consumers)."""
        frame = await self._ask(
            self._raw.queue_declare, name, passive=passive, durable=not passive, arguments=dict(arguments or {}) or None
        )
        return int(frame.method.message_count), int(frame.method.consumer_count)

    async def declare_exchange(
        self, name: str, kind: str, arguments: Arguments | None = None, *, passive: bool = False
    ) -> None:
        """Declare a durable exchange, or with ``passive`` only look."""
        await self._ask(
            self._raw.exchange_declare,
            name,
            kind,
            passive=passive,
            durable=not passive,
            arguments=dict(arguments or {}) or None,
        )

    async def bind_queue(self, queue: str, exchange: str, key: str = "", arguments: Arguments | None = None) -> None:
        """Bind a queue to an exchange; doing it again changes nothing."""
        await self._ask(self._raw.queue_bind, queue, exchange, key, arguments=dict(arguments or {}) or None)

    async def bind_exchange(self, to: str, exchange: str, key: str) -> None:
        """Let what matches in one exchange go to another; doing it again changes nothing."""
        await self._ask(self._raw.exchange_bind, to, exchange, key)

    async def purge(self, queue: str) -> int:
        """Remove all ready messages. Returns how many."""
        frame = await self._ask(self._raw.queue_purge, queue)
        return int(frame.method.message_count)

    # ------------------------------------------------------------------------------------------ end

    def abandon(self, *, keep_consumers: bool = False) -> None:
        """Close it without waiting; what is unsettled on it goes back to its queue.

        Args:
            keep_consumers: do not cancel the consumers first. Only so does the next consumer of a queue with a single
                active one get the messages in their order; pika cancels those that it does not think cancelled already.
        """
        if keep_consumers:
            self._raw._cancelled.update(self._raw.consumer_tags)
        if not (self._raw.is_closed or self._raw.is_closing):
            try:
                self._raw.close()
            except AMQPError as error:  # closed in the same moment
                log.debug("closing a channel", exc_info=error)

    async def close(self, *, keep_consumers: bool = False) -> None:
        """Close it and wait, a few seconds at most, until the server has; see ``abandon``."""
        self.abandon(keep_consumers=keep_consumers)
        await asyncio.wait({self.closed}, timeout=CLOSE_TIMEOUT_S)
