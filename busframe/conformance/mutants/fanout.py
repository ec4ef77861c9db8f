"""What can be wrong with D."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Literal
from uuid import uuid4

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, mutant
from busframe.memory import MemoryTransport
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Subscription
from busframe.model.entity import Change, Entity
from busframe.model.settlement import ACK, Nack, Settlement
from busframe.spi.transport import Receiver


@mutant("subscriptions of a topic compete for its messages", "D1", "D2", says="not within .* consumers get .* together")
class SharesAmongSubscriptions(MutantTransport):
    """As one queue for all of them."""

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """Of the subscription that was declared first."""
        if isinstance(entity.address, Subscription):
            entity = replace(entity, address=entity.address.topic.subscription("a"))
        return super().receiver(entity, prefetch=prefetch, ack=ack)


@mutant("each member of a subscription gets all messages", "D2", says="more than once")
class BroadcastsToMembers(MutantReceiver):
    """As an exclusive queue for each consumer."""

    _numbers = count(1)

    async def open(self) -> None:
        """Of a subscription of its own."""
        address: Any = self.entity.address
        own = address.topic.subscription(f"{address.name}-{next(self._numbers)}")
        entity = replace(self.entity, address=own)
        await self.transport.apply(await self.transport.plan([entity, Entity(own.dead_letters)]))
        self.inner = MemoryTransport.receiver(self.transport, entity, prefetch=10)  # type: ignore[arg-type]
        await self.inner.open()

    async def close(self) -> None:
        """Whether it was opened or not."""
        await self.inner.close()


@mutant(
    "a retry goes to all subscriptions of the topic", "D3", says=r"/good got|came to .*/good with|unexpected message"
)
class RetriesForAll(MutantReceiver):
    """The copy is published as the original was."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Every subscription gets it again."""
        address = self.entity.address
        outcomes: list[Exception | None] = []
        for delivery, what in settled:
            if isinstance(what, Nack) and isinstance(address, Subscription):
                copy = Outgoing(address.topic, delivery.message, dedup_key=uuid4().hex, carried=what.carried)
                await self.transport.publish([copy], timeout_s=1.0)
                outcomes += await self.inner.settle([(delivery, ACK)])
            else:
                outcomes += await self.inner.settle([(delivery, what)])
        return outcomes


@mutant("what one subscription dead-letters another dead-letters as well", "D3", says="dead letters of .*/good, not 0")
class SharesDeadLetters(MutantTransport):
    """One place for all dead letters of a topic."""

    async def browse(self, source: Any, *, after: str = "", limit: int = 100) -> Any:
        """Those of the other one."""
        other = source.of.topic.subscription("bad").dead_letters if isinstance(source.of, Subscription) else source
        return await super().browse(other, after=after, limit=limit)


@mutant("a subscription's filter is ignored", "D4", says="with the filter .* got .* unexpected")
class IgnoresFilters(MutantTransport):
    """Nothing of it is stored, and the core is told so."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """As if there were none."""
        return await super().plan([_unfiltered(entity) for entity in entities])


def _unfiltered(entity: Entity) -> Entity:
    address = entity.address
    return (
        replace(entity, address=address.topic.subscription(address.name))
        if isinstance(address, Subscription)
        else entity
    )


@mutant("of a filter with several names any one is enough", "D4", says="with the filter .*kind.* got .* unexpected")
class MatchesAny(MutantTransport):
    """As a headers exchange with x-match=any."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """The first name alone is stored."""
        return await super().plan([_with_one_name(entity) for entity in entities])


def _with_one_name(entity: Entity) -> Entity:
    address = entity.address
    if not isinstance(address, Subscription):
        return entity
    return replace(
        entity, address=address.topic.subscription(address.name, where=dict(list(address.where.items())[:1]))
    )
