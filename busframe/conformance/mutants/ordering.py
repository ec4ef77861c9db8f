"""What can be wrong with order (G)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from busframe.conformance.mutants.mutant import MutantTransport, mutant
from busframe.model.delivery import Outgoing
from busframe.model.entity import Change, Entity
from busframe.spi.transport import Receiver


@mutant("neighbours are swapped", "G1", "G5", "G6", says="reordered within a key|came behind|at another place")
class SwapsNeighbours(MutantTransport):
    """As two connections that are used in turns."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """The second before the first, once in a hundred; the eighth is of the same key where there are eight."""
        mixed = list(outgoing)
        for first in range(0, len(mixed) - 8, 100):
            mixed[first], mixed[first + 8] = mixed[first + 8], mixed[first]
        return await super().publish(mixed, timeout_s=timeout_s)


@mutant("order is claimed, and nothing keeps it", "G2", "G3", "G4", says="at once|others of it began|in another order")
class ForgetsOrder(MutantTransport):
    """Hands out what comes to whoever asks."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Sources without order."""
        return await super().plan([replace(entity, ordering="none") for entity in entities])

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """Of a source without order."""
        return super().receiver(replace(entity, ordering="none"), prefetch=prefetch, ack=ack)
