"""M: what goes wrong around an application ends, and the application goes on without a restart."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from busframe.bus import Bus
from busframe.conformance.addresses import unreachable
from busframe.conformance.attempts import PROMPT_S
from busframe.conformance.check import Violation, check
from busframe.conformance.checks.errors import error_of, of_class, opening
from busframe.conformance.harness import NotRunnable
from busframe.conformance.world import World
from busframe.errors import ConnectionFailed, DestinationNotFound, PublishError, TransportError
from busframe.handling.context import Context
from busframe.model.destination import Queue


def _worker(world: World, *queues: Queue[Any], **options: Any) -> Bus:
    """A bus that handles these queues."""
    bus = world.bus(**options)
    for queue in queues:

        @bus.handle(queue, name=queue.name)
        async def handle(body: str, ctx: Context) -> None:
            world.handled(ctx)

    return bus


async def _insist(world: World, bus: Bus, queue: Queue[Any]) -> None:
    """Publish as an application does that wants its message there: again under its id until it is confirmed."""
    id = uuid4().hex
    world.history.tried.append(id)
    until = time.monotonic() + 50
    while True:
        try:
            await bus.publish(queue, "x", id=id, timeout_s=5)
            break
        except (PublishError, TransportError):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.05)
    world.history.confirmed.append(id)


async def _all_handled(world: World) -> None:
    """Wait until they are, as long as some come."""
    confirmed = set(world.history.confirmed)
    handled: set[str] = set()

    def missing() -> int:
        handled.update(message for message, _ in world.history.handled)
        return len(confirmed - handled)

    while left := missing():
        await world.until(lambda: missing() < left, f"one more of {len(confirmed)} messages", within_s=30)
    # Whatever was cut off may come twice; nothing may be lost.
    world.balanced(duplicates=len(confirmed), exclusive=False)


async def _through(
    world: World,
    bus: Bus,
    queue: Queue[Any],
    faults: Mapping[float, Callable[[], Awaitable[None]]],
    *,
    publishers: int,
    each: int,
) -> None:
    """Publish and handle, and let faults happen when such a part of all messages is confirmed.

    While a fault happens the publishers are slower, and before the last one none ends, so that it meets messages.
    """
    total = publishers * each
    enough = {part: asyncio.Event() for part in faults}
    left = len(faults)
    happening = False

    async def publish() -> None:
        number = 0
        while number < each or left:
            await _insist(world, bus, queue)
            number += 1
            for part, event in enough.items():
                if len(world.history.confirmed) >= part * total:
                    event.set()
            await asyncio.sleep(0.1 if happening or number >= each else 0)

    async with bus.worker():
        publishing = asyncio.gather(*(publish() for _ in range(publishers)))
        try:
            for part, fault in faults.items():
                await enough[part].wait()
                happening = True
                await fault()
                happening = False
                left -= 1
            await publishing
        finally:
            publishing.cancel()
            await asyncio.wait((publishing,))
            if not publishing.cancelled():
                publishing.exception()  # looked at: else it is reported once more, by the loop
        await _all_handled(world)


@check("M1", "through a restart and a kill of the broker every confirmed message arrives", tier="X")
async def restart_and_kill(world: World) -> None:
    """While a hundred publishers and a worker go on: 10 000 messages; a restart after a third, SIGKILL after half."""
    queue = world.queue()
    faults = {1 / 3: world.harness.restart, 1 / 2: world.harness.kill}
    await _through(world, _worker(world, queue), queue, faults, publishers=100, each=100)


@check(
    "M2", "through cuts and a silence every confirmed message arrives; the silence is noticed as is claimed", tier="X"
)
async def cuts_and_silence(world: World) -> None:
    """While ten publishers and a worker go on. Silence is what a dead network leaves, or a server that is stopped."""
    queue = world.queue()
    cuts = dict.fromkeys((0.25, 0.5, 0.75), world.harness.disconnect)
    await _through(world, _worker(world, queue), queue, cuts, publishers=10, each=30)
    with world.part("a silence"):
        silence_s = world.harness.silence_s
        if silence_s is None:
            raise NotRunnable(f"no client of {world.harness.name} notices a silence")
        queue = world.queue()
        bus = _worker(world, queue, transport=world.harness.watchful)

        async def silence() -> None:
            longest_s = silence_s + PROMPT_S
            freezing = asyncio.create_task(world.harness.freeze(longest_s))
            try:
                await world.until(
                    lambda: freezing.done() or not bus.health().ready, "the silence to be noticed", within_s=longest_s
                )
            finally:
                freezing.cancel()
                await asyncio.wait((freezing,))
            if not freezing.cancelled():
                freezing.result()  # not runnable
                raise Violation(f"a silence of {longest_s:g} s was not noticed, and {silence_s:g} s are claimed")

        await _through(world, bus, queue, {0.5: silence}, publishers=10, each=30)


@check("M3", "after a recovery there is one consumer for each source, and the bus says that it is ready", tier="X")
async def one_consumer(world: World) -> None:
    """Not one more for each cut."""
    queue = world.queue()
    bus = _worker(world, queue)
    async with bus.worker():
        for _ in range(2):
            await _insist(world, bus, queue)
            await _all_handled(world)
            await world.harness.disconnect()
        await _insist(world, bus, queue)
        await _all_handled(world)
        await world.until(lambda: bus.health().ready, "the bus to be ready again")

        async def alone() -> bool:
            return (await world.broker_state(queue)).consumers in (1, None)

        await world.until(alone, "one consumer after two cuts")


@check("M4", "a publish while the broker is silent waits or fails as told; afterwards publishing works again", tier="X")
async def silence(world: World) -> None:
    """A short time-out ends by itself; a long one outlasts the silence."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    freezing = asyncio.create_task(world.harness.freeze(2.0))
    await asyncio.wait((freezing,), timeout=0.1)  # now it is silent
    if freezing.done():
        await freezing  # not runnable
    impatient, patient = world.message(b"impatient"), world.message(b"patient")
    started = time.monotonic()
    waiting = asyncio.create_task(world.try_publish(transport, queue, patient, timeout_s=30))
    (outcome,) = await world.try_publish(transport, queue, impatient, timeout_s=0.5)
    of_class("a publish that is not answered", outcome, PublishError)
    if (took_s := time.monotonic() - started) > PROMPT_S:
        raise Violation(f"a publish with timeout_s=0.5 took {took_s:.1f} s")
    await freezing
    (outcome,) = await waiting
    if outcome is not None:
        raise Violation(f"a publish that could wait longer than the silence ended as {outcome!r}")
    await world.publish(transport, queue, world.message(b"afterwards"))
    receiver = await world.receiver(transport, queue)
    await world.rest(receiver, quiet_s=1.0)
    world.balanced(duplicates=3)


@check("M5", "a broker that is absent at the start is waited for as configured, and not stormed", tier="X")
async def absent_at_start(world: World) -> None:
    """A port where connections end at once, and behind which the broker is after a while."""
    if world.harness.url is None:
        raise NotRunnable(f"{world.harness.name} has no address")
    broker = urlsplit(world.harness.url)
    if broker.port is None or broker.scheme == world.harness.tls_scheme:
        raise NotRunnable("its URL has no port, or leads over TLS, which cannot be passed on")
    tries: list[float] = []
    there = False

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tries.append(time.monotonic())
        if not there:
            writer.close()
            return
        from_broker, to_broker = await asyncio.open_connection(broker.hostname, broker.port)
        await asyncio.gather(pipe(reader, to_broker), pipe(from_broker, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        user = broker.netloc.rpartition("@")[0]
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        url = broker._replace(netloc=f"{user}@{place}" if user else place).geturl()
        of_class("an absent broker, tried once", await opening(url), ConnectionFailed)
        once = len(tries)

        async def opened() -> None:
            async with Bus(url, config={"connect_timeout_s": 30}):
                pass

        task = asyncio.create_task(error_of(opened()))
        await asyncio.wait((task,), timeout=2.0)
        if task.done():
            raise Violation(f"30 s were to be waited for the broker, and after 2 s it ended with {task.result()!r}")
        if not once < len(tries) <= once + 20 * max(1, once):
            raise Violation(f"an absent broker was tried {len(tries) - once} times within 2 s")
        there = True
        async with asyncio.timeout(30):
            if (error := await task) is not None:
                raise Violation(f"the broker is there, and opening ended with {error!r}")
    finally:
        server.close()
    if (nowhere := unreachable(world.harness)) is not None:
        of_class("a port where nothing listens", await opening(nowhere), ConnectionFailed)


@check("M6", "a source that is deleted under its consumers is an error for them, and no silence", tier="X")
async def deleted(world: World) -> None:
    """A receiver that waits, a publisher, and a worker that may declare nothing."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    receiver = await world.receiver(transport, queue)
    receiving = asyncio.ensure_future(error_of(receiver.receive(1)))
    bus = _worker(world, queue, config={"topology": "assume"})
    async with bus.worker():
        await world.harness.delete(queue, world.name(queue))
        await asyncio.wait((receiving,), timeout=PROMPT_S * world.harness.patience)
        if not receiving.done():
            receiving.cancel()
            raise Violation("the source of a receiver was deleted, and it goes on waiting")
        error = receiving.result()
        of_class("a receiver of what was deleted", error, DestinationNotFound, TransportError)
        if getattr(error, "transient", False):
            raise Violation(f"waiting brings no deleted source back, and the error says that it may: {error!r}")
        (outcome,) = await world.try_publish(transport, queue, world.message())
        of_class("a publish to what was deleted", outcome, DestinationNotFound)
        await world.until(lambda: not bus.health().ready, "the health of a worker whose source is gone")
        await world.declare(transport, queue)
        await world.until(lambda: bus.health().ready, "a worker to go on when its source is back", within_s=30)
        await world.send(bus, queue, "x")
        await _all_handled(world)


@check("M7", "what a bus declared, and somebody deleted, is declared again", tier="X")
async def wiped(world: World) -> None:
    """A queue and a subscription, with their dead letters, under a worker."""
    queue, topic = world.queue(), world.topic()
    subscription = topic.subscription("s")
    bus = _worker(world, queue)

    @bus.handle(subscription, name="subscriber")
    async def handle(body: str, ctx: Context) -> None:
        world.handled(ctx)

    async with bus.worker():
        gone = (queue, queue.dead_letters, subscription, subscription.dead_letters)
        for address in gone:
            await world.harness.delete(address, world.name(address))

        async def all_back() -> bool:
            return all([await world.harness.native_exists(address, world.name(address)) for address in gone])

        await world.until(all_back, f"{', '.join(map(str, gone))} to be declared again")
        await world.until(lambda: bus.health().ready, "the bus to be ready again", within_s=30)
        await world.send(bus, queue, "x")
        await world.send(bus, topic, "y")
        await _all_handled(world)
