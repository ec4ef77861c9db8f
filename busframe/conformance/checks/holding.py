"""F: what becomes of what is held and not settled, or settled too late."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from busframe import Context, Retry
from busframe.conformance.check import Violation, check
from busframe.conformance.consuming import consuming
from busframe.conformance.world import World, together
from busframe.conformance.wrapped import WrappedReceiver, WrappedTransport
from busframe.errors import ClosedError, SettlementLost, TransportError, Unsupported
from busframe.model.delivery import Delivery
from busframe.model.settlement import ACK, RELEASE, Ack, DeadLetter, Nack, Settlement
from busframe.spi.transport import Host, Receiver, Transport

CLOSED_WITHIN_S = 5.0


@check("F3", "what a client holds unsettled that goes away is delivered to another one")
async def left_behind(world: World) -> None:
    """One client takes all and settles a part; another one waits already when it goes."""
    queue = world.queue()
    first = await world.open_client()
    await world.declare(first, queue)
    await world.publish(first, queue, *(world.message(b"%d" % n) for n in range(5)))
    receiver = await world.receiver(first, queue)
    taken = await world.take(receiver, 5)
    await world.settle(receiver, taken[:2])
    second = await world.open_client()
    async with consuming(world, await world.receiver(second, queue)) as settled:
        world.history.gone(str(id(receiver)))
        await first.close()
        await world.until(lambda: len(settled) >= 3, "three messages that another client left behind", within_s=5)
    world.balanced()


async def _no_holding(world: World) -> None:
    """Where nothing can be held, a retry that would wait in its lane is refused at start."""
    bus = world.bus()

    @bus.handle(world.queue(), ordering="key", retry=Retry(delay_s=1))
    async def handler(body: dict[str, int]) -> None: ...

    await world.refused(bus, Unsupported)


@check(
    "F4",
    "what is held stays with who holds it, longer than any lock, and can be settled; unless its client falls silent",
    tier="K",
    claimed=lambda claims: claims.hold_max_s > 0,
    unclaimed=_no_holding,
)
async def held_alone(world: World) -> None:
    """For three locks of the broker, or a second, while another client waits for messages; and where it has locks."""
    if world.harness.lock_s is None:
        await _held_alone(world)
    else:
        await together(_held_alone(world), _lost_by_silence(world, world.harness.lock_s))
    world.balanced()


async def _held_alone(world: World) -> None:
    queue = world.queue()
    first, second = await world.open_client(), await world.open_client()
    hold_s = min(first.capabilities.hold_max_s, 3 * world.harness.lock_s if world.harness.lock_s else 1.0)
    await world.declare(first, queue)
    await world.publish(first, queue, *(world.message() for _ in range(3)))
    receiver = await world.receiver(first, queue)
    taken = await world.take(receiver, 3)
    other = await world.receiver(second, queue)
    await world.nothing(other, quiet_s=hold_s)
    await world.settle(receiver, taken)
    world.watch(other)


async def _lost_by_silence(world: World, lock_s: float) -> None:
    """A client that renews nothing any more loses what it holds to another one, and cannot settle it."""
    with world.part("a client that falls silent"):
        queue = world.queue()
        silent, other = await world.open_client(), await world.open_client()
        await world.declare(silent, queue)
        await world.publish(silent, queue, world.message())
        receiver = await world.receiver(silent, queue)
        (held,) = await world.take(receiver, 1)
        await world.harness.silence(silent)
        world.history.gone(str(id(receiver)))
        successor = await world.receiver(other, queue)
        (anew,) = await world.take(successor, 1, within_s=10 + 3 * lock_s)
        if not await _settle_lost(world, receiver, (held, ACK)):
            await world.settle(successor, [anew])
        world.watch(successor)


@check("F7", "what was delivered over a lost connection cannot be settled, and never settles another message", tier="X")
async def lost_with_the_connection(world: World) -> None:
    """Every settlement of old deliveries, while some are held anew."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await world.publish(transport, queue, *(world.message(b"%d" % n) for n in range(5)))
    receiver = await world.receiver(transport, queue)
    old = await world.take(receiver, 5)
    await world.harness.take_back()
    world.history.gone(str(id(receiver)))
    anew = await world.take(receiver, 3, within_s=20)
    if any(delivery.generation <= old[0].generation for delivery in anew):
        raise Violation(f"after a reconnect the generation is {anew[0].generation}, and it was {old[0].generation}")
    late: list[Settlement] = [RELEASE, Nack(), DeadLetter("rejected"), ACK]
    done = await _settle_lost(world, receiver, *zip(old[:4], late, strict=True))
    for delivery in anew:
        if delivery.message.id not in done:
            await world.settle(receiver, [delivery])
    await world.rest(receiver)
    world.balanced()


@check("F8", "a delivery that another consumer has by now cannot be settled by who had it", tier="K")
async def lost_to_another(world: World) -> None:
    """Neither through the receiver that had it, nor through the one that has the message now."""
    queue = world.queue()
    first, second = await world.open_client(), await world.open_client()
    await world.declare(first, queue)
    await world.publish(first, queue, *(world.message(b"%d" % n) for n in range(3)))
    receiver = await world.receiver(first, queue)
    old = await world.take(receiver, 3)
    await world.close(receiver)
    other = await world.receiver(second, queue)
    anew = await world.take(other, 3)
    done = await _settle_lost(world, receiver, (old[0], ACK), (old[1], RELEASE))
    done |= await _settle_lost(world, other, (old[2], ACK), (old[1], RELEASE))
    await world.settle(other, [delivery for delivery in anew if delivery.message.id not in done])
    world.watch(other)
    world.balanced()


@check(
    "F11", "300 nacks at three consumers; then every tenth is nacked while a consumer is reopened: all arrive", tier="X"
)
async def many_nacks(world: World) -> None:
    """Nacks beside acknowledgements, many at once."""
    queue = world.queue()
    clients = [await world.open_client() for _ in range(3)]
    await world.declare(clients[0], queue)
    receivers = [await world.receiver(client, queue) for client in clients]
    times = Counter[str]()

    async def thrice(delivery: Delivery) -> Settlement:
        times[delivery.message.id] += 1
        return Nack() if times[delivery.message.id] <= 3 else ACK

    await world.publish(clients[0], queue, *(world.message() for _ in range(100)))
    handled = world.history.handled
    async with (
        consuming(world, receivers[0], limit=5, work=thrice),
        consuming(world, receivers[1], limit=5, work=thrice),
        consuming(world, receivers[2], limit=5, work=thrice),
    ):
        await world.until(lambda: len(handled) >= 100, "100 messages after three nacks each", within_s=15)

    async def every_tenth(delivery: Delivery) -> Settlement:
        times[delivery.message.id] += 1
        return Nack() if delivery.message.body.endswith(b"0") and times[delivery.message.id] == 1 else ACK

    async with (
        consuming(world, receivers[0], limit=5, work=every_tenth),
        consuming(world, receivers[1], limit=5, work=every_tenth),
    ):
        async with consuming(world, receivers[2], limit=5, work=every_tenth) as settled:
            await world.publish(clients[0], queue, *(world.message(b"%d" % n) for n in range(500)))
            await world.until(lambda: len(settled) > 20, "20 messages at the third consumer")
        await world.close(receivers[2])
        async with consuming(world, await world.receiver(clients[2], queue), limit=5, work=every_tenth):
            await world.until(lambda: len(handled) >= 600, "500 messages after every tenth was nacked")
    world.watch(receivers[0])
    world.balanced()


@check("F12", "a settlement that fails reaches who asked for it, and is tried again where nobody did")
async def failures_are_heard(world: World) -> None:
    """Two ways to fail, once each: the delivery is lost, or the broker does not answer."""
    by_hand, alone = world.queue(), world.queue()
    heard: list[object] = []
    bus = world.bus(transport=partial(_failing, world))

    @bus.handle(by_hand, ack="manual")
    async def settles(body: dict[str, int], ctx: Context) -> None:
        world.handled(ctx)
        heard.extend(await asyncio.gather(ctx.ack(), return_exceptions=True))

    @bus.handle(alone)
    async def returns(body: dict[str, int], ctx: Context) -> None:
        world.handled(ctx)

    with _warnings("busframe.worker") as warnings:
        async with bus.worker() as worker:
            await world.send(bus, by_hand, {"lost": 1})
            await world.send(bus, alone, {"unanswered": 1})
            await world.until(lambda: len(world.history.handled) >= 2 and heard, "both messages at their handlers")
            await worker.wait_idle(0.2)
    if not isinstance(heard[0], SettlementLost):
        raise Violation(f"an acknowledgement that was lost raised {heard[0]!r} in its handler, and not SettlementLost")
    if bus.statistics()[str(by_hand)]["lost"] != 1:
        raise Violation(f"one acknowledgement was lost, and the statistics are {bus.statistics()[str(by_hand)]}")
    if not any("settling failed" in text for text in warnings):
        raise Violation(f"a settlement failed, and was not reported; reported was {warnings}")
    transport = await world.open_client()
    for queue in (by_hand, alone):
        world.watch(await world.receiver(transport, queue))
    world.balanced()


@check("F13", "a message that nobody settles is reported, and keeps nothing from closing")
async def never_settled(world: World) -> None:
    """Handlers that return without a verb, or never return; a receiver that is closed with what it holds."""
    forgotten, stuck = world.queue(), world.queue()
    started = asyncio.Event()
    bus = world.bus(config={"drain_timeout_s": 0.2})

    @bus.handle(forgotten, ack="manual", retry=Retry(max_attempts=1))
    async def forgets(body: dict[str, int], ctx: Context) -> None: ...

    @bus.handle(stuck, ack="manual")
    async def waits(body: dict[str, int], ctx: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    transport = await world.open_client()
    async with bus.worker() as worker:
        await bus.publish(forgotten, {"n": 1})
        await world.send(bus, stuck, {"n": 2})
        await world.until(started.is_set, "a handler that never settles")
        (letter,) = await world.dead(transport, forgotten, 1, within_s=5)
        await _soon(world, worker.drain(), "a worker with a handler that never settles")
    if letter.dead is None or "not-settled" not in (letter.dead.error_message or ""):
        raise Violation(f"a handler that settled nothing is reported as {letter.dead!r}")
    receiver = await world.receiver(transport, stuck)
    await world.take(receiver, 1)
    world.history.gone(str(id(receiver)))
    await _soon(world, receiver.close(), "a receiver that holds an unsettled message")
    receiver = await world.receiver(transport, stuck)
    await world.drain(receiver, 1)
    world.balanced()


@check("F16", "what was acknowledged does not come back when the broker is restarted", tier="X")
async def acknowledged_through_a_restart(world: World) -> None:
    """The part of F1 that needs a fault; what was not acknowledged comes back where messages are durable."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await world.publish(transport, queue, *(world.message(b"%d" % n) for n in range(6)))
    receiver = await world.receiver(transport, queue)
    taken = await world.take(receiver, 6)
    # What is acknowledged above an older message may come back with it where ``ack_gap`` says so.
    await world.settle(receiver, taken[:3] if transport.capabilities.ack_gap else taken[::2])
    await world.close(receiver)
    await world.harness.restart()
    again = await world.open_client()
    if not again.capabilities.durable:
        await world.declare(again, queue)
    receiver = await world.receiver(again, queue)
    await world.drain(receiver, 3 if again.capabilities.durable else 0, within_s=30)
    if transport.capabilities.durable:
        world.balanced()


# ---------------------------------------------------------------------------------------------------- what they share


async def _settle_lost(world: World, receiver: Receiver, *late: tuple[Delivery, Settlement]) -> set[str]:
    """Settle what is lost. Returns the ids of those that are done all the same, where the broker takes late ones."""
    done = set()
    for delivery, settlement in late:
        try:
            (outcome,) = await receiver.settle([(delivery, settlement)])
        except ClosedError as error:
            outcome = error
        if outcome is None and settlement == ACK and world.harness.late_acks:
            done.add(delivery.message.id)
            world.history.done(delivery.message.id, "late")
        elif not isinstance(outcome, SettlementLost | ClosedError):
            raise Violation(f"{settlement} of a delivery that is lost ended as {outcome!r}, and not as SettlementLost")
    return done


class _FailsOnce(WrappedReceiver):
    """The first acknowledgement fails as its message says."""

    _failed = False

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """As the other one, but for the first time."""
        delivery, settlement = settled[0]
        if self._failed or not isinstance(settlement, Ack):
            return await self.inner.settle(settled)
        self._failed = True
        rest = await self.inner.settle(settled[1:]) if settled[1:] else []
        if b"unanswered" in delivery.message.body:
            return [TransportError("no answer"), *rest]
        await self.inner.settle([(delivery, RELEASE)])
        return [SettlementLost("the connection was lost"), *rest]


def _failing(world: World, host: Host) -> Transport:
    return WrappedTransport(world.harness.transport(host), _FailsOnce)


@contextmanager
def _warnings(name: str) -> Iterator[list[str]]:
    """What a logger says meanwhile, from warnings on."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)


async def _soon(world: World, closing: Awaitable[object], what: str) -> None:
    within_s = CLOSED_WITHIN_S * world.harness.patience
    try:
        async with asyncio.timeout(within_s):
            await closing
    except TimeoutError:
        raise Violation(f"{what} does not close within {within_s:g} s") from None
