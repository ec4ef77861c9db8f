"""What can be wrong when there is much of it, or when it goes on for long."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, mutant
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Topic
from busframe.model.entity import Change, Entity
from busframe.model.settlement import ACK, Settlement
from busframe.spi.transport import Host, Receiver, Transport

CROWD = 5


@mutant("while a subscriber joins the others miss what is published", "D5", says="missed|lost")
class ForgetsWhileOneJoins(MutantTransport):
    """As a routing table that is rebuilt in place."""

    joining = 0

    async def apply(self, changes: Sequence[Change]) -> None:
        """Takes a moment."""
        ForgetsWhileOneJoins.joining += 1
        await asyncio.sleep(0.005)
        await super().apply(changes)
        ForgetsWhileOneJoins.joining -= 1

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Confirmed, and routed nowhere."""
        if self.joining and isinstance(outgoing[0].to, Topic):
            return [None] * len(outgoing)
        return await super().publish(outgoing, timeout_s=timeout_s)


@mutant("of many who publish at once on one client some are stored twice", "K4", says="handled more than once")
class RepeatsInACrowd(MutantTransport):
    """As a client that repeats what is not answered at once."""

    def __init__(self, host: Host, *arguments: Any) -> None:
        super().__init__(host, *arguments)
        self._under_way = 0

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Again, if there are so many."""
        self._under_way += 1
        await asyncio.sleep(0)
        if self._under_way > CROWD:
            again = [replace(out, dedup_key=f"{out.message.id}/again") for out in outgoing]
            await super().publish(again, timeout_s=timeout_s)
        self._under_way -= 1
        return await super().publish(outgoing, timeout_s=timeout_s)


@mutant("after a cut the first acknowledgement reaches nobody", "M9", says="still on the broker")
class ForgetsOneAtEachCut(MutantReceiver):
    """As a client that writes it to the channel that it had before."""

    def __init__(self, transport: Transport, inner: Receiver, entity: Entity) -> None:
        super().__init__(transport, inner, entity)
        self._generation = 0

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """All but that one; of a key it would hold up the others, and be seen by that."""
        (first, how), *others = settled
        if first.generation <= self._generation or how != ACK or self.entity.ordering == "key":
            return await self.inner.settle(settled)
        self._generation = first.generation
        return [None, *(await self.inner.settle(others) if others else ())]
