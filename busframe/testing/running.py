"""A bus in a test: its handlers run, on a memory broker of their own and in a manual time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from busframe.bus import Bus
from busframe.bus.dead_letters import DeadLetterRecord
from busframe.codecs import Codecs
from busframe.errors import ConfigurationError
from busframe.handling.context import Context
from busframe.handling.handler import Next
from busframe.handling.outlet import Outlet
from busframe.handling.publisher import Publisher
from busframe.logic.dead_letter import read_dead_letter
from busframe.logic.wire import REPLAYS
from busframe.memory import MemoryBroker, MemoryTransport
from busframe.memory.rows import Row
from busframe.memory.store import Store
from busframe.model.delivery import Outgoing
from busframe.model.destination import Address, DeadLetters, Destination, Queue, Source, Subscription
from busframe.model.message import Message
from busframe.model.types import type_ids
from busframe.runtime.worker import Worker
from busframe.spi.transport import Host
from busframe.testing.clock import ManualClock

T = TypeVar("T")

_NOTHING: Mapping[Callable[..., Any], Callable[..., Any]] = MappingProxyType({})


class _Recording(MemoryTransport):
    """The memory transport, which remembers what the application published."""

    def __init__(self, host: Host, broker: MemoryBroker, published: list[Outgoing]) -> None:
        super().__init__(host, broker)
        self._published = published
        self.host = host

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """As ever; what was confirmed is remembered."""
        outcomes = await super().publish(outgoing, timeout_s=timeout_s)
        self._published += [out for out, outcome in zip(outgoing, outcomes, strict=True) if outcome is None]
        return outcomes


class RunningBus(Publisher):
    """What a test holds while a bus runs. Made by ``run``."""

    def __init__(
        self,
        bus: Bus,
        worker: Worker,
        broker: MemoryBroker,
        name: Callable[[Address], str],
        clock: ManualClock,
        published: Sequence[Outgoing],
        attempts: Mapping[str, Sequence[Message]],
        names: Mapping[Callable[..., Any], Sequence[str]],
    ) -> None:
        self.clock = clock
        self._bus = bus
        self._worker = worker
        self._broker = broker
        self._name = name
        self._published = published
        self._attempts = attempts
        self._names = names
        self._codecs = Codecs()

    def _outlet(self) -> Outlet:
        return self._bus._outlet()

    async def settled(self, timeout_s: float = 5.0) -> None:
        """Wait until everything that was caused so far is settled: handled, discarded, or dead-lettered.

        Delays (of retries, pauses, delayed publishes) are jumped over by the clock, so they take no time.

        Args:
            timeout_s: how long handlers may really take, in seconds.

        Raises:
            AssertionError: they took longer; says what is not settled.
        """
        until = time.monotonic() + timeout_s
        turns = 0
        while True:
            left = list(self._outstanding())
            busy = [runner.address for runner in self._worker.sources if runner.busy]
            if not left and not busy:
                return
            waiting = any(row.state == "waiting" and state != "paused" for _, row, state in left)
            due = self.clock.next_due()
            if not busy and not waiting and due is not None:
                self.clock.advance_to(due)
                turns = 0
            if time.monotonic() > until:
                what = ", ".join(f"{row.message.id} of {address} ({row.state})" for address, row, _ in left[:5])
                raise AssertionError(f"not settled within {timeout_s} s: {what or ', '.join(busy)}")
            turns += 1
            await asyncio.sleep(0 if turns < 200 else 0.001)

    async def advance(self, seconds: float) -> None:
        """Let happen what is due, then move the clock, waking sleepers in their order, with what they cause.

        Args:
            seconds: how far, ≥ 0.
        """
        await self._calm()  # else what was just published would be handled at the time after the move
        until = self.clock.now() + seconds
        while (due := self.clock.next_due()) is not None and due <= until:
            self.clock.advance_to(due)
            await self._calm()
        self.clock.advance_to(until)
        await self._calm()

    async def _calm(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        while any(runner.busy for runner in self._worker.sources):  # noqa: ASYNC110 - handlers take real time
            await asyncio.sleep(0.001)

    def attempts(self, handler: Callable[..., Any]) -> Sequence[Message]:
        """The messages that a handler was given, once for each attempt, in order.

        Raises:
            ConfigurationError: it is no handler of this bus.
        """
        if handler not in self._names:
            raise ConfigurationError(f"{getattr(handler, '__name__', handler)!r} is no handler of this bus")
        return [message for name in self._names[handler] for message in self._attempts.get(name, ())]

    def published(self, to: Destination[T]) -> Sequence[T]:
        """The payloads that were published to a destination, by the test or by handlers, in order; confirmed ones."""
        return [
            self._payload(out.message, to) for out in self._published if out.to == to and REPLAYS not in out.carried
        ]

    def _payload(self, message: Message, to: Destination[Any]) -> Any:
        for kind in to.types:
            if message.type in type_ids(kind) or len(to.types) == 1:
                return self._codecs.decode(message.body, message.content_type, kind)
        if (message.content_type or "").startswith("text/"):
            return message.body.decode()
        if message.content_type == "application/json":
            return self._codecs.decode(message.body, message.content_type, Any)
        return message.body

    def dead(self, source: Source[Any]) -> Sequence[DeadLetterRecord]:
        """The dead letters of a queue or subscription, oldest first."""
        letters = source if isinstance(source, DeadLetters) else source.dead_letters
        return [
            DeadLetterRecord(str(row.number), replace(row.message, dead=read_dead_letter(row.carried)))
            for row in self._rows(letters)
        ]

    def _outstanding(self) -> Iterator[tuple[str, Row, str]]:
        for runner in self._worker.sources:
            for row in self._rows(runner.plan.source):
                yield runner.address, row, runner.state

    def _rows(self, source: Queue[Any] | Subscription[Any] | DeadLetters) -> list[Row]:
        store = self._broker.entities.get(self._name(source))
        return list(store.rows.all.values()) if isinstance(store, Store) else []


def run(
    bus: Bus,
    *,
    replace: Mapping[Callable[..., Any], Callable[..., Any]] = _NOTHING,
    handlers: Sequence[str] = (),
) -> AbstractAsyncContextManager[RunningBus]:
    """Run a bus in a test: ``async with testing.run(bus) as running``.

    Its URL is not used: messages stay in a memory broker of this run. Its handlers, policies, middleware and lifespan
    are its own.

    Args:
        bus: as the application made it; not open.
        replace: handlers and the functions that stand in for them.
        handlers: names; their sources run. Empty: all.

    Raises:
        ConfigurationError: the bus is open, or there is no such handler.
    """
    return _run(bus, replace, handlers)


@asynccontextmanager
async def _run(
    bus: Bus, stand_ins: Mapping[Callable[..., Any], Callable[..., Any]], handlers: Sequence[str]
) -> AsyncIterator[RunningBus]:
    clock, broker = ManualClock(), MemoryBroker()
    published: list[Outgoing] = []
    attempts: dict[str, list[Message]] = {}
    transports: list[_Recording] = []

    def transport(host: Host) -> MemoryTransport:
        transports.append(_Recording(host, broker, published))
        return transports[-1]

    async def record(ctx: Context, call_next: Next) -> object:
        attempts.setdefault(ctx.handler, []).append(ctx.message)
        return await call_next()

    names: dict[Callable[..., Any], list[str]] = {}
    for handler in bus.handlers:
        names.setdefault(handler.fn, []).append(handler.name)
    unknown = [getattr(fn, "__name__", repr(fn)) for fn in stand_ins if fn not in names]
    if unknown:
        raise ConfigurationError(f"replace: {', '.join(unknown)} is no handler of this bus")
    with bus._standing_in(transport, clock.clock(), record, stand_ins):
        async with bus.worker(handlers=handlers) as worker:
            name = transports[-1].host.name
            yield RunningBus(bus, worker, broker, name, clock, published, attempts, names)
