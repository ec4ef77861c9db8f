"""The only file that imports pika: its connection as a coroutine, its exceptions as busframe's.

Everything here runs on the one loop that opened the connection: pika is not thread-safe.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# because the types that it has for pika are not of this version, and know nothing of the public seam for IO services.

import asyncio
import logging
import re
import struct
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pika
from pika import data, exceptions, frame, spec
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.utils import nbio_interface
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.credentials import ExternalCredentials

from busframe.errors import AccessDenied, ConnectionFailed, TransportError
from busframe_rabbitmq.foreign import readable
from busframe_rabbitmq.settings import Server, Settings
from busframe_rabbitmq.stream import GatheringTransport, LoopReference, LoopServices, LoopTimer
from busframe_rabbitmq.tls import make_context, read_refusal
from busframe_rabbitmq.watch import Watch

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 3.0
"""How long a polite goodbye may take."""


class ChannelRefused(TransportError):
    """The server closed a channel because of what was asked on it.

    Args:
        code: AMQP's reply code: 403 access refused, 404 not found, 405 locked, 406 precondition failed.
        text: the server's.

    Attributes:
        is_missing: it is not there. The server says 404 also of a queue whose leader is away, which is transient.
    """

    def __init__(self, code: int, text: str) -> None:
        transient = code not in (403, 404, 406) or "is down or inaccessible" in text
        super().__init__(f"the server refused: {text} ({code})", transient=transient)
        self.code = code
        self.text = text
        self.is_missing = code == 404 and not transient


class ChannelDenied(ChannelRefused, AccessDenied):
    """It closed it because these credentials may not do what was asked."""


# ---------------------------------------------------------------------------------------------- errors

_REFUSED = re.compile(r"\((?P<code>403|530)\) ['\"]?(?P<text>.*?)['\"]?$")


def _of_handshake(error: BaseException) -> TransportError:
    # pika guesses "authentication" or "access" from the phase in which the connection ended; a server that is being
    # stopped ends it there as well, so only the server's own word counts.
    text = str(error.args[0]) if error.args else str(error)
    refused = _REFUSED.search(text)
    if refused is None:
        return ConnectionFailed(f"the connection was lost while it was being opened: {text}")
    what = "these credentials" if refused["code"] == "403" else "this virtual host"
    return AccessDenied(f"the server refuses {what}: {refused['text']} ({refused['code']})")


def _of_mechanism(error: BaseException) -> TransportError:
    return AccessDenied(f"the server offers no login by {error.args[0] if error.args else error}: see auth_mechanism")


def _of_connection(error: BaseException) -> TransportError:
    code = getattr(error, "reply_code", 0)
    if code in (403, 530):
        return AccessDenied(f"the server refuses: {getattr(error, 'reply_text', '')} ({code})")
    return ConnectionFailed(f"the connection to the server was lost: {error or type(error).__name__}")


def _of_channel(error: BaseException) -> TransportError:
    code, text = getattr(error, "reply_code", 0), str(getattr(error, "reply_text", error))
    # A queue that somebody else uses exclusively is refused with 403 as well, and that is nobody's missing right.
    return (ChannelDenied if code == 403 and "exclusive" not in text else ChannelRefused)(code, text)


def _of_connecting(error: BaseException) -> TransportError:
    text = _root(error)
    return read_refusal(text) or ConnectionFailed(f"the server cannot be reached: {text}")


def _of_greeting(error: BaseException) -> TransportError:
    text = _root(error)
    return read_refusal(text) or ConnectionFailed(
        f"the server ended the connection before it greeted ({text}): is that a port of RabbitMQ, and does it want TLS?"
    )


def _of_silence(error: BaseException) -> TransportError:
    # It is only the end of ``connect_timeout_s`` that closes a connection which is not open yet.
    return ConnectionFailed("the server did not answer in time: is that a port of RabbitMQ?")


def _of_wrong_state(error: BaseException) -> TransportError:
    return ConnectionFailed(f"the connection is not open: {error}")


ERRORS: dict[type[BaseException], Callable[[BaseException], TransportError]] = {
    exceptions.ProbableAuthenticationError: _of_handshake,
    exceptions.AuthenticationError: _of_mechanism,
    exceptions.ProbableAccessDeniedError: _of_handshake,
    exceptions.IncompatibleProtocolError: _of_greeting,
    exceptions.ConnectionOpenAborted: _of_silence,
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


def _of_blocked_loop(reason: TransportError, blocked_s: float) -> TransportError:
    lost = ConnectionFailed(
        f"{reason}; this program's event loop had been blocked for {blocked_s:.1f} s, so that no heartbeats were sent: "
        "something in a coroutine does not await; plain functions run in threads"
    )
    lost.__cause__ = reason.__cause__
    return lost


# ---------------------------------------------------------------------------------------------- connection

# What pika logs is raised or logged here as well, and a refused look is no warning: it is how one looks. A program that
# wants pika's own words sets the level of its logger.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def answer(waiting: "asyncio.Future[Any]", value: object) -> None:
    """Give a callback's value to who waits for it."""
    if not waiting.done():  # who waited may have been cancelled
        waiting.set_result(value)


nbio_interface.AbstractIOServices.register(LoopServices)
nbio_interface.AbstractIOReference.register(LoopReference)
nbio_interface.AbstractTimerReference.register(LoopTimer)
nbio_interface.AbstractStreamTransport.register(GatheringTransport)


class ReadingConnection(AsyncioConnection):  # type: ignore[misc]  # pika has no types
    """pika's, which would break over a message whose properties it cannot read, and over the next with the same one."""

    def _read_frame(self) -> Any:
        try:
            return frame.decode_frame(self._frame_buffer)
        except Exception:  # of any class: see ``foreign``
            kind, channel, size = struct.unpack_from(">BHL", self._frame_buffer)
            if kind != spec.FRAME_HEADER:
                raise
            content = self._frame_buffer[spec.FRAME_HEADER_SIZE : spec.FRAME_HEADER_SIZE + size]
            encoded = readable(content[12:], lambda value: data.decode_value(value, 0))
            properties = pika.BasicProperties().decode(encoded)
            (body_bytes,) = struct.unpack_from(">Q", content, 4)
            return spec.FRAME_HEADER_SIZE + size + spec.FRAME_END_SIZE, frame.Header(channel, body_bytes, properties)


class Connection:
    """An open connection.

    Attributes:
        raw: pika's own.
        server: which of the servers it leads to.
        closed: done, with the reason, when it is no longer open.
        on_close: called with the reason at the very moment, before anything that waits is woken.
        on_blocked: called with the server's reason when it stops taking publishes, and with None when it takes them.
    """

    def __init__(self, raw: AsyncioConnection, server: Server) -> None:
        self.raw = raw
        self.server = server
        self.closed: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.on_close: Callable[[TransportError], None] = lambda error: None
        self.on_blocked: Callable[[str | None], None] = lambda reason: None
        self._watch = Watch(raw.params.heartbeat, lambda: int(raw.bytes_received), self._silent)
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
        blocked_s = self._watch.blocked_s
        self._watch.stop()
        if blocked_s:
            reason = _of_blocked_loop(reason, blocked_s)
        self.on_close(reason)
        if not self.closed.done():
            self.closed.set_result(reason)

    def _silent(self, seconds: float) -> None:
        self.raw._terminate_stream(  # what pika's own check does, some seconds later
            exceptions.AMQPHeartbeatTimeout(f"nothing was received for {seconds:g} s, and no heartbeat")
        )

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


async def connect(settings: Settings, server: Server, name: str) -> Connection:
    """Make one attempt to connect to one host; each address that its name resolves to is tried.

    Args:
        settings: with which limits.
        server: where to.
        name: shown by the server's management as the connection's name.

    Raises:
        ConnectionFailed: the server cannot be reached; not transient: its certificate is not accepted, or a file of
            the settings cannot be used.
        AccessDenied: it refuses the credentials, the client's certificate or the virtual host.

    If cancelled: nothing stays open.
    """
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    try:
        raw = _begin(settings, server, name, opened)
        try:
            error = await asyncio.shield(opened)
        except asyncio.CancelledError:
            if not (raw.is_closed or raw.is_closing):
                raw.close()
                await asyncio.wait({opened}, timeout=CLOSE_TIMEOUT_S)
            raise
        if error is not None:
            raise translate(error) from error
        if not raw.is_open:
            raise ConnectionFailed("the server closed the connection at once")
    except TransportError as error:
        raise type(error)(f"{server.shown}: {error}", transient=error.transient) from error.__cause__
    return Connection(raw, server)


def _begin(settings: Settings, server: Server, name: str, opened: "asyncio.Future[Any]") -> AsyncioConnection:
    external = settings.auth_mechanism == "external"
    tls_name = settings.tls_server_name or server.host
    parameters = pika.ConnectionParameters(
        host=server.host,
        port=server.port,
        virtual_host=server.vhost,
        credentials=ExternalCredentials() if external else pika.PlainCredentials(server.user, server.password),
        heartbeat=settings.heartbeat_s,
        connection_attempts=1,
        socket_timeout=settings.connect_timeout_s,
        stack_timeout=settings.connect_timeout_s,
        blocked_connection_timeout=settings.blocked_timeout_s or None,
        ssl_options=pika.SSLOptions(make_context(settings), tls_name) if server.tls else None,
        client_properties={
            "connection_name": name,
            "product": "busframe",
            "version": version("busframe-rabbitmq"),
            "information": f"pika {pika.__version__}",
        },
    )
    return ReadingConnection(
        parameters,
        on_open_callback=lambda connection: answer(opened, None),
        on_open_error_callback=lambda connection, error: answer(opened, error),
        custom_ioloop=LoopServices(asyncio.get_running_loop()),
    )


# ---------------------------------------------------------------------------------------------- pika's words

AMQPError = exceptions.AMQPError
DuplicateGet = exceptions.DuplicateGetOkCallback
GET_EMPTY = pika.spec.Basic.GetEmpty
NACK: int = pika.spec.Basic.Nack.INDEX


class Encoded:
    """Properties that are bytes already; what pika's frames want of ``BasicProperties``."""

    __slots__ = ("_encoded",)
    INDEX = pika.BasicProperties.INDEX

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded

    def encode(self) -> list[bytes]:
        """The property list."""
        return [self._encoded]
