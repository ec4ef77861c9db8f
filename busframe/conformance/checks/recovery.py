"""V: what a lost connection, a forced stop, a restart and a hand-over leave behind."""

import asyncio
from contextlib import AsyncExitStack

from busframe.bus import Bus
from busframe.conformance.check import Violation, check
from busframe.conformance.world import World
from busframe.errors import DestinationNotFound, Unsupported
from busframe.handling.context import Context
from busframe.logic.retry import Retry
from busframe.model.settlement import RELEASE

WORK_S = 0.005
"""What a handler takes."""


@check("V1", "a handler whose acknowledgement was lost is not run again by the same process", tier="X")
async def lost_acknowledgement(world: World) -> None:
    """The connection goes while the handler runs, so its acknowledgement cannot arrive."""
    queue = world.queue(str)
    bus = world.bus()
    runs: list[str] = []

    # One at a time: what is redelivered while its first handler still runs is not what is asked here.
    @bus.handle(queue, concurrency=1, prefetch=1)
    async def work(body: str, ctx: Context) -> None:
        runs.append(body)
        if len(runs) == 1:
            await world.harness.disconnect()
        world.handled(ctx)

    async with bus:
        await world.send(bus, queue, "first")
        async with bus.worker():
            await world.until(
                lambda: len(runs) > 1 or bus.statistics()[queue.address]["skipped"],
                "the message whose acknowledgement was lost comes again",
            )
            if len(runs) > 1:
                raise Violation(f"the handler succeeded and was run again: {runs}")
            await world.send(bus, queue, "second")
            await world.until(lambda: len(runs) == 2, "the worker goes on")
    world.balanced()


@check("V4", "what a forced stop cancels is delivered again: no attempt counted, not run in place, no dead letter")
async def forced_stop(world: World) -> None:
    """Handlers that hang, and one that makes an error of its cancellation, are cut short by the drain time-out."""
    exact = (await world.capabilities()).attempt_exact
    queue = world.queue(str)
    stopped = world.bus(config={"drain_timeout_s": 0.1})
    started: list[str] = []
    cut = ["hangs", "hangs too", "fails in its clean-up"]

    @stopped.handle(queue, name="hang", concurrency=3, retry=Retry(delay_s=0))
    async def hang(body: str, ctx: Context) -> None:
        if body not in cut:  # successes, so that more than one is in flight
            world.handled(ctx)
            return
        started.append(body)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if body == cut[2]:
                raise ValueError("the clean-up failed") from None
            raise

    async with stopped:
        await world.send(stopped, queue, "1", "2", "3")
        async with stopped.worker():
            await world.until(lambda: len(world.history.handled) == 3, "three are handled")
            await world.send(stopped, queue, *cut)
            await world.until(lambda: len(started) == 3, "three handlers run")
    if sorted(started) != sorted(cut):
        raise Violation(f"cancelled handlers were run again in place: {started}")

    bus = world.bus()
    attempts: dict[str, int] = {}

    @bus.handle(queue, name="hang", retry=Retry(delay_s=0))
    async def work(body: str, ctx: Context) -> None:
        attempts[body] = ctx.attempt
        world.handled(ctx)

    async with bus.worker() as worker:
        await world.until(lambda: len(attempts) == 3, "what was cancelled is delivered again")
        await worker.wait_idle(0.1)
        if exact and set(attempts.values()) != {1}:
            raise Violation(f"being cancelled was counted as an attempt: {attempts}")
        await world.letters(bus, queue, 0)
    world.balanced()


@check("V5", "what happens to one receiver leaves its siblings on the same connection alone")
async def siblings(world: World) -> None:
    """One is restarted, and one fails to open, while another one holds what it settles afterwards."""
    restarted, steady, absent = world.queue(), world.queue(), world.queue()
    transport = await world.open_client()
    await world.declare(transport, restarted, steady)
    await world.publish(transport, steady, *(world.message(b"%d" % n) for n in range(4)))
    await world.publish(transport, restarted, world.message(b"restarted"))
    sibling = await world.receiver(transport, steady, prefetch=2)
    held = await world.take(sibling, 2)
    for _ in range(3):
        receiver = await world.receiver(transport, restarted)
        await world.take(receiver, 1, consumer="restarted")
        await receiver.close()
        try:
            await world.receiver(transport, absent)
        except DestinationNotFound:
            continue
        raise Violation("a receiver of what does not exist opened")
    await world.settle(sibling, held)
    after = await world.drain(sibling, 2)
    generations = {delivery.generation for delivery in (*held, *after)}
    if len(generations) != 1:
        raise Violation(f"the sibling was reconnected: its generations were {sorted(generations)}")
    await world.drain(await world.receiver(transport, restarted), 1)
    world.balanced(exclusive=False)


@check("V19", "ten clean restarts with a full prefetch use up no attempt")
async def clean_restarts(world: World) -> None:
    """Every message is taken and given back ten times; then it is handled at its first attempt."""
    exact = (await world.capabilities()).attempt_exact
    queue, count = world.queue(str), 6
    bus = world.bus()
    attempts: dict[str, int] = {}

    @bus.handle(queue)
    async def work(body: str, ctx: Context) -> None:
        attempts[body] = ctx.attempt
        world.handled(ctx)

    async with bus:
        await world.send(bus, queue, *(f"{n}" for n in range(count)))
        for _ in range(10):
            async with world.client() as client:
                receiver = await world.receiver(client, queue, prefetch=count)
                held = await world.take(receiver, count, consumer="restarted")
                await receiver.stop()
                await world.settle(receiver, held[::2], RELEASE)
                await receiver.close()
        async with bus.worker():
            await world.until(lambda: len(attempts) == count, "all are handled")
        if exact and set(attempts.values()) != {1}:
            raise Violation(f"being handed back was counted as an attempt: {attempts}")
        await world.letters(bus, queue, 0)
    world.balanced()


async def order_refused(world: World) -> None:
    """A transport that keeps no order refuses to be asked for it."""
    bus = world.bus()

    @bus.handle(world.queue(str), ordering="key", retry=Retry(max_attempts=1))
    async def work(body: str) -> None: ...

    await world.refused(bus, Unsupported)


@check(
    "V25",
    "a hand-over on close keeps the order of each key",
    tier="K",
    claimed=lambda claims: claims.ordering != "none",
    unclaimed=order_refused,
)
async def order_at_hand_over(world: World) -> None:
    """Three workers one after the other; where the order holds across workers, the next one starts before the close."""
    fleet = (await world.capabilities()).ordering == "fleet"
    queue, keys, rounds = world.queue(str), ("a", "b", "c"), 14
    total = len(keys) * rounds
    running: set[str] = set()
    together: list[str] = []
    buses = [world.bus() for _ in range(3)]

    async def work(body: str, ctx: Context) -> None:
        key = ctx.message.key or ""
        if key in running:
            together.append(key)
        running.add(key)
        await asyncio.sleep(WORK_S)
        running.discard(key)
        world.handled(ctx)

    for bus in buses:
        bus.handle(queue, ordering="key", concurrency=len(keys), prefetch=12)(work)

    async def reached(number: int) -> None:
        await world.until(lambda: len(world.history.handled) >= number, f"{number} of {total} are handled")

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(buses[0])
        for n in range(rounds):
            for key in keys:
                await world.send(buses[0], queue, f"{key}{n}", key=key)
        working = await _work(stack, buses[0])
        for number, bus in enumerate(buses[1:], start=1):
            await reached(total * number // 3)
            if not fleet:
                await working.aclose()
            following = await _work(stack, bus)
            await working.aclose()
            working = following
        await reached(total)
    if together:
        raise Violation(f"two messages of one key were handled at once: {together}")
    world.balanced(ordered=True)


async def _work(stack: AsyncExitStack, bus: Bus) -> AsyncExitStack:
    """Enter a worker that is left by itself, or else with the stack."""
    one = AsyncExitStack()
    stack.push_async_callback(one.aclose)
    await one.enter_async_context(bus.worker())
    return one
