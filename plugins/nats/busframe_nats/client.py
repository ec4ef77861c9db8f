"""What nats-py does for us: one connection without its own reconnecting, its errors as busframe's.

nats-py connects, proves who we are and parses. What is beyond that is done here, because its ways lose or hang: it
answers a lost connection by flushing into the dead socket, which takes for ever when nothing is acknowledged; an
exception in a callback, or a pong that comes too late, ends its reader in silence; and it drops messages when a
subscription is behind. So a connection that is lost is never mended, the next one is a new client (``Link``), messages
are given to a plain function at once, and what is sent is gathered and written by ourselves.
"""

# pyright: reportIncompatibleMethodOverride=false, reportPrivateUsage=false

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

from nats import errors
from nats.aio.client import Client

from busframe.errors import AccessDenied, ConnectionFailed, TransportError
from busframe_nats.credentials import credentials, security
from busframe_nats.parser import Handler, MessageParser
from busframe_nats.settings import Server, Settings
from busframe_nats.tls import read_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 2.0
GRACE_S = 0.5
"""A loop that was blocked has the answer in its socket, and reads it only after it has seen that time is over."""

FLUSH_COMMANDS = 100
"""So many are sent before the turn ends: the server works on them while the rest of the turn is still encoded."""

NEVER_S = 10**9


class Lost(ConnectionFailed):
    """The connection was lost before an answer came."""


# ---------------------------------------------------------------------------------------------- errors

_DENIED = re.compile(r"authoriz|authentic|account|credential|nkey|jwt", re.IGNORECASE)
_PERMISSIONS = re.compile(r'permissions violation for (?P<what>publish|subscription) to "(?P<subject>[^"]*)"')


def translate(error: BaseException) -> TransportError:
    """The same failure as an error of busframe, with the client's as its cause."""
    if isinstance(error, TransportError):
        return error
    text = str(error).removeprefix("nats: ").strip("'\" ") or type(error).__name__
    translated: TransportError | None = read_refusal(text)
    if translated is None:
        if isinstance(error, errors.AuthorizationError) or (isinstance(error, errors.Error) and _DENIED.search(text)):
            translated = AccessDenied(f"the server refuses these credentials: {text}")
        elif isinstance(error, TimeoutError):
            translated = ConnectionFailed("the server did not answer in time: is that a port of NATS?")
        elif isinstance(error, OSError):
            translated = ConnectionFailed(f"the server cannot be reached: {text}")
        else:
            translated = ConnectionFailed(f"the connection was lost: {text}")
    translated.__cause__ = error
    return translated


# ---------------------------------------------------------------------------------------------- connection


class _Client(Client):
    """nats-py's client, which gives what it reads to a function at once."""

    def __init__(self, settings: Settings, server: Server) -> None:
        super().__init__()
        self.handlers: dict[bytes, Handler] = {}
        self._ps = MessageParser(self, self.handlers)
        self._wants_tls = server.tls
        self._has_certificate = settings.tls_cert_file is not None

    async def _process_pong(self) -> None:
        if self._pongs:
            waiting = self._pongs.pop(0)
            if not waiting.done():
                waiting.set_result(True)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._wants_tls and not info.get("tls_required"):
            # nats-py goes by what the server wants, and would send the password in plain text.
            if not (info.get("tls_available") or self.options["tls_handshake_first"]):
                raise ConnectionFailed(
                    "the server speaks no TLS on this port: nats:// connects without", transient=False
                )
            info["tls_required"] = not self.options["tls_handshake_first"]
        if initial_connection and info.get("tls_verify") and not self._has_certificate:
            raise AccessDenied("the server demands a client certificate: say tls_cert_file")  # else it just hangs up
        await super()._process_info(info, initial_connection)


class Connection:
    """An open connection.

    Attributes:
        raw: nats-py's own.
        server: which of the servers it leads to.
        closed: done, with the reason, when it is no longer open.
        on_close: called with the reason at the very moment, before anything that waits is woken.
        on_denied: called with (``publish`` or ``subscription``, subject in small letters, text) when the server says
            that something was not allowed.
    """

    def __init__(self, raw: _Client, server: Server, settings: Settings) -> None:
        self.raw = raw
        self.server = server
        self.closed: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.on_close: Callable[[TransportError], None] = lambda error: None
        self.on_denied: Callable[[str, str, str], None] = lambda what, subject, text: None
        self._loop = asyncio.get_running_loop()
        self._inbox_prefix = settings.inbox_prefix
        self._out: list[bytes] = []
        self._said: BaseException | None = None
        reading: asyncio.Task[None] = raw._reading_task  # type: ignore[assignment]
        reading.add_done_callback(lambda _: self.lose(self._said or errors.UnexpectedEOF()))
        self._watch = self._loop.create_task(self._watch_over(settings.ping_interval_s), name="busframe nats pings")

    def __repr__(self) -> str:
        return f"<Connection {self.server.address} {'closed' if self.closed.done() else 'open'}>"

    @property
    def max_payload(self) -> int:
        """The most bytes of headers and payload that the server takes."""
        return int(self.raw.max_payload)

    @property
    def version(self) -> tuple[int, int, int]:
        """The server's."""
        version = self.raw.connected_server_version
        return version.major, version.minor, version.patch

    # ------------------------------------------------------------------------------------------ sending

    def write(self, *commands: bytes) -> None:
        """Send whole commands of the protocol; those that are written in one turn of the loop go together, in pieces.

        Raises:
            Lost: the connection is closed.
        """
        if self.closed.done():
            raise Lost("the connection is lost")
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += commands
        if len(self._out) >= FLUSH_COMMANDS:
            self._flush()

    def _flush(self) -> None:
        if self._out and not self.closed.done():
            out, self._out = self._out, []
            try:
                self.raw._transport.write(b"".join(out))  # type: ignore[union-attr]
            except Exception as error:
                self._loop.call_soon(self.lose, error)  # who writes is in the middle of its work

    @property
    def _socket(self) -> Any:
        return self.raw._transport._io_writer.transport  # type: ignore[union-attr]

    async def ping(self) -> None:
        """Wait until the server has read all that was written.

        Raises:
            Lost: the connection was lost before.
        """
        answer = self._ping()
        await asyncio.wait({answer, self.closed}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise Lost("the connection is lost")

    def _ping(self) -> "asyncio.Future[Any]":
        if self.closed.done():
            raise Lost("the connection is lost")
        self._flush()  # nats-py's own pings are written at once, and answers come in the order of the questions
        answer: asyncio.Future[Any] = self._loop.create_future()
        self.raw._pongs.append(answer)
        self.write(b"PING\r\n")
        self._flush()
        return answer

    async def _watch_over(self, interval_s: float) -> None:
        while not self.closed.done():
            try:
                answer = self._ping()
            except Lost:
                return
            await asyncio.wait({answer}, timeout=interval_s)
            if not answer.done():
                await asyncio.wait({answer}, timeout=GRACE_S)
                if not answer.done():
                    self.lose(ConnectionFailed(f"the server gave no sign of life for {interval_s:g} s"))
                    return
            await asyncio.sleep(interval_s)

    # ------------------------------------------------------------------------------------------ receiving

    def new_inbox(self) -> str:
        """A subject of our own."""
        return f"{self._inbox_prefix}.{self.raw._nuid.next().decode()}"

    def subscribe(self, subject: str, handler: Handler) -> int:
        """Give messages to a function that does not raise, at once when they are read.

        Returns:
            The number of the subscription.
        """
        self.raw._sid += 1
        sid = self.raw._sid
        self.raw.handlers[b"%d" % sid] = handler
        self.write(f"SUB {subject} {sid}\r\n".encode())
        return sid

    def unsubscribe(self, sid: int) -> None:
        """End a subscription at the server; what is on its way is still given."""
        self.write(b"UNSUB %d\r\n" % sid)
        self._ping().add_done_callback(lambda _: self.raw.handlers.pop(b"%d" % sid, None))

    # ------------------------------------------------------------------------------------------ the end

    def lose(self, why: BaseException) -> None:
        """The connection is given up. Idempotent."""
        if self.closed.done():
            return
        error = translate(why)
        self._out.clear()
        self.closed.set_result(error)
        self._watch.cancel()
        self.on_close(error)
        abandon(self.raw)

    async def close(self) -> None:
        """Say what is still to be said, and disconnect."""
        if not self.closed.done():
            self._flush()
            self.closed.set_result(ConnectionFailed("the connection was closed"))
            self._watch.cancel()
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self.raw.close()
                return
            except Exception as error:
                log.debug("closing failed", extra={"cause": repr(error)})
        abandon(self.raw)

    async def heard(self, error: BaseException) -> None:
        """nats-py's ``error_cb``: it must not raise."""
        self._said = error
        found = _PERMISSIONS.search(str(error))
        if found is not None:
            log.warning("the server refused: %s", error)
            try:
                self.on_denied(found["what"], found["subject"], str(error))
            except Exception:
                log.exception("a refusal was not taken")


def abandon(raw: Client) -> None:
    """End all that a client of nats-py has, at once and without a goodbye."""
    transport = getattr(raw._transport, "_io_writer", None)
    if transport is not None:
        transport.transport.abort()
    raw._status = Client.CLOSED
    current = asyncio.current_task()
    for task in (raw._reading_task, raw._ping_interval_task, raw._flusher_task):
        if task is not None and task is not current:
            task.cancel()
    for sub in raw._subs.values():
        sub._stop_processing()


async def connect(settings: Settings, server: Server, name: str) -> Connection:
    """Make one attempt to connect to one host.

    Args:
        settings: with which limits and credentials.
        server: where to.
        name: shown by the server's monitoring as the connection's name.

    Raises:
        ConnectionFailed: the server cannot be reached; not transient: its certificate is not accepted, or a file of
            the settings cannot be used.
        AccessDenied: it refuses the credentials or the client's certificate.

    If cancelled: nothing stays open.
    """
    raw = _Client(settings, server)
    failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    connection: Connection | None = None

    async def heard(error: BaseException) -> None:
        if connection is not None:
            await connection.heard(error)
        elif not failed.done():
            failed.set_result(error)

    try:
        options = {**credentials(settings, server), **security(settings, server)}
        connecting = asyncio.create_task(
            raw.connect(
                server.url,
                name=name,
                error_cb=heard,
                allow_reconnect=False,
                connect_timeout=settings.connect_timeout_s,  # type: ignore[arg-type]
                ping_interval=NEVER_S,
                inbox_prefix=settings.inbox_prefix,
                **options,
            )
        )
        try:
            # It goes on trying in silence where nothing listens, so its first complaint is waited for as well.
            either: set[asyncio.Future[Any]] = {connecting, failed}
            await asyncio.wait(either, timeout=settings.connect_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                connecting.result()
            elif failed.done():
                raise failed.result()
            else:
                raise TimeoutError
        finally:
            if not connecting.done():
                connecting.cancel()
            await asyncio.wait({connecting})
        if not connecting.cancelled() and connecting.exception() is None and raw.is_connected:
            connection = Connection(raw, server, settings)
            return connection
        raise ConnectionFailed("the server closed the connection at once")
    except Exception as error:
        abandon(raw)
        found = translate(error)
        named = type(found)(f"{server.url}: {found}", transient=found.transient)
        named.__cause__ = found.__cause__ or error
        raise named from (found.__cause__ or error)
    except BaseException:
        abandon(raw)
        raise
