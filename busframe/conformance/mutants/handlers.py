"""What can be wrong around handlers."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, mutant
from busframe.handling.context import Context
from busframe.handling.outcomes import Reject
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.settlement import RELEASE, Ack, DeadLetter, Settlement
from busframe.runtime import handle


@mutant("a delivery comes again although its handler runs", "V7", says="the long handler ran . times")
class LosesItsLock(MutantReceiver):
    """As a client that does not renew."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Gives back after a while what is not settled."""
        deliveries = await self.inner.receive(limit)
        asyncio.get_running_loop().call_later(0.2, self._expire, deliveries)
        return deliveries

    def _expire(self, deliveries: Sequence[Delivery]) -> None:
        self._giving = asyncio.ensure_future(self.inner.settle([(delivery, RELEASE) for delivery in deliveries]))


@core_mutant(
    "a handler's messages are not related to its own",
    "V10",
    says="the correlation ids are",
    of=Context,
    attribute="_correlation_id",
)
def relates_nothing(context: Context) -> None:
    """In place of the correlation id."""


@mutant("what one message causes has one id", "V10", says="not within .*two mails of two attempts")
class NamesByCause(MutantTransport):
    """As a client that makes ids so that retries write nothing twice."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Under an id made of the cause."""
        return await super().publish(
            [
                replace(out, message=replace(out.message, id=f"of-{out.message.correlation_id}"))
                if out.message.correlation_id
                else out
                for out in outgoing
            ],
            timeout_s=timeout_s,
        )


@core_mutant(
    "a handler's own cancellation gives its message up",
    "V11",
    says="it was dead-lettered after 2 attempts",
    of=handle,
    attribute="as_exception",
)
def gives_up_when_cancelled(error: BaseException) -> Exception:
    """In place of what policies are shown."""
    return error if isinstance(error, Exception) else Reject("cancelled")


@mutant("the type is lost on the way", "V16", says="not within .*three are handled")
class LosesTypes(MutantReceiver):
    """As a transport that has no place for it."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Every message without its type."""
        return [
            replace(delivery, message=replace(delivery.message, type=None))
            for delivery in await self.inner.receive(limit)
        ]


@mutant("what nobody takes vanishes", "V16", says="not within .*1 dead letters of")
class DropsUnknownTypes(MutantReceiver):
    """As a worker that acknowledges what it does not know."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Acknowledges instead."""
        return await self.inner.settle(
            [
                (delivery, Ack() if isinstance(settlement, DeadLetter) else settlement)
                for delivery, settlement in settled
            ]
        )
