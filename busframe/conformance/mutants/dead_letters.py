"""What can be wrong with I."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, mutant
from busframe.conformance.mutants.server import server_mutant
from busframe.logic.wire import EXPIRES_AT
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import DeadLetters
from busframe.model.settlement import ACK, Ack, DeadLetter, Nack, Settlement
from busframe.runtime import handle

Settled = Sequence[tuple[Delivery, Settlement]]
Outcomes = Sequence[Exception | None]


@mutant("a dead letter is stored twice", "I1", says="dead letters (of .*, not|were)")
class StoresLettersTwice(MutantReceiver):
    """As a copy that was published again because its confirmation was late."""

    async def settle(self, settled: Settled) -> Outcomes:
        """One more copy of each."""
        for delivery, settlement in settled:
            if isinstance(settlement, DeadLetter):
                letters = DeadLetters(self.entity.address)  # type: ignore[arg-type]
                copy = Outgoing(letters, delivery.message, dedup_key=uuid4().hex, carried=settlement.carried)
                await self.transport.publish([copy], timeout_s=1)
        return await self.inner.settle(settled)


@mutant("the original of a dead letter stays", "I1", says="handled once more|unexpected message|dead letters of")
class KeepsTheOriginal(MutantReceiver):
    """The copy is made, and the original goes back."""

    async def settle(self, settled: Settled) -> Outcomes:
        """A copy, and a hand-back."""
        changed: list[tuple[Delivery, Settlement]] = []
        for delivery, settlement in settled:
            if isinstance(settlement, DeadLetter):
                letters = DeadLetters(self.entity.address)  # type: ignore[arg-type]
                await self.transport.publish(
                    [Outgoing(letters, delivery.message, carried=settlement.carried)], timeout_s=1
                )
                settlement = Nack(0.05, delivery.carried)
            changed.append((delivery, settlement))
        return await self.inner.settle(changed)


@mutant("a dead letter does not say why", "I2", says="without a failure record")
class LettersWithoutReason(MutantReceiver):
    """What the core wrote down is not stored."""

    async def settle(self, settled: Settled) -> Outcomes:
        """Without the record."""
        return await self.inner.settle(
            [(d, DeadLetter(s.reason) if isinstance(s, DeadLetter) else s) for d, s in settled]
        )


@mutant("the stack of a dead letter is left out", "I2", says="the stack None")
class LettersWithoutStack(MutantReceiver):
    """As a broker with little room for properties."""

    async def settle(self, settled: Settled) -> Outcomes:
        """Without the longest part of the record."""
        return await self.inner.settle(
            [
                (d, replace(s, carried={k: v for k, v in s.carried.items() if k != "bf-dead-stack"}))
                if isinstance(s, DeadLetter)
                else (d, s)
                for d, s in settled
            ]
        )


@mutant("a dead letter that cannot be stored is acknowledged all the same", "I3", says="it is lost")
class AcknowledgesFailedLetters(MutantReceiver):
    """Copy and acknowledgement, without looking at how the copy went."""

    async def settle(self, settled: Settled) -> Outcomes:
        """The original is gone in any case."""
        await self.inner.settle(settled)
        await self.inner.settle([(delivery, ACK) for delivery, _ in settled])
        return [None] * len(settled)


@mutant("the broker throws away what is expired", "I5", says="2 dead letters of")
class DropsExpired(MutantReceiver):
    """As a native expiration without a place for it."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Only what never expires."""
        while True:
            deliveries = await self.inner.receive(limit)
            await self.inner.settle([(delivery, ACK) for delivery in deliveries if EXPIRES_AT in delivery.carried])
            if kept := [delivery for delivery in deliveries if EXPIRES_AT not in delivery.carried]:
                return kept


@mutant("a replay is taken for a duplicate of its message", "I5", says="both letters that were replayed")
class DropsReplays(MutantTransport):
    """It looks for duplicates by the message's id."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Outcomes:
        """The key of the write is not looked at."""
        return await super().publish([replace(out, dedup_key="") for out in outgoing], timeout_s=timeout_s)


@mutant("a replayed letter stays a letter", "I5", says="dead letters of .*, not 0")
class KeepsReplayed(MutantTransport):
    """Nothing is removed."""

    async def remove(self, source: Any, positions: Sequence[str]) -> int:
        """Only counted."""
        return len(positions)


@mutant("what was handed back or given up blocks the consumer", "I6", says="the neighbours of poison")
class StopsAtPoison(MutantReceiver):
    """Nothing more is received after a failure, one by one so that something is left behind."""

    _stuck = False

    async def settle(self, settled: Settled) -> Outcomes:
        """The first failure ends the receiving."""
        self._stuck = self._stuck or any(isinstance(settlement, DeadLetter) for _, settlement in settled)
        return await self.inner.settle(settled)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Nothing, for ever."""
        if self._stuck:
            await asyncio.Event().wait()
        return await self.inner.receive(1)


@mutant("what is dropped comes again", "I7", says="unexpected message")
class ForgetsDrops(MutantReceiver):
    """An acknowledgement that never reaches the broker."""

    async def settle(self, settled: Settled) -> Outcomes:
        """Only what is no acknowledgement."""
        await self.inner.settle([(d, s) for d, s in settled if not isinstance(s, Ack)])
        return [None] * len(settled)


def _nothing(*args: object, **named: object) -> None:
    """Where a text would go."""


@core_mutant("nobody is told what is dropped", "I7", says="0 warnings say so", of=handle, attribute="logger")
class SilentLogger:
    """Stands for the logger."""

    info = warning = error = exception = staticmethod(_nothing)


@server_mutant("a message is settled before its dead letter is stored", "I4", says="of 30 messages are no dead letters")
class AcksThenCopies(MutantReceiver):
    """The right steps in the wrong order."""

    async def settle(self, settled: Settled) -> Outcomes:
        """One after the other."""
        return [await self._one(delivery, settlement) for delivery, settlement in settled]

    async def _one(self, delivery: Delivery, settlement: Settlement) -> Exception | None:
        letter = isinstance(settlement, DeadLetter)
        (outcome,) = await self.inner.settle([(delivery, ACK if letter else settlement)])
        if outcome is None and isinstance(settlement, DeadLetter) and await self._goes_on(delivery):
            letters = DeadLetters(self.entity.address)  # type: ignore[arg-type]
            copy = Outgoing(letters, delivery.message, dedup_key=uuid4().hex, carried=settlement.carried)
            (outcome,) = await self.transport.publish([copy], timeout_s=10)
        return outcome

    async def _goes_on(self, delivery: Delivery) -> bool:
        await self.transport.stats(self.entity.address)  # type: ignore[arg-type]
        return True  # the broker answers in order: it has the acknowledgement


@mutant("a message is settled before its dead letter is stored", "I8", says="of 60 messages are no dead letters")
class ForgetsCopiesAtACut(AcksThenCopies):
    """And what it has not stored yet ends with the connection."""

    async def _goes_on(self, delivery: Delivery) -> bool:
        await asyncio.sleep(0.02)
        return delivery.generation == self.inner._consumer.generation  # type: ignore[attr-defined, no-any-return]
