"""All that can be said of a publish, by a function that passes it on as well."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Unpack

from busframe import Bus, Context, Headers, Message, Publisher, PublishOptions
from tests.typing.parcels import Accepted, Returned, Scan, anything, labels, scans, tracking

bus = Bus("memory://", uses=[labels, tracking, scans])
received: list[Message] = []


class Counter:
    """A service: it asks for what publishes, and is given a bus or a context."""

    def __init__(self, publisher: Publisher, depot: str | None = None) -> None:
        self.publisher = publisher
        self.headers: Headers = {"depot": depot} if depot else {}

    async def accept(self, number: str, **options: Unpack[PublishOptions]) -> str:
        options.setdefault("headers", self.headers)
        sent = await self.publisher.publish(labels, Accepted(number=number, weight_kg=1.0), **options)
        return sent.id


@bus.handle(anything)
async def forward(message: Message, ctx: Context) -> None:
    received.append(message)
    if message.type == "parcel.accepted":
        await ctx.publish(labels, message)  # as it is, for a typed queue too
        await Counter(ctx).accept("P9")


def many() -> Iterator[Scan]:
    for depot in range(3):
        yield {"number": "P1", "depot": depot}


def depot_of(scan: Scan) -> str:
    return str(scan["depot"])


async def main() -> None:
    async with bus.worker() as worker:
        sent = await bus.publish(
            labels,
            Accepted(number="P1", weight_kg=2.0),
            key="P1",
            headers={"depot": "north"},
            delay_s=0.0,
            ttl_s=60.0,
            id="label-1",
            correlation_id="order-7",
            reply_to="labels-printed",
            timeout_s=5.0,
        )
        assert (sent.id, sent.key, sent.correlation_id, sent.reply_to) == ("label-1", "P1", "order-7", "labels-printed")
        maybe_key: str | None = None
        await bus.publish(tracking, Returned("P2", "refused"), key=maybe_key, headers=None, ttl_s=None)
        all_scans: Sequence[Message] = await bus.publish_many(scans, many(), keys=depot_of, headers={"line": "a"})
        assert [message.key for message in all_scans] == ["0", "1", "2"]
        assert await Counter(bus, "south").accept("P3", id="label-3") == "label-3"
        for body in ({"free": "form"}, "text", b"bytes", 7, None, Accepted(number="P4", weight_kg=1)):
            await bus.publish(anything, body)
        await worker.wait_idle(0.01)
    assert sorted(str(message.content_type) for message in received) == [
        *["application/json"] * 4,
        "application/octet-stream",
        "text/plain; charset=utf-8",
    ]


if __name__ == "__main__":
    asyncio.run(main())
