"""What can be wrong with M, as far as a broker in this process can be cut or wiped."""

import asyncio
from collections.abc import Sequence
from typing import Any

from busframe.bus.opened import OpenBus
from busframe.conformance.mutants.mutant import MutantReceiver, core_mutant, mutant
from busframe.errors import DestinationNotFound
from busframe.model.delivery import Delivery
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, Settlement


@mutant("a settlement that was lost is taken for one", "M2", says="lost: confirmed|not within .* all")
class LosesWhatIsCut(MutantReceiver):
    """It acknowledges on delivery, and keeps what it has in a buffer that ends with the connection."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.generation = 0

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """After a cut the first ones are gone."""
        while True:
            deliveries = await self.inner.receive(limit)
            await self.inner.settle([(delivery, ACK) for delivery in deliveries])
            if self.generation in (0, deliveries[0].generation):
                self.generation = deliveries[0].generation
                return deliveries
            self.generation = deliveries[0].generation

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """It is done already."""
        return [None] * len(settled)


@mutant("each cut leaves a consumer behind", "M3", says="one consumer after two cuts")
class LeavesOneAtEachCut(MutantReceiver):
    """It consumes again and does not end what was."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """In a new generation with one more."""
        deliveries = await self.inner.receive(limit)
        if deliveries[0].generation > 1:
            consumer = self.inner._consumer  # type: ignore[attr-defined]
            self.transport.native.attach(consumer.store, consumer.loop).stopped = True  # type: ignore[attr-defined]
        return deliveries


@mutant("a receiver of what was deleted waits for ever", "M6", says="goes on waiting")
class WaitsForTheDeleted(MutantReceiver):
    """As a consumer whose cancellation by the server nobody looks at."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Nothing more."""
        try:
            return await self.inner.receive(limit)
        except DestinationNotFound:
            await asyncio.Event().wait()
            raise


@core_mutant("what is gone stays gone", "M7", says="to be declared again", of=OpenBus, attribute="redeclare")
async def declares_nothing_again(self: OpenBus, entity: Entity) -> None:
    """Nothing."""
