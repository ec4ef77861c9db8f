"""G: order. A transport may hand out one unsettled message of a key at a time, or many: the core has lanes."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from busframe import Context, Retry
from busframe.bus import Bus
from busframe.conformance.check import Violation, check
from busframe.conformance.checks.settling import claims_order, no_order
from busframe.conformance.consuming import drain_until
from busframe.conformance.world import World
from busframe.conformance.wrapped import WrappedReceiver, WrappedTransport
from busframe.model.delivery import Delivery
from busframe.model.destination import Queue
from busframe.model.entity import Entity
from busframe.model.message import Message
from busframe.model.settlement import RELEASE, Settlement
from busframe.spi.transport import Host, Receiver, Transport

Work = Callable[[Context], Awaitable[None]]

FIFO = 1000
WORK_S = 0.001
"""What a handler takes that is to let others run."""


class _Keys:
    """Handlers that write down in which order messages of a key begin, and whether two of one run at once.

    Args:
        world: of the check.
        work: what handlers do.
    """

    def __init__(self, world: World, work: Work) -> None:
        self.begun: defaultdict[str, list[str]] = defaultdict(list)
        self.done: set[str] = set()
        self.problems: list[str] = []
        self._world = world
        self._work = work
        self._running: Counter[str] = Counter()

    def bus(self, queue: Queue[Any], **options: Any) -> Bus:
        """A bus that handles a queue in order."""
        bus = self._world.bus(**{name: options.pop(name) for name in ("transport",) if name in options})

        @bus.handle(queue, ordering="key", **options)
        async def handler(body: bytes, ctx: Context) -> None:
            key, id = ctx.message.key or "", ctx.message.id
            self._running[key] += 1
            if self._running[key] > 1:
                self.problems.append(f"two messages of {key} at once")
            if not self.begun[key] or self.begun[key][-1] != id:
                self.begun[key].append(id)
            try:
                await self._work(ctx)
                if id not in self.done:
                    self._world.handled(ctx)
                self.done.add(id)
            finally:
                self._running[key] -= 1

        return bus

    def check(self, sent: Sequence[Message], *, duplicates: int = 0) -> None:
        """Demand that every key's messages began in their order, one after the other."""
        if self.problems:
            raise Violation(f"{len(self.problems)} times: {self.problems[0]}")
        self._world.balanced(ordered=True, duplicates=duplicates)


async def _settled_many(world: World, keys: _Keys, sent: Sequence[Message]) -> None:
    await world.until(lambda: len(keys.done) >= len(sent), f"all of {len(sent)} messages handled", within_s=30)


@check(
    "G1",
    f"one key, one producer, one consumer: {FIFO} messages in their order, through a reconnect",
    tier="K",
    claimed=claims_order,
    unclaimed=no_order,
)
async def first_in_first_out(world: World) -> None:
    """The connection is cut when a third is handled, where the harness can."""
    queue = world.queue()

    async def work(ctx: Context) -> None: ...

    keys = _Keys(world, work)
    transport = await world.open_client()
    sent = [world.message(b"%d" % n, key="one") for n in range(FIFO)]
    async with keys.bus(queue).worker():
        await world.publish(transport, queue, *sent)
        await world.until(lambda: len(keys.done) >= FIFO // 3, "a third of the messages handled", within_s=30)
        with world.part("a reconnect"):
            await world.harness.disconnect()
        await _settled_many(world, keys, sent)
    keys.check(sent)
    place = {message.id: number for number, message in enumerate(sent)}
    begun = [place[id] for id in dict.fromkeys(keys.begun["one"])]  # after a reconnect some may come again, behind
    if begun != list(range(FIFO)):
        wrong = next((at for at, number in enumerate(begun) if number != at), len(begun))
        near = ", ".join(map(str, begun[max(0, wrong - 3) : wrong + 5]))
        raise Violation(f"messages of one key began in another order than they were published in: …, {near}, …")


@check(
    "G2",
    "each of 16 keys is in order, whatever number of consumers there is",
    tier="K",
    claimed=claims_order,
    unclaimed=no_order,
)
async def keys_in_order(world: World) -> None:
    """Ten slots in one worker; in four workers where the order is the whole fleet's."""
    queue = world.queue()
    turns = 0

    async def work(ctx: Context) -> None:
        nonlocal turns
        turns += 1
        await asyncio.sleep(WORK_S * (turns % 4))  # some quicker than others

    keys = _Keys(world, work)
    transport = await world.open_client()
    sent = [world.message(b"%d" % n, key=f"key-{n % 16}") for n in range(320)]
    async with AsyncExitStack() as stack:
        for _ in range(4 if transport.capabilities.ordering == "fleet" else 1):
            await stack.enter_async_context(keys.bus(queue, concurrency=10).worker())
        await world.publish(transport, queue, *sent)
        await _settled_many(world, keys, sent)
    keys.check(sent)


@check(
    "G3",
    "the next message of a key begins only when the one before is settled; other keys do not wait",
    tier="K",
    claimed=claims_order,
    unclaimed=no_order,
)
async def withheld(world: World) -> None:
    """A handler that does not return, then a settlement that takes its time."""
    queue = world.queue()
    returns, settles = asyncio.Event(), asyncio.Event()

    async def work(ctx: Context) -> None:
        if ctx.message.body == b"slow":
            await returns.wait()

    keys = _Keys(world, work)
    slowly = partial(_slowly, world, settles)
    async with AsyncExitStack() as stack:
        transport = await world.open_client()
        for _ in range(2 if transport.capabilities.ordering == "fleet" else 1):
            await stack.enter_async_context(keys.bus(queue, transport=slowly).worker())
        stack.callback(settles.set)  # whatever goes wrong: else a worker waits for its handlers
        stack.callback(returns.set)
        warm = [world.message(key=f"warm-{n}") for n in range(60)]  # until enough may be in flight
        await world.publish(transport, queue, *warm)
        await _settled_many(world, keys, warm)
        slow, second, third = world.message(b"slow", key="a"), world.message(key="a"), world.message(key="a")
        others = [world.message(key=key) for key in ("b", "c", "b", "c")]
        await world.publish(transport, queue, slow, second, third, *others)
        await world.until(lambda: {m.id for m in others} <= keys.done, "messages of other keys beside one that runs")
        await world.quiet(lambda: len(keys.begun["a"]))
        if keys.begun["a"] != [slow.id]:
            raise Violation(f"while the first of a key runs, {len(keys.begun['a']) - 1} others of it began")
        returns.set()
        await world.until(lambda: slow.id in keys.done, "the end of the first of a key")
        await world.quiet(lambda: len(keys.begun["a"]))
        if keys.begun["a"] != [slow.id]:
            raise Violation("the next message of a key began before the one before was settled")
        settles.set()
        await world.until(lambda: third.id in keys.done, "the others of the key")
    keys.check([slow, second, third])


@check(
    "G4",
    "a message that failed blocks exactly its key, until it succeeds or is dead-lettered",
    tier="K",
    claimed=claims_order,
    unclaimed=no_order,
)
async def blocks_its_key(world: World) -> None:
    """One fails until all of another key are handled, one fails for good."""
    queue = world.queue()
    policy = Retry(
        max_attempts=300,
        delay_s=0.02,
        factor=1,
        rules={LookupError: Retry(max_attempts=3, delay_s=0.02, factor=1)},
    )
    sent = {f"{key}{n}": world.message(f"{key}{n}".encode(), key=key) for n in range(1, 4) for key in "abc"}
    free = {sent[name].id for name in ("c1", "c2", "c3")}

    async def work(ctx: Context) -> None:
        if ctx.message.body == b"a1" and not free <= keys.done:
            raise RuntimeError("not yet")
        if ctx.message.body == b"b1":
            raise LookupError("never")

    keys = _Keys(world, work)
    transport = await world.open_client()
    async with AsyncExitStack() as stack:
        for _ in range(2 if transport.capabilities.ordering == "fleet" else 1):
            await stack.enter_async_context(keys.bus(queue, retry=policy).worker())
        await world.publish(transport, queue, *sent.values())
        wanted = {message.id for name, message in sent.items() if name != "b1"}
        await world.until(lambda: wanted <= keys.done, "all but the one that fails for good")
        await world.dead(transport, queue, 1)
    for key in "abc":
        expected = [sent[f"{key}{n}"].id for n in range(1, 4)]
        if keys.begun[key] != expected:
            raise Violation(f"of key {key} there began {len(keys.begun[key])} in another order than 1, 2, 3")
    world.history.done(sent["b1"].id, "dead letters")
    if keys.problems:
        raise Violation(keys.problems[0])
    world.balanced()


@check("G5", "one consumer gets a key's messages in their order, but for those that are marked as delivered again")
async def no_jump_back(world: World) -> None:
    """Every tenth message is handed back once."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    sent = [world.message(b"%d" % n, key=f"key-{n % 8}") for n in range(200)]
    await world.publish(transport, queue, *sent)
    receiver = await world.receiver(transport, queue, prefetch=5)
    place = {message.id: number for number, message in enumerate(sent)}
    newest: dict[str, int] = defaultdict(int)
    handed_back: set[str] = set()
    done = 0
    while done < len(sent):
        (delivery,) = await world.take(receiver, 1)
        id, key = delivery.message.id, delivery.message.key or ""
        if delivery.deliveries == 1:
            if place[id] < newest[key]:
                raise Violation(f"message {place[id]} of {key} came behind {newest[key]}, and for the first time")
            newest[key] = place[id]
        if place[id] % 10 == 0 and id not in handed_back:
            handed_back.add(id)
            await world.settle(receiver, [delivery], RELEASE)
        else:
            await world.settle(receiver, [delivery])
            done += 1
    world.watch(receiver)
    world.balanced()


@check(
    "G6",
    "many published in one call, one after the other, or through a cut, are stored in their order",
    tier="K",
    claimed=claims_order,
    unclaimed=no_order,
)
async def published_in_order(world: World) -> None:
    """More than one window of ``publish_many``, from a generator; one by one; and through a cut."""
    queue = world.queue()
    ordered = Entity(queue, ordering="key")
    transport = await world.open_client()
    await world.declare(transport, ordered)
    bus = world.bus()
    async with bus:
        many = await bus.publish_many(queue, ({"n": n} for n in range(1500)), key="one")
        sent = [*many, *[await bus.publish(queue, {"n": n}, key="one") for n in range(1500, 1520)]]
    receiver = await world.receiver(transport, ordered, prefetch=200)
    got: list[str] = []
    while len(got) < len(sent):
        (delivery,) = await world.take(receiver, 1)
        await world.settle(receiver, [delivery])
        got.append(delivery.message.id)
    wrong = sum(id != message.id for id, message in zip(got, sent, strict=True))
    if wrong:
        raise Violation(f"of {len(sent)} messages of one key {wrong} are at another place than they were published at")
    await world.nothing(receiver)
    await world.close(receiver)  # what it finished within ``ack_lag_s`` may come back through a cut
    with world.part("a cut"):
        await _in_order_through_a_cut(world, transport, ordered)


async def _in_order_through_a_cut(world: World, transport: Transport, ordered: Entity) -> None:
    """What is under way, what waits for the connection, and what follows: whatever is confirmed is in its order."""
    queue = world.queue()
    ordered = replace(ordered, address=queue)
    await world.declare(transport, ordered)
    sent = [world.message(b"%d" % n, key="one") for n in range(400)]
    publishing = asyncio.ensure_future(world.try_publish(transport, queue, *sent[:200]))
    await asyncio.sleep(0)  # so that they are under way
    await world.harness.disconnect()
    for messages in (sent[200:300], sent[300:]):
        await world.try_publish(transport, queue, *messages)
    await publishing
    sure = [message for message in sent if message.id in set(world.history.confirmed)]
    if not sure:
        raise Violation("of 400 messages published through a cut none was confirmed")
    receiver = await world.receiver(transport, ordered, prefetch=200)
    got = [delivery.message.id for delivery in await drain_until(world, receiver, *sure)]
    wanted = [message.id for message in sure]
    if [id for id in got if id in wanted] != wanted:
        raise Violation(f"of {len(wanted)} messages that were confirmed through a cut some came in another order")


@check("G7", "with concurrency=1 handlers run one after the other")
async def one_at_a_time(world: World) -> None:
    """Thirty messages, each of which lets others run."""
    queue = world.queue()
    running = most = 0
    bus = world.bus()

    @bus.handle(queue, concurrency=1, prefetch=20)
    async def handler(body: dict[str, int], ctx: Context) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(WORK_S)
        running -= 1
        world.handled(ctx)

    async with bus.worker():
        await world.send(bus, queue, *({"n": n} for n in range(30)))
        await world.until(lambda: len(world.history.handled) >= 30, "30 messages handled")
    if most > 1:
        raise Violation(f"with concurrency=1 {most} handlers ran at once")
    world.balanced()


class _SettlesSlowly(WrappedReceiver):
    """Lets what came of a message called slow wait."""

    def __init__(self, inner: Receiver, settles: asyncio.Event) -> None:
        super().__init__(inner)
        self._settles = settles

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        if any(delivery.message.body == b"slow" for delivery, _ in settled):
            await self._settles.wait()
        return await self.inner.settle(settled)


def _slowly(world: World, settles: asyncio.Event, host: Host) -> Transport:
    return WrappedTransport(world.harness.transport(host), lambda inner: _SettlesSlowly(inner, settles))
