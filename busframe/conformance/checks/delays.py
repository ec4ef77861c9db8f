"""J: a delay is kept, within what the transport claims."""

import time
from math import isfinite

from busframe.conformance.check import Violation, check
from busframe.conformance.world import World, failed_as, together
from busframe.errors import PublishFailed, Unsupported
from busframe.logic.retry import Retry
from busframe.model.capabilities import Capabilities
from busframe.model.settlement import Nack
from busframe.spi.transport import Receiver

SLACK_S = 1.5
"""A loaded machine may be late by so much more than the transport claims; never early."""


def on_time(what: str, delay_s: float, real_s: float, resolution_s: float) -> None:
    """Demand that a delay was kept: not before, beyond the claimed resolution, and not much after."""
    if real_s < delay_s - resolution_s:
        raise Violation(f"{what} was to come after {delay_s:.3f} s and came early, after {real_s:.3f} s")
    if real_s > delay_s + resolution_s + SLACK_S:
        raise Violation(f"{what} was to come after {delay_s:.3f} s and came late, after {real_s:.3f} s")


def shortest(claims: Capabilities) -> float:
    """A delay that can be told from none."""
    return max(0.3, 2 * claims.delay_resolution_s)


def delays(claims: Capabilities) -> bool:
    """Whether anything can be delayed."""
    return claims.publish_delay_max_s > 0 or claims.nack_delay_max_s > 0


async def refuses_delays(world: World) -> None:
    """Where nothing can be delayed, asking for it is refused."""
    await _refuses_publish_delay(world, 1.0)


async def _next(world: World, receiver: Receiver) -> float:
    """Acknowledge the next message. Returns when it came."""
    (delivery,) = await world.take(receiver, 1)
    came = time.monotonic()
    await world.settle(receiver, [delivery])
    return came


@check(
    "J1",
    "a delayed message comes not before its time, and not after it by more than is claimed",
    tier="K",
    claimed=delays,
    unclaimed=refuses_delays,
)
async def kept(world: World) -> None:
    """A delayed publish and a delayed hand-back, at the same time."""
    claims = await world.capabilities()
    delay_s = shortest(claims)
    transport = await world.open_client()

    async def published() -> None:
        if claims.publish_delay_max_s < delay_s:
            return
        queue = world.queue()
        await world.declare(transport, queue)
        receiver = await world.receiver(transport, queue)
        asked = time.monotonic()
        await world.publish(transport, queue, world.message(), delay_s=delay_s)
        on_time("a delayed publish", delay_s, await _next(world, receiver) - asked, claims.delay_resolution_s)
        world.watch(receiver)

    async def handed_back() -> None:
        if claims.nack_delay_max_s < delay_s:
            return
        queue = world.queue()
        await world.declare(transport, queue)
        receiver = await world.receiver(transport, queue)
        await world.publish(transport, queue, world.message())
        taken = await world.take(receiver, 1)
        asked = time.monotonic()
        await world.settle(receiver, taken, Nack(delay_s))
        on_time("a delayed hand-back", delay_s, await _next(world, receiver) - asked, claims.delay_resolution_s)
        world.watch(receiver)

    await together(published(), handed_back())
    world.balanced()


@check("J2", "a long delay does not hold back a short one", tier="K", claimed=delays, unclaimed=refuses_delays)
async def long_and_short(world: World) -> None:
    """The long one goes first."""
    claims = await world.capabilities()
    short_s, long_s = shortest(claims), 60.0
    transport = await world.open_client()

    async def published() -> None:
        if claims.publish_delay_max_s < long_s:
            return
        queue = world.queue()
        await world.declare(transport, queue)
        receiver = await world.receiver(transport, queue)
        await world.publish(transport, queue, world.message(), delay_s=long_s)
        asked = time.monotonic()
        await world.publish(transport, queue, world.message(), delay_s=short_s)
        on_time("a short delay behind a long one", short_s, await _next(world, receiver) - asked, SLACK_S)

    async def handed_back() -> None:
        if claims.nack_delay_max_s < long_s:
            return
        queue = world.queue()
        await world.declare(transport, queue)
        receiver = await world.receiver(transport, queue)
        await world.publish(transport, queue, world.message())
        await world.settle(receiver, await world.take(receiver, 1), Nack(long_s))
        await world.publish(transport, queue, world.message())
        taken = await world.take(receiver, 1)
        asked = time.monotonic()
        await world.settle(receiver, taken, Nack(short_s))
        on_time("a short hand-back behind a long one", short_s, await _next(world, receiver) - asked, SLACK_S)

    await together(published(), handed_back())


@check(
    "J3",
    "what is delayed survives a restart of the broker",
    tier="X",
    claimed=lambda claims: claims.durable and claims.publish_delay_max_s > 0,
)
async def survives_restart(world: World) -> None:
    """It comes, and not early."""
    claims = await world.capabilities()
    delay_s = max(5.0, 2 * claims.delay_resolution_s)  # not due before the broker is down
    transport = await world.open_client()
    queue = world.queue()
    await world.declare(transport, queue)
    asked = time.monotonic()
    sent = [world.message(b"%d" % number) for number in range(5)]
    await world.publish(transport, queue, *sent, delay_s=delay_s)
    await world.harness.restart()
    receiver = await world.receiver(transport, queue)
    for _ in sent:
        came = await _next(world, receiver) - asked
        if came < delay_s - claims.delay_resolution_s:
            raise Violation(f"a message with a delay of {delay_s:g} s came after {came:.3f} s, by a restart")
    world.watch(receiver)
    world.balanced()


async def _refuses_publish_delay(world: World, delay_s: float) -> None:
    transport = await world.open_client()
    queue = world.queue()
    await world.declare(transport, queue)
    (outcome,) = await world.try_publish(transport, queue, world.message(), delay_s=delay_s)
    failed_as(outcome, Unsupported)
    world.watch(await world.receiver(transport, queue))
    async with world.bus(uses=[queue]) as bus:
        try:
            await bus.publish(queue, b"", delay_s=delay_s)
        except Unsupported:
            return
    raise Violation(f"a delay of {delay_s:g} s cannot be kept here, and its publish was confirmed")


@check("J4", "a delay that cannot be kept is refused, never ignored")
async def never_ignored(world: World) -> None:
    """Beyond what is claimed, of a publish and of a policy; and what is no delay."""
    claims = await world.capabilities()
    queue = world.queue()
    async with world.bus(uses=[queue]) as bus:
        for nonsense in (-1.0, float("inf"), float("nan")):
            try:
                await bus.publish(queue, b"", delay_s=nonsense)
            except PublishFailed as refused:
                if refused.transient:
                    raise Violation(f"delay_s={nonsense} is refused as if it could succeed later") from refused
            else:
                raise Violation(f"a publish with delay_s={nonsense} was confirmed")
    if isfinite(claims.publish_delay_max_s):
        await _refuses_publish_delay(world, claims.publish_delay_max_s + 1)
    if isfinite(claims.nack_delay_max_s):
        longest = claims.nack_delay_max_s + 1
        bus = world.bus()

        @bus.handle(queue, retry=Retry(delay_s=longest, max_delay_s=longest))
        async def handle(body: bytes) -> None:
            pass

        try:
            async with bus:
                pass
        except Unsupported:
            return
        raise Violation(f"a policy with delays of {longest:g} s was accepted where {claims.nack_delay_max_s:g} s is it")
