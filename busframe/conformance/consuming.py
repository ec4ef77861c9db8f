"""Consuming beside a check: the simplest worker on the driver interface."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from busframe.conformance.world import World
from busframe.model.delivery import Delivery
from busframe.model.message import Message
from busframe.model.settlement import ACK, Settlement
from busframe.spi.transport import Receiver


@asynccontextmanager
async def consuming(
    world: World,
    receiver: Receiver,
    *,
    limit: int = 1,
    work: Callable[[Delivery], Awaitable[Settlement]] | None = None,
) -> AsyncIterator[list[Delivery]]:
    """Receive, work and settle beside the block, one after the other; all of it goes into the history.

    Args:
        world: of the check.
        receiver: where from.
        limit: the most to receive at once.
        work: says what becomes of each; None: an acknowledgement.

    Yields:
        What is settled so far.
    """
    settled: list[Delivery] = []
    working = asyncio.Lock()

    async def run() -> None:
        while True:
            deliveries = await receiver.receive(limit)
            for delivery in deliveries:
                world.history.taken(delivery.message.id, str(id(receiver)))
            async with working:
                for delivery in deliveries:
                    await world.settle(receiver, [delivery], ACK if work is None else await work(delivery))
                    settled.append(delivery)

    task = asyncio.create_task(run())
    try:
        yield settled
        async with working:  # what it works at it ends: a settlement that was cancelled may or may not be done
            task.cancel()
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # it is the reason of whatever the block found missing


async def drain_until(world: World, receiver: Receiver, *messages: Message, within_s: float = 10.0) -> list[Delivery]:
    """Receive and acknowledge until all of these came, and then whatever comes until nothing comes any more."""
    missing = {message.id for message in messages}
    deliveries: list[Delivery] = []
    while missing:
        some = await world.take(receiver, 1, within_s=within_s)
        await world.settle(receiver, some)
        deliveries += some
        missing -= {delivery.message.id for delivery in some}
    return deliveries + await world.rest(receiver)
