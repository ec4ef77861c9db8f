"""Handlers in routers: with one catch-all, one of only some types, and free-form bodies."""

import asyncio
from typing import Any

from busframe import Bus, Context, Message, Next, Queue, Retry, Router, Topic
from tests.typing.parcels import Accepted, Returned, Scan, scans, tracking

seen: list[str] = []


async def in_depot(ctx: Context, call_next: Next) -> object:
    seen.append(f"in {ctx.handler}")
    return await call_next()


north = Router("north", middleware=[in_depot], retry=Retry(max_attempts=2))
office = Router()
sorting = tracking.subscription("sorting")


@north.handle(sorting, only=Accepted, concurrency=2, ordering="none")
async def sort(parcel: Accepted) -> None:
    seen.append(f"sorted {parcel.number}")


@north.handle(sorting, only=Returned)
async def put_back(parcel: Returned, ctx: Context | None = None) -> None:
    assert ctx is not None
    seen.append(f"returned {parcel.number}")


@north.handle(sorting)
async def leftover(message: Message) -> None:
    seen.append(f"left over {message.type}")


def register(router: Router) -> None:
    @router.handle(scans, name="scan")
    def count(scan: Scan) -> None:
        seen.append(f"scan {scan['number']} at {scan['depot']}")

    count({"number": "tested", "depot": 0})  # the function is what it was


register(office)
loose = Topic("loose")


@office.handle(loose.subscription("paper"), unmatched="dead-letter", expired="discard", dead_letter=False)
async def paper(body: dict[str, Any]) -> None:
    seen.append(f"paper {sorted(body)}")


class Stamp:
    def __init__(self, text: str) -> None:
        self.text = text

    async def __call__(self, letter: bytes, ctx: Context) -> None:
        seen.append(f"{self.text} {letter.decode()}")


letters = Queue("letters", bytes)
office.handle(letters, name="stamp")(Stamp("received"))
north.include(office)
bus = Bus("memory://")
bus.include(north)


async def main() -> None:
    seen.clear()
    async with bus.worker(handlers=["north.sort", "north.scan", "north.paper", "north.stamp"]) as worker:
        await bus.publish(tracking, Accepted(number="P1", weight_kg=1))
        await bus.publish(tracking, Returned("P2", "moved"))
        await bus.publish(Topic("tracking"), {"lorry": 4})
        await bus.publish(scans, Scan(number="P1", depot=3))
        await bus.publish(loose, {"a": 1, "b": 2})
        await bus.publish(letters, b"dear sirs")
        await worker.wait_idle(0.01)
    assert sorted(line for line in seen if not line.startswith("in ")) == [
        "left over None",
        "paper ['a', 'b']",
        "received dear sirs",
        "returned P2",
        "scan P1 at 3",
        "sorted P1",
    ]
    assert "in north.sort" in seen


if __name__ == "__main__":
    asyncio.run(main())
