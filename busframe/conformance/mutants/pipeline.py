"""What can be wrong with U."""

import asyncio
from collections.abc import Sequence

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, core_mutant, mutant
from busframe.logic.attempts import Verdict
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.settlement import ACK
from busframe.runtime import handle
from busframe.runtime.flight import Flight

Outcomes = Sequence[Exception | None]


@mutant("what is published is stored only later", "U1", says="messages came")
class StoresLater(MutantTransport):
    """Confirmed at once, stored when the next one comes."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Outcomes:
        """What handlers publish (it has a correlation id) waits."""
        if outgoing[0].message.correlation_id is None:
            return await super().publish(outgoing, timeout_s=timeout_s)
        task = asyncio.create_task(self._later(outgoing))
        self._tasks = [*getattr(self, "_tasks", []), task]
        return [None] * len(outgoing)

    async def _later(self, outgoing: Sequence[Outgoing]) -> None:
        await asyncio.sleep(5)
        await super().publish(outgoing, timeout_s=1)


@mutant("what was delivered once is taken for handled", "U1", says="the third attempt")
class TakesDeliveredForHandled(MutantReceiver):
    """It marks a message when it comes, and not when its handler succeeded."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """What was marked is acknowledged."""
        marked: set[str] = getattr(self, "marked", set())
        self.marked = marked
        while True:
            deliveries = await self.inner.receive(limit)
            known = [delivery for delivery in deliveries if delivery.message.id in marked]
            await self.inner.settle([(delivery, ACK) for delivery in known])
            marked |= {delivery.message.id for delivery in deliveries}
            if fresh := [delivery for delivery in deliveries if delivery not in known]:
                return fresh


_handle = handle.Handling.handle


@core_mutant(
    "a handler that exits ends its slot", "U1", says="behind two that crash", of=handle.Handling, attribute="handle"
)
async def hangs_after_exit(self: handle.Handling, flight: Flight, verdict: Verdict) -> object:
    """It never comes back from a crash."""
    if flight.delivery.message.body == b"exit":
        await asyncio.Event().wait()
    return await _handle(self, flight, verdict)
