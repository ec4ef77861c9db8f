"""V: what operators do and read: topology modes, limits, logs, health, a worker steered while it runs, names."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from busframe.conformance.check import Violation, check
from busframe.conformance.world import World, failed_as
from busframe.errors import (
    AccessDenied,
    ConfigurationError,
    DestinationNotFound,
    InvalidName,
    TopologyMismatch,
    Unsupported,
)
from busframe.handling.context import Context
from busframe.logic.retry import Retry
from busframe.model.destination import Address, Queue, Topic
from busframe.spi.transport import Host, Transport


async def _absent(world: World, *addresses: Address) -> None:
    for address in addresses:
        if await world.harness.native_exists(address, world.name(address)):
            raise Violation(f"{address} exists on the broker, although nobody should have made it")


@check("V8", "verify names what is missing and makes nothing; assume fails at the first use; neither administrates")
async def topology_modes(world: World) -> None:
    """What is missing, what is there, and and that for clients and users who may not make anything."""
    absent, present, topic = world.queue(str), world.queue(str), world.topic(str)
    await _absent(world, absent, topic)

    verifying = world.bus(config={"topology": "verify"}, uses=[absent, topic.subscription("s")])
    error = await world.refused(verifying, TopologyMismatch)
    for address in (absent, topic):
        if str(address) not in str(error):
            raise Violation(f"the error does not name {address}, which is missing: {error}")
    await _absent(world, absent, topic)

    assuming = world.bus(config={"topology": "assume"})
    assuming.handle(absent)(_ignore)
    async with assuming:
        for use in (assuming.publish(absent, "1"), _run(assuming)):
            failed_as(await _error_of(use), DestinationNotFound)
    await _absent(world, absent)

    async with world.bus(uses=[present]):
        pass
    async with world.bus(config={"topology": "verify"}, uses=[present]):
        pass

    def restricted(host: Host) -> Transport:
        transport = world.harness.transport(host)
        transport.plan = transport.apply = _denied  # type: ignore[method-assign,assignment]
        return transport

    plain = world.bus(config={"topology": "assume"}, transport=restricted)

    @plain.handle(present)
    async def work(body: str, ctx: Context) -> None:
        world.handled(ctx)

    async with plain.worker():
        await world.send(plain, present, "1", "2")
        await world.until(lambda: len(world.history.handled) == 2, "a client without rights handles two messages")
    with world.part("a user who may make nothing"):
        await _verified(world, await world.harness.native_user(may_use=True), present, absent)
    world.balanced()


async def _verified(
    world: World, restricted: Callable[[Host], Transport], present: Queue[str], absent: Queue[str]
) -> None:
    error = await world.refused(
        world.bus(config={"topology": "verify"}, transport=restricted, uses=[present, absent]), TopologyMismatch
    )
    if str(absent) not in str(error) or str(present) in str(error):
        raise Violation(f"of {present} and {absent} the second one is missing, and the error says: {error}")
    await _absent(world, absent)
    async with world.bus(config={"topology": "verify"}, transport=restricted, uses=[present]):
        pass


async def _ignore(body: str) -> None: ...


async def _denied(*arguments: Any) -> Any:
    raise AccessDenied("these credentials may not look at the topology")


async def _run(bus: Any) -> None:
    async with bus.worker():
        pass


async def _error_of(use: Any) -> Exception | None:
    try:
        await use
    except Exception as error:
        return error
    return None


@check("V9", "a limit that would fight the retry policy is refused at start")
async def fighting_limits(world: World) -> None:
    """Of a lane, of the broker's delays, and of an operator's own source where the broker has such a limit."""
    claims = await world.capabilities()
    queue = world.queue(str)

    bus = world.bus(config={"max_lane_delay_s": 1})
    bus.handle(queue, ordering="key", retry=Retry(delay_s=5))(_ignore)
    error = await world.refused(bus, Unsupported)
    if queue.name not in str(error):
        raise Violation(f"the error does not name {queue}: {error}")

    if claims.nack_delay_max_s < inf:
        bus = world.bus()
        longer = claims.nack_delay_max_s * 2 + 1
        bus.handle(queue, retry=Retry(delay_s=longer, max_delay_s=longer))(_ignore)
        await world.refused(bus, Unsupported)

    await _absent(world, queue)
    if await world.harness.native_limited(queue, world.name(queue)):
        bus = world.bus()
        bus.handle(queue, retry=Retry(max_attempts=50))(_ignore)
        await world.refused(bus, ConfigurationError, Unsupported)


@contextmanager
def listening(least: int) -> Iterator[list[logging.LogRecord]]:
    """What busframe and its plugins log at this level or above."""
    records: list[logging.LogRecord] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name.startswith("busframe"):
                records.append(record)

    ear = Ear(least)
    logging.getLogger().addHandler(ear)
    try:
        yield records
    finally:
        logging.getLogger().removeHandler(ear)


@check("V12", "an ordinary retry logs nothing above INFO, and a look at the health never raises")
async def quiet_retries(world: World) -> None:
    """Retries at once and through the broker; health is read in every state of the bus."""
    queue = world.queue(str)
    bus = world.bus()

    def look() -> None:
        try:
            health = bus.health()
            str((health.ready, dict(health.sources), list(health.problems)))
        except Exception as error:
            raise Violation(f"a look at the health raised {error!r}") from error

    @bus.handle(queue, retry=Retry(delay_s=0.05, factor=1.0, jitter=0, rules={KeyError: Retry(delay_s=0)}))
    async def work(body: str, ctx: Context) -> None:
        look()
        if ctx.attempt == 1:
            raise (ConnectionError if body == "later" else KeyError)("as asked")
        world.handled(ctx)

    with listening(logging.INFO + 1) as logged:
        look()
        async with bus.worker():
            look()
            await world.send(bus, queue, "at once", "later")
            await world.until(lambda: len(world.history.handled) == 2, "both retries are handled")
            look()
        look()
    if logged:
        raise Violation(f"retries logged above INFO: {[record.getMessage() for record in logged]}")
    world.balanced()


@check("V13", "concurrency raised and lowered at work is honoured; pause and resume keep the subscription")
async def steered(world: World) -> None:
    """Handlers wait at a gate, so that as many run as may; then the source is paused while more is published."""
    topic = world.topic(str)
    source = topic.subscription("s")
    bus = world.bus()
    gate = asyncio.Event()
    running = 0

    @bus.handle(source, concurrency=1, prefetch=20)
    async def work(body: str, ctx: Context) -> None:
        nonlocal running
        running += 1
        await gate.wait()
        running -= 1
        world.handled(ctx)

    def handled(count: int) -> bool:
        return len(world.history.handled) == count

    async with bus.worker() as worker:
        for number, limit in enumerate((1, 4, 2), start=1):
            gate.clear()
            await worker.set_concurrency(source, limit)
            await world.send(bus, topic, *(f"{limit} {n}" for n in range(8)))
            try:
                await world.until(lambda: running == limit, f"{limit} handlers run at once")  # noqa: B023
                await world.stays(lambda: running == limit, f"{limit} handlers run at once", quiet_s=0.1)  # noqa: B023
            finally:
                gate.set()
            await world.until(lambda: handled(8 * number), "eight more are handled")  # noqa: B023

        await worker.pause(source)
        health = bus.health()
        if health.sources[source.address] != "paused" or not health.ready:
            raise Violation(f"a paused source is ready, and not {health}")
        await world.send(bus, topic, "paused 1", "paused 2", "paused 3")
        await world.stays(lambda: handled(24), "nothing is handled while the source is paused")
        await worker.resume(source)
        await world.until(lambda: handled(27), "what came meanwhile is handled", within_s=5)
    world.balanced()


@check("V26", "names that could collide are refused at start, and nothing is made")
async def colliding_names(world: World) -> None:
    """A queue and a topic of one name; names that are one to some broker; names that look composed."""
    name = f"{world.run}.x"
    for one, other in (
        (Queue(name), Topic(name)),
        (Queue(name), Topic(name).subscription("s")),
        (Queue(name), Queue(name.replace(".", "_"))),
        (Topic(name), Topic(name.upper())),
        (Topic(name).subscription("a.b"), Topic(name).subscription("a_b")),
    ):
        await world.refused(world.bus(uses=[one, other]), InvalidName)
        for address in (one, other):
            await _absent(world, address)
    for make in (lambda: Queue(f"{name}--s"), lambda: Topic(name).subscription("dead")):
        try:
            make()
        except InvalidName:
            continue
        raise Violation("a name was taken that could be one that the framework composes")


@check(
    "V27", "messages lost to the broker's retention are reported with their number, never skipped silently", tier="X"
)
async def retention(world: World) -> None:
    """The broker drops what a source holds while nobody consumes it."""
    queue, count = world.queue(str), 7
    bus = world.bus()

    @bus.handle(queue)
    async def work(body: str, ctx: Context) -> None:
        world.handled(ctx)

    with listening(logging.ERROR) as logged:
        async with bus:
            for n in range(count):
                await bus.publish(queue, f"{n}")
            await world.harness.expire(queue, world.name(queue))
            async with bus.worker():
                await world.send(bus, queue, "after")
                await world.until(lambda: world.history.handled, "what was published afterwards is handled")
                await world.until(
                    lambda: any(f"{count} " in f"{record.getMessage()} " for record in logged),
                    f"an error that says that {count} messages were lost",
                    within_s=5,
                )
                if not bus.health().problems:
                    raise Violation("messages were lost, and the health says nothing of it")
    world.balanced()
