"""The socket under pika: asyncio's own transport, with what is written in one turn of the loop sent in one call.

pika writes each frame by itself, three for a message; its own transport makes a system call of each. Gathering them
until the end of the turn, or until there is enough, takes three calls a message to one for dozens (and TLS becomes
asyncio's).
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

FLUSH_BYTES = 8 * 1024
"""What is sent before the turn ends: the server works on it while the rest of the turn is still encoded."""

TLS_GOODBYE_S = 1.0
"""How long a stream with TLS waits, when it is closed, for a server that may be gone; asyncio's default is 30 s."""


class PikaStream(Protocol):
    """What pika wants to be told; its ``AbstractStreamProtocol``."""

    def connection_made(self, transport: object) -> None:
        """The stream is up."""

    def connection_lost(self, error: BaseException | None) -> None:
        """The stream is down."""

    def eof_received(self) -> bool | None:
        """The server says no more."""

    def data_received(self, data: bytes) -> None:
        """The server said this."""


class GatheringTransport:
    """What pika writes to; its ``AbstractStreamTransport``."""

    def __init__(self, transport: asyncio.Transport, protocol: PikaStream, loop: asyncio.AbstractEventLoop) -> None:
        self.aborted = False
        self._transport = transport
        self._protocol = protocol
        self._loop = loop
        self._gathered: list[bytes] = []
        self._size = 0
        self._scheduled = False

    def write(self, data: bytes) -> None:
        """Send it at the end of this turn of the loop, or now when there is enough."""
        self._gathered.append(data)
        self._size += len(data)
        if self._size >= FLUSH_BYTES:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        if not self._gathered:
            return
        data = b"".join(self._gathered)
        self._gathered.clear()
        self._size = 0
        if not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """End the stream; what pika wrote before (its ``Connection.CloseOk``) is sent first where it can be at once."""
        self.aborted = True
        self._flush()
        self._transport.abort() if self._transport.get_write_buffer_size() else self._transport.close()

    def get_protocol(self) -> PikaStream:
        """The protocol that it was made for."""
        return self._protocol

    def get_write_buffer_size(self) -> int:
        """How many bytes wait to be sent."""
        return self._size + self._transport.get_write_buffer_size()


class StreamProtocol(asyncio.Protocol):
    """Passes asyncio's events on to pika."""

    def __init__(self) -> None:
        self.pika: PikaStream | None = None
        self.transport: GatheringTransport | None = None
        self._early: list[bytes] = []
        self._got_eof = False
        self._lost = False

    def attach(self, pika: PikaStream, transport: GatheringTransport) -> None:
        """Introduce the two to each other; nothing is received in between, because nothing is awaited."""
        self.pika = pika
        self.transport = transport
        if self._lost:
            raise ConnectionResetError("the server closed the connection at once")
        pika.connection_made(transport)
        for data in self._early:
            pika.data_received(data)
        self._early.clear()

    # After its own ``abort()`` pika hears only that it is over: with TLS a goodbye is exchanged first, and what comes
    # meanwhile would hide why it aborted.

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.pika is None or self.transport is None:
            self._early.append(data)
        elif not self.transport.aborted:
            self.pika.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on; pika answers that the transport shall close."""
        self._got_eof = True
        if self.pika is None or self.transport is None or self.transport.aborted:
            return None
        return self.pika.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on, in the form that pika expects.

        pika asserts that there is a reason: None is allowed only after its own ``abort()`` or after an end of file.
        """
        self._lost = True
        if self.pika is None or self.transport is None:
            return
        if self.transport.aborted:
            exc = None
        elif exc is None and not self._got_eof:
            exc = ConnectionAbortedError("the connection was closed")
        self.pika.connection_lost(exc)


class LoopReference:
    """Something under way that pika may cancel; its ``AbstractIOReference``."""

    def __init__(self, work: Awaitable[Any], on_done: Callable[[Any], None]) -> None:
        self._future = asyncio.ensure_future(work)
        self._on_done = on_done
        self._future.add_done_callback(self._finished)

    def _finished(self, future: "asyncio.Future[Any]") -> None:
        if not future.cancelled():  # pika does not want to hear of what it cancelled
            self._on_done(future.exception() or future.result())

    def cancel(self) -> bool:
        """Give it up; returns whether it was still under way."""
        return self._future.cancel()


class LoopTimer:
    """A timer that pika may cancel; its ``AbstractTimerReference``."""

    def __init__(self, handle: asyncio.TimerHandle) -> None:
        self._handle = handle

    def cancel(self) -> None:
        """Give it up."""
        self._handle.cancel()


class LoopServices:
    """What pika asks of a loop; its ``AbstractIOServices``, to be given as ``AsyncioConnection(custom_ioloop=…)``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def get_native_ioloop(self) -> asyncio.AbstractEventLoop:
        """The loop itself."""
        return self._loop

    def close(self) -> None:
        """Do nothing: the loop is the application's."""

    run = stop = close

    def add_callback_threadsafe(self, callback: Callable[..., None]) -> None:
        """Call it in the next turn."""
        self._loop.call_soon_threadsafe(callback)

    def call_later(self, delay: float, callback: Callable[..., None]) -> LoopTimer:
        """Call it after so many seconds."""
        return LoopTimer(self._loop.call_later(delay, callback))

    def getaddrinfo(
        self,
        host: str,
        port: int,
        on_done: Callable[[Any], None],
        family: int = 0,
        socktype: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> LoopReference:
        """Resolve a name."""
        found = self._loop.getaddrinfo(host, port, family=family, type=socktype, proto=proto, flags=flags)
        return LoopReference(found, on_done)

    def connect_socket(self, sock: socket.socket, resolved_addr: Any, on_done: Callable[[Any], None]) -> LoopReference:
        """Connect a socket."""
        return LoopReference(self._loop.sock_connect(sock, resolved_addr), on_done)

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], Any],
        sock: socket.socket,
        on_done: Callable[[Any], None],
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> LoopReference:
        """Make a stream of a connected socket, with TLS where a context is given."""

        async def connect() -> tuple[GatheringTransport, Any]:
            transport, protocol = await self._loop.create_connection(
                StreamProtocol,
                sock=sock,
                ssl=ssl_context,
                server_hostname=server_hostname,
                ssl_shutdown_timeout=None if ssl_context is None else TLS_GOODBYE_S,
            )
            of_pika = protocol_factory()
            gathering = GatheringTransport(transport, of_pika, self._loop)
            protocol.attach(of_pika, gathering)
            return gathering, of_pika

        return LoopReference(connect(), on_done)
