"""RabbitMQ: publish and consume beside raw pika and FastStream; durable quorum queues, persistent, confirmed."""

import asyncio
import logging
import sys
import time
from typing import Any
from uuid import uuid4

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from busframe import Bus, Context, Queue
from tests.benchmarks.compare import Bar, Contender, compare
from tests.benchmarks.payload import BODY, ORDER, Order
from tests.benchmarks.work import IN_FLIGHT, lanes
from tests.brokers.find import running
from tests.brokers.rabbitmq import BROKER

MESSAGES = 10_000
ROUNDS = 7

QUORUM = {"x-queue-type": "quorum"}
PROPERTIES = pika.BasicProperties(
    content_type="application/json", type="Order", message_id="0" * 32, delivery_mode=2, headers={"a": "1"}
)


class Pika:
    """A bare pika connection on the loop, with one channel in confirm mode."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._sent = 0

    async def __aenter__(self) -> "Pika":
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = loop.create_future()
        self.connection = AsyncioConnection(
            pika.URLParameters(self._url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=opened.set_result),
            on_open_error_callback=lambda _, error: opened.set_exception(error),
        )
        self.channel = await opened
        ready: asyncio.Future[Any] = loop.create_future()
        self.channel.confirm_delivery(self._confirmed, ready.set_result)
        await ready
        return self

    async def __aexit__(self, *exc: object) -> None:
        closed = asyncio.get_running_loop().create_future()
        self.connection.add_on_close_callback(lambda *_: closed.set_result(None))
        self.connection.close()
        await closed

    async def declare(self, queue: str, arguments: dict[str, Any]) -> None:
        """Make a queue."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.channel.queue_declare(queue, durable=True, arguments=arguments, callback=done.set_result)
        await done

    def _confirmed(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        for number in [n for n in self._unconfirmed if n <= tag] if frame.method.multiple else [tag]:
            self._unconfirmed.pop(number).set_result(None)

    async def publish(self, queue: str) -> None:
        """Publish one message and wait for its confirmation."""
        self.channel.basic_publish("", queue, BODY, PROPERTIES)
        self._sent += 1
        confirmed = self._unconfirmed[self._sent] = asyncio.get_running_loop().create_future()
        await confirmed

    async def fill(self, queue: str, messages: int) -> None:
        """Publish many messages."""
        await lanes(messages, lambda: self.publish(queue), at_once=IN_FLIGHT)


def _name() -> str:
    return f"bench-{uuid4().hex[:12]}"


def publishers(url: str) -> list[Contender]:
    """Each publishes with so many confirmations under way."""

    async def raw(messages: int) -> float:
        async with Pika(url) as client:
            queue = _name()
            await client.declare(queue, QUORUM)
            return await lanes(messages, lambda: client.publish(queue), at_once=IN_FLIGHT)

    async def faststream(messages: int) -> float:
        from faststream.rabbit import QueueType, RabbitBroker, RabbitQueue

        broker = RabbitBroker(url, logger=None)
        async with broker:
            queue = RabbitQueue(_name(), queue_type=QueueType.QUORUM, durable=True)
            await broker.declare_queue(queue)
            return await lanes(messages, lambda: broker.publish(ORDER, queue, persist=True), at_once=IN_FLIGHT)

    async def ours(messages: int) -> float:
        queue = Queue(_name(), Order)
        async with Bus(url, uses=[queue]) as bus:
            return await lanes(messages, lambda: bus.publish(queue, ORDER), at_once=IN_FLIGHT)

    async def many(messages: int) -> float:
        queue = Queue(_name(), Order)
        async with Bus(url, uses=[queue]) as bus:
            started = time.perf_counter()
            await bus.publish_many(queue, (ORDER for _ in range(messages)))
            return time.perf_counter() - started

    return [
        Contender("FastStream", faststream),
        Contender("pika, pipelined", raw),
        Contender("busframe, publish", ours),
        Contender("busframe, publish_many", many),
    ]


def consumers(url: str) -> list[Contender]:
    """Each handles what is in its queue, prefetching as many."""

    async def raw(messages: int) -> float:
        async with Pika(url) as client:
            queue = _name()
            await client.declare(queue, QUORUM)
            await client.fill(queue, messages)
            done = asyncio.Event()
            seen = 0

            def received(channel: Any, method: Any, properties: Any, body: bytes) -> None:
                nonlocal seen
                Order.model_validate_json(body)
                channel.basic_ack(method.delivery_tag)
                seen += 1
                if seen == messages:
                    done.set()

            client.channel.basic_qos(prefetch_count=IN_FLIGHT)
            started = time.perf_counter()
            client.channel.basic_consume(queue, received)
            await done.wait()
            return time.perf_counter() - started

    async def faststream(messages: int) -> float:
        from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

        name = _name()
        async with Pika(url) as client:
            await client.declare(name, QUORUM)
            await client.fill(name, messages)
        broker = RabbitBroker(url, logger=None, default_channel=Channel(prefetch_count=IN_FLIGHT))
        done = asyncio.Event()
        seen = 0

        async def handle(order: Order) -> None:
            nonlocal seen
            seen += 1
            if seen == messages:
                done.set()

        broker.subscriber(RabbitQueue(name, queue_type=QueueType.QUORUM, durable=True))(handle)
        async with broker:
            started = time.perf_counter()
            await broker.start()
            await done.wait()
            return time.perf_counter() - started

    async def ours(messages: int) -> float:
        queue = Queue(_name(), Order)
        bus = Bus(url)
        done = asyncio.Event()
        seen = 0

        @bus.handle(queue, concurrency=IN_FLIGHT // 2, prefetch=IN_FLIGHT)
        async def handle(order: Order, ctx: Context) -> None:
            nonlocal seen
            seen += 1
            if seen == messages:
                done.set()

        async with bus:
            async with Pika(url) as client:
                await client.fill(queue.name, messages)
            started = time.perf_counter()
            async with bus.worker():
                await done.wait()
                return time.perf_counter() - started

    return [Contender("FastStream", faststream), Contender("pika, bare callback", raw), Contender("busframe", ours)]


PUBLISH_BARS = (Bar("busframe, publish", "FastStream", 3), Bar("busframe, publish", "pika, pipelined", 0.7))
CONSUME_BARS = (Bar("busframe", "FastStream", 4), Bar("busframe", "pika, bare callback", 0.7))


def main() -> None:
    """Measure against a server of our own, and print the tables; exit code 1 where a bar is missed."""
    logging.disable(logging.WARNING)
    with running(BROKER, own=True) as server:
        sizes = {"messages": MESSAGES, "rounds": ROUNDS}
        reached = [
            compare(f"RabbitMQ publish, {IN_FLIGHT} in flight", publishers(server.url), PUBLISH_BARS, **sizes),
            compare(f"RabbitMQ consume, prefetch {IN_FLIGHT}", consumers(server.url), CONSUME_BARS, **sizes),
        ]
    if not all(reached):
        sys.exit(1)


if __name__ == "__main__":
    main()
