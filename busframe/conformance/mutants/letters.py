"""What can be wrong with dead letters of several subscriptions, and large ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, mutant
from busframe.model.delivery import Delivery
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, DeadLetter, Settlement
from busframe.spi.transport import Receiver


class _Receiver(MutantReceiver):
    """Writes one letter for a message, whoever gives it up."""

    def __init__(self, transport: "OneLetterForAll", inner: Receiver, entity: Entity) -> None:
        super().__init__(transport, inner, entity)
        self._written = transport.written

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Acknowledges the second one."""
        changed = []
        for delivery, settlement in settled:
            if isinstance(settlement, DeadLetter) and delivery.message.id in self._written:
                settlement = ACK
            elif isinstance(settlement, DeadLetter):
                self._written.add(delivery.message.id)
            changed.append((delivery, settlement))
        return await self.inner.settle(changed)


@mutant("a message has one dead letter", "V18", says="not within .*2 dead letters of")
class OneLetterForAll(MutantTransport):
    """As a broker that takes the second letter for a duplicate of the first."""

    receivers = _Receiver

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.written: set[str] = set()


@mutant("a large message's letter has no record", "V28", says="the letter has no record of its failure")
class DropsLargeRecords(MutantReceiver):
    """As a transport that makes what is too large smaller where it can."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Without what it carries."""
        return await self.inner.settle(
            [
                (delivery, replace(settlement, carried={}))
                if isinstance(settlement, DeadLetter) and len(delivery.message.body) > 500_000
                else (delivery, settlement)
                for delivery, settlement in settled
            ]
        )
