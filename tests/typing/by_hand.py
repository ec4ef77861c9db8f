"""Acknowledging by hand, in an async and in a plain function."""

import asyncio

from busframe import Bus, Context, Message, Queue, SyncContext
from busframe.errors import AlreadySettled
from tests.typing.parcels import Accepted, labels

bus = Bus("memory://")
pickups = Queue("pickups", Accepted)
log: list[str] = []


@bus.handle(labels, ack="manual", concurrency=4, prefetch=20)
async def print_label(parcel: Accepted, ctx: Context) -> None:
    if parcel.weight_kg < 0:
        await ctx.reject("weighs less than nothing")
    elif parcel.weight_kg > 100 and ctx.attempt < 2 and not ctx.redelivered:
        await ctx.nack(delay_s=0.01)
    else:
        await ctx.ack()
        log.append(f"{parcel.number} printed")
        try:
            await ctx.ack()
        except AlreadySettled:
            log.append(f"{parcel.number} once")


@bus.handle(pickups, ack="manual")
def pick_up(parcel: Accepted, message: Message, ctx: SyncContext) -> None:
    if ctx.attempt == 1:
        ctx.nack()
    elif parcel.weight_kg < 0:
        ctx.reject(reason="nothing there")
    else:
        ctx.publish(labels, parcel, key=message.key)
        ctx.ack()


@bus.handle(labels.dead_letters)
async def investigate(message: Message) -> None:
    assert message.dead is not None
    log.append(f"{message.dead.reason} {message.dead.error_message}")


async def main() -> None:
    async with bus.worker() as worker:
        await bus.publish_many(
            labels,
            [Accepted(number="heavy", weight_kg=101), Accepted(number="wrong", weight_kg=-1)],
        )
        await bus.publish(pickups, Accepted(number="fetched", weight_kg=1))
        await worker.wait_idle(0.1)
    assert sorted(log) == [
        "fetched once",
        "fetched printed",
        "heavy once",
        "heavy printed",
        "rejected weighs less than nothing",
    ]


if __name__ == "__main__":
    asyncio.run(main())
