"""A connection that comes back: lost, it is made anew for ever, with back-off and jitter."""

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

from busframe.errors import ClosedError, ConnectionFailed, TransportError
from busframe.spi.transport import Host
from busframe_nats.client import Connection, Lost, connect
from busframe_nats.settings import Server, Settings

log = logging.getLogger(__name__)

State = Literal["up", "down"]


class Link:
    """One supervised connection.

    Attributes:
        connection: the open one, or None.
        error: why there is none, or was none the last time.
        on_up: called with each new connection before anybody else gets it.
        on_down: called with the reason at the very moment when one is lost.
    """

    def __init__(
        self, settings: Settings, host: Host, on_state: Callable[[State, TransportError | None], None]
    ) -> None:
        self.connection: Connection | None = None
        self.error: TransportError = ConnectionFailed("not connected yet")
        self.on_up: list[Callable[[Connection], None]] = []
        self.on_down: list[Callable[[TransportError], None]] = []
        self._settings = settings
        # Shuffled once, so that many clients spread over the servers of a cluster.
        self._servers = sorted(settings.servers, key=lambda _: host.random())
        self._warned: set[Server] = set()
        self._host = host
        self._on_state = on_state
        self._up = asyncio.Event()
        self._closed = False
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Link {'up' if self.connection else 'down'}>"

    async def open(self) -> None:
        """Connect, once; to the first server that takes us.

        Raises:
            ConnectionFailed: none can be reached.
            AccessDenied: one refuses the credentials, and none takes them.
        """
        self._closed = False
        self._up.clear()
        errors = await self._connect()
        if self.connection is None:
            raise next((error for error in errors if not error.transient), errors[0])
        self._keeper = asyncio.create_task(self._keep(), name="busframe nats connection")

    async def wait_up(self) -> Connection:
        """Wait until there is an open connection.

        Raises:
            ClosedError: there will be none any more.
        """
        while self.connection is None:
            if self._closed:
                raise ClosedError("the connection to NATS is closed")
            await self._up.wait()
        return self.connection

    async def close(self) -> None:
        """Disconnect, for good. Idempotent."""
        self._closed = True
        self._up.set()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.on_close = lambda error: None
            await connection.close()

    async def _connect(self) -> list[TransportError]:
        """Try each server once until one takes us. Returns why others did not."""
        errors: list[TransportError] = []
        name = f"{self._host.application} {self._host.instance}"
        for _ in range(len(self._servers)):
            server = self._servers.pop(0)
            self._servers.append(server)
            try:
                connection = await connect(self._settings, server, name)
            except TransportError as error:
                errors.append(error)
                log.debug("cannot connect", extra={"cause": str(error)})
                if not error.transient and self._keeper is not None and server not in self._warned:
                    # Refused, and not only away: it goes on trying, but somebody has to act.
                    self._warned.add(server)
                    log.warning("cannot connect: %s", error)
                continue
            connection.on_close = self._lost
            self._warned.discard(server)
            if connection.closed.done():
                errors.append(connection.closed.result())
                continue
            self.connection = connection
            for told in self.on_up:
                try:
                    told(connection)
                except Lost:  # it is gone already; the next one comes
                    break
                except Exception:  # whatever it is, the others need the connection
                    log.exception("taking up a connection failed")
            self._up.set()
            break
        return errors

    def _lost(self, error: TransportError) -> None:
        # At the very moment: what is woken by the loss must not find the old connection here.
        self.connection = None
        self.error = error
        if not self._closed:
            self._up.clear()
        for told in self.on_down:
            told(error)

    async def _keep(self) -> None:
        settings, random = self._settings, self._host.random
        pause_s = settings.reconnect_min_s
        while True:
            if self.connection is not None:
                error = await asyncio.shield(self.connection.closed)
                log.debug("connection lost", extra={"cause": str(error)})
                self._on_state("down", error)
            while self.connection is None:
                # Each between half and all of its length, so that a fleet does not march.
                await self._host.sleep(pause_s * (0.5 + random() / 2))
                pause_s = min(settings.reconnect_max_s, pause_s * 2)
                try:
                    errors = await self._connect()
                except Exception as error:  # whatever it is, the connection must come back
                    self.error = ConnectionFailed(f"connecting failed: {error!r}")
                    log.exception("connecting failed")
                else:
                    if self.connection is None and errors:
                        self.error = errors[-1]
            pause_s = settings.reconnect_min_s
            log.debug("connected again")
            self._on_state("up", None)
