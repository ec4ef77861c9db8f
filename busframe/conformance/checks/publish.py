"""A: what is published is received."""

import asyncio
from collections.abc import Sequence

from busframe.conformance.check import Violation, check
from busframe.conformance.world import World, failed_as
from busframe.errors import DestinationNotFound, InvalidName
from busframe.model.destination import Address, Queue, SourceAddress, Subscription, Topic
from busframe.model.message import Message
from busframe.model.settlement import RELEASE


@check("A1", "one message round-trips: body, id, headers, content type equal")
async def round_trip(world: World) -> None:
    """What arrives is what was sent."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    sent = world.message(b'{"a": "\xc3\xa4"}', headers={"Tenant": "a", "x-trace": "1"}, type="Order")
    await world.publish(transport, queue, sent)
    receiver = await world.receiver(transport, queue)
    (delivery,) = await world.drain(receiver, 1)
    got = delivery.message
    for field in ("body", "id", "headers", "content_type", "type"):
        if getattr(got, field) != getattr(sent, field):
            raise Violation(f"{field} was {getattr(sent, field)!r} and arrived as {getattr(got, field)!r}")


@check("A2", "all of 100 arrive, published before the consumer starts on an existing subscription, or after")
async def before_and_after(world: World) -> None:
    """A subscription collects from its declaration on, and goes on when it is consumed."""
    subscription = world.topic().subscription("s")
    transport = await world.open_client()
    await world.declare(transport, subscription)
    await world.publish(transport, subscription.topic, *(world.message(b"%d" % n) for n in range(100)))
    receiver = await world.receiver(transport, subscription, prefetch=50)
    await world.drain(receiver, 100)
    await world.publish(transport, subscription.topic, *(world.message(b"%d" % n) for n in range(100)))
    await world.drain(receiver, 100)
    world.balanced()


@check("A4", "a publish to what does not exist raises DestinationNotFound, and the client goes on")
async def destination_not_found(world: World) -> None:
    """Neither a queue, nor a topic, nor a subscription's or dead letters' copy vanishes silently."""
    queue, absent, topic = world.queue(), world.queue(), world.topic()
    addresses: list[Address] = [absent, topic, topic.subscription("s"), absent.dead_letters]
    for address in addresses[:2]:
        if await world.harness.native_exists(address, world.name(address)):
            raise Violation(f"the harness is wrong: {address} exists on the broker")
    transport = await world.open_client()
    await world.declare(transport, queue)
    for address in addresses:
        (outcome,) = await world.try_publish(transport, address, world.message())
        failed_as(outcome, DestinationNotFound)
    neighbours = [world.message() for _ in range(20)]
    outcomes = await asyncio.gather(
        *(world.try_publish(transport, absent if n % 5 == 0 else queue, m) for n, m in enumerate(neighbours))
    )
    for number, (outcome,) in enumerate(outcomes):
        if (outcome is None) is (number % 5 == 0):
            raise Violation(f"publish {number} beside others that fail ended as {outcome!r}")
    receiver = await world.receiver(transport, queue, prefetch=50)
    await world.drain(receiver, 16)
    world.balanced()


@check("A5", "the id is unique and the same at redelivery")
async def same_id_again(world: World) -> None:
    """A message that goes back comes again under its id, with its bytes."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    sent = [world.message(b"%d" % n) for n in range(5)]
    await world.publish(transport, queue, *sent)
    receiver = await world.receiver(transport, queue)
    first = await world.take(receiver, 5)
    await world.settle(receiver, first, RELEASE)
    again = await world.drain(receiver, 5)
    for deliveries in (first, again):
        got = {delivery.message.id: delivery.message.body for delivery in deliveries}
        if got != {message.id: message.body for message in sent}:
            raise Violation(f"ids and bodies were {got}")


@check("A6", "20 destinations, 100 messages each, at once on one client: each gets its own and no other")
async def no_leaks(world: World) -> None:
    """Queues and topics side by side."""
    sources: list[SourceAddress] = [world.queue() for _ in range(16)]
    sources += [world.topic().subscription("s") for _ in range(4)]
    transport = await world.open_client()
    await world.declare(transport, *sources)
    receivers = [await world.receiver(transport, source, prefetch=100) for source in sources]
    own = [[world.message(b"%d %d" % (place, n)) for n in range(100)] for place in range(20)]

    async def publish(source: SourceAddress, messages: Sequence[Message]) -> None:
        to: Address = source.topic if isinstance(source, Subscription) else source
        for start in range(0, 100, 20):
            await world.publish(transport, to, *messages[start : start + 20])

    await asyncio.gather(*map(publish, sources, own))
    read = await asyncio.gather(*(world.drain(receiver, 100) for receiver in receivers))
    for source, messages, deliveries in zip(sources, own, read, strict=True):
        foreign = {delivery.message.id for delivery in deliveries} - {message.id for message in messages}
        if foreign:
            raise Violation(f"{len(foreign)} messages of other destinations came out of {source}")
    world.balanced()


@check("A7", "names that every broker takes work; any other is InvalidName, on every transport")
async def names(world: World) -> None:
    """The longest name, dots, and what is refused."""
    longest = f"{world.run}.{'x' * 80}"[:80].rstrip(".-")
    dotted = f"{world.run}.a_b-c.D"
    transport = await world.open_client()
    sources: list[SourceAddress] = [Queue(longest), Queue(dotted), Topic(f"{world.run}.t").subscription("s" * 40)]
    await world.declare(transport, *sources)
    for source in sources:
        await world.publish(transport, source, world.message())
        await world.drain(await world.receiver(transport, source), 1)
    for bad in ("", "a/b", "ä", "a--b", "-a", "a-", "a b", "x" * 81, "a\n", ".", "a..b"):
        try:
            Queue(bad)
        except InvalidName:
            continue
        raise Violation(f"{bad!r} was taken as a name")
