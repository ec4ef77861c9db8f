"""L: many messages at once, out and in."""

import asyncio
from collections.abc import Awaitable, Iterator

from busframe.conformance.check import Violation, check
from busframe.conformance.world import World, failed_as
from busframe.errors import DestinationNotFound, MessageTooLarge, PublishError
from busframe.model.delivery import Delivery, Outgoing


@check("L1", "of many messages published at once all arrive, and a failure names its own")
async def publish_many(world: World) -> None:
    """On the driver interface one outcome for each, in order; on the bus the first error, with its message's id."""
    queue, absent = world.queue(), world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    limit = (await world.capabilities()).max_message_bytes
    receiver = await world.receiver(transport, queue, prefetch=100)
    async with world.bus(uses=[queue]) as bus:
        for count in (1, 250):

            def bodies(count: int = count) -> Iterator[dict[str, int]]:
                return ({"n": n} for n in range(count))

            sent = await bus.publish_many(queue, bodies())
            if [message.body for message in sent] != [b'{"n":%d}' % n for n in range(count)]:
                raise Violation(f"publish_many of {count} messages returned {len(sent)} others, or in another order")
            world.history.tried += [message.id for message in sent]
            world.history.confirmed += [message.id for message in sent]
            got = {delivery.message.id: delivery.message.body for delivery in await world.drain(receiver, count)}
            if got != {message.id: message.body for message in sent}:
                raise Violation(f"of {count} messages published at once others arrived")
        try:
            await bus.publish_many(absent, bodies(5))
        except DestinationNotFound as error:
            if not error.message_id:
                raise Violation("the error of publish_many does not say which message failed") from error
        else:
            raise Violation("publish_many to what does not exist was confirmed")
    await _partial_failure(world, limit)
    world.balanced()


async def _partial_failure(world: World, limit: int | None) -> None:
    queue, absent = world.queue(), world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    messages = [world.message(b"%d" % n) for n in range(8)]
    wrong: dict[int, type[PublishError]] = {5: DestinationNotFound}
    if limit is not None:
        wrong[2], messages[2] = MessageTooLarge, world.message(bytes(limit + 1))
    outgoing = [Outgoing(absent if place == 5 else queue, message) for place, message in enumerate(messages)]
    outcomes = await transport.publish(outgoing, timeout_s=10.0)
    for place, (outcome, message) in enumerate(zip(outcomes, messages, strict=True)):
        world.history.tried.append(message.id)
        if place not in wrong:
            if outcome is not None:
                raise Violation(f"message {place} beside others that fail ended as {outcome!r}")
            world.history.confirmed.append(message.id)
            continue
        failed_as(outcome, wrong[place])
        world.history.failed.append(message.id)
        named = getattr(outcome, "message_id", "") or message.id  # the core fills in an empty one
        if named != message.id:
            raise Violation(f"the failure of message {place} names {named}, not {message.id}")
    await world.drain(await world.receiver(transport, queue), len(messages) - len(wrong))


@check("L2", "whatever is gathered before it is sent: nothing is confirmed before, one alone goes, and a close flushes")
async def gathered(world: World) -> None:
    """One message does not wait for others, and 200 at once do not wait for one another."""
    queue = world.queue()
    reader = await world.open_client()
    await world.declare(reader, queue)
    receiver = await world.receiver(reader, queue, prefetch=100)
    async with world.client() as transport:
        await _in_time(world, world.publish(transport, queue, world.message()), "one publish alone")
        await world.drain(receiver, 1)
        many = [world.publish(transport, queue, world.message(b"%d" % n)) for n in range(200)]
        await _in_time(world, asyncio.gather(*many), "200 publishes at once")
        await world.drain(receiver, 200)
        last = [asyncio.create_task(world.publish(transport, queue, world.message(b"%d" % n))) for n in range(50)]
        await asyncio.sleep(0)  # so that each is under way
        await _in_time(world, transport.close(), "the close of a client that publishes")
        await _in_time(world, asyncio.gather(*last), "50 publishes under way at a close")
    await world.drain(receiver, 50)
    world.balanced()


async def _in_time(world: World, what: Awaitable[object], name: str) -> None:
    within_s = 10.0 * world.harness.patience
    try:
        async with asyncio.timeout(within_s):
            await what
    except TimeoutError:
        raise Violation(f"{name} did not end within {within_s:g} s") from None


@check(
    "L3", "more at once than the broker takes in one piece is split, or fails with an error of ours; nothing is lost"
)
async def above_limits(world: World) -> None:
    """Three messages that are together above the maximum of one, and 2000 small ones in one call."""
    limit = (await world.capabilities()).max_message_bytes
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    large = [world.message(bytes(int((limit or 2**20) * 0.4))) for _ in range(3)]
    small = [world.message(b"%d" % n) for n in range(2000)]
    for messages in (large, small):
        for outcome in await world.try_publish(transport, queue, *messages, timeout_s=20.0):
            if isinstance(outcome, MessageTooLarge) or not isinstance(outcome, PublishError | None):
                raise Violation(f"a message that is not too large by itself ended, beside others, as {outcome!r}")
    receiver = await world.receiver(transport, queue, prefetch=200)
    unknown = len(world.history.unknown)
    await world.drain(receiver, len(world.history.confirmed) + unknown)
    world.balanced()


@check("L4", "a receive gives what is there, up to its limit; settling some leaves the others alone")
async def receive_some(world: World) -> None:
    """It waits for no more than one, and an acknowledgement is of the one that it names."""
    gap = (await world.capabilities()).ack_gap
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    first = await world.receiver(transport, queue, prefetch=20)
    await world.publish(transport, queue, *(world.message(b"%d" % n) for n in range(12)))
    held: list[Delivery] = []
    while len(held) < 12:
        try:
            async with asyncio.timeout(5.0 * world.harness.patience):
                some = await first.receive(5)
        except TimeoutError:
            raise Violation(f"{len(held)} of 12 messages came: a receive waits for more than is there") from None
        if not 1 <= len(some) <= 5:
            raise Violation(f"receive(5) gave {len(some)} messages")
        held += some
    await world.settle(first, [held[1], held[3], held[11]])
    await world.settle(first, [held[0]])
    await world.nothing(first)
    await first.close()
    settled = {held[place].message.id for place in (0, 1, 3, 11)}
    second = await world.receiver(transport, queue, prefetch=20)
    missing = {delivery.message.id for delivery in held} - settled
    came: list[str] = []
    while missing - set(came):
        try:
            (delivery,) = await world.take(second, 1, within_s=5.0)
        except Violation:
            lost = len(missing - set(came))
            raise Violation(f"{lost} messages that were not settled are gone with 4 that were") from None
        await world.settle(second, [delivery])
        came.append(delivery.message.id)
    again = settled & set(came)
    if again and not gap:
        raise Violation(f"{len(again)} messages came again although they were acknowledged")
    if not gap:
        world.watch(second)
