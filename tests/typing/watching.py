"""Observers: told what happened, for metrics and the like."""

import asyncio
from collections import Counter

from busframe import Bus, Discard, Retry
from busframe.model.events import Failed, Handled, SourceChanged
from tests.typing.parcels import notices

counts: Counter[str] = Counter()


def count(event: object) -> None:
    match event:
        case Handled(handler=handler, attempt=attempt, duration_s=duration_s):
            assert duration_s >= 0
            counts[f"{handler} handled at {attempt}"] += 1
        case Failed(handler=handler, error=error, settlement=settlement):
            counts[f"{handler} {type(error).__name__} {type(settlement).__name__}"] += 1
        case SourceChanged(source=source, state=state):
            counts[f"{source} {state}"] += 1
        case _:
            pass


bus = Bus("memory://", observers=[count, print], retry=Retry(max_attempts=2, delay_s=0))


@bus.handle(notices)
async def pin_up(notice: str) -> None:
    if notice == "torn":
        raise ValueError(notice)
    if notice == "old":
        raise Discard("of last year")


async def main() -> None:
    async with bus.worker() as worker:
        for notice in ("fresh", "torn", "old"):
            await bus.publish(notices, notice)
        await worker.wait_idle(0.01)
        health = worker.health()
        assert health.ready
        assert health.sources["notices"] == "consuming"
    assert counts["pin_up handled at 1"] == 1
    assert counts["pin_up ValueError Nack"] == 1
    assert counts["pin_up ValueError DeadLetter"] == 1
    assert counts["notices consuming"] == 1
    assert bus.statistics()["notices"]["handled"] == 1


if __name__ == "__main__":
    asyncio.run(main())
