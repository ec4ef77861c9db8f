"""E: subscribing, leaving, and what is kept meanwhile."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from busframe.conformance.check import Violation, check
from busframe.conformance.world import World
from busframe.errors import ClosedError, Unsupported
from busframe.handling.context import Context
from busframe.model.destination import Address, Start, Subscription

TICK = timedelta(milliseconds=50)
"""Brokers have milliseconds, and their clock may be rounded: a time between two messages is so far from both."""


@check("E1", "what is published while no consumer is connected is kept")
async def kept_meanwhile(world: World) -> None:
    """From the declaration on; across a restart of every client, where messages are durable."""
    durable = (await world.capabilities()).durable
    subscription = world.topic().subscription("s")
    if not durable:
        await world.open_client()  # some brokers live as long as their clients
    async with world.client() as first:
        await world.declare(first, subscription)
    async with world.client() as second:
        await world.publish(second, subscription.topic, *(world.message(b"%d" % n) for n in range(20)))
    async with world.client() as third:
        receiver = await world.receiver(third, subscription)
        taken = await world.take(receiver, 10)
        await world.settle(receiver, taken[:5])
    for delivery in taken[5:]:
        world.history.let_go(delivery.message.id, str(id(receiver)))
    fourth = await world.open_client()
    await world.drain(await world.receiver(fourth, subscription), 15)
    world.balanced()


async def refused(world: World, subscription: Subscription[Any], what: str) -> None:
    """Demand that a bus which asks for a subscription is refused."""
    try:
        async with world.bus(uses=[subscription]):
            pass
    except Unsupported:
        return
    raise Violation(f"{what} is not claimed, and was not refused with Unsupported")


async def no_temporary(world: World) -> None:
    """Refused."""
    await refused(world, world.topic().subscription("s", temporary=True), "temporary=True")


@check(
    "E2",
    "a temporary subscription sees what comes later, and leaves nothing on the broker",
    tier="K",
    claimed=lambda claims: claims.temporary,
    unclaimed=no_temporary,
)
async def temporary(world: World) -> None:
    """It goes with its consumer."""
    subscription = world.topic().subscription("s", temporary=True)
    transport = await world.open_client()
    await world.declare(transport, subscription.topic)
    await world.publish(transport, subscription.topic, world.message(b"before"))
    world.history.confirmed.clear()  # kept for nobody, as it should be
    await world.declare(transport, subscription)
    receiver = await world.receiver(transport, subscription)
    await world.publish(transport, subscription.topic, *(world.message(b"%d" % n) for n in range(5)))
    await world.drain(receiver, 5)
    await world.nothing(receiver)
    if not await world.harness.native_exists(subscription, world.name(subscription)):
        raise Violation(f"the harness is wrong: {subscription} is consumed and does not exist on the broker")
    await receiver.close()
    for address in (subscription, subscription.dead_letters):
        gone = f"{address} is gone from the broker after its consumer"
        await world.until(partial(_gone, world, address), gone, within_s=10.0)
    world.balanced()


async def _gone(world: World, address: Address) -> bool:
    return not await world.harness.native_exists(address, world.name(address))


@check("E3", "what is published as soon as a receiver is open, or a subscription declared, is received")
async def no_gap(world: World) -> None:
    """Neither declaring, nor opening, nor starting a worker returns early."""
    topic = world.topic()
    transport, publisher = await world.open_client(), await world.open_client()
    await world.declare(transport, topic)
    for number in range(5):
        subscription = topic.subscription(f"s{number}")
        await world.declare(transport, subscription)
        sent = [world.message(b"declared"), world.message(b"open")]
        await world.publish(publisher, topic, sent[0])
        receiver = await world.receiver(transport, subscription)
        await world.publish(publisher, topic, sent[1])
        got = [delivery.message.id for delivery in await world.take(receiver, 2)]
        if sorted(got) != sorted(message.id for message in sent):
            raise Violation(f"subscription {number} got {got} at once, not {[message.id for message in sent]}")
        await receiver.close()
    bus, handled = world.bus(), list[str]()

    @bus.handle(topic.subscription("worker"))
    async def handle(body: object, ctx: Context) -> None:
        handled.append(ctx.message.id)

    async with bus.worker():
        message = world.message()
        await world.publish(publisher, topic, message)
        await world.until(lambda: handled == [message.id], "a worker handles what is published as soon as it runs")


async def no_start(world: World) -> None:
    """Refused."""
    await refused(world, world.topic().subscription("s", start="earliest"), "start='earliest'")
    await refused(world, world.topic().subscription("s", start=datetime.now(UTC)), "start at a time")


@check(
    "E4",
    "a new subscription starts at the earliest message kept, at a time, or at its declaration",
    tier="K",
    claimed=lambda claims: claims.start,
    unclaimed=no_start,
)
async def start(world: World) -> None:
    """Each sees the history from there on, and what comes later."""
    topic = world.topic()
    transport = await world.open_client()
    await world.declare(transport, topic.subscription("first"))
    history = [world.message(b"%d" % n) for n in range(10)]
    await world.publish(transport, topic, *history[:5])
    between = datetime.now(UTC) + TICK
    await world.until(lambda: datetime.now(UTC) > between + TICK, "a time between two messages")
    await world.publish(transport, topic, *history[5:])
    starts: dict[str, tuple[Start, int]] = {"earliest": ("earliest", 0), "time": (between, 5), "latest": ("latest", 10)}
    subscriptions = {name: topic.subscription(name, start=at) for name, (at, _) in starts.items()}
    await world.declare(transport, *subscriptions.values())
    later = world.message(b"later")
    await world.publish(transport, topic, later)
    for name, subscription in subscriptions.items():
        wanted = {message.id for message in (*history[starts[name][1] :], later)}
        receiver = await world.receiver(transport, subscription, prefetch=20)
        try:
            got = {delivery.message.id for delivery in await world.drain(receiver, len(wanted))}
        except Violation as violation:
            raise Violation(f"start={name}: {violation}") from None
        if got != wanted:
            raise Violation(f"start={name}: {len(got & wanted)} of {len(wanted)} came, and {len(got - wanted)} others")


@check("E5", "subscribing, reading some and leaving 20 times loses nothing; ten at once leave everything usable")
async def cycles(world: World) -> None:
    """What was taken and not settled goes back each time."""
    subscription = world.topic().subscription("s")
    transport, publisher = await world.open_client(), await world.open_client()
    await world.declare(transport, subscription)

    async def publish() -> None:
        for _ in range(20):
            await world.publish(publisher, subscription.topic, *(world.message(b"%d" % n) for n in range(50)))

    publishing = asyncio.create_task(publish())
    for _ in range(20):
        receiver = await world.receiver(transport, subscription, prefetch=30)
        taken = await world.take(receiver, 20)
        await world.settle(receiver, taken[:15])
        await world.close(receiver)
    await publishing
    receiver = await world.receiver(transport, subscription, prefetch=200)
    await world.drain(receiver, 700)
    world.balanced()

    async def come_and_go() -> None:
        await (await world.receiver(transport, subscription)).close()

    await asyncio.gather(*(come_and_go() for _ in range(10)))
    await world.publish(publisher, subscription.topic, *(world.message(b"after") for _ in range(10)))
    await world.drain(receiver, 10)
    world.balanced()


async def ends(world: World, receiving: Awaitable[Any], what: str) -> None:
    """Demand that a receive ends with ClosedError, soon."""
    try:
        async with asyncio.timeout(5.0 * world.harness.patience):
            got = await receiving
    except ClosedError:
        return
    except TimeoutError:
        raise Violation(f"{what} did not end within {5.0 * world.harness.patience:g} s") from None
    raise Violation(f"{what} gave {len(got)} messages")


@check(
    "E6", "stopping ends delivery at once, what is in flight can still be settled, and the rest goes to the next one"
)
async def stop(world: World) -> None:
    """Whether it waits for a message or holds some."""
    subscription = world.topic().subscription("s")
    transport = await world.open_client()
    await world.declare(transport, subscription)
    idle = await world.receiver(transport, subscription)
    waiting = asyncio.create_task(idle.receive(1))
    await asyncio.sleep(0)  # so that it waits
    await idle.stop()
    await ends(world, waiting, "a receive that waited when its receiver was stopped")
    await idle.close()
    await world.publish(transport, subscription.topic, *(world.message(b"%d" % n) for n in range(20)))
    receiver = await world.receiver(transport, subscription, prefetch=10)
    held = await world.take(receiver, 5)
    await receiver.stop()
    await receiver.stop()
    await ends(world, receiver.receive(5), "a receive after stop")
    await world.publish(transport, subscription.topic, *(world.message(b"late %d" % n) for n in range(5)))
    successor = await world.receiver(transport, subscription)
    await world.settle(receiver, held)
    await receiver.close()
    await world.drain(successor, 20)
    world.balanced()
