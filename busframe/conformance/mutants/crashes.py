"""What can be wrong with processes that are killed, replaced, or killed by a message."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from busframe.bus.dead_letters import DeadLetterBox, DeadLetterRecord
from busframe.conformance.mutants.holding import AcksOnDelivery
from busframe.conformance.mutants.mutant import MutantReceiver
from busframe.conformance.mutants.server import server_core_mutant, server_mutant
from busframe.logic.attempts import Verdict, judge_deliveries
from busframe.model.delivery import Delivery
from busframe.model.settlement import ACK, Release, Settlement
from busframe.runtime import source


@server_mutant(
    "what a worker has taken is gone when it is killed", "M8", "V2", says="that are missing\nlost: confirmed"
)
class AcksWhatItTakes(AcksOnDelivery):
    """As a consumer with automatic acknowledgement, in a process that dies."""


@server_core_mutant(
    "a replay removes the letters first",
    "V3",
    says="all are handled\nlost: confirmed",
    of=DeadLetterBox,
    attribute="replay",
)
async def removes_before_it_sends(
    box: DeadLetterBox, records: Iterable[DeadLetterRecord], *, to: Any = None, rate_per_s: float | None = None
) -> int:
    """All of them, and then sends one after the other."""
    chosen = list(records)
    await box.purge(chosen)
    for record in chosen:
        await box._opened().transport.publish([box._copy(record, to)], timeout_s=10)
        await asyncio.sleep(1 / rate_per_s if rate_per_s else 0)
    return len(chosen)


@server_mutant("what a worker gives back when it ends is gone", "V6", says="that are missing\nlost: confirmed")
class AcksWhatItGivesBack(MutantReceiver):
    """As a worker that acknowledges its whole prefetch on its way out."""

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """A release is an acknowledgement."""
        return await self.inner.settle(
            [(delivery, ACK if isinstance(settlement, Release) else settlement) for delivery, settlement in settled]
        )


@server_core_mutant(
    "what kills process after process is tried for ever",
    "V20",
    says="killed [0-9]+ workers and is no dead letter",
    of=source,
    attribute="judge_deliveries",
)
def suspects_for_ever(deliveries: int, max_deliveries: int, **facts: Any) -> Verdict:
    """A message that came once too often runs alone again."""
    verdict = judge_deliveries(deliveries, max_deliveries, **facts)
    return Verdict.SUSPECT if verdict is Verdict.CRASH_LOOP else verdict
