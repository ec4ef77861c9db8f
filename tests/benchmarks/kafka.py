"""Kafka: publish and consume beside raw confluent-kafka and FastStream; confirmed by all replicas, 8 partitions."""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from busframe import Bus, Context, Queue
from tests.benchmarks.compare import Bar, Contender, compare
from tests.benchmarks.payload import BODY, ORDER, Order
from tests.benchmarks.work import IN_FLIGHT, Done, lanes
from tests.brokers.find import running
from tests.brokers.kafka import BROKER, Kafka

MESSAGES = 30_000
ROUNDS = 3
PARTITIONS = 8

STICKY = "?sticky_s=0.001&linger_s=0.001"
"""librdkafka by itself keeps to a partition for ten; ours takes one at random for each, unless it is told."""

HEADERS: list[tuple[str, str | bytes | None]] = [
    ("bf-id", b"0" * 32),
    ("bf-type", b"Order"),
    ("bf-content-type", b"application/json"),
    ("a", b"1"),
]


async def _topic(server: Kafka) -> str:
    """Make a topic of that many partitions."""
    name = f"bench-{uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    await asyncio.wrap_future(admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name])
    return name


def _fill(server: Kafka, topic: str, messages: int) -> None:
    """Publish many messages; blocks."""
    producer = Producer(
        {"bootstrap.servers": server.bootstrap, "linger.ms": 5, "queue.buffering.max.messages": 2 * messages}
    )
    for _ in range(messages):
        producer.produce(topic, BODY, headers=HEADERS)
    producer.flush()


def publishers(server: Kafka) -> list[Contender]:
    """Each publishes with so many confirmations under way."""

    async def raw(messages: int) -> float:
        topic = await _topic(server)
        producer = Producer(
            {"bootstrap.servers": server.bootstrap, "enable.idempotence": True, "linger.ms": 1, "log_level": 0}
        )
        _fill(server, topic, 1)

        def work() -> float:
            started = time.perf_counter()
            for _ in range(messages):
                while len(producer) >= IN_FLIGHT:
                    producer.poll(0.001)
                producer.produce(topic, BODY, headers=HEADERS, on_delivery=lambda error, message: None)
                producer.poll(0)
            producer.flush()
            return time.perf_counter() - started

        return await asyncio.to_thread(work)

    async def confluent(messages: int) -> float:
        from faststream.confluent import KafkaBroker

        topic = await _topic(server)
        broker = KafkaBroker(server.bootstrap, logger=None, acks="all")
        async with broker:
            return await lanes(messages, lambda: broker.publish(ORDER, topic), at_once=IN_FLIGHT)

    async def aiokafka(messages: int) -> float:
        from faststream.kafka import KafkaBroker

        topic = await _topic(server)
        broker = KafkaBroker(server.bootstrap, logger=None, acks="all", enable_idempotence=True)
        async with broker:
            return await lanes(messages, lambda: broker.publish(ORDER, topic), at_once=IN_FLIGHT)

    def ours(settings: str = "") -> Callable[[int], Awaitable[float]]:
        async def run(messages: int) -> float:
            queue = _queue()
            async with Bus(server.url + settings, uses=[queue]) as bus:
                await bus.publish(queue, ORDER)
                return await lanes(messages, lambda: bus.publish(queue, ORDER), at_once=IN_FLIGHT)

        return run

    async def many(messages: int) -> float:
        queue = _queue()
        async with Bus(server.url, uses=[queue]) as bus:
            await bus.publish(queue, ORDER)
            started = time.perf_counter()
            await bus.publish_many(queue, (ORDER for _ in range(messages)))
            return time.perf_counter() - started

    return [
        Contender("FastStream, confluent", confluent),
        Contender("FastStream, aiokafka", aiokafka),
        Contender("confluent-kafka, in a thread", raw),
        Contender("busframe, publish", ours()),
        Contender("busframe, publish, a ms a partition", ours(STICKY)),
        Contender("busframe, publish_many", many),
    ]


def _queue() -> Queue[Any]:
    return Queue(f"bench-{uuid4().hex[:12]}", Order, options={"kafka": {"partitions": PARTITIONS}})


def consumers(server: Kafka) -> list[Contender]:
    """Each handles what is in its topic; the time includes joining the group."""

    async def raw(messages: int) -> float:
        topic = await _topic(server)
        _fill(server, topic, messages)
        config = {"bootstrap.servers": server.bootstrap, "group.id": topic, "auto.offset.reset": "earliest"}

        def work() -> float:
            started = time.perf_counter()
            consumer = Consumer({**config, "log_level": 0})
            consumer.subscribe([topic])
            left = messages
            while left:
                for message in consumer.consume(500, 0.1):
                    if message.error() is None:
                        Order.model_validate_json(message.value() or b"")
                        left -= 1
            took = time.perf_counter() - started
            consumer.close()
            return took

        return await asyncio.to_thread(work)

    def confluent(*, commits: bool) -> Callable[[int], Awaitable[float]]:
        async def run(messages: int) -> float:
            from faststream import AckPolicy
            from faststream.confluent import KafkaBroker

            topic = await _topic(server)
            _fill(server, topic, messages)
            broker = KafkaBroker(server.bootstrap, logger=None)
            done = Done(messages)

            async def handle(order: Order) -> None:
                done.one()

            policy = AckPolicy.ACK if commits else AckPolicy.ACK_FIRST
            broker.subscriber(topic, group_id=topic, auto_offset_reset="earliest", ack_policy=policy)(handle)
            async with broker:
                started = time.perf_counter()
                await broker.start()
                await done.all.wait()
                return time.perf_counter() - started

        return run

    async def ours(messages: int) -> float:
        queue = _queue()
        bus = Bus(server.url)
        done = Done(messages)

        @bus.handle(queue, concurrency=100, prefetch=IN_FLIGHT)
        async def handle(order: Order, ctx: Context) -> None:
            done.one()

        async with bus:
            await asyncio.to_thread(_fill, server, queue.name, messages)
            started = time.perf_counter()
            async with bus.worker():
                await done.all.wait()
                return time.perf_counter() - started

    return [
        Contender("FastStream, committing what it handled", confluent(commits=True)),
        Contender("FastStream, committing before", confluent(commits=False)),
        Contender("confluent-kafka, in a thread", raw),
        Contender("busframe", ours),
    ]


PUBLISH_BARS = (
    Bar("busframe, publish", "FastStream, confluent", 4),
    Bar("busframe, publish, a ms a partition", "FastStream, confluent", 5),
    Bar("busframe, publish, a ms a partition", "FastStream, aiokafka", 1.5),
    Bar("busframe, publish_many", "FastStream, confluent", 5),
)
CONSUME_BARS = (Bar("busframe", "FastStream, committing what it handled", 15),)


def main() -> None:
    """Measure against a server of our own, and print the tables; exit code 1 where a bar is missed."""
    logging.disable(logging.WARNING)
    with running(BROKER, own=True) as server:
        sizes = {"messages": MESSAGES, "rounds": ROUNDS}
        reached = [
            compare(f"Kafka publish, {IN_FLIGHT} in flight", publishers(server), PUBLISH_BARS, **sizes),
            compare(f"Kafka consume, prefetch {IN_FLIGHT}", consumers(server), CONSUME_BARS, **sizes),
        ]
    if not all(reached):
        sys.exit(1)


if __name__ == "__main__":
    main()
