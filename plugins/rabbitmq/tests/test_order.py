"""The order of keys when the worker that has them changes, on a real server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from busframe import Bus
from busframe.errors import Unsupported
from busframe.model.destination import Queue
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, DeadLetter
from busframe.spi import Receiver
from busframe_rabbitmq.client import Connection
from busframe_rabbitmq.transport import RabbitMQ
from plugins.rabbitmq.tests.support import cut, make_settings, opened
from tests.support.transports import (
    consuming,
    declare,
    eventually,
    make_host,
    message,
    nothing_arrives,
    publish_all,
    receive,
    take,
)

JOBS = Queue[Any]("jobs")
COUNT = 60

End = Callable[[RabbitMQ, Receiver], Awaitable[None]]


async def dies(transport: RabbitMQ, receiver: Receiver) -> None:
    """As a killed process: its connection is lost, and it does not come back."""
    cut(transport, "consuming")


async def loses_its_channel(transport: RabbitMQ, receiver: Receiver) -> None:
    """As after an error on it; the receiver consumes again, behind all that wait."""
    generation = receiver._generation  # type: ignore[attr-defined]
    receiver._session._channel._raw.basic_ack(10**6)  # type: ignore[attr-defined]

    async def again() -> bool:
        return bool(receiver._generation > generation)  # type: ignore[attr-defined]

    await eventually(again, "it consumes again")


async def closes(transport: RabbitMQ, receiver: Receiver) -> None:
    """In order, with what it was at finished."""
    await receiver.stop()
    await receiver.close()


@asynccontextmanager
async def worker(url: str, **settings: Any) -> AsyncIterator[tuple[RabbitMQ, Receiver]]:
    """A process of its own, as far as the server can see; one that is cut stays away."""
    async with opened(url, reconnect_min_s=60, reconnect_max_s=60, **settings) as transport:
        async with consuming(transport, JOBS, ordering="key", prefetch=1) as receiver:
            yield transport, receiver


def numbers(deliveries: Any) -> list[int]:
    """Which messages these are."""
    return [int(delivery.message.body) for delivery in deliveries]


@pytest.mark.parametrize("ends", [(dies, dies, dies), (closes, dies, closes), (loses_its_channel, dies, closes)])
async def test_workers_that_end_in_a_row_hand_over_in_order(rabbitmq_vhost: str, ends: tuple[End, ...]) -> None:
    """Whatever each had settled of what it had: the next one gets the rest, oldest first, marked as delivered again."""
    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(opened(rabbitmq_vhost))
        await declare(publisher, JOBS, ordering="key", max_attempts=5)
        await publish_all(publisher, JOBS, *(message(b"%d" % number) for number in range(COUNT)))
        workers = [await stack.enter_async_context(worker(rabbitmq_vhost)) for _ in range(len(ends) + 1)]
        left = list(range(COUNT))
        for (transport, receiver), end in zip(workers, ends, strict=False):
            got = await receive(receiver, 12)
            assert numbers(got) == left[:12]
            settled = [got[index] for index in (0, 1, 4, 9)]
            assert await receiver.settle([(delivery, ACK) for delivery in settled]) == [None] * 4
            left = [number for number in left if number not in numbers(settled)]
            await receive(receiver, 1)  # the server knows what was acknowledged
            await nothing_arrives(workers[-1][1], for_s=0.05)
            await end(transport, receiver)
        rest = await take(workers[-1][1], len(left))
        assert numbers(rest) == left
        assert all(delivery.deliveries > 1 for delivery in rest)


async def test_growing_keeps_the_role(rabbitmq_vhost: str) -> None:
    """More slots, a longer prefetch: the active worker stays active."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, JOBS, ordering="key", max_attempts=5)
    async with worker(rabbitmq_vhost) as (transport, active), worker(rabbitmq_vhost) as (_, waiting):
        await publish_all(transport, JOBS, *(message() for _ in range(COUNT)))
        await receive(active, 10)
        await active.resize(50)
        await active.resize(1)
        await receive(active, 40)
        await nothing_arrives(waiting, for_s=0.1)


async def test_what_was_lost_is_not_held(rabbitmq_vhost: str) -> None:
    """From the very moment, and before anything new arrives."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, JOBS)
        await publish_all(transport, JOBS, *(message() for _ in range(3)))
        async with consuming(transport, JOBS) as receiver:
            done, dead, kept = await receive(receiver, 3)
            assert receiver.holds(done)
            await receiver.settle([(done, ACK), (dead, DeadLetter("rejected"))])
            assert [receiver.holds(each) for each in (done, dead, kept)] == [False, False, True]
            connection = transport.consuming.connection
            assert connection is not None
            cut(transport, "consuming")
            await asyncio.wait({connection.closed}, timeout=10)
            assert not receiver.holds(kept)
            (again,) = await receive(receiver, 1)
            assert receiver.holds(again)
            assert not receiver.holds(kept)


async def test_an_older_server_is_told_apart(rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 4.0 the order is not claimed, and who asks for it learns why when the bus opens."""
    monkeypatch.setattr(Connection, "server_version", (3, 13))
    bus = Bus(transport=lambda host: RabbitMQ(make_settings(rabbitmq_vhost), host))

    @bus.handle(JOBS, ordering="key")
    async def handle(body: bytes) -> None: ...

    with pytest.raises(Unsupported, match=r'jobs: ordering="key", but RabbitMQ before 4\.0'):
        async with bus:
            pass


def test_what_keeps_no_order_is_not_asked_for_it() -> None:
    """Dead letters, and messages that are settled before they are handled."""
    transport = RabbitMQ(make_settings("amqp://nowhere"), make_host())
    ordered = Entity(JOBS, ordering="key", max_attempts=5)
    with pytest.raises(Unsupported, match="dead letters keep no order"):
        transport.receiver(Entity(JOBS.dead_letters, ordering="key"), prefetch=1)
    with pytest.raises(Unsupported, match='ack="before"'):
        transport.receiver(ordered, prefetch=1, ack="before")
