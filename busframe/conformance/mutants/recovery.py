"""What can be wrong with recovering."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, mutant
from busframe.logic.attempts import failures_recorded, record_failure
from busframe.logic.wire import format_time, from_timestamp
from busframe.model.delivery import Delivery
from busframe.model.entity import Change, Entity
from busframe.model.settlement import Nack, Release, Settlement
from busframe.runtime.successes import Successes
from busframe.spi.transport import Receiver


@core_mutant("a success is forgotten at once", "V1", says="succeeded and was run again", of=Successes, attribute="add")
def remembers_nothing(successes: Successes, delivery: Delivery) -> None:
    """In place of the memory of successes."""


@mutant("what is given back counts as failed", "V4", "V19", says="was counted as an attempt")
class CountsWhatIsGivenBack(MutantReceiver):
    """As a broker whose count of deliveries is taken for the count of attempts."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._held: dict[object, Delivery] = {}

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Remembers what it holds."""
        deliveries = await self.inner.receive(limit)
        self._held |= {delivery.receipt: delivery for delivery in deliveries}
        return deliveries

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """A release is a failure."""
        for delivery, _ in settled:
            self._held.pop(delivery.receipt, None)
        return await self.inner.settle(
            [
                (delivery, self._failed(delivery) if isinstance(settlement, Release) else settlement)
                for delivery, settlement in settled
            ]
        )

    async def close(self) -> None:
        """So is what is held at the end."""
        held, self._held = self._held, {}
        await self.inner.settle([(delivery, self._failed(delivery)) for delivery in held.values()])
        await self.inner.close()

    def _failed(self, delivery: Delivery) -> Nack:
        source = str(self.entity.address)
        failures = failures_recorded(delivery.carried, source) + 1
        now = format_time(from_timestamp(time.time()))
        return Nack(0.0, record_failure(delivery.carried, source, failures, now))


@mutant("closing one receiver cuts the connection of all", "V5", says="was not settled: SettlementLost|reconnected")
class SharesOneFate(MutantReceiver):
    """As receivers on one channel."""

    async def close(self) -> None:
        """Takes the others along."""
        await self.inner.close()
        self.transport.native.disconnect()  # type: ignore[attr-defined]


@mutant("the order of keys is claimed and not kept", "V25", says="reordered within a key|handled at once")
class KeepsNoOrder(MutantTransport):
    """As competing consumers of a plain queue."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Makes a plain queue."""
        return await super().plan([replace(entity, ordering="none") for entity in entities])

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """Consumes it as one."""
        return super().receiver(replace(entity, ordering="none"), prefetch=prefetch, ack=ack)
