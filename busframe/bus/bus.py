"""What an application holds: it registers handlers, publishes, and runs."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from busframe.bus.dead_letters import DeadLetterBox
from busframe.bus.opened import Definition, OpenBus, open_bus
from busframe.codecs import Codec, Codecs
from busframe.errors import ClosedError, ConfigurationError, Unsupported
from busframe.handling.context import SyncPublisher
from busframe.handling.handler import Handler, Middleware
from busframe.handling.outlet import Outlet, PublishMiddleware
from busframe.handling.plan import SourcePlan
from busframe.handling.publisher import Publisher
from busframe.handling.router import Router
from busframe.handling.signature import read_signature
from busframe.logic.retry import RetryPolicy
from busframe.model.destination import Destination, Source
from busframe.model.events import SourceChanged
from busframe.runtime.clock import Clock
from busframe.runtime.handle import Handling
from busframe.runtime.signals import exit_now, stop_on_signal
from busframe.runtime.source import SourceRunner
from busframe.runtime.threads import Threads
from busframe.runtime.verdicts import Verdicts
from busframe.runtime.worker import Health, Worker
from busframe.spi.transport import Host, Transport

if TYPE_CHECKING:
    from busframe.config import Configuration

logger = logging.getLogger("busframe.bus")

R = TypeVar("R")

_making_sync = threading.Lock()
_NOTHING: Mapping[str, object] = MappingProxyType({})


class Bus(Router, Publisher):
    """Registers handlers, publishes messages, runs workers. Constructing one reads, imports and connects nothing.

    ``async with bus`` connects it for publishing; ``async with bus.worker()`` runs its handlers as well. It belongs to
    the event loop that opened it, and may be opened again, on another loop too, after it was left.

    Args:
        url: the broker; its scheme chooses the plugin. Without one, configuration says it (``busframe.toml``,
            ``BUSFRAME_URL``); where nothing says it, opening raises ``ConfigurationError``.
        config: any settings, as in ``busframe.toml``; stronger than that file.
        transport: makes a transport, in place of a URL.
        uses: queues, topics and sources that are declared when the bus opens, though nothing here handles them.
        codecs: for payloads that are no ``bytes`` or ``str``; the first one encodes. Default: JSON.
        retry: the policy of handlers that state none.
        middleware: around every handler, outermost first.
        publish_middleware: around every publish, outermost first.
        observers: called with what happened (``busframe.model.events``); on the loop, so they may not block.
        lifespan: opens what handlers need; what it yields is ``ctx.state``.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        config: Mapping[str, object] = _NOTHING,
        transport: Callable[[Host], Transport] | None = None,
        uses: Sequence[Destination[Any] | Source[Any]] = (),
        codecs: Sequence[Codec] = (),
        retry: RetryPolicy | None = None,
        middleware: Sequence[Middleware] = (),
        publish_middleware: Sequence[PublishMiddleware] = (),
        observers: Sequence[Callable[[object], None]] = (),
        lifespan: Callable[["Bus"], AbstractAsyncContextManager[object]] | None = None,
    ) -> None:
        super().__init__()
        self.uses = tuple(uses)
        self._arguments: dict[str, object] = {**config, **({"url": url} if url is not None else {})}
        self._options: Mapping[str, object] = {}
        self._profile: str | None = None
        self._transport = transport
        self._codecs = Codecs(codecs)
        self._bus_retry = retry
        self._bus_middleware = tuple(middleware)
        self._publish_middleware = tuple(publish_middleware)
        self._observers = tuple(observers)
        self._lifespan = lifespan
        self._clock = Clock()
        self._stand_ins: Mapping[Callable[..., Any], Callable[..., Any]] = {}
        self._open: OpenBus | None = None
        self._users = 0
        self._gate: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._worker: Worker | None = None
        self._sync: SyncPublisher | None = None

    # ------------------------------------------------------------------------------------------------ what it is

    @property
    def handlers(self) -> Sequence[Handler]:
        """All registered handlers, those of included routers as well."""
        return tuple(map(self._replaced, self._handlers())) if self._stand_ins else tuple(self._handlers())

    def _replaced(self, handler: Handler) -> Handler:
        fn = self._stand_ins.get(handler.fn)
        if fn is None:
            return handler
        return replace(handler, fn=fn, signature=read_signature(fn, handler.source, handler.only))

    def configuration(self) -> "Configuration":
        """The effective settings and where each was said. Reads files and the environment; connects nothing.

        Raises:
            InvalidSettings: all that is wrong, each with where it was said.
        """
        from busframe.config import load

        names = [handler.name for handler in self.handlers]
        names += [item.name for item in self.uses if isinstance(item, Destination)]
        return load(self._arguments, self._options, profile=self._profile, names=names)

    def override(self, options: Mapping[str, object], profile: str | None = None) -> None:
        """Settings that are stronger than all others, for a command line. Before the bus is opened."""
        self._options = dict(options)
        self._profile = profile

    def plans(self, configuration: "Configuration | None" = None) -> Sequence[SourcePlan]:
        """How each source is consumed, with what configuration overrides. Connects nothing.

        Raises:
            ConfigurationError: handlers contradict one another, or configuration names what is not there.
        """
        return self._definition().plans(configuration or self.configuration())

    def _definition(self) -> Definition:
        return Definition(
            self._transport,
            self.uses,
            self.handlers,
            self._codecs,
            self._bus_retry,
            self._bus_middleware,
            self._publish_middleware,
            self._clock,
        )

    @contextlib.contextmanager
    def _standing_in(
        self,
        transport: Callable[[Host], Transport],
        clock: Clock,
        middleware: Middleware,
        handlers: Mapping[Callable[..., Any], Callable[..., Any]],
    ) -> Iterator[None]:
        """For ``busframe.testing``: another transport and time, and other functions in the place of handlers."""
        if self._open is not None:
            raise ConfigurationError("the bus is open: leave it before a test runs it")
        own = self._transport, self._clock, self._bus_middleware, self._stand_ins
        self._transport, self._clock, self._stand_ins = transport, clock, handlers
        self._bus_middleware = (middleware, *self._bus_middleware)
        try:
            yield
        finally:
            self._transport, self._clock, self._bus_middleware, self._stand_ins = own

    def __repr__(self) -> str:
        state = "open" if self._open is not None else "closed"
        return f"<Bus {state}, {len(self.handlers)} handlers>"

    # ------------------------------------------------------------------------------------------------ open

    async def __aenter__(self) -> Self:
        """Read the configuration, connect, declare what the application needs, check what it asks.

        Raises:
            ConfigurationError: all that is wrong with the application and its configuration, in one.
            Unsupported: all that the transport cannot do of what is asked, in one.
            ConnectionFailed: the broker was not reached within ``connect_timeout_s``.
            AccessDenied: it refuses the credentials.
        """
        loop = asyncio.get_running_loop()
        if self._gate is None or self._gate[0] is not loop:
            if self._gate is not None and not self._gate[0].is_closed() and (self._users or self._gate[1].locked()):
                raise ConfigurationError(
                    "the bus is open on another event loop: leave it there first, or use bus.sync() for code without "
                    "a loop"
                )
            # A loop that was closed under an open bus took the connection with it.
            self._gate, self._open, self._users = (loop, asyncio.Lock()), None, 0
        async with self._gate[1]:  # of several tasks one opens it; where that fails, the next one tries
            if self._open is None:
                self._open = await open_bus(self._definition(), self.configuration())
            self._users += 1
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Flush and disconnect, when the last one leaves that entered."""
        self._users -= 1
        if self._users == 0 and self._open is not None:
            opened, self._open = self._open, None
            await opened.close()

    def _opened(self) -> OpenBus:
        if self._open is None:
            raise ClosedError("the bus is not open: publish inside `async with bus`, or use bus.sync()")
        return self._open

    def _outlet(self) -> Outlet:
        return self._opened().outlet

    def dead_letters(self, source: Source[Any]) -> DeadLetterBox:
        """The dead letters of a queue or subscription: to look at, to send back, to remove. Works while it is open.

        Raises:
            ConfigurationError: a topic has none; its subscriptions have.
        """
        return DeadLetterBox(source, self._opened)

    def native(self, kind: type[R]) -> R:
        """The transport's own client, for what is not portable.

        Raises:
            Unsupported: it is of another type.
            ClosedError: the bus is not open.
        """
        native = self._opened().transport.native
        if not isinstance(native, kind):
            raise Unsupported(f"the transport's own client is {type(native).__name__}, not {kind.__name__}")
        return native

    def health(self) -> Health:
        """How the bus and its worker are. Never raises."""
        if self._open is None:
            return Health(False)
        connection = self._open.reports.connection
        problems = [] if connection == "up" else [f"the connection to the broker is {connection}"]
        if self._worker is None:
            return Health(connection != "down", problems=problems)
        health = self._worker.health()
        return Health(health.ready and connection != "down", health.sources, [*problems, *health.problems])

    def statistics(self) -> Mapping[str, Mapping[str, int]]:
        """What each source of the last worker did, by its text form; readable after the worker ended."""
        return self._worker.statistics() if self._worker is not None else {}

    # ------------------------------------------------------------------------------------------------ run

    @asynccontextmanager
    async def worker(self, *, handlers: Sequence[str] = ()) -> AsyncIterator[Worker]:
        """Run handlers in a process of one's own: no signal handlers are installed.

        Entered: the bus is open, the lifespan entered, every source is being consumed. Left: drained, also by an
        exception or a cancellation.

        Args:
            handlers: names; their sources run, each with all of its handlers. Empty: all.

        Raises:
            ConfigurationError: there is no such handler.
            Unsupported, ConnectionFailed, AccessDenied: as for ``async with bus``.
            DestinationNotFound: with ``topology = "assume"``, a source does not exist.
        """
        async with self, contextlib.AsyncExitStack() as stack:
            opened = self._opened()
            plans = _chosen(opened.plans, handlers)
            state = await stack.enter_async_context(self._lifespan(self)) if self._lifespan is not None else None
            worker = Worker(
                [self._runner(plan, opened, state) for plan in plans], opened.host, opened.settings.drain_timeout_s
            )
            opened.reports.listener = worker.reported
            self._worker = worker
            try:
                await worker.start()
                yield worker
            finally:
                try:
                    await worker.end()
                finally:
                    opened.reports.listener = None

    def _runner(self, plan: SourcePlan, opened: OpenBus, state: object) -> SourceRunner:
        verdicts = Verdicts(plan, opened.host, opened.transport, opened.settings.max_lane_delay_s)
        plain = any(not handler.signature.is_async for handler in plan.handlers)
        threads = Threads(plan.concurrency, plan.source.address) if plain else None
        handling = Handling(plan, verdicts, self._codecs, opened.outlet, state, self._observers, threads)

        def changed(state: Any, cause: BaseException | None) -> None:
            # What is wrong is said once, by who noticed it: the connection, or the receiving.
            logger.info("%s: %s", plan.source, state, extra={"source": plan.source.address, "state": state})
            handling.tell(SourceChanged(plan.source, state, cause))

        return SourceRunner(
            plan,
            opened.entities.get(plan.source, plan.entity),
            opened.transport,
            opened.host,
            handling,
            max_deliveries=opened.settings.max_deliveries,
            redeclare=opened.redeclare,
            changed=changed,
        )

    def run(
        self,
        *,
        handlers: Sequence[str] = (),
        until_idle_s: float | None = None,
        started: Callable[[Worker], None] | None = None,
    ) -> int:
        """Run the handlers as a process: what ``busframe worker`` calls.

        The first SIGTERM or SIGINT drains and ends it; a second one ends it at once.

        Args:
            handlers: names; their sources run. Empty: all.
            until_idle_s: end when nothing happened for so many seconds; None: only by signal.
            started: called when every source is being consumed.

        Returns:
            The exit code: 0 ended in order; 1 handlers had to be cancelled.

        Raises:
            BusframeError: it could not start.
        """
        with asyncio.Runner() as runner:
            return runner.run(self._run(handlers, until_idle_s, started))

    async def _run(
        self, handlers: Sequence[str], until_idle_s: float | None, started: Callable[[Worker], None] | None
    ) -> int:
        ending = asyncio.Event()
        starting: asyncio.Task[Any] | None = asyncio.current_task()

        def stop() -> None:
            ending.set()
            if starting is not None:
                starting.cancel()  # nothing runs yet, so there is nothing to drain

        with stop_on_signal(stop):
            try:
                async with self.worker(handlers=handlers) as worker:
                    starting = None
                    if started is not None:
                        started(worker)
                    await _ended(ending, worker, until_idle_s)
                    drained = await worker.drain()
            except asyncio.CancelledError:
                if ending.is_set():
                    return 0
                raise
            if worker.stuck_threads:
                logger.error("%d handlers still run in threads: the process ends without them", worker.stuck_threads)
                exit_now(1)
            return 0 if drained else 1

    def sync(self) -> SyncPublisher:
        """Publish from code without a loop (Django, scripts).

        One loop thread a process, opened at the first publish, made anew after a fork, closed at exit.
        """
        from busframe.bus.sync import LoopThreadPublisher

        with _making_sync:
            if self._sync is None:
                self._sync = LoopThreadPublisher(lambda: open_bus(self._definition(), self.configuration()))
            return self._sync


def _chosen(plans: Sequence[SourcePlan], handlers: Sequence[str]) -> Sequence[SourcePlan]:
    if not handlers:
        return plans
    known = [handler.name for plan in plans for handler in plan.handlers]
    unknown = [name for name in handlers if name not in known]
    if unknown:
        raise ConfigurationError(
            f"there is no handler {', '.join(map(repr, unknown))}: there are {', '.join(known) or 'none'}"
        )
    # A source runs whole: with some of its handlers left out, their messages would be of unknown type.
    return [plan for plan in plans if any(handler.name in handlers for handler in plan.handlers)]


async def _ended(ending: asyncio.Event, worker: Worker, until_idle_s: float | None) -> None:
    waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(ending.wait())]
    if until_idle_s is not None:
        waits.append(asyncio.ensure_future(worker.wait_idle(until_idle_s)))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
