"""Q: what is cancelled."""

import asyncio
import contextlib
from functools import partial
from typing import Any

from busframe import Context
from busframe.conformance.check import Violation, check
from busframe.conformance.consuming import drain_until
from busframe.conformance.world import World
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, RELEASE

MOMENT_S = 0.0005
"""By so much differ the moments of cancellations that are told apart by the broker's answer."""


@check("Q1", "what is cancelled before it begins has no effect")
async def before_it_begins(world: World) -> None:
    """A publish, a settlement, a receive, and the opening of another receiver."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await world.publish(transport, queue, *(world.message(b"%d" % n) for n in range(3)))
    receiver = await world.receiver(transport, queue, prefetch=1)
    (held,) = await world.take(receiver, 1)
    other = transport.receiver(Entity(queue), prefetch=10)
    try:
        for work in (
            partial(transport.publish, [Outgoing(queue, world.message(b"never"))], timeout_s=10),
            partial(receiver.settle, [(held, ACK)]),
            partial(receiver.receive, 1),
            other.open,
        ):
            await _cancelled(asyncio.ensure_future(work()))
    finally:
        await other.close()
    await world.settle(receiver, [held], RELEASE)
    await world.drain(receiver, 3)
    world.balanced()


@check("Q2", "a receive that is cancelled while it waits swallows no message")
async def while_it_waits(world: World) -> None:
    """Forty times, at different moments around the arrival of a message."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    receiver = await world.receiver(transport, queue, prefetch=100)
    kept: list[Delivery] = []
    for number in range(40):
        receiving = asyncio.ensure_future(receiver.receive(3))
        await asyncio.sleep(0)
        publishing = asyncio.ensure_future(world.publish(transport, queue, world.message(b"%d" % number)))
        if number % 2:
            await publishing
        for _ in range(number % 7):
            await asyncio.sleep(0)
        if number % 3 == 0:
            await asyncio.wait((receiving,), timeout=MOMENT_S * (number % 10))
        kept += await _cancelled(receiving) or ()
        await publishing
    await world.settle(receiver, kept)
    await world.drain(receiver, 40 - len(kept))
    world.balanced()


@check("Q3", "a publish that is cancelled leaves a usable client; a cancelled handler's message comes back unchanged")
async def while_it_runs(world: World) -> None:
    """Publishes that are cancelled at different moments; a worker that ends without waiting for its handler."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    for number in range(20):
        message = world.message(b"%d" % number)
        publishing = asyncio.ensure_future(transport.publish([Outgoing(queue, message)], timeout_s=10))
        for _ in range(number % 6 + 1):
            await asyncio.sleep(0)
        if number % 4 == 3:
            await asyncio.wait((publishing,), timeout=2 * MOMENT_S)
        outcomes = await _cancelled(publishing)
        world.history.tried.append(message.id)
        (world.history.unknown if outcomes is None else world.history.confirmed).append(message.id)
    sure = [world.message() for _ in range(5)]
    await world.publish(transport, queue, *sure)
    receiver = await world.receiver(transport, queue)
    await drain_until(world, receiver, *sure)
    world.balanced()
    await _cancelled_handler(world)


async def _cancelled_handler(world: World) -> None:
    queue = world.queue()
    started = asyncio.Event()
    bus = world.bus(config={"drain_timeout_s": 0})

    @bus.handle(queue)
    async def handler(body: dict[str, int], ctx: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    async with bus.worker():
        await world.send(bus, queue, {"n": 1})
        await world.until(started.is_set, "a message at its handler")
    transport = await world.open_client()
    receiver = await world.receiver(transport, queue)
    (delivery,) = await world.take(receiver, 1)
    if delivery.carried:
        raise Violation(
            f"a handler was cancelled, which is no failure, and its message carries {dict(delivery.carried)}"
        )
    await world.settle(receiver, [delivery])
    world.watch(receiver)
    if letters := await transport.browse(queue.dead_letters):
        raise Violation(f"a handler was cancelled, and its message is a dead letter: {letters[0]!r}")
    world.balanced()


async def _cancelled(running: "asyncio.Future[Any]") -> Any:
    """Cancel, and wait for the end. Returns what came of it all the same; None: it was cancelled in time."""
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        return await running
    return None
