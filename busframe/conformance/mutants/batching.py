"""What can be wrong with L."""

import asyncio
from collections.abc import Sequence

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, mutant
from busframe.errors import MessageTooLarge
from busframe.logic.size import message_bytes
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.settlement import ACK, Settlement


@mutant("the last message of a batch is lost", "L1", "L3", says=r"\d+ of \d+ messages came, and none for")
class LosesTheLast(MutantTransport):
    """As a loop that flushes when the next one comes."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Confirmed with the others."""
        if len(outgoing) < 2:
            return await super().publish(outgoing, timeout_s=timeout_s)
        return [*await super().publish(outgoing[:-1], timeout_s=timeout_s), None]


@mutant(
    "a failure is told of another message",
    "L1",
    says="MessageTooLarge was expected, not DestinationNotFound",
)
class BlamesAnother(MutantTransport):
    """Outcomes are in the order in which the broker answered."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """The wrong way round."""
        return list(reversed(await super().publish(outgoing, timeout_s=timeout_s)))


@mutant("messages are gathered, and confirmed before they are sent", "L2", says="0 of 1 messages came, and none for")
class ConfirmsWhatItGathers(MutantTransport):
    """They are sent when there are 16."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """As a producer without acknowledgements."""
        self._gathered: list[Outgoing] = [*getattr(self, "_gathered", ()), *outgoing]
        if len(self._gathered) >= 16:
            sent, self._gathered = self._gathered, []
            await super().publish(sent, timeout_s=timeout_s)
        return [None] * len(outgoing)


@mutant("a close drops what is gathered", "L2", says="50 messages came, and none for")
class DropsAtClose(MutantTransport):
    """And what waited for it believes that it was sent."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """A little later."""
        await asyncio.sleep(0.02)
        if self._broker is None:
            return [None] * len(outgoing)
        return await super().publish(outgoing, timeout_s=timeout_s)


@mutant("one that is alone waits for others", "L2", says="one publish alone did not end within")
class WaitsForOthers(MutantTransport):
    """A batch is sent when it is full."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Two make one."""
        if len(outgoing) < 2:
            await asyncio.sleep(timeout_s)
        return await super().publish(outgoing, timeout_s=timeout_s)


@mutant(
    "what does not fit into one piece is refused", "L3", says="that is not too large by itself ended, beside others"
)
class RefusesLargeBatches(MutantTransport):
    """The limit of a message is that of a batch."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """All of it, or nothing."""
        limit = self.capabilities.max_message_bytes or 0
        if (size := sum(message_bytes(out.message) for out in outgoing)) > limit:
            return [MessageTooLarge(size, limit)] * len(outgoing)
        return await super().publish(outgoing, timeout_s=timeout_s)


@mutant("a receive gives more than was asked", "L4", says=r"receive\(5\) gave 6 messages")
class GivesTooMany(MutantReceiver):
    """One more."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Over the limit."""
        return await self.inner.receive(limit + 1)


@mutant("a receive waits until it has as many as were asked", "L4", says="a receive waits for more than is there")
class WaitsForAll(MutantReceiver):
    """The limit is taken for a number."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Exactly that."""
        deliveries: list[Delivery] = []
        while len(deliveries) < limit:
            deliveries += await self.inner.receive(limit - len(deliveries))
        return deliveries


@mutant("an acknowledgement is of everything before it as well", "L4", says="was not settled: SettlementLost|are gone")
class AcksEverythingBefore(MutantReceiver):
    """As AMQP's multiple."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._given: list[Delivery] = []

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Remembered."""
        deliveries = await self.inner.receive(limit)
        self._given += deliveries
        return deliveries

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Those before are not asked."""
        last = max(self._given.index(delivery) for delivery, _ in settled)
        named = {delivery for delivery, _ in settled}
        outcomes = await self.inner.settle(settled)
        await self.inner.settle([(delivery, ACK) for delivery in self._given[:last] if delivery not in named])
        return outcomes
