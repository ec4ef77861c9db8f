"""What can be wrong with a settlement (F)."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, mutant
from busframe.errors import AlreadySettled
from busframe.handling.context import Delivered, Verb
from busframe.handling.outcomes import Reject, RetryAfter
from busframe.model.delivery import Delivery
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, RELEASE, Ack, DeadLetter, Nack, Settlement
from busframe.spi.transport import Receiver


class Translating(MutantReceiver):
    """Settles something else than it is told."""

    def instead(self, delivery: Delivery, settlement: Settlement) -> Settlement:
        """What is settled."""
        return settlement

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Each as the mutant does it."""
        return await self.inner.settle(
            [(delivery, self.instead(delivery, settlement)) for delivery, settlement in settled]
        )


@mutant("an acknowledgement only gives the message back", "F1", says="unexpected message|handled more than once")
class AcksNothing(Translating):
    """As a client that forgets to flush its acknowledgements."""

    def instead(self, delivery: Delivery, settlement: Settlement) -> Settlement:
        """Handed back."""
        return RELEASE if isinstance(settlement, Ack) else settlement


@mutant("a nack is an acknowledgement", "F2", says="0 of 3 messages came")
class AcksNacks(Translating):
    """Loses what failed."""

    def instead(self, delivery: Delivery, settlement: Settlement) -> Settlement:
        """Acknowledged."""
        return ACK if isinstance(settlement, Nack) else settlement


@mutant("what a nack carries is not stored", "F2", says="failures were recorded, and come back as \\[0, 0, 0\\]")
class ForgetsFailures(Translating):
    """Puts the message back as it was."""

    def instead(self, delivery: Delivery, settlement: Settlement) -> Settlement:
        """Without what is carried."""
        return replace(settlement, carried={}) if isinstance(settlement, Nack) else settlement


@mutant("every delivery is the first one", "F5", says="delivery 2 says that it is number 1")
class NeverCounts(MutantReceiver):
    """Knows no redelivery."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Each as the first."""
        return [replace(delivery, deliveries=1) for delivery in await self.inner.receive(limit)]


@mutant("a late acknowledgement takes away what was nacked", "F6", says="0 of 1 messages came")
class AcksWhatWasNacked(MutantReceiver):
    """Acknowledges by position, whoever has the message by then."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """What is lost is removed all the same."""
        outcomes = list(await self.inner.settle(settled))
        for index, (delivery, settlement) in enumerate(settled):
            if outcomes[index] is not None and isinstance(settlement, Ack):
                await self.transport.remove(self.entity.address, [delivery.position])  # type: ignore[arg-type]
                outcomes[index] = None
        return outcomes


@core_mutant(
    "a second verb settles as well", "F6", says="each other raises AlreadySettled", of=Delivered, attribute="_manual"
)
def verbs_that_never_refuse(self: Delivered) -> Verb:
    """Each verb succeeds, and only the first one does something."""
    verb = self._verb
    assert verb is not None

    async def settle(outcome: RetryAfter | Reject | None) -> None:
        with suppress(AlreadySettled):
            await verb(outcome)

    return settle


@mutant("an acknowledgement covers all that came before", "F9", "F10", says="messages came|came back")
class AcksUpTo(MutantReceiver):
    """As a position in a log that is committed with a gap below it."""

    def __init__(self, transport: MutantTransport, inner: Receiver, entity: Entity) -> None:
        super().__init__(transport, inner, entity)
        self._held: list[Delivery] = []

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Keeps them in order."""
        deliveries = await self.inner.receive(limit)
        self._held += deliveries
        return deliveries

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """And all before."""
        outcomes = await self.inner.settle(settled)
        for delivery, settlement in settled:
            if isinstance(settlement, Ack) and delivery in self._held:
                before = self._held[: self._held.index(delivery)]
                del self._held[: len(before) + 1]
                await self.inner.settle([(one, ACK) for one in before])
        return outcomes


@mutant("what is rejected is dropped", "F14", says="1 dead letters of")
class DropsRejected(Translating):
    """As a queue without a dead letter exchange."""

    def instead(self, delivery: Delivery, settlement: Settlement) -> Settlement:
        """Acknowledged."""
        return ACK if isinstance(settlement, DeadLetter) else settlement


@mutant("what is rejected comes again", "F14", says="rejected messages were handled")
class RequeuesRejected(Translating):
    """As a reject with requeue."""

    def instead(self, delivery: Delivery, settlement: Settlement) -> Settlement:
        """Handed back, the first time."""
        return RELEASE if isinstance(settlement, DeadLetter) and delivery.deliveries == 1 else settlement


@mutant("at most once is at least once", "F15", says="messages? came back|unexpected message")
class SettlesAfterwards(MutantTransport):
    """Takes no notice of when to settle."""

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """Always afterwards."""
        return super().receiver(entity, prefetch=prefetch, ack="after")
