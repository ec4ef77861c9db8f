"""What can be wrong with what is cancelled (Q)."""

import asyncio
from collections.abc import Sequence

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, mutant
from busframe.errors import PublishFailed
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.settlement import ACK


@mutant("a publish goes on beside whoever called it", "Q1", says="unexpected message|messages came")
class PublishesBeside(MutantTransport):
    """Begins when it is called, and not when it is awaited."""

    def publish(  # type: ignore[override]
        self, outgoing: Sequence[Outgoing], *, timeout_s: float
    ) -> "asyncio.Future[Sequence[Exception | None]]":
        """In a task of its own, which nobody cancels."""
        self.publishing = asyncio.ensure_future(super().publish(outgoing, timeout_s=timeout_s))
        return asyncio.shield(self.publishing)


@mutant("a receive that is cancelled eats what it has", "Q2", says="messages came")
class Swallows(MutantReceiver):
    """Waits once more when it has its messages."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Lost, if cancelled now."""
        deliveries = await self.inner.receive(limit)
        await asyncio.sleep(0)
        return deliveries


@mutant("a publish that is cancelled breaks its client", "Q3", says="was not confirmed")
class BreaksWhenCancelled(MutantTransport):
    """As a channel whose answers come one too late."""

    broken = False

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Refused, after the first cancellation."""
        try:
            await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.broken = True
            raise
        if self.broken:
            return [PublishFailed("the channel is out of step")] * len(outgoing)
        return await super().publish(outgoing, timeout_s=timeout_s)


@mutant("what is held when a receiver closes is acknowledged", "Q3", "C3", says="messages? came|not within")
class AcksWhenClosed(MutantReceiver):
    """Cleans up too well."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._got: list[Delivery] = []

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Remembered."""
        deliveries = await self.inner.receive(limit)
        self._got += deliveries
        return deliveries

    async def close(self) -> None:
        """Acknowledged."""
        await self.inner.settle([(delivery, ACK) for delivery in self._got])
        await self.inner.close()
