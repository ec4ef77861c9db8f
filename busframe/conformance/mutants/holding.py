"""What can be wrong with what is held (F)."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from busframe.conformance.memory import MemoryHarness
from busframe.conformance.mutants.mutant import (
    MutantHarness,
    MutantReceiver,
    MutantTransport,
    core_mutant,
    harness_mutant,
    mutant,
)
from busframe.errors import SettlementLost
from busframe.model.delivery import Delivery
from busframe.model.settlement import ACK, RELEASE, Nack, Settlement
from busframe.runtime.flight import Flight
from busframe.runtime.handle import Handling, InLane
from busframe.runtime.settle import Settler
from busframe.runtime.source import SourceRunner
from busframe.spi.transport import Receiver, Transport


@mutant("a delivery is settled when it is received", "F3", "C3", says="messages that another|messages came|lost")
class AcksOnDelivery(MutantReceiver):
    """As a consumer with automatic acknowledgement."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Acknowledged at once."""
        deliveries = await self.inner.receive(limit)
        await self.inner.settle([(delivery, ACK) for delivery in deliveries])
        return deliveries

    def holds(self, delivery: Delivery) -> bool:
        """Nobody else will have it."""
        return True

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Done already."""
        return [None] * len(settled)


@mutant("what is held goes back after half a second", "F4", says="unexpected message")
class LetsLocksExpire(MutantReceiver):
    """Renews nothing."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """For half a second."""
        deliveries = await self.inner.receive(limit)
        asyncio.get_running_loop().call_later(0.5, self._expire, deliveries)
        return deliveries

    def _expire(self, deliveries: Sequence[Delivery]) -> None:
        self.expiring = asyncio.ensure_future(self.inner.settle([(delivery, RELEASE) for delivery in deliveries]))


@harness_mutant("what a silent client holds is never taken back", "F4", says="0 of 1 messages came within")
class HoldsForEver(MemoryHarness):
    """As a broker whose locks do not end."""

    lock_s = 0.2
    patience = 0.05

    async def silence(self, transport: Transport) -> None:
        """It may as well talk."""


@mutant("a settlement is of a message, not of a delivery", "F7", "F8", says="of a delivery that is lost ended as None")
class SettlesById(MutantReceiver):
    """Knows messages by their ids, and no receipts."""

    newest: ClassVar[dict[str, tuple[Receiver, Delivery]]] = {}

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Each is the newest of its message."""
        deliveries = await self.inner.receive(limit)
        self.newest.update((delivery.message.id, (self.inner, delivery)) for delivery in deliveries)
        return deliveries

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Wherever the newest is."""
        outcomes: list[Exception | None] = []
        for delivery, settlement in settled:
            receiver, newest = self.newest[delivery.message.id]
            outcomes += await receiver.settle([(newest, settlement)])
        return outcomes


@mutant("one nack in fifty is an acknowledgement", "F11", says="after three nacks each")
class LosesNacks(MutantReceiver):
    """Loses few."""

    nacks = 0

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Every fiftieth is lost."""
        return await self.inner.settle([(delivery, self._instead(settlement)) for delivery, settlement in settled])

    def _instead(self, settlement: Settlement) -> Settlement:
        self.nacks += isinstance(settlement, Nack)
        return ACK if isinstance(settlement, Nack) and self.nacks % 50 == 0 else settlement


@core_mutant(
    "a settlement that failed counts as done",
    "F12",
    says="a settlement failed, and was not reported",
    of=Settler,
    attribute="_failed",
)
def failures_that_nobody_hears(self: Settler, flight: Flight, error: Exception) -> None:
    """Done, whatever the broker said."""
    self._done(flight, None)


_ON_SETTLED = SourceRunner._on_settled


@core_mutant(
    "who settles by hand does not hear that it was lost",
    "F12",
    says="raised None in its handler, and not SettlementLost",
    of=SourceRunner,
    attribute="_on_settled",
)
def losses_that_nobody_hears(self: SourceRunner, flight: Flight, outcome: SettlementLost | None) -> None:
    """Settled well, whatever the broker said."""
    _ON_SETTLED(self, flight, None)


@core_mutant(
    "a handler that settles nothing has succeeded", "F13", says="1 dead letters of", of=Handling, attribute="_raised"
)
def silence_that_is_success(self: Handling, flight: Flight, *_: object) -> InLane | None:
    """Acknowledged."""
    return self._settle(flight, ACK)


@mutant("a receiver closes only when all is settled", "F13", says="does not close within")
class WaitsForSettlements(MutantReceiver):
    """Waits for what may never come."""

    held = 0

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Counted."""
        deliveries = await self.inner.receive(limit)
        self.held += len(deliveries)
        return deliveries

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Counted."""
        self.held -= len(settled)
        return await self.inner.settle(settled)

    async def close(self) -> None:
        """Waits at most as long as the world does."""
        for _ in range(100):
            if not self.held:
                break
            await asyncio.sleep(0.02)
        await self.inner.close()


class RestartedHarness(MutantHarness):
    """A memory broker that keeps everything when it is restarted."""

    async def restart(self) -> None:
        """Its clients are gone."""
        self.broker.disconnect()


class _KeepsAcks(MutantReceiver):
    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        return [None] * len(settled)


@mutant(
    "an acknowledgement is told and not sent", "F16", says="more than once|unexpected message", harness=RestartedHarness
)
class KeepsAcknowledgements(MutantTransport):
    """As a client that sends them with the next ones."""

    receivers = _KeepsAcks

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.capabilities = replace(self.capabilities, durable=True)
