"""V: dead letters of several subscriptions, and of the largest message."""

from dataclasses import replace

from busframe.conformance.check import Violation, check
from busframe.conformance.world import World
from busframe.handling.context import Context
from busframe.handling.outcomes import Reject
from busframe.logic.retry import Retry
from busframe.logic.size import message_bytes

LARGE_BYTES = 1024 * 1024
"""Stands for the limit where a transport has none."""


@check("V18", "two subscriptions dead-letter one message: two dead letters")
async def letters_of_each(world: World) -> None:
    """Each with its own source and reason, under the one id."""
    topic = world.topic(str)
    subscriptions = {name: topic.subscription(name) for name in ("billing", "shipping")}
    bus = world.bus()

    async def give_up(body: str, ctx: Context) -> None:
        world.handled(ctx)
        raise Reject(f"not for {ctx.handler}")

    for name, subscription in subscriptions.items():
        bus.handle(subscription, name=name)(give_up)
    async with bus.worker():
        sent = await world.send(bus, topic, "1", "2")
        for name, subscription in subscriptions.items():
            letters = await world.letters(bus, subscription, len(sent))
            if {letter.message.id for letter in letters} != {message.id for message in sent}:
                raise Violation(f"the dead letters of {subscription} have other ids than the messages")
            for letter in letters:
                dead = letter.message.dead
                if dead is None or dead.source != subscription.address or dead.error_message != f"not for {name}":
                    raise Violation(f"a dead letter of {subscription} says {dead}")
    world.balanced(duplicates=len(sent))


@check("V28", "a message of the maximal size is dead-lettered with its record")
async def largest_letter(world: World) -> None:
    """There is room kept free for the record: it is whole, but for the stack, which not every broker has room for."""
    limit = (await world.capabilities()).max_message_bytes or LARGE_BYTES
    queue = world.queue(bytes)
    bus = world.bus()

    @bus.handle(queue, retry=Retry(max_attempts=1))
    async def work(body: bytes, ctx: Context) -> None:
        raise ValueError("no room. " * 20)

    async with world.client() as client:
        await world.declare(client, queue)
        empty = world.message(
            b"", content_type="application/octet-stream", headers={f"x-{n}": "v" * 4000 for n in range(3)}
        )
        largest = replace(empty, body=b"x" * (limit - message_bytes(empty)))
        await world.publish(client, queue, largest, timeout_s=30)
        async with bus.worker():
            (letter,) = await world.letters(bus, queue, 1)
    if letter.message.body != largest.body or letter.message.headers != largest.headers:
        raise Violation(f"the letter has {message_bytes(letter.message)} bytes, and the message had {limit}")
    dead = letter.message.dead
    if dead is None:
        raise Violation("the letter has no record of its failure")
    said = (dead.reason, dead.error_type, dead.attempts, dead.source, dead.handler)
    expected = ("attempts", "ValueError", 1, queue.address, "work")
    if said != expected or not (dead.error_message or "").startswith("no room. no room."):
        raise Violation(f"the record says {said} and {dead.error_message!r}, not {expected} and the error's text")
