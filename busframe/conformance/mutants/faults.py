"""What can be wrong with M."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from busframe.bus.opened import OpenBus
from busframe.conformance.mutants.mutant import MutantReceiver, core_mutant, mutant
from busframe.conformance.mutants.server import ServerTransport, server_core_mutant, server_mutant
from busframe.errors import DestinationNotFound
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, Settlement
from busframe.runtime.backoff import Backoff
from busframe.spi.transport import Host, Transport


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

    def holds(self, delivery: Delivery) -> bool:
        """Nobody else will have it."""
        return True

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


@server_mutant(
    "a publish has no time-out",
    "K3",
    "M4",
    says="broker that is silent ended after .* as None|not answered: PublishError was expected, not None",
)
class WaitsForTheAnswer(ServerTransport):
    """As a client that blocks until it is answered."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """However long it takes."""
        return await self.inner.publish(outgoing, timeout_s=3600)


@server_core_mutant(
    "an absent broker is tried as fast as can be", "M5", says="tried [0-9]+ times within", of=Backoff, attribute="wait"
)
async def waits_for_nothing(backoff: Backoff) -> None:
    """In place of a pause that grows."""
    backoff.failures += 1
    await asyncio.sleep(0)


@server_mutant("a silent connection is taken for one on which nothing happens", "M2", says="the silence to be noticed")
class NoticesNoSilence(ServerTransport):
    """As a client without heartbeats."""

    def __init__(self, make: Callable[[Host], Transport], host: Host) -> None:
        super().__init__(make, replace(host, report=lambda *_: None))
