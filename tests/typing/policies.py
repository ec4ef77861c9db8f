"""Retry policies: of the bus, of a handler, for one exception, and one of one's own."""

import asyncio
from dataclasses import dataclass

from busframe import Bus, Context, DeadLetter, Discard, Failure, Message, Nack, Queue, Reject, Retry, RetryAfter


@dataclass
class Delivery:
    street: str


class Closed(Exception):
    def __init__(self, opens_in_s: float) -> None:
        super().__init__(f"opens in {opens_in_s} s")
        self.opens_in_s = opens_in_s


class Demolished(Exception): ...


class RoadWorks(ConnectionError): ...


quick = Retry(max_attempts=3, delay_s=0.0, jitter=0.0)
by_kind = Retry(
    max_attempts=5,
    delay_s=0.0,
    factor=1.5,
    max_delay_s=60.0,
    max_age_s=86_400.0,
    give_up_on=(Demolished,),
    rules={ConnectionError: Retry(max_attempts=2, delay_s=0.0)},
)


def opening_hours(failure: Failure) -> Nack | DeadLetter:
    if isinstance(failure.error, Closed) and failure.age_s < 3600:
        return Nack(failure.error.opens_in_s * (1 + failure.random / 100))
    return DeadLetter("closed-for-good", repr(failure.error))


doors = Queue("doors", Delivery)
shops = Queue("shops", Delivery)
bus = Bus("memory://", retry=quick)
tries: list[tuple[str, int]] = []
letters: dict[str, str] = {}


@bus.handle(doors, retry=by_kind, timeout_s=5.0)
async def ring(delivery: Delivery, ctx: Context) -> None:
    tries.append((delivery.street, ctx.attempt))
    match delivery.street:
        case "Old Mill":
            raise Demolished
        case "High Street":
            raise RoadWorks
        case "Station Road" if ctx.attempt == 1:
            raise RetryAfter(0.0, "the train is late")
        case "Nowhere":
            raise Reject("no such street")
        case "Park Lane":
            raise Discard("delivered by hand")
        case _:
            pass


@bus.handle(shops, retry=opening_hours)
async def enter(delivery: Delivery, ctx: Context) -> None:
    if ctx.attempt == 1:
        raise Closed(0.01)
    raise RuntimeError("bankrupt")


@bus.handle(doors.dead_letters)
@bus.handle(shops.dead_letters, name="bury_shop")
async def bury(message: Message, ctx: Context) -> None:
    assert message.dead is not None
    assert message.dead.source in ("doors", "shops")
    letters[message.id] = message.dead.reason


async def main() -> None:
    async with bus.worker() as worker:
        ids = {}
        for street in ("Old Mill", "High Street", "Station Road", "Nowhere", "Park Lane"):
            ids[street] = (await bus.publish(doors, Delivery(street))).id
        ids["Shop"] = (await bus.publish(shops, Delivery("Market"))).id
        await worker.wait_idle(0.1)
    assert letters == {
        ids["Old Mill"]: "gave-up",
        ids["High Street"]: "attempts",
        ids["Nowhere"]: "rejected",
        ids["Shop"]: "closed-for-good",
    }
    assert sorted(tries) == [
        ("High Street", 1),
        ("High Street", 2),
        ("Nowhere", 1),
        ("Old Mill", 1),
        ("Park Lane", 1),
        ("Station Road", 1),
        ("Station Road", 2),
    ]


if __name__ == "__main__":
    asyncio.run(main())
