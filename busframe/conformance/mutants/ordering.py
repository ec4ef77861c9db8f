"""What can be wrong with order (G)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from busframe.conformance.mutants.mutant import MutantHarness, MutantTransport, mutant
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


class CutHarness(MutantHarness):
    """A memory broker that tells its clients of a cut, and loses nothing by it."""

    async def disconnect(self) -> None:
        """From now on they know."""
        self.broker.disconnect()
        ReversesAfterACut.cut = True


@mutant(
    "what waited for a connection is sent from its end",
    "G6",
    says="through a cut some came",
    harness=CutHarness,
)
class ReversesAfterACut(MutantTransport):
    """As a client that keeps on a stack what it could not send."""

    cut: ClassVar[bool] = False

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """The other way round, once."""
        if not ReversesAfterACut.cut:
            return await super().publish(outgoing, timeout_s=timeout_s)
        ReversesAfterACut.cut = False
        return (await super().publish(outgoing[::-1], timeout_s=timeout_s))[::-1]


@mutant("order is claimed, and nothing keeps it", "G2", "G3", "G4", says="at once|others of it began|in another order")
class ForgetsOrder(MutantTransport):
    """Hands out what comes to whoever asks."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Sources without order."""
        return await super().plan([replace(entity, ordering="none") for entity in entities])

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """Of a source without order."""
        return super().receiver(replace(entity, ordering="none"), prefetch=prefetch, ack=ack)
