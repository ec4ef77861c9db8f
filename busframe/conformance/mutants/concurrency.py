"""What can be wrong with how much is under way at once (K)."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, mutant
from busframe.errors import SettlementLost
from busframe.model.delivery import Delivery
from busframe.model.entity import Entity
from busframe.model.settlement import Settlement
from busframe.runtime.source import SourceRunner
from busframe.runtime.threads import Threads
from busframe.spi.transport import Receiver


@mutant("what is waiting is fetched without bounds", "C4", "K1", says="messages came|27 messages at another consumer")
class FetchesAhead(MutantReceiver):
    """Takes no notice of its prefetch."""

    def __init__(self, transport: MutantTransport, inner: Receiver, entity: Entity) -> None:
        super().__init__(transport, inner, entity)
        self._ahead: deque[Delivery] = deque()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """From what was fetched ahead."""
        if not self._ahead:
            self._ahead.extend(await self.inner.receive(1000))
        return [self._ahead.popleft() for _ in range(min(limit, len(self._ahead)))]


_START = SourceRunner.start


@core_mutant(
    "one handler more runs than is allowed",
    "G7",
    "K1",
    says="handlers ran at once",
    of=SourceRunner,
    attribute="start",
)
async def one_slot_more(self: SourceRunner) -> None:
    """One slot more."""
    self.concurrency += 1
    await _START(self)


@mutant("what is held for half a second is lost, unless more is received", "K2", says="was not settled: SettlementLost")
class LivesByReceiving(MutantReceiver):
    """As a client that is alive only when it is polled."""

    polled = 0.0

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Alive."""
        deliveries = await self.inner.receive(limit)
        self.polled = asyncio.get_running_loop().time()
        return deliveries

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Late."""
        if asyncio.get_running_loop().time() > self.polled + 0.5:
            return [SettlementLost("not polled")] * len(settled)
        return await self.inner.settle(settled)


@core_mutant("plain functions run on the event loop", "K5", says="the event loop was late", of=Threads, attribute="run")
async def threads_that_are_none(
    self: Threads, handler: str, timeout_s: float | None, fn: Callable[..., Any], /, *args: Any, **named: Any
) -> Any:
    """Called where everything else runs."""
    return fn(*args, **named)
