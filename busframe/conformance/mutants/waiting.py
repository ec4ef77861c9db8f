"""What can be wrong with retries that wait."""

import asyncio
from collections.abc import Sequence

from busframe.conformance.mutants.mutant import MutantReceiver, mutant
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.settlement import ACK, Nack, Settlement


def _waits(settlement: Settlement) -> bool:
    return isinstance(settlement, Nack) and settlement.delay_s > 0


@mutant("a retry waits in a place that its policy names", "V22", says="not within .*all are handled\nlost")
class WaitsByPolicy(MutantReceiver):
    """As wait queues that are named after the delay and read by whoever has that policy."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Acknowledges, and brings it back only where its policy is still run."""
        for delivery, settlement in settled:
            if isinstance(settlement, Nack) and settlement.delay_s > 0:
                loop = asyncio.get_running_loop()
                loop.call_later(settlement.delay_s, self._bring_back, delivery, settlement)
        return await self.inner.settle(
            [(delivery, ACK if _waits(settlement) else settlement) for delivery, settlement in settled]
        )

    def _bring_back(self, delivery: Delivery, settlement: Nack) -> None:
        copy = Outgoing(
            self.entity.address,
            delivery.message,
            dedup_key=f"{delivery.message.id}/{delivery.position}",
            carried=settlement.carried,
        )
        if self.transport.native is not None and self._open:
            self._bringing = asyncio.ensure_future(self.transport.publish([copy], timeout_s=1))

    _open = True

    async def close(self) -> None:
        """Nobody has the policy any more."""
        self._open = False
        await self.inner.close()


@mutant("a retry that waits is held", "V29", says="retries that wait hold up the others")
class HoldsWhatWaits(MutantReceiver):
    """As a broker that counts delayed messages as unsettled."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Takes as long as the delay."""
        for _, settlement in settled:
            if isinstance(settlement, Nack):
                await asyncio.sleep(settlement.delay_s)
        return await self.inner.settle(settled)
