"""K: how much is under way at once."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

from busframe import Context, Retry
from busframe.bus.sync import LoopThreadPublisher
from busframe.conformance.check import Violation, check
from busframe.conformance.consuming import consuming, drain_until
from busframe.conformance.world import POLL_S, World
from busframe.errors import PublishError, PublishFailed, PublishOutcomeUnknown
from busframe.model.message import Message

PAUSE_S = 5.0
BLOCKING_S = 0.8
LAG_S = 0.5
"""How late the event loop may be while plain functions block their threads; on a machine with much else to do."""
PREPARED = 5000
"""The most messages that may be prepared ahead of a broker that does not answer."""


@check("K1", "no more is in flight than the limits say, and a failure or a time-out frees its slot")
async def bounded(world: World) -> None:
    """Handlers that wait leave the rest to another consumer; handlers that fail go on through all."""
    held, failing = world.queue(), world.queue()
    gate = asyncio.Event()
    running = {held: 0, failing: 0}
    most = dict(running)
    bus = world.bus()

    @bus.handle(held, concurrency=3, prefetch=3)
    async def waits(body: bytes, ctx: Context) -> None:
        running[held] += 1
        most[held] = max(most[held], running[held])
        await gate.wait()
        running[held] -= 1
        world.handled(ctx)

    @bus.handle(failing, concurrency=2, timeout_s=0.05, retry=Retry(max_attempts=1))
    async def fails(body: dict[str, int], ctx: Context) -> None:
        running[failing] += 1
        most[failing] = max(most[failing], running[failing])
        try:
            if body["n"] % 3 == 1:
                raise ValueError("no")
            if body["n"] % 3 == 2:
                await asyncio.Event().wait()
        finally:
            running[failing] -= 1

    transport = await world.open_client()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bus.worker())
        stack.callback(gate.set)  # whatever goes wrong: else the worker waits for its handlers
        await world.publish(transport, held, *(world.message() for _ in range(30)))
        await world.until(lambda: running[held], "a message at its handler")
        # Of a partition that belongs to the worker the others get nothing.
        least = 1 if transport.capabilities.ack_gap else 27
        other = await world.receiver(transport, held)
        async with consuming(world, other) as others:
            what = f"{least} messages at another consumer, while handlers with a prefetch of 3 wait"
            await world.until(lambda: len(others) >= least, what)
        await world.close(other)  # else it keeps what it has fetched
        gate.set()
        await world.until(lambda: len(world.history.handled) >= 30, "30 messages handled")
        for n in range(24):
            await bus.publish(failing, {"n": n})

        def ended() -> bool:
            counts = bus.statistics()[str(failing)]
            return counts["handled"] + counts["dead_lettered"] >= 24

        await world.until(ended, "24 messages handled or given up, of which 16 fail or time out")
    for queue, limit in ((held, 3), (failing, 2)):
        if most[queue] > limit:
            raise Violation(f"{most[queue]} handlers ran at once, and the limit is {limit}")
    if bus.statistics()[str(failing)]["handled"] != 8:
        raise Violation(f"8 of 24 messages succeed, and the statistics are {bus.statistics()[str(failing)]}")
    # Where who joins gets a share of the partitions, what runs of them when the wait for it ends runs twice.
    world.balanced(duplicates=3 if transport.capabilities.ack_gap else 0)


@check("K2", "half of the prefetch is held unsettled for a while; settled then, and the rest arrives")
async def paused(world: World) -> None:
    """Nothing is received meanwhile, which is back-pressure and no failure."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await world.publish(transport, queue, *(world.message() for _ in range(20)))
    receiver = await world.receiver(transport, queue, prefetch=10)
    taken = await world.take(receiver, 5)
    await asyncio.sleep(PAUSE_S if world.harness.url is not None else PAUSE_S / 5)  # in this process nothing expires
    await world.settle(receiver, taken)
    await world.drain(receiver, 15)
    world.balanced()


@check(
    "K3", "a broker that does not answer: publishing waits, then times out, and prepares no more than so much", tier="X"
)
async def unanswered(world: World) -> None:
    """Frozen for two seconds; short and long time-outs, and a stream of messages without end."""
    queue, stream = world.queue(), world.queue()
    pulled = 0

    def endless() -> Iterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 1
            yield bytes(1000)

    transport = await world.open_client()
    await world.declare(transport, queue)
    bus = world.bus(uses=[stream])
    async with bus:
        await world.publish(transport, queue, world.message())
        freezing = asyncio.create_task(world.harness.freeze(2.0))
        await asyncio.wait((freezing,), timeout=0.1)
        if freezing.done():
            await freezing
        long = world.message()
        patient = asyncio.create_task(world.try_publish(transport, queue, long, timeout_s=20))
        started = time.monotonic()
        (outcome,) = await world.try_publish(transport, queue, world.message(), timeout_s=0.5)
        took_s = time.monotonic() - started
        if not isinstance(outcome, PublishOutcomeUnknown | PublishFailed) or took_s > 3:
            raise Violation(
                f"a publish with 0.5 s to a broker that is silent ended after {took_s:.1f} s as {outcome!r}"
            )
        pulled = 0
        try:
            await bus.publish_many(stream, endless(), timeout_s=0.5)
        except PublishError:
            pass
        if pulled > PREPARED:
            raise Violation(f"{pulled} messages were prepared for a broker that does not answer")
        await freezing
        if (await patient)[0] is not None:
            raise Violation(f"a publish with 20 s did not outlast two seconds of silence: {(await patient)[0]!r}")
        await world.publish(transport, queue, world.message())
    await drain_until(world, await world.receiver(transport, queue), long)
    world.balanced()


@check("K5", "plain functions and publishers without a loop do not hold up the event loop, nor lose their messages")
async def loop_goes_on(world: World) -> None:
    """Handlers that block their threads, and threads that publish, beside a clock on the loop."""
    queue = world.queue()
    lag_s, over = 0.0, False
    bus = world.bus()
    publisher = world.bus(uses=[queue]).sync()
    assert isinstance(publisher, LoopThreadPublisher), "who can close it"

    @bus.handle(queue, concurrency=4)
    def blocks(body: dict[str, int], message: Message) -> None:
        if body["n"] % 10 == 9:  # the last ones: by then enough may be in flight for both
            time.sleep(BLOCKING_S)
        world.history.done(message.id, "blocks")

    def publish(first: int) -> None:
        for n in range(first, first + 10):
            message = publisher.publish(queue, {"n": n})
            world.history.tried.append(message.id)
            world.history.confirmed.append(message.id)

    async def tick() -> None:
        nonlocal lag_s
        while not over:
            before = time.monotonic()
            await asyncio.sleep(POLL_S)
            lag_s = max(lag_s, time.monotonic() - before - POLL_S)

    async with bus.worker():
        ticking = asyncio.create_task(tick())
        try:
            await asyncio.gather(*(asyncio.to_thread(publish, first) for first in (0, 10)))
            await world.until(lambda: len(world.history.handled) >= 20, "20 messages handled by a plain function")
        finally:
            over = True
            await ticking  # it has not looked at what held it up last
            await asyncio.to_thread(publisher.close)
    if lag_s > LAG_S:
        raise Violation(f"while plain functions blocked for {BLOCKING_S} s the event loop was late by {lag_s:.2f} s")
    world.balanced()
