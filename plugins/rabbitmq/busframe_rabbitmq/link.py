"""A connection that comes back: lost, it is made anew for ever, with back-off and jitter."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Literal

from busframe.errors import ClosedError, ConnectionFailed, TransportError
from busframe.spi.transport import Host
from busframe_rabbitmq.client import Connection, connect
from busframe_rabbitmq.settings import Server, Settings

log = logging.getLogger(__name__)

State = Literal["up", "down", "blocked"]


class Backoff:
    """Pauses that double, within bounds, each between half and all of its length so that a fleet does not march."""

    __slots__ = ("_longest_s", "_next_s", "_shortest_s")

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self._shortest_s = shortest_s
        self._longest_s = max(shortest_s, longest_s)
        self._next_s = shortest_s

    def pause(self, random: float) -> float:
        """The next pause, in seconds; ``random`` is uniform in [0, 1)."""
        pause = self._next_s * (0.5 + random / 2)
        self._next_s = min(self._longest_s, self._next_s * 2)
        return pause

    def reset(self) -> None:
        """It went well: begin again with the shortest."""
        self._next_s = self._shortest_s


class Rounds:
    """In which order the servers are tried: each in its turn, all of them once in a round, a pause between rounds.

    Args:
        servers: as they are said.
        random: uniform in [0, 1): the order is shuffled once, so that many clients spread over the nodes of a cluster.
    """

    __slots__ = ("_left", "_servers")

    def __init__(self, servers: Sequence[Server], random: Callable[[], float]) -> None:
        self._servers = sorted(servers, key=lambda _: random())
        self._left = len(self._servers)

    @property
    def is_over(self) -> bool:
        """Whether each server has been tried in this round."""
        return self._left <= 0

    def begin(self, *, tried: int = 0) -> None:
        """Begin a round with the next server; so many, the last ones, need no trying."""
        self._left = len(self._servers) - tried

    def next(self) -> Server:
        """The one whose turn it is."""
        server = self._servers.pop(0)
        self._servers.append(server)
        self._left -= 1
        return server


class Link:
    """One supervised connection.

    Attributes:
        role: ``publish`` or ``consume``; part of the connection's name in the server's management.
        connection: the open one, or None.
        error: why there is none, or was none the last time.
        blocked: the server's reason while it takes no publishes, else None.
    """

    def __init__(
        self, role: str, settings: Settings, host: Host, on_state: Callable[[State, TransportError | None], None]
    ) -> None:
        self.role = role
        self.connection: Connection | None = None
        self.error: TransportError = ConnectionFailed("not connected yet")
        self.blocked: str | None = None
        self.on_unblocked: Callable[[], None] = lambda: None
        self._settings = settings
        self._rounds = Rounds(settings.servers, host.random)
        self._warned: set[Server] = set()
        self._host = host
        self._on_state = on_state
        self._up = asyncio.Event()
        self._closed = False
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Link {self.role}: {'blocked' if self.blocked else 'up' if self.connection else 'down'}>"

    async def open(self) -> None:
        """Connect, once; to the first server that takes us.

        Raises:
            ConnectionFailed: none can be reached.
            AccessDenied: one refuses the credentials or the virtual host, and none takes them.
        """
        self._closed = False
        self._up.clear()
        self._rounds.begin()
        errors = await self._connect()
        if self.connection is None:
            raise next((error for error in errors if not error.transient), errors[0])
        self._keeper = asyncio.create_task(self._keep(), name=f"busframe rabbitmq {self.role} connection")

    async def wait_up(self) -> Connection:
        """Wait until there is an open connection.

        Raises:
            ClosedError: there will be none any more.
        """
        while self.connection is None:
            if self._closed:
                raise ClosedError("the connection to RabbitMQ is closed")
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
        """Try the servers that are left in this round until one takes us. Returns why others did not."""
        errors: list[TransportError] = []
        name = f"{self._host.application} {self._host.instance} {self.role}"
        while not self._rounds.is_over:
            server = self._rounds.next()
            try:
                connection = await connect(self._settings, server, name)
            except TransportError as error:
                errors.append(error)
                log.debug("cannot connect", extra={"role": self.role, "cause": str(error)})
                if not error.transient and self._keeper is not None and server not in self._warned:
                    # Refused, and not only away: it goes on trying, but somebody has to act.
                    self._warned.add(server)
                    log.warning("%s: cannot connect: %s", self.role, error, extra={"role": self.role})
                continue
            connection.on_close = self._lost
            connection.on_blocked = self._set_blocked
            self.connection = connection
            self.blocked = None
            self._warned.discard(server)
            self._up.set()
            break
        return errors

    def _lost(self, error: TransportError) -> None:
        # At the very moment: what is woken by the end of a channel must not find the old connection here.
        self.connection = None
        self.error = error
        self.blocked = None
        if not self._closed:
            self._up.clear()

    def _set_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        self._on_state("up" if reason is None else "blocked", None if reason is None else ConnectionFailed(reason))
        if reason is None:
            self.on_unblocked()

    async def _keep(self) -> None:
        settings, time = self._settings, asyncio.get_running_loop().time
        backoff = Backoff(settings.reconnect_min_s, settings.reconnect_max_s)
        while True:
            if self.connection is not None:
                since = time()
                error = await asyncio.shield(self.connection.closed)
                log.debug("connection lost", extra={"role": self.role, "cause": str(error)})
                self._on_state("down", error)
                if time() - since >= settings.reconnect_max_s:
                    # The others are tried at once. After a shorter life the round goes on: a cluster that takes
                    # connections and drops them is not to be asked without end or pause.
                    self._rounds.begin(tried=1)
            while self.connection is None:
                if self._rounds.is_over:
                    await self._host.sleep(backoff.pause(self._host.random()))
                    self._rounds.begin()
                try:
                    errors = await self._connect()
                except Exception as error:  # whatever it is, the connection must come back
                    self.error = ConnectionFailed(f"connecting failed: {error!r}")
                    log.exception("connecting failed", extra={"role": self.role})
                else:
                    if self.connection is None:
                        self.error = errors[-1]
            backoff.reset()
            log.debug("connected again", extra={"role": self.role})
            self._on_state("up", None)
