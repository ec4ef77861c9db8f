"""Dispatch in memory: receive, decode, handler, settle; beside FastStream's own path from a message to its handler."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from busframe import Bus, Context, Queue
from tests.benchmarks.compare import Contender, compare
from tests.benchmarks.payload import BODY, ORDER, Order

MESSAGES = 30_000
ROUNDS = 5


def busframe(raw: bool, concurrency: int) -> Contender:
    """The whole worker over the memory transport, which really stores, leases and settles."""

    async def run(messages: int) -> float:
        queue: Queue[Any] = Queue("orders", bytes) if raw else Queue("orders", Order)
        bus = Bus("memory://", uses=[queue])
        done = asyncio.Event()
        seen = 0

        def count() -> None:
            nonlocal seen
            seen += 1
            if seen == messages:
                done.set()

        async def handle_raw(body: bytes, ctx: Context) -> None:
            count()

        async def handle(order: Order, ctx: Context) -> None:
            count()

        bus.handle(queue, concurrency=concurrency)(handle_raw if raw else handle)
        async with bus:
            await bus.publish_many(queue, (BODY if raw else ORDER for _ in range(messages)))
            started = time.perf_counter()
            async with bus.worker():
                await done.wait()
                return time.perf_counter() - started

    return Contender(f"busframe, {'bytes' if raw else 'pydantic'}, concurrency {concurrency}", run)


def faststream(raw: bool, concurrency: int) -> Contender:
    """What FastStream does for each message that its client has received, without a broker behind it."""

    async def run(messages: int) -> float:
        from faststream.rabbit import RabbitBroker, TestRabbitBroker
        from faststream.rabbit.testing import build_message

        broker = RabbitBroker(logger=None)
        seen = 0

        async def handle_raw(body: bytes) -> None:
            nonlocal seen
            seen += 1

        async def handle(order: Order) -> None:
            nonlocal seen
            seen += 1

        subscriber = broker.subscriber("orders")
        subscriber(handle_raw if raw else handle)
        async with TestRabbitBroker(broker):
            incoming = [
                await build_message(
                    BODY, "orders", content_type="application/octet-stream" if raw else "application/json"
                )
                for _ in range(messages)
            ]
            process: Callable[[Any], Awaitable[Any]] = subscriber.process_message
            waiting = iter(incoming)

            async def lane() -> None:
                for message in waiting:
                    await process(message)

            started = time.perf_counter()
            await asyncio.gather(*(lane() for _ in range(concurrency)))
            taken = time.perf_counter() - started
        assert seen == messages, f"{seen} of {messages} handled"
        return taken

    return Contender(f"FastStream, {'bytes' if raw else 'pydantic'}, concurrency {concurrency}", run)


def main() -> None:
    """Measure, and print the tables."""
    logging.disable(logging.INFO)
    for raw in (False, True):
        kind = "bytes as they are" if raw else "pydantic"
        contenders = [faststream(raw, 10)] + [busframe(raw, concurrency) for concurrency in (1, 10, 100)]
        compare(f"dispatch in memory, {kind}", contenders, messages=MESSAGES, rounds=ROUNDS)


if __name__ == "__main__":
    main()
