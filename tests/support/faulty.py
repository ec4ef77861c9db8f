"""A transport over a ``MemoryBroker`` that fails in the ways that brokers and networks do, when a test says so."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from busframe.errors import MessageTooLarge, PublishOutcomeUnknown, TransportError
from busframe.memory import MemoryBroker, MemoryTransport
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import SourceAddress, Where
from busframe.model.entity import Change, Entity, Stored
from busframe.model.settlement import ACK, RELEASE, DeadLetter, Nack, Settlement
from busframe.spi.transport import Host, Receiver, Transport

Operation: TypeAlias = Literal[
    "open", "plan", "apply", "publish", "open receiver", "receive", "settle", "resize", "stop", "close receiver"
]


class Lost(Exception):
    """As the outcome of a settlement: the broker never got it, and the worker is told that it has."""


class _Hang(Exception):
    pass


class Faults:
    """What goes wrong next, and what happened; shared by all transports of a test.

    Attributes:
        judge: (delivery, settlement) → what settling it answers instead; None: it is settled.
        refuse: what publishing a message answers instead; None: it is published.
        letter_limit: a dead letter that carries more bytes is too large.
        deliveries: message id → the count to deliver it with.
        capabilities: what is claimed otherwise than by the memory transport.
        where_known: False: the receiver cannot tell the stored filter.
        calls: every operation that was called.
        settled: (message id, settlement) that the broker has, in order.
        prefetch: what receivers were made and resized with, in order.
        receivers: those that are open.
        hosts: what the core gave to each transport.
    """

    def __init__(self) -> None:
        self._next: defaultdict[str, deque[BaseException]] = defaultdict(deque)
        self.judge: Callable[[Delivery, Settlement], Exception | None] = lambda delivery, settlement: None
        self.refuse: Callable[[Outgoing], Exception | None] = lambda outgoing: None
        self.letter_limit: int | None = None
        self.deliveries: dict[str, int] = {}
        self.capabilities: Mapping[str, Any] = {}
        self.where_known = True
        self.calls: list[str] = []
        self.settled: list[tuple[str, Settlement]] = []
        self.prefetch: list[int] = []
        self.receivers: set[FaultyReceiver] = set()
        self.hosts: list[Host] = []
        self.counts: defaultdict[str, int] = defaultdict(int)

    def fail(self, operation: Operation, times: int = 1, error: BaseException | None = None) -> None:
        """Let the next calls of an operation raise."""
        self._next[operation] += [error or TransportError(f"{operation} failed")] * times

    def hang(self, operation: Operation, times: int = 1) -> None:
        """Let the next calls of an operation never return; a publish ends with its own time-out."""
        self._next[operation] += [_Hang()] * times

    async def meet(self, operation: Operation) -> None:
        """Called first by each operation."""
        self.calls.append(operation)
        if self._next[operation]:
            fault = self._next[operation].popleft()
            if isinstance(fault, _Hang):
                await asyncio.Event().wait()
            raise fault

    def hangs(self, operation: Operation) -> bool:
        """Whether the next call hangs; if so it is taken for that."""
        if self._next[operation] and isinstance(self._next[operation][0], _Hang):
            self._next[operation].popleft()
            return True
        return False

    @property
    def held(self) -> int:
        """How many deliveries are unsettled."""
        return sum(len(receiver.held) for receiver in self.receivers)

    def settlements(self, *kinds: type) -> list[str]:
        """The ids of the messages that were settled so, in order."""
        return [id for id, settlement in self.settled if isinstance(settlement, kinds)]


class FaultyTransport(Transport):
    """A ``MemoryTransport`` with faults."""

    def __init__(self, host: Host, broker: MemoryBroker, faults: Faults) -> None:
        self.inner = MemoryTransport(host, broker)
        self.faults = faults
        self.capabilities: Capabilities = replace(self.inner.capabilities, **faults.capabilities)
        self._broker = broker
        faults.hosts.append(host)

    async def open(self) -> None:
        """Connect."""
        await self.faults.meet("open")
        await self.inner.open()
        self.native = self.inner.native

    async def close(self) -> None:
        """Disconnect."""
        await self.inner.close()

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Compare."""
        await self.faults.meet("plan")
        return await self.inner.plan(entities)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make."""
        await self.faults.meet("apply")
        await self.inner.apply(changes)

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Publish, but what is refused."""
        if self.faults.hangs("publish"):
            await asyncio.sleep(timeout_s)
            return [PublishOutcomeUnknown("no answer came in time")] * len(outgoing)
        await self.faults.meet("publish")
        refused = {id(out): answer for out in outgoing if (answer := self.faults.refuse(out)) is not None}
        taken = [out for out in outgoing if id(out) not in refused]
        answers = iter(await self.inner.publish(taken, timeout_s=timeout_s))
        return [refused[id(out)] if id(out) in refused else next(answers) for out in outgoing]

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """Make a consumer."""
        self.faults.prefetch.append(prefetch)
        return FaultyReceiver(self.inner.receiver(entity, prefetch=prefetch, ack=ack), self)

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """Look."""
        return await self.inner.browse(source, after=after, limit=limit)

    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        """Remove."""
        return await self.inner.remove(source, positions)

    async def purge(self, source: SourceAddress) -> int:
        """Remove all."""
        return await self.inner.purge(source)


class FaultyReceiver(Receiver):
    """A receiver with faults. Without ``attempt_exact`` it counts deliveries and keeps no state, as NATS does."""

    def __init__(self, inner: Receiver, transport: FaultyTransport) -> None:
        self.inner = inner
        self.faults = transport.faults
        self.exact = transport.capabilities.attempt_exact
        self.held: dict[object, Delivery] = {}

    @property
    def where(self) -> Where | None:  # type: ignore[override]  # as the inner one's
        """The stored filter, where it is known."""
        return self.inner.where if self.faults.where_known else None

    async def open(self) -> None:
        """Consume."""
        await self.faults.meet("open receiver")
        await self.inner.open()
        self.faults.receivers.add(self)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Receive, with the counts that the test says."""
        await self.faults.meet("receive")
        deliveries = [self._seen(delivery) for delivery in await self.inner.receive(limit)]
        self.held |= {delivery.receipt: delivery for delivery in deliveries}
        return deliveries

    def _seen(self, delivery: Delivery) -> Delivery:
        count = self.faults.deliveries.get(delivery.message.id)
        if not self.exact:
            self.faults.counts[delivery.position] += 1
            count = count or self.faults.counts[delivery.position]
        return delivery if count is None else replace(delivery, deliveries=count)

    def holds(self, delivery: Delivery) -> bool:
        """Whether it does."""
        return self.inner.holds(delivery)

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Settle, but what is judged otherwise."""
        await self.faults.meet("settle")
        return [await self._settle(delivery, settlement) for delivery, settlement in settled]

    async def _settle(self, delivery: Delivery, settlement: Settlement) -> Exception | None:
        answer = self._judge(delivery, settlement)
        if isinstance(answer, Lost):
            self.held.pop(delivery.receipt, None)
            await self.inner.settle([(delivery, RELEASE)])
            return None
        if answer is not None:
            return answer
        if isinstance(settlement, Nack) and not self.exact:
            stored = self.held.get(delivery.receipt, delivery)
            settlement = Nack(settlement.delay_s, stored.carried)
        self.held.pop(delivery.receipt, None)
        (outcome,) = await self.inner.settle([(delivery, settlement)])
        if outcome is None:
            self.faults.settled.append((delivery.message.id, settlement))
        return outcome

    def _judge(self, delivery: Delivery, settlement: Settlement) -> Exception | None:
        limit = self.faults.letter_limit
        if limit is not None and isinstance(settlement, DeadLetter):
            size = sum(len(name) + len(value) for name, value in settlement.carried.items())
            if size > limit:
                return MessageTooLarge(size, limit)
        return self.faults.judge(delivery, settlement)

    async def stop(self) -> None:
        """Receive no more."""
        await self.faults.meet("stop")
        await self.inner.stop()

    async def close(self) -> None:
        """End it; it ends also where that fails."""
        self.faults.receivers.discard(self)
        try:
            await self.faults.meet("close receiver")
        finally:
            await self.inner.close()

    async def resize(self, prefetch: int) -> None:
        """Note it."""
        self.faults.prefetch.append(prefetch)
        await self.faults.meet("resize")


__all__ = ["ACK", "RELEASE", "Faults", "FaultyReceiver", "FaultyTransport", "Lost", "Operation"]
