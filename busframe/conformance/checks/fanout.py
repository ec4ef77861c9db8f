"""D: every subscription gets every message, and none knows of another."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from busframe.conformance.check import Violation, check
from busframe.conformance.world import QUIET_S, World
from busframe.handling.context import Context
from busframe.logic.retry import Retry
from busframe.model.destination import Subscription
from busframe.model.message import Message
from busframe.model.settlement import ACK, DeadLetter, Nack
from busframe.spi.transport import Receiver


def got_all(of: object, sent: Sequence[Message], got: Sequence[str]) -> None:
    """Demand that a subscription got each message once, and no other."""
    times, wanted = Counter(got), {message.id for message in sent}
    problems = {
        "lost": len(wanted - times.keys()),
        "unexpected": len(times.keys() - wanted),
        "more than once": sum(count > 1 for count in times.values()),
    }
    if any(problems.values()):
        said = ", ".join(f"{count} {what}" for what, count in problems.items() if count)
        raise Violation(f"of {len(sent)} messages {of} got {len(times)}: {said}")


async def share(world: World, receivers: Sequence[Receiver], count: int) -> list[list[str]]:
    """What consumers get that acknowledge at once, together so many and, for a quiet period, no more; for each, ids."""
    got: list[list[str]] = [[] for _ in receivers]

    async def consume(receiver: Receiver, ids: list[str]) -> None:
        while True:
            deliveries = await receiver.receive(3)
            outcomes = await receiver.settle([(delivery, ACK) for delivery in deliveries])
            if any(outcomes):
                raise Violation(f"acknowledging ended as {outcomes}")
            ids += [delivery.message.id for delivery in deliveries]

    tasks = [asyncio.create_task(consume(receiver, ids)) for receiver, ids in zip(receivers, got, strict=True)]
    try:
        await world.until(
            lambda: sum(map(len, got)) >= count or any(task.done() for task in tasks),
            f"{len(receivers)} consumers get {count} messages together",
            within_s=10.0,
        )
        await asyncio.wait(tasks, timeout=QUIET_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end
    return got


@check("D1", "two subscriptions each get all messages")
async def each_gets_all(world: World) -> None:
    """And what is published afterwards as well."""
    topic = world.topic()
    subscriptions = [topic.subscription(name) for name in ("a", "b")]
    transport = await world.open_client()
    await world.declare(transport, *subscriptions)
    sent = [world.message(b"%d" % n) for n in range(30)]
    await world.publish(transport, topic, *sent[:15])
    receivers = [await world.receiver(transport, subscription) for subscription in subscriptions]
    await world.publish(transport, topic, *sent[15:])
    got = await asyncio.gather(*(share(world, [receiver], len(sent)) for receiver in receivers))
    for subscription, (ids,) in zip(subscriptions, got, strict=True):
        got_all(subscription, sent, ids)


@check("D2", "members of a subscription share its messages, and each subscription gets all")
async def members_share(world: World) -> None:
    """Each message is handled by one member of each subscription; members may live in other processes."""
    topic = world.topic()
    subscriptions = [topic.subscription(name) for name in ("a", "b")]
    clients = [await world.open_client() for _ in range(2)]
    await world.declare(clients[0], *subscriptions)
    members = [
        [await world.receiver(client, subscription, prefetch=3) for client in clients] for subscription in subscriptions
    ]
    sent = [world.message(b"%d" % n) for n in range(60)]
    reading = [asyncio.create_task(share(world, receivers, len(sent))) for receivers in members]
    await world.publish(clients[0], topic, *sent)
    for subscription, got in zip(subscriptions, await asyncio.gather(*reading), strict=True):
        got_all(subscription, sent, [id for ids in got for id in ids])


@check("D3", "failing, blocking and dead-lettering in one subscription do not reach another")
async def independent(world: World) -> None:
    """On the driver interface, and with workers whose handlers fail or hang."""
    topic = world.topic()
    bad, good = topic.subscription("bad"), topic.subscription("good")
    transport = await world.open_client()
    await world.declare(transport, bad, good)
    sent = [world.message(b"%d" % n) for n in range(9)]
    await world.publish(transport, topic, *sent)
    receiver = await world.receiver(transport, bad)
    held = await world.take(receiver, 9)
    delay_s = 0.2 if (await world.capabilities()).nack_delay_max_s else 0.0
    await world.settle(receiver, held[:3], DeadLetter("rejected", carried={"bf-dead-reason": "rejected"}))
    await world.settle(receiver, held[3:6], Nack(delay_s, {"bf-attempt": f"1 {bad}"}))
    other = await world.receiver(transport, good)
    first = await world.take(other, 9)
    got_all(good, sent, [delivery.message.id for delivery in first])
    wrong = [delivery for delivery in first if delivery.deliveries != 1 or delivery.carried]
    if wrong:
        raise Violation(f"{len(wrong)} messages came to {good} with what happened in {bad}")
    again = await world.take(receiver, 3)
    if {delivery.message.id for delivery in again} != {delivery.message.id for delivery in held[3:6]}:
        raise Violation(f"{bad} failed on three messages and did not get the same three again")
    await world.settle(receiver, [*again, *held[6:]])
    await world.settle(other, first)
    await world.nothing(other)
    await world.dead(transport, bad, 3)
    await world.dead(transport, good, 0)
    await receiver.close()
    await other.close()
    await _hanging_handler(world, bad, good)


async def _hanging_handler(world: World, bad: Subscription[Any], good: Subscription[Any]) -> None:
    bus, handled = world.bus(), list[str]()
    released = asyncio.Event()

    @bus.handle(bad, concurrency=2, retry=Retry(max_attempts=2, delay_s=0))
    async def fails(body: bytes, ctx: Context) -> None:
        if body == b"hang":
            await released.wait()
        raise RuntimeError("as it should")

    @bus.handle(good)
    async def works(body: bytes, ctx: Context) -> None:
        handled.append(ctx.message.id)

    async with bus.worker():
        sent = [await bus.publish(bad.topic, body) for body in (b"hang", b"hang", *[b"fail"] * 10)]
        await world.until(lambda: len(handled) >= len(sent), f"{good} handles 12 messages beside one that hangs")
        released.set()
        await world.until(
            lambda: bus.statistics()[str(bad)]["dead_lettered"] == len(sent), f"all 12 messages fail in {bad}"
        )
        got_all(good, sent, handled)


def takes(where: Mapping[str, str | Sequence[str]], headers: Mapping[str, str]) -> bool:
    """What a filter means, said once more: the core's own function is what is to be checked."""
    return all(headers.get(name) in ([values] if isinstance(values, str) else values) for name, values in where.items())


@check("D4", "a subscription with a filter gets what matches, and nothing else")
async def filtered(world: World) -> None:
    """One value, several values, several names, no filter; wherever the filter is evaluated."""
    topic = world.topic()
    filters: dict[str, Mapping[str, str | Sequence[str]]] = {
        "one": {"tenant": "a"},
        "several": {"tenant": ("a", "b")},
        "names": {"tenant": "a", "kind": ("x", "y")},
        "none": {},
    }
    subscriptions = {name: topic.subscription(name, where=where) for name, where in filters.items()}
    bus, got = world.bus(), dict[str, list[str]]((name, []) for name in filters)

    async def handle(body: bytes, ctx: Context) -> None:
        got[ctx.handler].append(ctx.message.id)

    for name, subscription in subscriptions.items():
        bus.handle(subscription, name=name)(handle)
    async with bus.worker():
        headers = [{"tenant": t, "kind": k} for t in ("a", "b", "c", "A", "") for k in ("x", "y", "z")]
        headers += [{}, {"tenant": "a"}, {"kind": "x"}, {"Tenant": "a"}, {"tenant": "ab"}, {"tenant": "a,b"}]
        sent = [await bus.publish(topic, b"", headers=each) for each in headers]
        wanted = {
            name: [message for message in sent if takes(where, message.headers)] for name, where in filters.items()
        }
        await world.until(
            lambda: all(len(got[name]) >= len(wanted[name]) for name in filters),
            f"the filters take {', '.join(f'{len(w)} ({name})' for name, w in wanted.items())} messages",
        )
        await world.quiet(lambda: sum(map(len, got.values())))
        for name, subscription in subscriptions.items():
            got_all(f"{subscription} with the filter {filters[name]}", wanted[name], got[name])
    async with bus:
        for subscription in subscriptions.values():
            await world.letters(bus, subscription, 0)
