"""What can be wrong with E."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, mutant
from busframe.memory.store import TopicState
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Subscription, Topic
from busframe.model.entity import Change, Entity
from busframe.model.settlement import ACK
from busframe.spi.transport import Host


@mutant("a subscription without a consumer keeps nothing", "E1", says="0 of 10 messages came")
class KeepsNothingForTheAbsent(MutantTransport):
    """As plain publish and subscribe."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Confirmed, and stored where somebody listens."""
        return [
            (await super(MutantTransport, self).publish([out], timeout_s=timeout_s))[0] if self._heard(out) else None
            for out in outgoing
        ]

    def _heard(self, out: Outgoing) -> bool:
        state = self._opened().entities.get(self._name_of(out.to))
        return not isinstance(state, TopicState) or any(store.consumers for store in state.subscriptions)


def _changed(entity: Entity, **asked: Any) -> Entity:
    address = entity.address
    if not isinstance(address, Subscription):
        return entity
    return replace(entity, address=address.topic.subscription(address.name, **asked))


@mutant("a temporary subscription stays", "E2", says="is gone from the broker after its consumer")
class KeepsTemporary(MutantTransport):
    """Nobody deletes it."""

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Declared as any other."""
        return await super().plan([_changed(entity) for entity in entities])


@mutant("a declaration and a subscription return before the broker has them", "E3", says="[01] of 2 messages came")
class SubscribesLate(MutantTransport):
    """The broker is told in the background."""

    class receivers(MutantReceiver):
        """Opens when the source is there."""

        _opening: asyncio.Task[None] | None = None

        async def open(self) -> None:
            """At some time."""
            self._opening = asyncio.create_task(self._open())

        async def _open(self) -> None:
            await asyncio.sleep(0.1)
            await self.inner.open()

        async def receive(self, limit: int) -> Sequence[Delivery]:
            """When it is open."""
            if self._opening is not None:
                await self._opening
            return await self.inner.receive(limit)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Topics at once, and the rest a little later."""
        await super().apply([change for change in changes if isinstance(change.address, Topic)])
        rest = [change for change in changes if not isinstance(change.address, Topic)]
        self._later = asyncio.create_task(self._apply(rest))

    async def _apply(self, changes: Sequence[Change]) -> None:
        await asyncio.sleep(0.05)
        await super().apply(changes)


@mutant("starting at the earliest is claimed, and nothing is kept", "E4", says="start=earliest: 1 of 11 messages came")
class ClaimsToStartEarlier(MutantTransport):
    """A capability that is a word."""

    def __init__(self, host: Host, *arguments: Any) -> None:
        super().__init__(host, *arguments)
        self.capabilities = replace(self.capabilities, start=True)

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Taken, and forgotten."""
        return await super().plan([_changed(entity) for entity in entities])


@mutant("a receiver that closes acknowledges what it holds", "E5", says="of 700 messages came")
class AcksWhenItCloses(MutantReceiver):
    """As a consumer that settles on delivery."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._given: list[Delivery] = []

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Remembered."""
        deliveries = await self.inner.receive(limit)
        self._given += deliveries
        return deliveries

    async def close(self) -> None:
        """What is settled already does not mind."""
        given, self._given = self._given, []
        if given:
            await self.inner.settle([(delivery, ACK) for delivery in given])
        await self.inner.close()


@mutant("a stopped receiver goes on", "E6", says="a receive that waited when its receiver was stopped did not end")
class GoesOnReceiving(MutantReceiver):
    """Only closing ends it."""

    async def stop(self) -> None:
        """Nothing."""


@mutant("a stopped receiver gives out what it has buffered", "E6", says="a receive after stop gave 1 messages")
class GivesOutItsBuffer(MutantReceiver):
    """It fetches one ahead."""

    _waiting = False
    _ahead: Sequence[Delivery] = ()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """What was fetched ahead is first."""
        if self._ahead:
            deliveries, self._ahead = self._ahead, ()
            return deliveries
        self._waiting = True
        deliveries = await self.inner.receive(limit)
        self._waiting = False
        return deliveries

    async def stop(self) -> None:
        """One more, where there is one."""
        if not self._waiting and not self._ahead:
            self._ahead = await self.inner.receive(1)
        await self.inner.stop()


@mutant("a stopped receiver settles nothing any more", "E6", says="was not settled: SettlementLost")
class ClosesWhenStopped(MutantReceiver):
    """Stopping is closing."""

    async def stop(self) -> None:
        """All at once."""
        await self.inner.close()
