"""NATS: publish and consume beside raw nats-py and FastStream; JetStream on file, confirmed, work queues."""

import asyncio
import json
import logging
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api

from busframe import Bus, Context, Queue
from tests.benchmarks.compare import Bar, Contender, compare
from tests.benchmarks.payload import BODY, ORDER, Order
from tests.benchmarks.work import IN_FLIGHT, Done, lanes
from tests.brokers.find import running
from tests.brokers.nats import BROKER

MESSAGES = 20_000
ROUNDS = 5
HELD = 500
HANDLERS = 50
"""At once, where there can be several: FastStream and the bare callback have one."""

WORK_QUEUE = api.RetentionPolicy.WORK_QUEUE


class Raw:
    """A bare nats-py client that publishes through one inbox, each publish with an id and its confirmation awaited."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._unconfirmed: dict[str, asyncio.Future[None]] = {}
        self._sent = 0
        self._inbox = client.new_inbox()

    async def _confirmed(self, message: Msg) -> None:
        answer = json.loads(message.data)
        confirmed = self._unconfirmed.pop(message.subject.rpartition(".")[2])
        if "error" in answer:
            confirmed.set_exception(RuntimeError(answer["error"]))
        else:
            confirmed.set_result(None)

    async def open(self) -> None:
        """Listen for confirmations."""
        await self.client.subscribe(f"{self._inbox}.*", cb=self._confirmed)

    async def declare(self) -> str:
        """Make a stream of one subject that is called as it is."""
        name = f"bench-{uuid4().hex[:12]}"
        await self.client.jetstream().add_stream(name=name, subjects=[name], retention=WORK_QUEUE)
        return name

    async def publish(self, subject: str) -> None:
        """Publish one message and wait for its confirmation."""
        self._sent += 1
        token = str(self._sent)
        confirmed = self._unconfirmed[token] = asyncio.get_running_loop().create_future()
        headers = {"Nats-Msg-Id": f"{subject}-{token}", "content-type": "application/json", "correlation_id": token}
        await self.client.publish(subject, BODY, f"{self._inbox}.{token}", headers)
        await confirmed

    async def filled(self, messages: int) -> str:
        """Make a stream with so many messages."""
        name = await self.declare()
        await lanes(messages, lambda: self.publish(name), at_once=IN_FLIGHT)
        return name


@asynccontextmanager
async def _raw(url: str) -> AsyncIterator[Raw]:
    client = Client()
    await client.connect(url)
    try:
        raw = Raw(client)
        await raw.open()
        yield raw
    finally:
        await client.close()


def publishers(url: str) -> list[Contender]:
    """Each publishes with so many confirmations under way."""

    async def raw(messages: int) -> float:
        async with _raw(url) as client:
            name = await client.declare()
            return await lanes(messages, lambda: client.publish(name), at_once=IN_FLIGHT)

    async def faststream(messages: int) -> float:
        from faststream.nats import NatsBroker

        async with _raw(url) as client:
            name = await client.declare()
        async with NatsBroker(url, logger=None) as broker:
            return await lanes(messages, lambda: broker.publish(ORDER, name, stream=name), at_once=IN_FLIGHT)

    async def ours(messages: int) -> float:
        queue = _queue()
        async with Bus(url, uses=[queue]) as bus:
            return await lanes(messages, lambda: bus.publish(queue, ORDER), at_once=IN_FLIGHT)

    async def many(messages: int) -> float:
        queue = _queue()
        async with Bus(url, uses=[queue]) as bus:
            started = time.perf_counter()
            await bus.publish_many(queue, (ORDER for _ in range(messages)))
            return time.perf_counter() - started

    return [
        Contender("FastStream", faststream),
        Contender("nats-py, pipelined", raw),
        Contender("busframe, publish", ours),
        Contender("busframe, publish_many", many),
    ]


def _queue() -> Queue[Order]:
    return Queue(f"bench-{uuid4().hex[:12]}", Order)


def consumers(url: str) -> list[Contender]:
    """Each handles what is in its queue, and holds as many."""

    async def raw(messages: int) -> float:
        async with _raw(url) as client:
            name, done = await client.filled(messages), Done(messages)

            async def handle(message: Msg) -> None:
                Order.model_validate_json(message.data)
                await message.ack()
                done.one()

            config = api.ConsumerConfig(max_ack_pending=HELD)
            started = time.perf_counter()
            await client.client.jetstream().subscribe(name, durable="w", cb=handle, manual_ack=True, config=config)
            await done.all.wait()
            return time.perf_counter() - started

    def faststream(pull: bool) -> Callable[[int], Awaitable[float]]:
        async def run(messages: int) -> float:
            from faststream.nats import JStream, NatsBroker, PullSub

            async with _raw(url) as client:
                name, done = await client.filled(messages), Done(messages)
            broker = NatsBroker(url, logger=None)

            async def handle(order: Order) -> None:
                done.one()

            broker.subscriber(
                name,
                stream=JStream(name, declare=False),
                durable="w",
                config=api.ConsumerConfig(max_ack_pending=HELD),
                pull_sub=PullSub(batch_size=HELD) if pull else False,
            )(handle)
            async with broker:
                started = time.perf_counter()
                await broker.start()
                await done.all.wait()
                return time.perf_counter() - started

        return run

    async def ours(messages: int) -> float:
        queue, bus, done = _queue(), Bus(url), Done(messages)

        @bus.handle(queue, concurrency=HANDLERS, prefetch=HELD)
        async def handle(order: Order, ctx: Context) -> None:
            done.one()

        async with bus:
            await bus.publish_many(queue, (ORDER for _ in range(messages)))
            started = time.perf_counter()
            async with bus.worker():
                await done.all.wait()
                return time.perf_counter() - started

    return [
        Contender("FastStream, push", faststream(pull=False)),
        Contender("FastStream, pull", faststream(pull=True)),
        Contender("nats-py, bare push callback", raw),
        Contender("busframe", ours),
    ]


PUBLISH_BARS = (Bar("busframe, publish", "FastStream", 2.5), Bar("busframe, publish_many", "FastStream", 2.5))
CONSUME_BARS = (Bar("busframe", "FastStream, push", 3.5),)


def main() -> None:
    """Measure against a server of our own, and print the tables; exit code 1 where a bar is missed."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", RuntimeWarning)  # FastStream's advice against its faster consumer
    with running(BROKER, own=True) as server:
        sizes = {"messages": MESSAGES, "rounds": ROUNDS}
        reached = [
            compare(f"NATS publish, {IN_FLIGHT} in flight", publishers(server.url), PUBLISH_BARS, **sizes),
            compare(f"NATS consume, {HELD} held", consumers(server.url), CONSUME_BARS, **sizes),
        ]
    if not all(reached):
        sys.exit(1)


if __name__ == "__main__":
    main()
