"""What handlers need is opened by the lifespan, and closed after them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from busframe import Bus, Context, SyncContext
from tests.typing.parcels import Accepted, Scan, labels, scans


@dataclass
class Depot:
    shelves: dict[str, float] = field(default_factory=dict)
    open: bool = True


depots: list[Depot] = []


@asynccontextmanager
async def depot(bus: Bus) -> AsyncGenerator[Depot, None]:
    opened = Depot()
    depots.append(opened)
    await bus.publish(labels, Accepted(number="first", weight_kg=1))  # the bus is open already
    try:
        yield opened
    finally:
        opened.open = False


bus = Bus("memory://", lifespan=depot)


@bus.handle(labels)
async def store(parcel: Accepted, ctx: Context) -> None:
    state: Depot = ctx.state
    assert state.open
    state.shelves[parcel.number] = parcel.weight_kg


@bus.handle(scans)
def look(scan: Scan, ctx: SyncContext) -> None:
    state: Depot = ctx.state
    state.shelves.setdefault(scan["number"], 0.0)


async def main() -> None:
    depots.clear()
    for _ in range(2):  # it may be run again after it was left
        async with bus.worker() as worker:
            await bus.publish(labels, Accepted(number="P1", weight_kg=3))
            await bus.publish(scans, Scan(number="P2", depot=1))
            await worker.wait_idle(0.01)
    assert depots == [Depot({"first": 1.0, "P1": 3.0, "P2": 0.0}, open=False)] * 2


if __name__ == "__main__":
    asyncio.run(main())
