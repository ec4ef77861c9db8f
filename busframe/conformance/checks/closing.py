"""N: a close ends what was begun, gives back what was not, and leaves nothing behind."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from busframe.bus import Bus
from busframe.conformance.attempts import PROMPT_S, Held
from busframe.conformance.check import Violation, check
from busframe.conformance.world import World, together
from busframe.errors import ClosedError, SettlementLost
from busframe.handling.context import Context
from busframe.model.destination import Queue
from busframe.model.entity import Entity
from busframe.model.settlement import ACK
from busframe.spi.transport import Transport


@check("N1", "close waits for handlers that run; they can still publish, and are acknowledged")
async def waits_for_handlers(world: World) -> None:
    """What a handler publishes while the worker drains is confirmed."""
    queue, out = world.queue(), world.queue()
    held = Held(world)
    bus = world.bus(uses=[out])

    @bus.handle(queue)
    async def handle(body: str, ctx: Context) -> None:
        await held.hold(ctx)
        message = await ctx.publish(out, "from a handler")
        world.history.tried.append(message.id)
        world.history.confirmed.append(message.id)

    async with bus.worker() as worker:
        await world.send(bus, queue, "x")
        await held.started()
        draining = asyncio.create_task(worker.drain())
        await held.let_go(draining, "the drain")
        if not draining.result():
            raise Violation("the handler finished, and the drain says that it had to be cancelled")
    transport = await world.open_client()
    await world.drain(await world.receiver(transport, out), 1)
    world.watch(await world.receiver(transport, queue))
    world.balanced()


@check("N2", "nothing is delivered after a close began, and what was only prefetched goes back at once")
async def gives_back(world: World) -> None:
    """A receiver that is stopped, and a worker that drains, beside another consumer."""
    queue, worked = world.queue(), world.queue()
    transport, other = await world.open_client(), await world.open_client()
    await world.declare(transport, queue, worked)
    await world.publish(transport, queue, *[world.message() for _ in range(10)])
    stopped = await world.receiver(transport, queue)
    held = await world.take(stopped, 1)
    successor = await world.receiver(other, queue)
    await stopped.stop()
    await _is_closed(world, stopped.receive(1), "a receiver that was stopped")
    if transport.capabilities.ack_gap:  # what is behind a held message follows it to its next consumer
        await world.settle(stopped, held)
        await world.close(stopped)
        held = []
    rest = await world.take(successor, 9)
    await world.settle(stopped, held)
    await world.settle(successor, rest)
    world.watch(successor)

    waiting = await world.receiver(transport, queue)
    receiving = asyncio.ensure_future(waiting.receive(1))
    await asyncio.sleep(0)
    await waiting.stop()
    await _is_closed(world, receiving, "a receiver that waited when it was stopped")

    handler = Held(world)
    bus = world.bus()

    @bus.handle(worked, concurrency=1, prefetch=10)
    async def handle(body: str, ctx: Context) -> None:
        await handler.hold(ctx)

    async with bus.worker() as worker:
        await world.send(bus, worked, *["x"] * 5)
        await handler.started()
        draining = asyncio.create_task(worker.drain())
        successor = await world.receiver(other, worked)
        if not transport.capabilities.ack_gap:
            await world.drain(successor, 4)
        await handler.let_go(draining, "the drain")
        if transport.capabilities.ack_gap:
            await world.drain(successor, 4)
    if handler.calls != 1:
        raise Violation(f"{handler.calls - 1} handlers were started after the drain began")
    world.balanced()


async def _is_closed(world: World, call: Awaitable[object], what: str) -> None:
    try:
        async with asyncio.timeout(PROMPT_S * world.harness.patience):
            got = await call
    except ClosedError:
        return
    except TimeoutError:
        raise Violation(f"{what} waits, and ClosedError was expected") from None
    except Exception as error:
        raise Violation(f"{what} ended with {error!r}, and ClosedError was expected") from error
    raise Violation(f"{what} gave {got!r}, and ClosedError was expected")


@check("N3", "close flushes: what was being published is confirmed, and there")
async def flushes(world: World) -> None:
    """Of a client, and of a bus."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    async with world.client() as publisher:
        messages = [world.message(b"%d" % number * 100) for number in range(50)]
        publishing = [asyncio.create_task(world.try_publish(publisher, queue, message)) for message in messages]
        await asyncio.sleep(0)  # each has begun
        await _ends(world, "closing a client that publishes", publisher.close)
    async with world.bus() as bus:
        sending = [asyncio.create_task(world.send(bus, queue, str(number))) for number in range(50)]
        await asyncio.sleep(0)
    for outcome in await asyncio.gather(*publishing, *sending, return_exceptions=True):
        if isinstance(outcome, BaseException) or isinstance(outcome[0], BaseException):
            raise Violation(f"a publish that was begun before the close ended as {outcome!r}")
    await world.drain(await world.receiver(transport, queue, prefetch=100), 100)
    world.balanced()


async def _ends(world: World, what: str, *closings: Callable[[], Awaitable[object]]) -> None:
    """Demand that closes, all at once, end well and soon."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(PROMPT_S * world.harness.patience):
            await asyncio.gather(*(closing() for closing in closings))
    except TimeoutError:
        raise Violation(f"{what} did not end within {time.monotonic() - started:.1f} s") from None
    except Exception as error:
        raise Violation(f"{what} failed: {error!r}") from error


@check("N4", "close is idempotent and safe at once, before open, while reconnecting, and with a stuck handler")
async def closes_anyhow(world: World) -> None:
    """Of clients, receivers and workers."""
    queue = world.queue()
    unopened = world.harness.transport(world.host())
    await _ends(world, "closing a client before it was opened", unopened.close)
    await _ends(world, "closing it again", unopened.close)
    transport = await world.open_client()
    await world.declare(transport, queue)

    client = await world.open_client()
    never = client.receiver(Entity(queue, ordering="none"), prefetch=1)
    await _ends(world, "closing a receiver before it was opened", never.close)
    receiver = await world.receiver(client, queue)
    await _ends(world, "closing a receiver three times at once", receiver.close, receiver.close, receiver.close)
    await _ends(world, "stopping and closing a closed receiver", receiver.stop, receiver.close)
    left = await world.receiver(client, queue)
    await _ends(world, "closing a client three times at once", client.close, client.close, client.close)
    await _ends(world, "a second close of a client", client.close)
    await _ends(world, "closing the receiver of a closed client", left.close)

    with world.part("a client that reconnects"):
        reconnecting = await world.open_client()
        await world.receiver(reconnecting, queue)
        await world.harness.disconnect()
        await _ends(world, "closing a client that lost its connection", reconnecting.close)
    await _stuck(world)


async def _stuck(world: World) -> None:
    queue = world.queue()
    held = Held(world)
    bus = world.bus(config={"drain_timeout_s": 0.1})

    @bus.handle(queue)
    async def handle(body: str, ctx: Context) -> None:
        await held.hold(ctx)

    async with bus.worker() as worker:
        (message,) = await world.send(bus, queue, "x")
        await held.started()
        await _ends(world, "draining thrice at once, with a stuck handler", worker.drain, worker.drain, worker.drain)
        if await worker.drain():
            raise Violation("a handler is stuck, and the drain says that all finished")
    (again,) = await world.drain(await world.receiver(await world.open_client(), queue), 1)
    if again.message.id != message.id:
        raise Violation(f"{again.message.id} was delivered again, not {message.id}")


@check("N5", "cycles of open and close leave no task, thread, file or consumer behind")
async def leaves_nothing(world: World) -> None:
    """Clients with a receiver that is left open, nine at once and each with its queue, and workers."""
    queues = [world.queue() for _ in range(9)]
    transport = await world.open_client()
    await world.declare(transport, *queues)

    async def cycle(queue: Queue[Any]) -> None:
        async with world.client() as client:
            receiver = client.receiver(Entity(queue, ordering="none"), prefetch=5)
            await receiver.open()
            await world.publish(client, queue, world.message())
            await world.settle(receiver, await world.take(receiver, 1), ACK)

    async def work() -> None:
        bus = world.bus()

        @bus.handle(queues[0])
        async def handle(body: str, ctx: Context) -> None:
            world.handled(ctx)

        async with bus.worker():
            done = len(world.history.handled)
            await world.send(bus, queues[0], "x")
            await world.until(lambda: len(world.history.handled) > done, "a message to be handled")

    async def consumers() -> int | None:
        counts = [(await world.broker_state(queue)).consumers for queue in queues]
        return sum(filter(None, counts))

    await cycle(queues[0])
    await work()
    with world.part("what the broker says"):
        await consumers()  # its own client may keep something
    before = _resources()
    for _ in range(5):
        await asyncio.gather(*map(cycle, queues))
        await work()

    def left() -> dict[str, int]:
        return {what: count - before[what] for what, count in _resources().items() if count > before[what] + SPARE}

    await world.until(lambda: not left(), f"what 50 cycles left behind to go: {left()}", within_s=5)
    with world.part("what the broker says"):
        await _no_consumers(world, consumers)
    world.balanced()


SPARE = 5
"""Pools of threads and the like may grow by so much; a leak is one or more in each cycle."""


def _resources() -> dict[str, int]:
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return {"tasks": len(asyncio.all_tasks()), "threads": threading.active_count(), "files": files}


async def _no_consumers(world: World, consumers: Callable[[], Awaitable[int | None]]) -> None:
    async def none() -> bool:
        return not await consumers()

    await world.until(none, "the consumers of closed clients to be gone from the broker", within_s=5)


@check("N6", "use after close raises ClosedError; what a close had to abandon is delivered again")
async def after_close(world: World) -> None:
    """Each call of a client, a receiver and a bus."""
    queue = world.queue()
    transport, client = await world.open_client(), await world.open_client()
    await world.declare(transport, queue)
    receiver = await world.receiver(client, queue)
    await world.publish(client, queue, world.message())
    held = await world.take(receiver, 1)
    await receiver.close()
    await _is_closed(world, receiver.receive(1), "receive of a closed receiver")
    try:
        (outcome,) = await receiver.settle([(held[0], ACK)])
    except ClosedError as closed:
        outcome = closed
    if not isinstance(outcome, ClosedError | SettlementLost):
        raise Violation(f"settling what a closed receiver held ended as {outcome!r}, and it was abandoned")
    await client.close()
    await _is_closed(world, _published(world, client, queue), "publish of a closed client")
    await _is_closed(world, client.plan([Entity(queue, ordering="none")]), "plan of a closed client")
    await _is_closed(world, client.browse(queue.dead_letters), "browse of a closed client")
    bus = world.bus(uses=[queue])
    await _is_closed(world, bus.publish(queue, "x"), "publish of a bus that was never open")
    async with bus:
        pass
    await _is_closed(world, bus.publish(queue, "x"), "publish of a closed bus")
    await world.drain(await world.receiver(transport, queue), 1)


async def _published(world: World, client: Transport, queue: Queue[Any]) -> object:
    (outcome,) = await world.try_publish(client, queue, world.message())
    if outcome is not None:
        raise outcome
    return "a confirmation"


@check("N7", "leaving a worker by an exception, a cancellation or SIGTERM drains it")
async def leaving(world: World) -> None:
    """The handler that runs finishes first, and its message is gone."""
    trigger = asyncio.Event()

    async def fail(bus: Bus) -> None:
        async with bus.worker():
            await trigger.wait()
            raise RuntimeError("the block failed")

    async def wait(bus: Bus) -> None:
        async with bus.worker():
            await asyncio.Event().wait()

    async def run(bus: Bus) -> None:
        if await bus._run((), None, None):
            raise Violation("a drained worker ended with an exit code that is not 0")

    ways = [
        _drained(world, "an exception", fail, lambda _: trigger.set(), RuntimeError),
        _drained(world, "a cancellation", wait, lambda task: task.cancel(), asyncio.CancelledError),
    ]
    if threading.current_thread() is threading.main_thread() and sys.platform != "win32":
        ways.append(_drained(world, "SIGTERM", run, lambda _: os.kill(os.getpid(), signal.SIGTERM), None))
    await together(*ways)
    world.balanced()


async def _drained(
    world: World,
    what: str,
    work: Callable[[Bus], Awaitable[None]],
    end: Callable[["asyncio.Task[None]"], object],
    expected: type[BaseException] | None,
) -> None:
    queue = world.queue()
    held = Held(world)
    bus = world.bus()

    @bus.handle(queue)
    async def handle(body: str, ctx: Context) -> None:
        await held.hold(ctx)

    async with world.bus(uses=[queue]) as publisher:
        await world.send(publisher, queue, "x")

    async def run() -> None:
        await work(bus)

    task = asyncio.create_task(run())
    try:
        await held.started()
        end(task)
        await held.let_go(task, f"a worker that is left by {what}")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
    (ended,) = await asyncio.gather(task, return_exceptions=True)
    if type(ended) is not (expected or type(None)):
        raise Violation(f"a worker that is left by {what} ended with {ended!r}")
    world.watch(await world.receiver(await world.open_client(), queue))
