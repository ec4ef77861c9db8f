"""What can be wrong with H."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, mutant
from busframe.logic.retry import Retry
from busframe.logic.wire import ATTEMPT
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.settlement import DeadLetter, Nack, Settlement
from busframe.runtime import binding

Settled = Sequence[tuple[Delivery, Settlement]]
Outcomes = Sequence[Exception | None]


@mutant("what is carried is lost with a retry", "H1", "H2", says="the attempts (at .* )?were")
class ForgetsWhatFailed(MutantReceiver):
    """Every delivery is a first attempt."""

    async def settle(self, settled: Settled) -> Outcomes:
        """Without what the core wrote down."""
        return await self.inner.settle([(d, Nack(s.delay_s) if isinstance(s, Nack) else s) for d, s in settled])


@mutant("the attempts are counted by each client for itself", "H2", says="each worker is a new one")
class CountsInItsClient(MutantTransport):
    """As a counter in the memory of the process."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.failed_here: set[str] = set()


class _Counter(MutantReceiver):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        known = self.transport.failed_here  # type: ignore[attr-defined]
        return [
            delivery
            if delivery.message.id in known
            else replace(delivery, carried={k: v for k, v in delivery.carried.items() if k != ATTEMPT})
            for delivery in await self.inner.receive(limit)
        ]

    async def settle(self, settled: Settled) -> Outcomes:
        self.transport.failed_here |= {d.message.id for d, s in settled if isinstance(s, Nack)}  # type: ignore[attr-defined]
        return await self.inner.settle(settled)


CountsInItsClient.receivers = _Counter


@mutant("a retry is stored twice", "H1", says="handled once more|the attempts at .* were")
class RetriesTwice(MutantReceiver):
    """As a copy whose confirmation was lost, and that was published again under another key."""

    async def settle(self, settled: Settled) -> Outcomes:
        """One more copy of each."""
        for delivery, settlement in settled:
            if isinstance(settlement, Nack):
                copy = Outgoing(
                    self.entity.address,
                    delivery.message,
                    delay_s=settlement.delay_s,
                    dedup_key=uuid4().hex,
                    carried=settlement.carried,
                )
                await self.transport.publish([copy], timeout_s=1)
        return await self.inner.settle(settled)


@core_mutant(
    "the factor is a whole number", "H3", says="the delay before attempt 3 was", of=Retry, attribute="delay_after"
)
def whole_factor(self: Retry, attempt: int, random: float) -> float:
    """1.5 is 1."""
    delay: float = min(self.max_delay_s, self.delay_s * int(self.factor) ** (attempt - 1))
    return delay * (1 + self.jitter * random)


@mutant("the broker delays by whole seconds", "H3", says="came early")
class WholeSeconds(MutantReceiver):
    """Half a second is none."""

    async def settle(self, settled: Settled) -> Outcomes:
        """With shorter delays."""
        return await self.inner.settle(
            [(d, Nack(int(s.delay_s), s.carried) if isinstance(s, Nack) else s) for d, s in settled]
        )


@mutant("a retry that waits is held by the consumer", "H4", says="neighbours")
class HoldsItsRetries(MutantReceiver):
    """It sleeps, and its credit is used up meanwhile."""

    async def settle(self, settled: Settled) -> Outcomes:
        """Handed back when it is due."""
        delay_s = max((s.delay_s for _, s in settled if isinstance(s, Nack)), default=0.0)
        if delay_s:
            await asyncio.sleep(delay_s)
        return await self.inner.settle([(d, Nack(0, s.carried) if isinstance(s, Nack) else s) for d, s in settled])


@mutant("a dead letter is tried once more", "H5", says="the attempts at .* were")
class TriesDeadLettersAgain(MutantReceiver):
    """The first time it goes back instead."""

    _again: set[str] | None = None

    async def settle(self, settled: Settled) -> Outcomes:
        """Each message may be given up the second time only."""
        known = self._again = set() if self._again is None else self._again
        changed: list[tuple[Delivery, Settlement]] = []
        for delivery, settlement in settled:
            first = isinstance(settlement, DeadLetter) and delivery.message.id not in known
            known.add(delivery.message.id)
            changed.append((delivery, Nack() if first else settlement))
        return await self.inner.settle(changed)


@mutant("what a closed receiver held is kept until its lease ends", "H5", says="held for its retry")
class KeepsItsLeases(MutantReceiver):
    """Nothing goes back when it closes."""

    async def close(self) -> None:
        """The rows stay leased to nobody."""
        consumer = self.inner._consumer  # type: ignore[attr-defined]
        if consumer is not None:
            consumer.held.clear()
        await self.inner.close()


_prepare = vars(binding.Bindings)["__init__"]


@core_mutant(
    "the policy of the handler that is registered first is that of all handlers of its source",
    "H6",
    says="attempts and calls of the middleware",
    of=binding.Bindings,
    attribute="__init__",
)
def first_policy_for_all(self: binding.Bindings, *args: Any, **named: Any) -> None:
    """As a policy that hangs on the source."""
    _prepare(self, *args, **named)
    bindings = list(self.by_type.values())
    for other in bindings:
        other.policy = bindings[0].policy


@mutant("a repeated publish is stored again", "H7", says="unexpected message|handled more than once")
class StoresRepeats(MutantTransport):
    """Every write is a new one."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Outcomes:
        """Under keys of its own."""
        return await super().publish([replace(out, dedup_key=uuid4().hex) for out in outgoing], timeout_s=timeout_s)
