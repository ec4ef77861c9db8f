"""F: what a settlement means. What becomes of what nobody settles is in ``holding.py``."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from functools import partial

from busframe import Context, Reject, Retry
from busframe.conformance.check import Violation, check
from busframe.conformance.consuming import drain_until
from busframe.conformance.world import World
from busframe.errors import AlreadySettled, DestinationNotFound, SettlementLost, Unsupported
from busframe.logic.attempts import failures_recorded, record_failure
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Delivery
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, RELEASE, DeadLetter, Nack, Settlement
from busframe.spi.transport import Receiver

FIRST_FAILED_AT = "2024-01-01T00:00:00Z"


@check("F1", "what was acknowledged does not come back when its consumer is restarted; what was not, does")
async def acknowledged_for_good(world: World) -> None:
    """Three of six are acknowledged, every second one where that is for good; another client gets the others."""
    queue = world.queue()
    first = await world.open_client()
    await world.declare(first, queue)
    await world.publish(first, queue, *(world.message(b"%d" % n) for n in range(6)))
    receiver = await world.receiver(first, queue)
    taken = await world.take(receiver, 6)
    # What is acknowledged above an older message may come back with it where ``ack_gap`` says so.
    await world.settle(receiver, taken[:3] if first.capabilities.ack_gap else taken[::2])
    await world.close(receiver)
    await first.close()
    second = await world.open_client()
    await world.drain(await world.receiver(second, queue), 3)
    world.balanced()


@check("F2", "what was nacked is delivered again, with the same id and bytes, and what the nack says it carries")
async def nacked_again(world: World) -> None:
    """Three at once, and one of them twice."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    sent = {m.id: m for m in (world.message(b"\xff\x00%d" % n, headers={"n": str(n)}) for n in range(3))}
    await world.publish(transport, queue, *sent.values())
    receiver = await world.receiver(transport, queue)
    await world.settle(receiver, await world.take(receiver, 3), _failed(queue, 1))
    again = await world.take(receiver, 3)
    await world.settle(receiver, again[:1], _failed(queue, 2))
    again[:1] = await world.take(receiver, 1)
    failures = []
    for delivery in again:
        got, want = delivery.message, sent.get(delivery.message.id)
        if want is None or (got.body, got.headers) != (want.body, want.headers):
            raise Violation(f"nacked as {want!r}, and delivered again as {got!r}")
        failures.append(failures_recorded(delivery.carried, str(queue)))
    if transport.capabilities.attempt_exact and failures != [2, 1, 1]:
        raise Violation(f"2, 1 and 1 failures were recorded, and come back as {failures}")
    await world.settle(receiver, again)
    world.watch(receiver)
    world.balanced()


async def _at_least_one(world: World) -> None:
    """Where the broker does not count, each delivery is the first, or a later one."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await world.publish(transport, queue, world.message())
    receiver = await world.receiver(transport, queue)
    for _ in range(3):
        (delivery,) = await world.take(receiver, 1)
        if delivery.deliveries < 1:
            raise Violation(f"a delivery says that it is number {delivery.deliveries}")
        await world.settle(receiver, [delivery], RELEASE)


@check(
    "F5",
    "deliveries are counted 1, 2, 3 until a failure is recorded; attempt and redelivered say the same to a handler",
    tier="K",
    claimed=lambda claims: claims.delivery_count,
    unclaimed=_at_least_one,
)
async def counted(world: World) -> None:
    """Handed back twice, left behind, failed once, left behind again; then handlers see it."""
    queue = world.queue()
    transport = await world.open_client()
    exact = transport.capabilities.attempt_exact
    await world.declare(transport, queue)
    sent = world.message()
    await world.publish(transport, queue, sent)
    receiver = await world.receiver(transport, queue)
    for number in (1, 2):
        await world.settle(receiver, [await _numbered(world, receiver, number)], RELEASE)
    await _numbered(world, receiver, 3)
    await world.close(receiver)
    receiver = await world.receiver(transport, queue)
    await world.settle(receiver, [await _numbered(world, receiver, 4)], _failed(queue, 1))
    await _numbered(world, receiver, 1 if exact else 5)
    await world.close(receiver)
    seen: list[tuple[int, bool]] = []
    done = asyncio.Event()
    bus = world.bus()

    @bus.handle(queue, retry=Retry(max_attempts=20, delay_s=0))
    async def handler(body: dict[str, int], ctx: Context) -> None:
        seen.append((ctx.attempt, ctx.redelivered))
        if len(seen) < 3:
            raise ValueError("again")
        world.handled(ctx)
        done.set()

    async with bus.worker():
        await world.until(done.is_set, f"the third attempt at {sent.id}")
    first = 2 if exact else 6
    if seen != [(first, True), (first + 1, True), (first + 2, True)]:
        raise Violation(f"(attempt, redelivered) were {seen}, and the first attempt is number {first}")
    world.balanced()


@check("F6", "acknowledging twice, after a nack, or at once with something else has a defined end, and hurts no other")
async def settled_twice(world: World) -> None:
    """The second settlement is lost or was done; the first one stands."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await world.publish(transport, queue, *(world.message(b"%d" % n) for n in range(5)))
    receiver = await world.receiver(transport, queue)
    one, two, three, four, five = await world.take(receiver, 5)
    await world.settle(receiver, [one])
    for later in (ACK, RELEASE, Nack(), DeadLetter("rejected")):
        await _settle_late(receiver, (one, later))
    await world.settle(receiver, [two], Nack())
    await _settle_late(receiver, (two, ACK))
    world.history.let_go(three.message.id, str(id(receiver)))
    world.history.done(three.message.id, str(id(receiver)))
    if (await _settle_late(receiver, (three, ACK), (three, ACK)))[0] is not None:
        raise Violation("a message that is acknowledged twice in one call is not acknowledged")
    world.history.let_go(four.message.id, str(id(receiver)))
    ends = await asyncio.gather(_settle_late(receiver, (four, ACK)), _settle_late(receiver, (four, RELEASE)))
    if all(end[0] is not None for end in ends):
        raise Violation(f"of two settlements at once none was done: {ends}")
    again = await drain_until(world, receiver, two.message)
    await world.settle(receiver, [five])
    world.watch(receiver)
    if four.message.id not in [delivery.message.id for delivery in again]:
        world.history.done(four.message.id, str(id(receiver)))  # the acknowledgement was the first
    world.balanced()
    await _verbs_twice(world)


@check("F9", "of four messages all but the third are acknowledged; after a restart the third comes back")
async def acknowledged_with_a_gap(world: World) -> None:
    """The fourth may come back as well, where the transport says so."""
    queue = world.queue()
    first = await world.open_client()
    await world.declare(first, queue)
    await world.publish(first, queue, *(world.message(b"%d" % n) for n in range(4)))
    receiver = await world.receiver(first, queue)
    taken = await world.take(receiver, 4)
    await world.settle(receiver, taken[:2] + taken[3:])
    await world.close(receiver)
    await first.close()
    second = await world.open_client()
    back = await drain_until(world, await world.receiver(second, queue), taken[2].message)
    allowed = taken[2:] if second.capabilities.ack_gap else taken[2:3]
    strangers = {delivery.message.id for delivery in back} - {delivery.message.id for delivery in allowed}
    if strangers:
        raise Violation(f"{len(strangers)} messages came back that were acknowledged")
    world.balanced(duplicates=1 if second.capabilities.ack_gap else 0)


async def no_order(world: World) -> None:
    """Where no order is claimed, asking for it is refused at start."""
    bus = world.bus()

    @bus.handle(world.queue(), ordering="key")
    async def handler(body: dict[str, int]) -> None: ...

    await world.refused(bus, Unsupported)


def claims_order(claims: Capabilities) -> bool:
    """Whether the order of keys is claimed at all."""
    return claims.ordering != "none"


@check(
    "F10",
    "an unsettled message of one key does not stop what others acknowledge from being done for good",
    tier="K",
    claimed=claims_order,
    unclaimed=no_order,
)
async def keys_do_not_wait(world: World) -> None:
    """Eight keys, the first message of one of them unsettled; after a restart only that key comes back."""
    queue = world.queue()
    ordered = Entity(queue, ordering="key")
    first = await world.open_client()
    await world.declare(first, ordered)
    sent = [world.message(b"%d" % n, key=f"key-{n % 8}") for n in range(16)]
    await world.publish(first, queue, *sent)
    receiver = await world.receiver(first, ordered, prefetch=20)
    free = 14
    while free:
        (delivery,) = await world.take(receiver, 1)
        if delivery.message.key != "key-0":
            await world.settle(receiver, [delivery])
            free -= 1
    await world.close(receiver)
    await first.close()
    second = await world.open_client()
    receiver = await world.receiver(second, ordered, prefetch=20)
    back = await drain_until(world, receiver, sent[0], sent[8])
    keys = {delivery.message.key for delivery in back}
    # Where what lies above an unfinished message may come back, keys that share its partition may: never all.
    if len(keys) == 8 or (keys != {"key-0"} and not second.capabilities.ack_gap):
        raise Violation(f"after a restart there came back messages of {sorted(map(str, keys))}, not of key-0 alone")
    world.balanced(duplicates=14 if second.capabilities.ack_gap else 0, ordered=True)


@check("F14", "a rejected message ends in the dead letters, or is dropped, as its source declares; either way once")
async def rejected(world: World) -> None:
    """Two queues, one with and one without dead letters."""
    kept, dropped = world.queue(), world.queue()
    runs = Counter[str]()
    bus = world.bus()

    async def handler(body: dict[str, int], ctx: Context) -> None:
        runs[str(ctx.source)] += 1
        raise Reject("no such customer")

    bus.handle(kept, name="kept")(handler)
    bus.handle(dropped, name="dropped", dead_letter=False)(handler)
    async with bus.worker() as worker:
        message = await bus.publish(kept, {"n": 1})
        await bus.publish(dropped, {"n": 2})
        await world.until(lambda: len(runs) == 2, "both messages at their handlers")
        await worker.wait_idle(0.2)
    if runs != {str(kept): 1, str(dropped): 1}:
        raise Violation(f"rejected messages were handled {dict(runs)} times")
    if bus.statistics()[str(dropped)]["dropped"] != 1:
        raise Violation(f"one message was dropped, and the statistics are {bus.statistics()[str(dropped)]}")
    transport = await world.open_client()
    (letter,) = await world.dead(transport, kept, 1, within_s=5)
    reason = letter.dead.reason if letter.dead is not None else None
    if (letter.id, letter.body, reason) != (message.id, message.body, "rejected"):
        raise Violation(f"rejected as {message!r}, and dead-lettered as {letter!r}")
    for queue in (kept, dropped):
        world.watch(await world.receiver(transport, queue))
    with contextlib.suppress(DestinationNotFound):  # who drops needs no dead letters
        if letters := await transport.browse(dropped.dead_letters):
            raise Violation(f"a message that was to be dropped is a dead letter: {letters[0]!r}")


@check("F15", 'with ack="before" the handler starts only when the broker has the settlement')
async def at_most_once(world: World) -> None:
    """What was received, or is being handled, never comes back, whatever becomes of who has it."""
    queue = world.queue()
    first = await world.open_client()
    await world.declare(first, queue)
    await world.publish(first, queue, *(world.message() for _ in range(4)))
    receiver = await world.receiver(first, queue, ack="before")
    taken = await world.take(receiver, 2)
    await world.close(receiver)
    await first.close()
    second = await world.open_client()
    receiver = await world.receiver(second, queue)
    back = {delivery.message.id for delivery in await world.drain(receiver, 2)}
    await world.nothing(receiver)
    if again := back & {delivery.message.id for delivery in taken}:
        raise Violation(f"{len(again)} messages came back that were settled when they were received")
    await world.close(receiver)
    started: list[str] = []
    bus = world.bus(config={"drain_timeout_s": 0})

    @bus.handle(queue, ack="before")
    async def handler(body: dict[str, int], ctx: Context) -> None:
        started.append(ctx.message.id)
        if len(started) == 1:
            raise ValueError("no second attempt")
        await asyncio.Event().wait()

    async with bus.worker():
        await world.send(bus, queue, {"n": 1}, {"n": 2})
        await world.until(lambda: len(started) == 2, "both messages at their handler")
    world.watch(await world.receiver(second, queue))
    if len(started) > 2:
        raise Violation(f"two messages were handled {len(started)} times")


# ---------------------------------------------------------------------------------------------------- what they share


def _failed(source: object, times: int) -> Nack:
    return Nack(0.0, record_failure({}, str(source), times, FIRST_FAILED_AT))


async def _numbered(world: World, receiver: Receiver, number: int) -> Delivery:
    (delivery,) = await world.take(receiver, 1)
    if delivery.deliveries != number:
        raise Violation(f"delivery {number} says that it is number {delivery.deliveries}")
    return delivery


async def _settle_late(receiver: Receiver, *settled: tuple[Delivery, Settlement]) -> Sequence[Exception | None]:
    """Settle what may be settled already: done, or lost, and nothing else."""
    outcomes = await receiver.settle(settled)
    for (_, settlement), outcome in zip(settled, outcomes, strict=True):
        if not isinstance(outcome, SettlementLost | None):
            raise Violation(f"{settlement} of what is settled already ended as {outcome!r}")
    return outcomes


async def _verbs_twice(world: World) -> None:
    queue = world.queue()
    ends: list[object] = []
    bus = world.bus()

    @bus.handle(queue, ack="manual")
    async def handler(body: dict[str, int], ctx: Context) -> None:
        ends.extend(await asyncio.gather(ctx.ack(), ctx.nack(), return_exceptions=True))
        for verb in (ctx.ack, ctx.nack, partial(ctx.reject, "no")):
            ends.extend(await asyncio.gather(verb(), return_exceptions=True))
        world.handled(ctx)

    async with bus.worker() as worker:
        await world.send(bus, queue, {"n": 1})
        await world.until(lambda: len(ends) >= 5, "five verbs")
        await worker.wait_idle(0.2)
    if ends[0] is not None or len(ends) > 5 or not all(isinstance(end, AlreadySettled) for end in ends[1:]):
        raise Violation(f"the first of five verbs settles, and each other raises AlreadySettled; they ended as {ends}")
    world.balanced()
