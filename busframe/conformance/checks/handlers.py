"""V: handlers that take long, publish before they fail, raise what looks like shutdown, or take one type of several."""

import asyncio
from collections import Counter

from pydantic import BaseModel

from busframe.conformance.check import Violation, check
from busframe.conformance.world import World, ended
from busframe.handling.context import Context
from busframe.logic.retry import Retry
from busframe.model.destination import Queue
from busframe.model.events import Handled
from busframe.model.message import Message


@check("V7", "a handler that runs longer than lock, ack wait or poll interval completes once")
async def long_handler(world: World) -> None:
    """Others are handled beside it, so that it could be delivered again to the same worker."""
    work_s = max(0.7, 2.5 * (world.harness.lock_s or 0.0))
    queue = world.queue(str)
    bus = world.bus()
    runs: Counter[str] = Counter()

    @bus.handle(queue, concurrency=4)
    async def work(body: str, ctx: Context) -> None:
        runs[body] += 1
        if body == "long":
            await asyncio.sleep(work_s)
        world.handled(ctx)

    async with bus.worker() as worker:
        await world.send(bus, queue, "1", "2", "3")
        await world.until(lambda: len(world.history.handled) == 3, "three are handled")
        await world.send(bus, queue, "long")
        await world.until(lambda: runs["long"], "the long one runs")
        await world.send(bus, queue, "4")
        await world.until(lambda: len(runs) == 5, "another one is handled beside it")
        await world.until(lambda: len(world.history.handled) >= 5, "the long one ends", within_s=10 + 2 * work_s)
        await worker.wait_idle(0.25)
        if runs["long"] != 1:
            raise Violation(f"the long handler ran {runs['long']} times for one message")
        if lost := bus.statistics()[queue.address]["lost"]:
            raise Violation(f"{lost} settlements of handlers that had ended well were refused")
    world.balanced()


@check("V10", "what a handler published before it failed stays published, under ids of its own at each attempt")
async def published_before_failing(world: World) -> None:
    """It is received while the handler still runs; it has the correlation id of the handler's message, or its id."""
    orders, mails = world.queue(str), world.queue(str)
    bus = world.bus(uses=[mails])
    got: list[Message] = []
    at_once = False

    @bus.handle(mails)
    async def collect(body: str, message: Message) -> None:
        got.append(message)

    @bus.handle(orders, retry=Retry(max_attempts=3, delay_s=0.05, factor=1, jitter=0))
    async def work(body: str, ctx: Context) -> None:
        nonlocal at_once
        await ctx.publish(mails, f"for {body}")
        if not at_once:
            await world.until(lambda: got, "a publish is received while its handler runs", within_s=5)
            at_once = True
            raise ValueError("after publishing")
        world.handled(ctx)

    async with bus.worker():
        (plain,) = await world.send(bus, orders, "plain")
        await world.until(lambda: len(world.history.handled) == 1, "the handler succeeds at last")
        await world.until(lambda: len(got) >= 2, f"two mails of two attempts, not {len(got)}", within_s=5)
        await world.send(bus, orders, "related", correlation_id="case 7")
        await world.until(lambda: len(got) >= 3, "a mail of the second order", within_s=5)
    if len({message.id for message in got}) != len(got):
        raise Violation(f"published messages share an id: {[message.id for message in got]}")
    expected = [plain.id, plain.id, "case 7"]
    if [message.correlation_id for message in got] != expected:
        raise Violation(f"the correlation ids are {[message.correlation_id for message in got]}, not {expected}")
    world.balanced()


@check("V11", "a handler's own TimeoutError or CancelledError is that message's failure, never shutdown")
async def own_cancellation(world: World) -> None:
    """A time-out, a library's cancellation, and one that cancels the task that the handler runs in."""
    queue = world.queue(str)
    events: list[object] = []
    bus = world.bus(observers=[events.append])
    attempts: list[int] = []

    @bus.handle(queue, concurrency=1, retry=Retry(max_attempts=5, delay_s=0))
    async def work(body: str, ctx: Context) -> None:
        if body == "next":
            world.handled(ctx)
            return
        attempts.append(ctx.attempt)
        match len(attempts):
            case 1:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            case 2:
                raise asyncio.CancelledError("by a library")
            case 3:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.Event().wait()
            case _:
                world.handled(ctx)

    async with bus.worker():
        await world.send(bus, queue, "fails", "next")
        await world.until(lambda: len(ended(events)) >= 2, "both end")
        given_up = [event for event in ended(events) if not isinstance(event, Handled)]
        if given_up:
            raise Violation(f"it was dead-lettered after {len(attempts)} attempts: {given_up}")
        if attempts != [1, 2, 3, 4]:
            raise Violation(f"three failures and a success had the attempts {attempts}")
        if not bus.health().ready:
            raise Violation(f"the worker is not ready any more: {bus.health()}")
    world.balanced()


class Placed(BaseModel):
    """An order was placed."""

    order: int


class Paid(BaseModel):
    """An order was paid."""

    order: int
    amount: int


@check("V16", "two types on one source reach their own handlers; an unknown one goes where the source says")
async def types(world: World) -> None:
    """To the dead letters by default, with its reason; away where the source discards it."""
    strict, lax = world.queue(Placed, Paid), world.queue(Placed, Paid)
    events: list[object] = []
    bus = world.bus(observers=[events.append], retry=Retry(max_attempts=2, delay_s=0))
    got: list[tuple[str, object]] = []

    async def placed(body: Placed, ctx: Context) -> None:
        got.append(("placed", body))

    async def paid(body: Paid, ctx: Context) -> None:
        got.append(("paid", body))

    bus.handle(strict, only=Placed, name="placed")(placed)
    bus.handle(strict, only=Paid, name="paid")(paid)
    bus.handle(lax, only=Placed, name="lax", unmatched="discard")(placed)

    refunded = Message(b"{}", "any", type="Refunded", content_type="application/json")
    async with bus.worker():
        for body in (Placed(order=1), Paid(order=1, amount=5)):
            await bus.publish(strict, body)
        for queue in (strict, lax):
            await bus.publish(Queue(queue.name), refunded)
        await bus.publish(lax, Placed(order=2))
        await world.until(
            lambda: len(ended(events)) == 4 and bus.statistics()[lax.address]["discarded"],
            "three are handled, one is given up, one is discarded",
            within_s=5,
        )
        expected = [("paid", Paid(order=1, amount=5)), ("placed", Placed(order=1)), ("placed", Placed(order=2))]
        if sorted(got, key=str) != sorted(expected, key=str):
            raise Violation(f"the handlers took {got}")
        (letter,) = await world.letters(bus, strict, 1)
        dead = letter.message.dead
        if dead is None or dead.reason != "unknown-type" or letter.message.type != "Refunded":
            raise Violation(f"a message of an unknown type was given up as {dead}")
        await world.letters(bus, lax, 0)
