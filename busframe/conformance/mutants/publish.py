"""What can be wrong with A."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from busframe.conformance.mutants.mutant import MutantHarness, MutantReceiver, MutantTransport, mutant
from busframe.conformance.mutants.server import ServerTransport, server_mutant
from busframe.errors import PublishFailed
from busframe.model.delivery import Delivery, Outgoing


@mutant("the content type is lost on the way", "A1", says="content_type was .* and arrived as None")
class ForgetsContentType(MutantReceiver):
    """Receives without it."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Every message without its content type."""
        return [
            replace(delivery, message=replace(delivery.message, content_type=None))
            for delivery in await self.inner.receive(limit)
        ]


@mutant("of a hundred messages one is lost at publish", "A2", says="99 of 100 messages came")
class LosesOneInAHundred(MutantTransport):
    """Confirms it all the same."""

    _published = 0

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Every hundredth one is not stored."""
        kept = []
        for out in outgoing:
            self._published += 1
            if self._published % 100:
                kept.append(out)
        outcomes = iter(await super().publish(kept, timeout_s=timeout_s))
        return [next(outcomes) if out in kept else None for out in outgoing]


@mutant("a publish to nowhere is confirmed", "A4", says="DestinationNotFound was expected, not None")
class ConfirmsNowhere(MutantTransport):
    """As a broker that drops what is unroutable."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Confirmed, whatever happens."""
        await super().publish(outgoing, timeout_s=timeout_s)
        return [None] * len(outgoing)


@mutant("each delivery has an id of its own", "A5", says="ids and bodies were")
class RenamesMessages(MutantReceiver):
    """Makes the id when it receives."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Every message under a new id."""
        return [
            replace(delivery, message=replace(delivery.message, id=uuid4().hex))
            for delivery in await self.inner.receive(limit)
        ]


@mutant("a name loses its dots", "A7", says="not within|of 1 messages|InvalidName|TopologyMismatch|was not confirmed")
class FoldsNames(MutantTransport):
    """Publishes to another name than it consumes."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Dots become underscores on the way out."""
        from busframe.model.destination import Queue

        return await super().publish(
            [
                replace(out, to=Queue(out.to.name.replace(".", "_"))) if isinstance(out.to, Queue) else out
                for out in outgoing
            ],
            timeout_s=timeout_s,
        )


@mutant(
    "a publish that is under way takes the destination of one beside it",
    "A6",
    says="of other destinations came|unexpected message|80 of 100 messages came",
)
class MixesDestinations(MutantTransport):
    """As a client that keeps where to in itself, and waits before it sends."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """All to where the last call says."""
        self._to = outgoing[0].to
        await asyncio.sleep(0)
        return await super().publish([replace(out, to=self._to) for out in outgoing], timeout_s=timeout_s)


class FreezableHarness(MutantHarness):
    """A memory broker that does not answer for a while."""

    async def freeze(self, seconds: float) -> None:
        """Its clients look after that."""
        self.broker.frozen = True  # type: ignore[attr-defined]
        await asyncio.sleep(seconds)
        self.broker.frozen = False  # type: ignore[attr-defined]


@mutant(
    "what is not answered is told to have failed",
    "A8",
    says="PublishOutcomeUnknown was expected, not PublishFailed",
    harness=FreezableHarness,
)
class SaysThatItFailed(MutantTransport):
    """A publish that is not answered is told to have failed, and is there."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Sent all the same."""
        outcomes = await super().publish(outgoing, timeout_s=timeout_s)
        if getattr(self._given, "frozen", False):
            await asyncio.sleep(timeout_s)
            return [PublishFailed("no answer")] * len(outgoing)
        return outcomes


@server_mutant(
    "a publish returns before the broker has the message",
    "A3",
    "M1",
    says="confirmed messages are lost|one more of .* messages\nlost: confirmed",
)
class ConfirmsFirst(ServerTransport):
    """As a client that publishes in the background."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._later: set[asyncio.Task[Any]] = set()

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Later."""
        self._later.add(asyncio.create_task(self.inner.publish(outgoing, timeout_s=timeout_s)))
        return [None] * len(outgoing)
