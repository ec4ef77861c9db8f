"""C: consumers of one queue compete."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

from busframe.conformance.check import Violation, check
from busframe.conformance.consuming import consuming
from busframe.conformance.world import World
from busframe.conformance.wrapped import WrappedReceiver, WrappedTransport
from busframe.model.delivery import Delivery
from busframe.model.settlement import ACK, Settlement
from busframe.spi.transport import Host, Receiver, Transport

WORK_S = 0.002
"""What a message takes, so that one consumer alone cannot take them all."""
IDLE_S = 0.5
IDLE_CPU = 0.2
"""The part of one processor that idle consumers may take."""
IDLE_CALLS = 5
"""The most calls to each receiver while nothing comes."""


@check("C1", "of several consumers without faults no two handle one message")
async def handled_by_one(world: World) -> None:
    """Four clients; 200 messages of a queue, and 200 of a subscription."""
    queue, topic = world.queue(), world.topic()
    subscription = topic.subscription("s")
    clients = [await world.open_client() for _ in range(4)]
    await world.declare(clients[0], queue, subscription)
    handled = world.history.handled
    async with AsyncExitStack() as stack:
        for client in clients:
            for source in (queue, subscription):
                await stack.enter_async_context(consuming(world, await world.receiver(client, source), limit=5))
        for to in (queue, topic):
            await world.publish(clients[0], to, *(world.message() for _ in range(200)))
        await world.until(lambda: len(handled) >= 400, "400 messages at four consumers")
        await world.quiet(lambda: len(handled))
    world.balanced()


@check("C2", "each of ten consumers gets some messages, and so does one that joins later")
async def everybody_gets_some(world: World) -> None:
    """Messages keep coming until everybody had one."""
    queue = world.queue()
    clients = [await world.open_client() for _ in range(2)]
    await world.declare(clients[0], queue)
    published = 0

    async def work(delivery: Delivery) -> Settlement:
        await asyncio.sleep(WORK_S)
        return ACK

    async with AsyncExitStack() as stack:

        async def join(number: int) -> list[Delivery]:
            receiver = await world.receiver(clients[number % 2], queue, prefetch=5)
            return await stack.enter_async_context(consuming(world, receiver, work=work))

        shares = [await join(number) for number in range(10)]

        async def everybody() -> bool:
            nonlocal published
            if published < 5000 and published < len(world.history.handled) + 50:
                await world.publish(clients[0], queue, *(world.message() for _ in range(50)))
                published += 50
            return all(shares)

        await world.until(everybody, "a message at each of ten consumers")
        shares.append(await join(10))
        await world.until(everybody, "a message at the consumer that joined later")
        await world.until(lambda: sum(map(len, shares)) >= published, f"{published} messages at eleven consumers")
        await world.quiet(lambda: len(world.history.handled))
    world.balanced()


@check("C3", "what a consumer that leaves holds unsettled goes to the others, and nothing is lost")
async def leaving(world: World) -> None:
    """One of three takes some in the midst of it and leaves with them; then another one joins and stays."""
    queue = world.queue()
    clients = [await world.open_client() for _ in range(3)]
    await world.declare(clients[0], queue)
    async with (
        consuming(world, await world.receiver(clients[0], queue, prefetch=5)) as one,
        consuming(world, await world.receiver(clients[1], queue, prefetch=5)) as two,
    ):
        leaver = await world.receiver(clients[2], queue, prefetch=10)
        # At once: where confirming takes longer than handling, the others may have all of them by the time it is done.
        first = [world.message() for _ in range(100)]
        await asyncio.gather(world.take(leaver, 5), world.publish(clients[0], queue, *first))
        await world.publish(clients[0], queue, *(world.message() for _ in range(100)))
        await world.close(leaver)
        await world.until(lambda: len(one) + len(two) >= 200, "200 messages at those that stay")
        await world.quiet(lambda: len(one) + len(two))
    world.balanced()


@check("C4", "a consumer that settles nothing holds no more than its prefetch, and the others get what is theirs")
async def bounded_by_prefetch(world: World) -> None:
    """A prefetch of three, all held; another consumer takes the rest, and the three when the first one leaves."""
    queue = world.queue()
    clients = [await world.open_client() for _ in range(2)]
    await world.declare(clients[0], queue)
    slow = await world.receiver(clients[0], queue, prefetch=3)
    quick = await world.receiver(clients[1], queue)
    await world.publish(clients[0], queue, *(world.message() for _ in range(40)))
    await world.take(slow, 3)
    shared = not clients[0].capabilities.ack_gap  # else what is in the slow one's partitions waits for it
    got = await world.drain(quick, 37) if shared else await world.rest(quick)
    if not got:
        raise Violation("a consumer that settles nothing keeps everything from another one")
    await world.close(slow)
    await world.drain(quick, 40 - len(got))
    world.balanced()


@check("C5", "idle consumers take little time, and do not ask the broker again and again")
async def idle(world: World) -> None:
    """A worker with five sources, of which nothing comes."""
    calls = Counter[int]()
    bus = world.bus(transport=partial(_counted, world, calls))
    queues = [world.queue() for _ in range(5)]

    async def handler(body: dict[str, int]) -> None: ...

    for number, queue in enumerate(queues):
        bus.handle(queue, name=f"idle-{number}")(handler)
    async with bus.worker() as worker:
        await bus.publish(queues[0], {"n": 1})
        await worker.wait_idle(0.1)
        calls.clear()
        cpu, wall = time.process_time(), time.monotonic()
        seldom = f"an idle receiver is called at most {IDLE_CALLS} times in {IDLE_S} s"
        await world.stays(lambda: max(calls.values(), default=0) <= IDLE_CALLS, seldom, quiet_s=IDLE_S)
        part = (time.process_time() - cpu) / (time.monotonic() - wall)
    if part > IDLE_CPU:
        raise Violation(f"five idle consumers took {part:.0%} of a processor")


class _Counted(WrappedReceiver):
    def __init__(self, inner: Receiver, calls: Counter[int]) -> None:
        super().__init__(inner)
        self._calls = calls

    async def receive(self, limit: int) -> Sequence[Delivery]:
        self._calls[id(self)] += 1
        return await self.inner.receive(limit)

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        self._calls[id(self)] += 1
        return await self.inner.settle(settled)


def _counted(world: World, calls: Counter[int], host: Host) -> Transport:
    return WrappedTransport(world.harness.transport(host), lambda inner: _Counted(inner, calls))
