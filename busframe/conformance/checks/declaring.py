"""O: what an application needs is made, compared or assumed; nothing else is touched."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from busframe.bus import Bus
from busframe.conformance.check import Violation, check
from busframe.conformance.world import World
from busframe.errors import AccessDenied, DestinationNotFound, TopologyMismatch
from busframe.handling.context import Context
from busframe.logic.retry import Retry
from busframe.model.destination import Address, DeadLetters, Queue
from busframe.model.entity import Entity
from busframe.model.message import Message
from busframe.model.settlement import DeadLetter
from busframe.spi.transport import Host, Transport


async def _refused(call: Awaitable[object], kind: type[Exception], what: str) -> Exception:
    try:
        got = await call
    except kind as refused:
        return refused
    except Exception as error:
        raise Violation(f"{what}: {kind.__name__} was expected, not {error!r}") from error
    raise Violation(f"{what}: {kind.__name__} was expected, not {got!r}")


@check("O1", "declaring twice and ten times at once is fine; what cannot be changed in place is TopologyMismatch")
async def declared_again(world: World) -> None:
    """The client stays usable, and what is stored stays."""
    queue, topic = world.queue(), world.topic()
    subscription = topic.subscription("s")
    clients = [await world.open_client() for _ in range(3)]
    await asyncio.gather(*(world.declare(clients[n % 3], queue, subscription) for n in range(10)))
    transport = clients[0]
    sent = [world.message(b"%d" % number) for number in range(2)]
    await world.publish(transport, queue, sent[0])
    await world.publish(transport, topic, sent[1])
    await world.declare(transport, queue, subscription)
    entities = [Entity(queue, ordering="none"), Entity(topic), Entity(subscription, ordering="none")]
    changes = [change for change in await transport.plan(entities) if change.action != "unknown"]
    if changes:
        raise Violation(f"everything is declared, and a plan has changes: {changes}")
    if (await world.capabilities()).ordering != "none":
        for source in (queue, subscription):
            other = Entity(source, ordering="key")
            error = await _refused(world.declare(transport, other), TopologyMismatch, f"{source} with another ordering")
            if world.name(source) not in str(error) and str(source) not in str(error):
                raise Violation(f"what differs is not said: {error}")
        planned = await transport.plan([Entity(queue, ordering="key")])
        if "conflict" not in [change.action for change in planned]:
            raise Violation(f"another ordering is no conflict in a plan: {planned}")
    bus = world.bus(uses=[queue, subscription])
    async with bus:
        await world.send(bus, queue, "x")
    await world.drain(await world.receiver(transport, queue), 2)
    await world.drain(await world.receiver(transport, subscription), 1)
    world.balanced()


async def _handles_one(world: World, queue: Queue[Any], mode: str) -> None:
    bus = world.bus(config={"topology": mode})
    done = len(world.history.handled)

    @bus.handle(queue)
    async def handle(body: Message) -> None:
        world.history.done(body.id, mode)

    async with bus.worker():
        await world.send(bus, queue, mode)
        await world.until(lambda: len(world.history.handled) > done, f"a message with topology={mode!r}")


@check("O2", "with declaring turned off, what is there is used, and what is missing is said")
async def declared_by_others(world: World) -> None:
    """``topology``: ``assume`` and ``verify``, for anybody, and for a user who may do no more."""
    queue, absent = world.queue(), world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    for mode in ("assume", "verify"):
        await _handles_one(world, queue, mode)
    world.balanced()

    async def work(mode: str) -> str:
        bus = world.bus(config={"topology": mode})

        @bus.handle(absent)
        async def handle(body: Message) -> None:
            pass

        async with bus.worker():
            return "a worker"

    await _refused(work("assume"), DestinationNotFound, "a worker of a queue that does not exist, assumed")
    await _refused(work("verify"), TopologyMismatch, "a worker of a queue that does not exist, verified")
    with world.part("a user who may make nothing"):
        await _least_privilege(world, await world.harness.native_user(may_use=True), absent)
    for address in (absent, absent.dead_letters):
        if await world.harness.native_exists(address, world.name(address)):
            raise Violation(f"{address} was made although nothing was to be declared")
    world.balanced()


async def _least_privilege(world: World, restricted: Callable[[Host], Transport], absent: Queue[Any]) -> None:
    """What an administrator has made is enough for all that a worker does; and no more can be made."""
    queue, topic = world.queue(), world.topic()
    subscription = topic.subscription("s")
    delay_s = 0.1 if (await world.capabilities()).nack_delay_max_s else 0.0

    def new_bus(mode: str, transport: Callable[[Host], Transport]) -> Bus:
        bus = world.bus(config={"topology": mode}, transport=transport)

        async def handle(body: str, ctx: Context) -> None:
            if body == "fails" or ctx.attempt == 1:
                raise RuntimeError("as it should")
            world.handled(ctx)

        for source in (queue, subscription):
            bus.handle(source, name=str(source), retry=Retry(max_attempts=2, delay_s=delay_s, jitter=0))(handle)
        return bus

    async with new_bus("create", world.harness.transport):
        pass
    for count, mode in enumerate(("assume", "verify"), start=1):
        bus = new_bus(mode, restricted)
        done = len(world.history.handled)
        async with bus.worker():
            await world.send(bus, queue, mode)
            await world.send(bus, topic, mode)
            await bus.publish(queue, "fails")
            both = f"two messages, retried with topology={mode!r} by a user who may make nothing"
            await world.until(lambda: len(world.history.handled) >= done + 2, both)  # noqa: B023
            await world.letters(bus, queue, count)
    await world.refused(world.bus(uses=[absent], transport=restricted), AccessDenied)


@check("O3", "purge and remove take exactly what they say; what is temporary goes with its consumer")
async def taken_away(world: World) -> None:
    """Of dead letters on every transport, of other sources where it is claimed."""
    claims = await world.capabilities()
    queue, other = world.queue(), world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue, other)
    for source in (queue, other):
        await _dead_letters(world, transport, source, 4)
    letters = queue.dead_letters
    stored = await transport.browse(letters)
    positions = [stored[1].position, stored[2].position]
    if (removed := await transport.remove(letters, positions)) != 2:
        raise Violation(f"remove of 2 letters says {removed}")
    if (removed := await transport.remove(letters, positions)) != 0:
        raise Violation(f"remove of 2 letters that are gone says {removed}")
    left = await _shown(world, transport, letters, 2)
    if left != {stored[0].message.id, stored[3].message.id}:
        raise Violation("remove took other letters than those that were named")
    if (purged := await transport.purge(letters)) != 2:
        raise Violation(f"purge of 2 letters says {purged}")
    await _shown(world, transport, letters, 0)
    await _shown(world, transport, other.dead_letters, 4)
    await world.publish(transport, queue, world.message())
    if claims.browse and claims.remove:
        (waiting,) = await transport.browse(queue)
        if (removed := await transport.remove(queue, [waiting.position])) != 1:
            raise Violation(f"remove of a waiting message says {removed}")
        world.watch(await world.receiver(transport, queue))
    if claims.temporary:
        await _temporary(world, transport)


async def _dead_letters(world: World, transport: Transport, source: Queue[Any], count: int) -> None:
    """Make dead letters."""
    await world.publish(transport, source, *[world.message(b"%d" % number) for number in range(count)])
    receiver = await world.receiver(transport, source)
    taken = await world.take(receiver, count)
    await world.settle(receiver, taken, DeadLetter("rejected"))
    await receiver.close()
    await _shown(world, transport, source.dead_letters, count)


async def _shown(world: World, transport: Transport, letters: DeadLetters, count: int) -> set[str]:
    """The ids of the letters, when there are exactly so many."""
    ids: set[str] = set()

    async def so_many() -> bool:
        ids.clear()
        ids.update(stored.message.id for stored in await transport.browse(letters))
        return len(ids) == count

    await world.until(so_many, f"{count} letters in {letters}")
    return ids


async def _temporary(world: World, transport: Transport) -> None:
    topic = world.topic()
    kept, gone = topic.subscription("kept"), topic.subscription("gone", temporary=True)
    await world.declare(transport, kept, gone)
    for source in (kept, gone):
        receiver = await world.receiver(transport, source)
        await receiver.close()

    async def exists(addresses: Sequence[Address]) -> list[bool]:
        return [await world.harness.native_exists(address, world.name(address)) for address in addresses]

    async def is_gone() -> bool:
        return not any(await exists([gone, gone.dead_letters]))

    await world.until(is_gone, "a temporary subscription to go with its consumer")
    if not all(await exists([topic, kept, kept.dead_letters])):
        raise Violation("more went than the temporary subscription")
