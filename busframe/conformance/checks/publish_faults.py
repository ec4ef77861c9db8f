"""A: what a confirmation is worth when a client dies or the broker is silent."""

import asyncio
from uuid import uuid4

from busframe.conformance.check import Violation, check
from busframe.conformance.consuming import drain_until
from busframe.conformance.processes import crew
from busframe.conformance.world import World, failed_as
from busframe.errors import PublishOutcomeUnknown


@check("A3", "a message whose publish has returned is on the broker, if the client is killed at that moment", tier="X")
async def killed_publisher(world: World) -> None:
    """Of 40 that are under way together ten return; the others may be there or not."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    history = world.history
    for count in (1, 10):
        ids = [uuid4().hex for _ in range(4 * count)]
        history.tried += ids
        async with crew(world, queue, does="publish", ids=tuple(ids), dies_after=count) as publishers:
            await publishers.died(await publishers.start())
            confirmed = [line.message for line in publishers.look("published")]
        if len(confirmed) != count:
            raise Violation(f"the process wrote {len(confirmed)} ids, and not {count}, before it died")
        history.confirmed += confirmed
        history.unknown += [id for id in ids if id not in confirmed]
    receiver = await world.receiver(transport, queue)

    def handled() -> set[str]:
        return {message for message, _ in history.handled}

    while missing := set(history.confirmed) - handled():
        try:
            await world.settle(receiver, await world.take(receiver, 1))
        except Violation as violation:
            raise Violation(
                f"{len(missing)} of {len(history.confirmed)} confirmed messages are lost: {violation}"
            ) from None
    await world.rest(receiver)
    world.balanced()


@check(
    "A8", "a publish that is not answered in time is of unknown outcome, and its id can be published again", tier="X"
)
async def unanswered(world: World) -> None:
    """Not failed: it may be there. Where the broker looks for duplicates there is one, else one or two."""
    claims = await world.capabilities()
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await world.publish(transport, queue, world.message())
    freezing = asyncio.create_task(world.harness.freeze(1.5))
    outcome: Exception | None = None
    message = world.message()
    try:
        while outcome is None and not freezing.done():
            message = world.message()
            (outcome,) = await world.try_publish(transport, queue, message, timeout_s=0.3)
    finally:
        await freezing
    if outcome is None:
        raise Violation("every publish was confirmed, although the broker was frozen for 1.5 s")
    failed_as(outcome, PublishOutcomeUnknown)
    if getattr(outcome, "message_id", "") not in ("", message.id):  # the core fills in an empty one
        raise Violation(f"the outcome of message {message.id} names another one: {outcome!r}")
    await world.publish(transport, queue, message)
    receiver = await world.receiver(transport, queue, prefetch=50)
    await drain_until(world, receiver, message)
    world.balanced(duplicates=0 if claims.dedup_window_s else 1)
