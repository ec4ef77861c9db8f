"""A topic of two types, with filtered subscriptions: each sees what it asks for."""

import asyncio
from collections import defaultdict

from busframe import Bus, Message
from tests.typing.parcels import Accepted, Returned, tracking

bus = Bus("memory://", uses=[tracking])
seen: defaultdict[str, list[str]] = defaultdict(list)

customer = tracking.subscription("customer")
customs = tracking.subscription("customs", where={"border": ["crossed", "refused"]})
heavy = tracking.subscription("heavy", where={"size": "xl", "border": "crossed"})
archive = tracking.subscription("archive")


@bus.handle(customer, only=Accepted)
async def tell_sender(parcel: Accepted) -> None:
    seen["sender"].append(parcel.number)


@bus.handle(customer, only=Returned)
async def apologise(parcel: Returned) -> None:
    seen["apology"].append(f"{parcel.number}: {parcel.reason}")


@bus.handle(customs)
async def clear(parcel: Accepted | Returned) -> None:
    if isinstance(parcel, Accepted):
        seen["customs"].append(f"{parcel.number}, {parcel.weight_kg} kg")
    else:
        seen["customs"].append(f"{parcel.number}, back")


@bus.handle(heavy, only=Accepted, unmatched="discard")
def order_a_crane(parcel: Accepted) -> None:
    seen["crane"].append(parcel.number)


@bus.handle(archive)
async def keep(message: Message) -> None:
    seen["archive"].append(f"{message.type} {message.headers.get('border')}")


async def main() -> None:
    async with bus.worker() as worker:
        await bus.publish(tracking, Accepted(number="P1", weight_kg=2.5))
        await bus.publish(tracking, Returned("P2", "nobody at home"), headers={"border": "refused"})
        await bus.publish(tracking, Accepted(number="P3", weight_kg=900), headers={"border": "crossed", "size": "xl"})
        await worker.wait_idle(0.01)
    assert sorted(seen["sender"]) == ["P1", "P3"]
    assert seen["apology"] == ["P2: nobody at home"]
    assert sorted(seen["customs"]) == ["P2, back", "P3, 900.0 kg"]
    assert seen["crane"] == ["P3"]
    assert sorted(seen["archive"]) == ["Returned refused", "parcel.accepted None", "parcel.accepted crossed"]


if __name__ == "__main__":
    asyncio.run(main())
