"""U: what a handler does and what becomes of its message go together."""

import asyncio

from busframe.conformance.attempts import PROMPT_S, Attempts
from busframe.conformance.check import Violation, check
from busframe.conformance.world import World, together
from busframe.errors import PublishError
from busframe.handling.context import Context
from busframe.logic.retry import Retry
from busframe.model.message import Message


@check(
    "U1", "only a success counts as one; what handlers publish is there before the acknowledgement; no crash ends it"
)
async def handlers_and_their_messages(world: World) -> None:
    """Each part with queues of its own, at the same time."""
    await together(_published_before(world), _failed_publish(world), _only_after_success(world), _crash(world))
    world.balanced()


async def _published_before(world: World) -> None:
    """While the handler still runs, another consumer gets what it published, and its own message is not settled."""
    queue, out = world.queue(), world.queue()
    there = asyncio.Event()
    bus = world.bus(uses=[out])

    @bus.handle(queue)
    async def handle(body: str, ctx: Context) -> None:
        message = await ctx.publish(out, "from a handler")
        world.history.tried.append(message.id)
        world.history.confirmed.append(message.id)
        if message.correlation_id != ctx.message.id:
            raise Violation(f"the correlation id of what it published is {message.correlation_id}")
        async with asyncio.timeout(PROMPT_S * world.harness.patience):
            await there.wait()
        world.handled(ctx)

    transport = await world.open_client()
    async with bus.worker():
        await world.send(bus, queue, "x")
        await world.drain(await world.receiver(transport, out), 1)
        there.set()
        await world.until(lambda: bus.statistics()[str(queue)]["handled"] == 1, "the handler to end")
    world.watch(await world.receiver(transport, queue))


async def _failed_publish(world: World) -> None:
    """A publish that fails is a failure of the handler: the message is tried again, under fresh ids."""
    queue, out, missing = world.queue(), world.queue(), world.queue()
    attempts = Attempts(world)
    errors: list[Exception] = []
    bus = world.bus(uses=[out])

    @bus.handle(queue, retry=Retry(max_attempts=3, delay_s=0))
    async def handle(body: str, ctx: Context) -> None:
        message = await ctx.publish(out, "again at each attempt")
        world.history.tried.append(message.id)
        world.history.confirmed.append(message.id)
        if attempts.note(ctx) == 1:
            try:
                await ctx.publish(missing, "nowhere")
            except PublishError as error:
                errors.append(error)
                raise
        world.handled(ctx)

    transport = await world.open_client()
    async with bus.worker():
        (message,) = await world.send(bus, queue, "x")
        await attempts.until(2, "the attempt after a publish that failed")
        copies = await world.drain(await world.receiver(transport, out), 2)
    if len({copy.message.id for copy in copies}) != 2 or not errors:
        raise Violation(f"two attempts published {[copy.message.id for copy in copies]}, and failed with {errors}")
    if len(attempts.of(message.id)) != 2:
        raise Violation(f"{len(attempts.all)} attempts, and the second one succeeded")


async def _only_after_success(world: World) -> None:
    """A message that failed, or was handed back, is no duplicate when it comes again."""
    queue = world.queue()
    attempts = Attempts(world)
    bus = world.bus()

    @bus.handle(queue, retry=Retry(max_attempts=5, delay_s=0.1, jitter=0, factor=1))
    async def handle(body: Message, ctx: Context) -> None:
        if attempts.note(ctx) < 3:
            raise RuntimeError("not yet")
        world.handled(ctx)

    async with bus.worker():
        (message,) = await world.send(bus, queue, "x")
        await world.until(lambda: len(attempts.of(message.id)) == 3, "the third attempt, which succeeds")
        await attempts.quiet()


async def _crash(world: World) -> None:
    """Whatever a handler raises, the loop goes on, and the message has an end."""
    queue = world.queue()
    bus = world.bus(config={"drain_timeout_s": 1})

    @bus.handle(queue, concurrency=1, retry=Retry(max_attempts=1))
    async def handle(body: str, ctx: Context) -> None:
        if body == "exit":
            raise SystemExit(3)
        if body == "cancel":
            raise asyncio.CancelledError
        world.handled(ctx)

    transport = await world.open_client()
    async with bus.worker():
        crashed = [await bus.publish(queue, body) for body in ("exit", "cancel")]
        (message,) = await world.send(bus, queue, "fine")
        await world.until(lambda: message.id in dict(world.history.handled), "a message behind two that crash")
        letters = await world.dead(transport, queue, 2)
    if {letter.id for letter in letters} != {message.id for message in crashed}:
        raise Violation(f"the dead letters were {[letter.id for letter in letters]}")
