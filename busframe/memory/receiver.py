"""One consumer of one source of a ``MemoryBroker``."""

import asyncio
from collections.abc import Sequence

from busframe.errors import ClosedError, DestinationNotFound, TopologyMismatch
from busframe.memory.broker import MemoryBroker
from busframe.memory.consumer import Consumer
from busframe.memory.store import Ordering, Store
from busframe.model.delivery import Delivery
from busframe.model.destination import SourceAddress, Subscription, Where
from busframe.model.settlement import Settlement
from busframe.spi.transport import Host, Receiver

_YIELD_EVERY = 64


class MemoryReceiver(Receiver):
    """A receiver that fetches nothing ahead: what it holds is what ``receive`` has returned.

    Args:
        broker: where the source is.
        host: the clock, and what waits on it.
        source: what to consume.
        ordering: what its handlers ask.
        keep: False: what ``receive`` returns is settled by that.
    """

    def __init__(
        self, broker: MemoryBroker, host: Host, source: SourceAddress, *, ordering: Ordering, keep: bool
    ) -> None:
        self._broker = broker
        self._host = host
        self._source = source
        self._ordering = ordering
        self._keep = keep
        self._consumer: Consumer | None = None
        self._closed = False
        self._calls = 0

    def __repr__(self) -> str:
        return f"<MemoryReceiver {self._source} [{self._state}]>"

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def _state(self) -> str:
        consumer = self._consumer
        if self._closed or consumer is None:
            return "closed" if self._closed else "new"
        return f"{'stopped' if consumer.stopped else 'open'}, {len(consumer.held)} held"

    @property
    def where(self) -> Where | None:  # type: ignore[override]  # live, so that an update shows at once
        """The filter that is stored now; None for a source that is no subscription, or before ``open``."""
        if self._consumer is None or not isinstance(self._source, Subscription):
            return None
        return self._consumer.store.where

    async def open(self) -> None:
        """Consume.

        Raises:
            DestinationNotFound: the source does not exist.
            TopologyMismatch: it exists with another ordering than its handlers ask for.
        """
        if self._closed:
            raise ClosedError(f"the receiver of {self._source} is closed")
        if self._consumer is not None:
            return
        store = self._broker.entities.get(self._host.name(self._source))
        if not isinstance(store, Store) or not isinstance(self._source, store.kind):
            raise DestinationNotFound(str(self._source))
        if self._ordering == "key" and store.ordering != "key":
            raise TopologyMismatch(
                f"{self._source}: it keeps no order of keys, and its handlers ask for ordering='key'"
            )
        self._consumer = self._broker.attach(store, asyncio.get_running_loop())

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Wait for messages; see ``Receiver``."""
        broker, clock = self._broker, self._host.clock
        self._calls += 1
        if self._calls % _YIELD_EVERY == 0 or (self._consumer is not None and len(self._consumer.store.consumers) > 1):
            # Receiving from a server lets others run: other tasks now and then, and competing consumers each time.
            await asyncio.sleep(0)
        while True:
            consumer = self._consumer
            if consumer is None or consumer.stopped:
                raise ClosedError(f"the receiver of {self._source} is not open")
            # Decided at once after each wait, so that a cancelled wait has taken nothing.
            taken = broker.take(consumer, limit, clock(), keep=self._keep)
            if taken:
                return taken
            try:
                await self._wait_for_arrival(consumer)
            except BaseException:
                broker.leave(consumer)
                raise

    async def _wait_for_arrival(self, consumer: Consumer) -> None:
        if consumer.due is None:
            await consumer.arrival
            return
        sleeping = asyncio.ensure_future(self._host.sleep(max(0.0, consumer.due - self._host.clock())))
        try:
            await asyncio.wait((consumer.arrival, sleeping), return_when=asyncio.FIRST_COMPLETED)
            if sleeping.done():
                sleeping.result()
        finally:
            sleeping.cancel()

    def holds(self, delivery: Delivery) -> bool:
        """Whether a delivery was not taken back; see ``Receiver``."""
        return not self._keep or (self._consumer is not None and delivery.receipt in self._consumer.held)

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Settle deliveries; see ``Receiver``."""
        if self._consumer is None:
            raise ClosedError(f"the receiver of {self._source} was never opened")
        return self._broker.settle(self._consumer, settled, self._host.clock())

    async def stop(self) -> None:
        """Receive no more; see ``Receiver``."""
        if self._consumer is not None and not self._consumer.stopped:
            self._broker.stop(self._consumer)

    async def close(self) -> None:
        """End the consumer: what is unsettled goes back at once, to its old place."""
        if self._closed:
            return
        self._closed = True
        if self._consumer is not None:
            await self.stop()
            self._broker.detach(self._consumer)
