"""V: retries that wait, while their policy changes, and while new messages come."""

import time
from collections import Counter

from busframe.bus import Bus
from busframe.conformance.check import Violation, check
from busframe.conformance.world import World
from busframe.handling.context import Context
from busframe.handling.outcomes import RetryAfter
from busframe.logic.retry import Retry

WAITING = 500
WAIT_S = 30.0
PROMPT_S = 3.0


@check("V22", "the policy's delays change while retries wait: all still arrive")
async def changed_delays(world: World) -> None:
    """From longer to shorter to longer, each with messages of the one before still waiting."""
    resolution_s = (await world.capabilities()).delay_resolution_s
    queue = world.queue(str)
    failed: Counter[str] = Counter()

    def worker_of(delay_s: float) -> Bus:
        bus = world.bus()

        @bus.handle(queue, retry=Retry(delay_s=delay_s, factor=1, jitter=0))
        async def work(body: str, ctx: Context) -> None:
            if not failed[ctx.message.id]:
                failed[ctx.message.id] += 1
                raise ConnectionError("as asked")
            world.handled(ctx)

        return bus

    longest_s = 0.8
    for number, delay_s in enumerate((longest_s, 0.2, 0.5), start=1):
        bus = worker_of(delay_s)
        async with bus.worker():
            await world.send(bus, queue, *(f"{delay_s} {n}" for n in range(3)))
            await world.until(lambda: len(failed) == 3 * number, "three more have failed once")  # noqa: B023
            if number == 3:
                within_s = longest_s + 5 + 20 * resolution_s
                await world.until(lambda: len(world.history.handled) >= 9, "all are handled", within_s=within_s)
    world.balanced()


@check("V29", "500 retries that wait 30 s do not slow a new message")
async def many_waiting(world: World) -> None:
    """They hold no slot, no credit and no neighbour."""
    wait_s = min(WAIT_S, (await world.capabilities()).nack_delay_max_s)
    queue = world.queue(str)
    bus = world.bus(config={"drain_timeout_s": 1})
    failed: set[str] = set()

    @bus.handle(queue, concurrency=20, prefetch=100)
    async def work(body: str, ctx: Context) -> None:
        if body != "new":
            failed.add(ctx.message.id)
            raise RetryAfter(wait_s)
        world.handled(ctx)

    async with bus.worker():
        await bus.publish_many(queue, (f"{n}" for n in range(WAITING)))
        try:
            await world.until(lambda: len(failed) == WAITING, f"{WAITING} have failed once", within_s=12)
        except Violation as late:
            raise Violation(f"{len(failed)} retries that wait hold up the others: {late}") from late
        for _ in range(3):
            started = time.monotonic()
            before = len(world.history.handled)
            await world.send(bus, queue, "new")
            await world.until(lambda: len(world.history.handled) > before, "a new message is handled")  # noqa: B023
            if (took_s := time.monotonic() - started) > PROMPT_S:
                raise Violation(f"a new message took {took_s:.1f} s beside {WAITING} retries that wait")
    world.balanced()
