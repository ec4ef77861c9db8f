"""Nothing in the code names a broker; what does is configuration, and a second bus may say another."""

import asyncio
from collections.abc import Mapping

from busframe import Bus, Health, Queue, Retry
from busframe.errors import ClosedError
from tests.typing.parcels import Accepted, labels

anywhere = Bus(uses=[labels])
here: Mapping[str, object] = {
    "url": "memory://depot",
    "prefix": "north-",
    "drain_timeout_s": 5,
    "transports": {"memory": {"dedup_window_s": 10}},
    "destinations": {"labels": {"kafka": {"partitions": 3}}},
    "handlers": {"count": {"concurrency": 2, "retry": {"max_attempts": 2}}},
}
shared = {"prefix": "north-", "transports": {"memory": {"dedup_window_s": 10}}}
staging = Bus(config=here)
partitioned = Queue("partitioned", Accepted, options={"kafka": {"partitions": 24}})
counted: list[str] = []


@staging.handle(labels, concurrency=50)
async def count(parcel: Accepted) -> None:
    counted.append(parcel.number)


async def main() -> None:
    configuration = staging.configuration()
    assert configuration.settings.url == "memory://depot"
    (plan,) = staging.plans()
    assert plan.concurrency == 2
    assert plan.handlers[0].retry == Retry(max_attempts=2)
    async with (
        staging.worker() as worker,
        Bus("memory://depot", config=shared, uses=[labels]) as other,
    ):
        await other.publish(labels, Accepted(number="P1", weight_kg=1))
        await worker.wait_idle(0.01)
        health: Health = staging.health()
        assert health.ready
    assert counted == ["P1"]
    assert not anywhere.health().ready
    try:
        await anywhere.publish(labels, Accepted(number="P2", weight_kg=1))
    except ClosedError:
        return
    raise AssertionError("it is not open")


if __name__ == "__main__":
    asyncio.run(main())
