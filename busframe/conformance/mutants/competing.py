"""What can be wrong with competing consumers (C)."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar
from weakref import WeakSet

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, mutant
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.entity import Entity
from busframe.model.settlement import Settlement
from busframe.spi.transport import Receiver


@mutant("one message in a hundred is stored twice", "C1", says="handled more than once|held by two consumers")
class StoresSomeTwice(MutantTransport):
    """As a client that repeats a publish under another key."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Every hundredth again."""
        again = [replace(out, dedup_key=f"{out.message.id}/again") for out in outgoing[99::100]]
        await super().publish(again, timeout_s=timeout_s)
        return await super().publish(outgoing, timeout_s=timeout_s)


@mutant("every consumer of a queue gets every message", "C1", says="handled more than once")
class Broadcasts(MutantReceiver):
    """As an exclusive queue of each consumer's own."""

    members: ClassVar[WeakSet["Broadcasts"]] = WeakSet()

    def __init__(self, transport: MutantTransport, inner: Receiver, entity: Entity) -> None:
        super().__init__(transport, inner, entity)
        self._copies: deque[Delivery] = deque()
        self.members.add(self)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """What others got, and what comes."""
        if self._copies:
            return [self._copies.popleft() for _ in range(min(limit, len(self._copies)))]
        deliveries = await self.inner.receive(limit)
        for other in self.members:
            if other is not self and other.entity == self.entity:
                other._copies.extend(replace(delivery, receipt=None) for delivery in deliveries)
        return deliveries

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Copies are nobody else's."""
        own = [item for item in settled if item[0].receipt is not None]
        outcomes = iter(await self.inner.settle(own))
        return [None if delivery.receipt is None else next(outcomes) for delivery, _ in settled]


@mutant("whoever consumes first gets all", "C2", says="a message at each of ten consumers")
class StarvesOthers(MutantReceiver):
    """As a single active consumer."""

    active: ClassVar[dict[str, Receiver]] = {}

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Nothing, beside an older one."""
        if self.active.setdefault(str(self.entity.address), self.inner) is not self.inner:
            await asyncio.Event().wait()
        return await self.inner.receive(limit)


@mutant("an idle consumer polls", "C5", says="of a processor")
class Polls(MutantReceiver):
    """Never sleeps."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Looks at every turn of the loop."""
        receiving = asyncio.ensure_future(self.inner.receive(limit))
        try:
            while not receiving.done():  # noqa: ASYNC110 - what is wrong with it
                await asyncio.sleep(0)
        finally:
            receiving.cancel()
        return await receiving
