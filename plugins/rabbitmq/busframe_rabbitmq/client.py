"""The only file that imports pika: its connection and channel as coroutines, its exceptions as busframe's.

Everything here runs on the one loop that opened the connection: pika is not thread-safe.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pika
from pika import exceptions
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.utils import nbio_interface
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from busframe.errors import AccessDenied, ConnectionFailed, TransportError
from busframe_rabbitmq.settings import Settings
from busframe_rabbitmq.stream import GatheringTransport, LoopReference, LoopServices, LoopTimer

log = logging.getLogger(__name__)
Arguments = Mapping[str, object]

CLOSE_TIMEOUT_S = 3.0


class ChannelRefused(TransportError):
    """The server closed a channel because of what was asked on it.

    Args:
        code: AMQP's reply code: 403 access refused, 404 not found, 405 locked, 406 precondition failed.
        text: the server's.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the server refused: {text} ({code})", transient=code not in (403, 404, 406))
        self.code = code
        self.text = text


class Got(NamedTuple):
    """One message as pika gives it."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Any
    body: bytes


# ---------------------------------------------------------------------------------------------- errors

_REFUSED_LOGIN = re.compile(r"ACCESS_REFUSED|NOT_ALLOWED|\((403|530)\)")


def _of_handshake(error: BaseException) -> TransportError:
    # pika guesses "authentication" or "access" from the phase in which the connection ended; a server that is being
    # stopped ends it there as well, so only the server's own word counts.
    text = str(error.args[0]) if error.args else str(error)
    if _REFUSED_LOGIN.search(text):
        return AccessDenied(f"the server refuses these credentials or this virtual host: {text}")
    return ConnectionFailed(f"the connection was lost while it was being opened: {text}")


def _of_connection(error: BaseException) -> TransportError:
    code = getattr(error, "reply_code", 0)
    if code in (403, 530):
        return AccessDenied(f"the server refuses: {getattr(error, 'reply_text', '')} ({code})")
    return ConnectionFailed(f"the connection to the server was lost: {error or type(error).__name__}")


def _of_channel(error: BaseException) -> TransportError:
    return ChannelRefused(getattr(error, "reply_code", 0), str(getattr(error, "reply_text", error)))


def _of_connecting(error: BaseException) -> TransportError:
    return ConnectionFailed(f"the server cannot be reached: {_root(error)}")


def _of_wrong_state(error: BaseException) -> TransportError:
    return ConnectionFailed(f"the connection is not open: {error}")


ERRORS: dict[type[BaseException], Callable[[BaseException], TransportError]] = {
    exceptions.ProbableAuthenticationError: _of_handshake,
    exceptions.AuthenticationError: _of_handshake,
    exceptions.ProbableAccessDeniedError: _of_handshake,
    exceptions.ConnectionClosed: _of_connection,
    exceptions.ChannelClosedByBroker: _of_channel,
    exceptions.AMQPChannelError: _of_wrong_state,
    exceptions.AMQPConnectionError: _of_connecting,
    AMQPConnectorException: _of_connecting,
    exceptions.StreamLostError: _of_connection,
    exceptions.AMQPHeartbeatTimeout: _of_connection,
    exceptions.ConnectionBlockedTimeout: _of_connection,
    exceptions.ConnectionWrongStateError: _of_wrong_state,
    exceptions.NoFreeChannels: _of_wrong_state,
    exceptions.AMQPError: _of_connection,
    OSError: _of_connecting,
}
"""pika's exceptions, found by their method resolution order, and what they are in busframe."""


def translate(error: BaseException) -> TransportError:
    """The same failure as an error of busframe, with the client's as its cause."""
    if isinstance(error, TransportError):
        return error
    for kind in type(error).__mro__:
        if kind in ERRORS:
            translated = ERRORS[kind](error)
            break
    else:
        translated = ConnectionFailed(f"the client failed: {error!r}")
    translated.__cause__ = error
    return translated


def _root(error: BaseException) -> str:
    """What is at the bottom of pika's nested exceptions: "Connection refused" and the like."""
    inner: object = error
    while True:
        nested = getattr(inner, "exceptions", None) or getattr(inner, "exception", None) or getattr(inner, "args", None)
        if isinstance(nested, (list, tuple)):
            nested = nested[-1] if nested else None
        if not isinstance(nested, BaseException):
            return str(inner) or type(inner).__name__
        inner = nested


# ---------------------------------------------------------------------------------------------- connection

# What pika logs is raised or logged here as well; a refused look is no warning, it is how one looks. A program that wants
# pika's own words sets the level of its logger.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def _answer(waiting: "asyncio.Future[Any]", answer: object) -> None:
    if not waiting.done():  # who waited may have been cancelled
        waiting.set_result(answer)


nbio_interface.AbstractIOServices.register(LoopServices)
nbio_interface.AbstractIOReference.register(LoopReference)
nbio_interface.AbstractTimerReference.register(LoopTimer)
nbio_interface.AbstractStreamTransport.register(GatheringTransport)


class Connection:
    """An open connection.

    Attributes:
        raw: pika's own.
        closed: done, with the reason, when it is no longer open.
        on_close: called with the reason at the very moment, before anything that waits is woken.
        on_blocked: called with the server's reason when it stops taking publishes, and with None when it takes them.
    """

    def __init__(self, raw: AsyncioConnection) -> None:
        self.raw = raw
        self.closed: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.on_close: Callable[[TransportError], None] = lambda error: None
        self.on_blocked: Callable[[str | None], None] = lambda reason: None
        raw.add_on_close_callback(self._closed)
        raw.add_on_connection_blocked_callback(lambda _, frame: self.on_blocked(str(frame.method.reason)))
        raw.add_on_connection_unblocked_callback(lambda _, frame: self.on_blocked(None))

    @property
    def max_frame_bytes(self) -> int:
        """The largest frame, as agreed with the server."""
        return int(self.raw.params.frame_max)

    @property
    def server_version(self) -> tuple[int, int]:
        """The server's major and minor version; (0, 0) where it is none."""
        parts = re.findall(r"\d+", str((self.raw.server_properties or {}).get("version", "")))
        return (int(parts[0]), int(parts[1])) if len(parts) > 1 else (0, 0)

    def _closed(self, _: object, error: BaseException) -> None:
        reason = translate(error)
        self.on_close(reason)
        if not self.closed.done():
            self.closed.set_result(reason)

    async def channel(self) -> "Channel":
        """Open a channel.

        Raises:
            TransportError: the connection is not open, or has no more channels.

        If cancelled: the channel is closed as soon as it is open.
        """
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            raw = self.raw.channel(on_open_callback=lambda channel: _answer(opened, channel))
        except exceptions.AMQPError as error:
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

    async def close(self) -> None:
        """Say goodbye to the server, and end the connection after a few seconds in any case."""
        if self.raw.is_open:
            self.raw.close()
        done, _ = await asyncio.wait({self.closed}, timeout=CLOSE_TIMEOUT_S)
        if not done:
            self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        transport = self.raw._transport  # pika has no public way to drop a connection that does not answer
        if transport is not None:
            transport.abort()


async def connect(settings: Settings, name: str) -> Connection:
    """Make one attempt to connect.

    Args:
        settings: where to and with which limits.
        name: shown by the server's management as the connection's name.

    Raises:
        ConnectionFailed: the server cannot be reached.
        AccessDenied: it refuses the credentials or the virtual host.

    If cancelled: nothing stays open.
    """
    loop = asyncio.get_running_loop()
    server = settings.server
    parameters = pika.ConnectionParameters(
        host=server.host,
        port=server.port,
        virtual_host=server.vhost,
        credentials=pika.PlainCredentials(server.user, server.password),
        heartbeat=settings.heartbeat_s,
        connection_attempts=1,
        socket_timeout=settings.connect_timeout_s,
        stack_timeout=settings.connect_timeout_s,
        blocked_connection_timeout=settings.blocked_timeout_s or None,
        ssl_options=pika.SSLOptions(ssl.create_default_context(), server.host) if server.tls else None,
        client_properties={"connection_name": name, "product": "busframe"},
    )
    opened: asyncio.Future[Any] = loop.create_future()
    raw = AsyncioConnection(
        parameters,
        on_open_callback=lambda connection: _answer(opened, None),
        on_open_error_callback=lambda connection, error: _answer(opened, error),
        custom_ioloop=LoopServices(loop),
    )
    try:
        error = await asyncio.shield(opened)
    except asyncio.CancelledError:
        if not (raw.is_closed or raw.is_closing):
            raw.close()
        raise
    if error is not None:
        translated = translate(error)
        if isinstance(translated, ConnectionFailed):
            translated = ConnectionFailed(f"{server.shown}: {translated}")
        raise translated from error
    return Connection(raw)


# ---------------------------------------------------------------------------------------------- channel


class _Encoded:
    """Properties that are bytes already; what pika's frames want of ``BasicProperties``."""

    __slots__ = ("_encoded",)
    INDEX = pika.BasicProperties.INDEX

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded

    def encode(self) -> list[bytes]:
        return [self._encoded]


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
        for future in self.waiting:
            if not future.done():
                future.set_exception(translate(error))
        self.waiting.clear()
        if not self.closed.done():
            self.closed.set_result(reason)

    async def _ask(self, method: Callable[..., object], *arguments: object, **named: object) -> Any:
        """Call a method of pika and wait for the server's answer, or for the end of the channel."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            method(*arguments, callback=lambda frame: _answer(answer, frame), **named)
        except exceptions.AMQPError as error:
            raise translate(error) from error
        self.waiting.add(answer)
        try:
            return await answer
        finally:
            self.waiting.discard(answer)

    # ------------------------------------------------------------------------------------------ publishing

    def publish(self, exchange: str, routing_key: str, properties: bytes, body: bytes, *, mandatory: bool) -> None:
        """Send a message.

        Raises:
            TransportError: the channel is closed; nothing was sent.
        """
        try:
            self._raw.basic_publish(exchange, routing_key, body, _Encoded(properties), mandatory)
        except exceptions.AMQPError as error:
            raise translate(error) from error

    async def confirm(
        self, on_confirm: Callable[[int, bool, bool], None], on_return: Callable[[str, str, str | None], None]
    ) -> None:
        """Ask for confirms: (tag, multiple, refused), and for returns: (exchange, routing key, message id)."""

        def confirmed(frame: Any) -> None:
            method = frame.method
            on_confirm(method.delivery_tag, method.multiple, method.INDEX == pika.spec.Basic.Nack.INDEX)

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
            prefetch: the most unsettled messages of this consumer.
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
        cancelled = self._ask(self._raw.basic_cancel, consumer_tag)
        waiting = asyncio.ensure_future(cancelled)
        await asyncio.sleep(0)  # now pika has sent it
        # pika itself would reject each message that arrives for a consumer that is being cancelled, which counts as a
        # failed delivery of a message that nobody has seen. It tells them apart by this set alone, and forgets the
        # consumer with the server's answer; without the set it just rejects.
        getattr(self._raw, "_cancelled", set()).discard(consumer_tag)
        await waiting

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Write an acknowledgement. Raises TransportError where the channel is closed."""
        try:
            self._raw.basic_ack(tag, multiple)
        except exceptions.AMQPError as error:
            raise translate(error) from error

    def requeue(self, tag: int) -> None:
        """Give a message back. Raises TransportError where the channel is closed.

        By ``basic.nack``: since RabbitMQ 4.3 that is no failed delivery, a ``basic.reject`` is.
        """
        try:
            self._raw.basic_nack(tag, multiple=False, requeue=True)
        except exceptions.AMQPError as error:
            raise translate(error) from error

    async def get(self, queue: str) -> Got | None:
        """Take one message, to be settled; None where there is none. Called by one task at a time."""
        answer: asyncio.Future[Got | None] = asyncio.get_running_loop().create_future()

        def got(_: object, method: Any, properties: Any, body: bytes) -> None:
            if not answer.done():
                answer.set_result(
                    Got(method.delivery_tag, method.redelivered, method.exchange, method.routing_key, properties, body)
                )

        self._on_empty = lambda: _answer(answer, None)
        if not self._listens_for_empty:
            self._listens_for_empty = True
            self._raw.add_callback(lambda frame: self._on_empty(), [pika.spec.Basic.GetEmpty], False)
        try:
            self._raw.basic_get(queue, got)
        except (exceptions.AMQPError, exceptions.DuplicateGetOkCallback) as error:
            raise translate(error) from error
        self.waiting.add(answer)
        try:
            return await answer
        finally:
            self.waiting.discard(answer)

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
            getattr(self._raw, "_cancelled", set()).update(self._raw.consumer_tags)
        if not (self._raw.is_closed or self._raw.is_closing):
            try:
                self._raw.close()
            except exceptions.AMQPError as error:  # closed in the same moment
                log.debug("closing a channel", exc_info=error)

    async def close(self, *, keep_consumers: bool = False) -> None:
        """Close it and wait, a few seconds at most, until the server has; see ``abandon``."""
        self.abandon(keep_consumers=keep_consumers)
        await asyncio.wait({self.closed}, timeout=CLOSE_TIMEOUT_S)
