"""What can be wrong with J."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from busframe.conformance.mutants.mutant import MutantReceiver, MutantTransport, mutant
from busframe.conformance.mutants.server import ServerTransport, server_mutant
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.settlement import Nack, Settlement
from busframe.spi.transport import Host, Transport


@mutant("the delay of a publish is ignored", "J1", says="a delayed publish was .* came early")
class IgnoresPublishDelay(MutantTransport):
    """It comes at once."""

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Without delays."""
        return await super().publish([replace(out, delay_s=0.0) for out in outgoing], timeout_s=timeout_s)


@mutant("the delay of a hand-back is ignored", "J1", says="a delayed hand-back was .* came early")
class IgnoresNackDelay(MutantReceiver):
    """It comes at once."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Without delays."""
        return await self.inner.settle(
            [(d, Nack(0.0, s.carried) if isinstance(s, Nack) else s) for d, s in settled],
        )


@mutant("delayed messages leave in the order in which they came", "J2", says="0 of 1 messages came|came late")
class DelaysInOneQueue(MutantTransport):
    """As messages with an expiration in one waiting queue of RabbitMQ."""

    longest = 0.0

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """None before the one in front of it."""
        for out in outgoing:
            self.longest = max(self.longest, out.delay_s)
        return await super().publish(
            [replace(out, delay_s=self.longest if out.delay_s else 0.0) for out in outgoing], timeout_s=timeout_s
        )


@mutant("a delay that is not claimed is ignored", "J1", "J2", "J4", says="Unsupported was expected, not None")
class ClaimsNoDelays(MutantTransport):
    """It takes the message, and drops the delay."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.capabilities = replace(self.capabilities, publish_delay_max_s=0.0, nack_delay_max_s=0.0)


@server_mutant("what is delayed goes when the broker does", "J3", says="0 of 1 messages came")
class HoldsWhatIsDelayed(ServerTransport):
    """In its memory, as a broker does whose delays are kept in none of its queues."""

    def __init__(self, make: Callable[[Host], Transport], host: Host) -> None:
        self._report = host.report
        self._held: set[asyncio.Task[Any]] = set()
        super().__init__(make, replace(host, report=self._told))

    def _told(self, name: str, state: Literal["up", "down", "blocked"], cause: BaseException | None) -> None:
        if state == "down":
            for task in self._held:
                task.cancel()
        self._report(name, state, cause)

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Each one when it is due."""
        self._held.update(asyncio.create_task(self._later(out, timeout_s)) for out in outgoing)
        return [None] * len(outgoing)

    async def _later(self, out: Outgoing, timeout_s: float) -> None:
        await asyncio.sleep(out.delay_s)
        await self.inner.publish([replace(out, delay_s=0.0)], timeout_s=timeout_s)

    async def close(self) -> None:
        """With all of it."""
        for task in self._held:
            task.cancel()
        await self.inner.close()
