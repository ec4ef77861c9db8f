"""H: what fails is tried again as its policy says."""

import time
from dataclasses import dataclass
from typing import Any

from busframe.bus import Bus
from busframe.conformance.attempts import PROMPT_S, Attempts
from busframe.conformance.check import Violation, check
from busframe.conformance.checks.delays import on_time
from busframe.conformance.world import World
from busframe.handling.context import Context
from busframe.handling.handler import Middleware, Next
from busframe.handling.outcomes import RetryAfter
from busframe.handling.router import Router
from busframe.logic.retry import Retry
from busframe.middleware.timeout import Timeout
from busframe.model.events import Failed
from busframe.model.settlement import Nack


@check("H1", "fail k times, then succeed: k+1 attempts, each counted, and none more")
async def attempts_are_counted(world: World) -> None:
    """Retries at once, and retries through the broker."""
    at_once, later = world.queue(), world.queue()
    attempts = Attempts(world)
    bus = world.bus()

    async def handle(body: dict[str, int], ctx: Context) -> None:
        if attempts.note(ctx) <= body["failures"]:
            raise RuntimeError("as asked")
        world.handled(ctx)

    bus.handle(at_once, name="at-once", retry=Retry(max_attempts=5, delay_s=0))(handle)
    bus.handle(later, name="later", retry=Retry(max_attempts=5, delay_s=0.05, factor=1, jitter=0))(handle)
    expected = {}
    async with bus.worker():
        for queue, counts in ((at_once, (0, 1, 3)), (later, (0, 1, 2))):
            for failures in counts:
                (message,) = await world.send(bus, queue, {"failures": failures})
                expected[message.id] = range(1, failures + 2)
        await attempts.until(sum(map(len, expected.values())), "as many attempts as failures and a success")
        await attempts.quiet()
    if (await world.capabilities()).attempt_exact:
        attempts.were(expected)
    world.balanced(exclusive=False)


@check("H2", "the attempts of a message are counted across consumers and restarts")
async def attempts_survive_restarts(world: World) -> None:
    """Each worker sees it once more, and the last one gives it up."""
    queue = world.queue()
    attempts = Attempts(world)
    policy = Retry(max_attempts=4, delay_s=0.1, factor=1, jitter=0)

    def new_bus() -> Bus:
        bus = world.bus(retry=policy)

        @bus.handle(queue)
        async def fail(body: dict[str, int], ctx: Context) -> None:
            attempts.note(ctx)
            raise RuntimeError("always")

        return bus

    exact = (await world.capabilities()).attempt_exact
    async with new_bus() as bus:
        (message,) = await world.send(bus, queue, {})
    while len(attempts.all) < policy.max_attempts:
        seen = len(attempts.all)
        async with new_bus().worker():
            await attempts.until(seen + 1, "the next attempt")
        numbers = attempts.numbers(message.id)
        if numbers != (list(range(1, len(numbers) + 1)) if exact else sorted(set(numbers))):
            raise Violation(f"each worker is a new one, and the attempts were {numbers}")
    transport = await world.open_client()
    (letter,) = await world.dead(transport, queue, 1)
    if letter.dead is None or letter.dead.attempts != policy.max_attempts:
        raise Violation(f"after {policy.max_attempts} attempts the failure record is {letter.dead!r}")
    async with new_bus().worker():
        await attempts.quiet()


@check("H3", "delays are as the policy says: float factor, cap, jitter within bounds; and the reported one is real")
async def delays_of_a_policy(world: World) -> None:
    """What observers are told is compared with the formula, and with the clock."""
    queue = world.queue()
    attempts = Attempts(world)
    reported: dict[str, list[tuple[float, float]]] = {}

    def observe(event: object) -> None:
        if isinstance(event, Failed) and isinstance(event.settlement, Nack):
            reported.setdefault(event.message.id, []).append((event.settlement.delay_s, time.monotonic()))

    bus = world.bus(observers=[observe])

    @bus.handle(queue, retry=Retry(max_attempts=4, delay_s=0.2, factor=1.5, max_delay_s=0.4, jitter=0.5))
    async def fail(body: str, ctx: Context) -> None:
        if attempts.note(ctx) < 4:
            raise RuntimeError("not yet") if body == "policy" else RetryAfter(0.25)

    async with bus.worker():
        sent = await world.send(bus, queue, "policy", "handler")
        await attempts.until(8, "four attempts at each of two messages")
    resolution = (await world.capabilities()).delay_resolution_s
    bounds = {sent[0].id: [(0.2, 0.3), (0.3, 0.45), (0.4, 0.6)], sent[1].id: [(0.25, 0.25)] * 3}
    for message, allowed in bounds.items():
        begun = attempts.of(message)[1:]
        for (delay_s, failed_at), attempt, (least, most) in zip(reported[message], begun, allowed, strict=True):
            if not least <= delay_s <= most:
                raise Violation(f"the delay before attempt {attempt.number} was {delay_s}, not {least} to {most}")
            on_time(f"attempt {attempt.number}", delay_s, attempt.at - failed_at, resolution)


@check("H4", 'with ordering="none" a waiting retry holds no slot and blocks no queue')
async def waiting_blocks_nobody(world: World) -> None:
    """One slot, and credit for one message: others go on while a retry waits."""
    queue = world.queue()
    attempts = Attempts(world)
    delay_s = 2.0
    bus = world.bus()

    @bus.handle(queue, concurrency=1, prefetch=1, retry=Retry(delay_s=delay_s, jitter=0))
    async def handle(body: str, ctx: Context) -> None:
        if attempts.note(ctx) == 1 and body == "fails":
            raise RuntimeError("later")

    async with bus.worker():
        (fails,) = await world.send(bus, queue, "fails")
        await attempts.until(1, "its first attempt")
        others = await world.send(bus, queue, *["others"] * 5)
        await world.until(lambda: all(attempts.of(other.id) for other in others), "the neighbours of a waiting retry")
    due = attempts.of(fails.id)[0].at + delay_s
    late = [other.id for other in others if attempts.of(other.id)[0].at > due]
    if late:
        raise Violation(f"{len(late)} of {len(others)} neighbours waited until the retry of another message was due")


@check("H5", "an error that is not worth a retry has none; close during a back-off returns the message promptly")
async def no_retry_and_no_waiting(world: World) -> None:
    """``give_up_on``; and a key's retry that waits in its lane."""
    hopeless, keyed = world.queue(), world.queue()
    attempts = Attempts(world)

    def new_bus() -> Bus:
        bus = world.bus()

        @bus.handle(hopeless, retry=Retry(delay_s=0, give_up_on=(LookupError,)))
        async def give_up(body: str, ctx: Context) -> None:
            attempts.note(ctx)
            raise KeyError("not worth a retry")

        if ordered:

            @bus.handle(keyed, ordering="key", retry=Retry(delay_s=60, max_delay_s=60, jitter=0))
            async def fail_once(body: str, ctx: Context) -> None:
                if attempts.note(ctx) == 1:
                    raise RuntimeError("after a minute")

        return bus

    ordered = (await world.capabilities()).ordering != "none"
    transport = await world.open_client()
    async with new_bus() as bus, bus.worker():
        (message,) = await world.send(bus, hopeless, "x")
        (letter,) = await world.dead(transport, hopeless, 1)
        await attempts.quiet()
        attempts.were({message.id: [1]})
        if letter.dead is None or letter.dead.reason != "gave-up":
            raise Violation(f"it was given up as {letter.dead!r}")
        if not ordered:
            return
        (waits,) = await world.send(bus, keyed, "y", key="k")
        await attempts.until(2, "the attempt that fails")
        closing = time.monotonic()
    if (took_s := time.monotonic() - closing) > PROMPT_S:
        raise Violation(f"a worker with a retry in its lane took {took_s:.1f} s to close")
    async with new_bus().worker():
        await world.until(
            lambda: len(attempts.of(waits.id)) == 2,
            "the message that a closed worker held for its retry",
            within_s=PROMPT_S,
        )


@dataclass
class Twice:
    """Its handler allows two attempts."""

    n: int


@dataclass
class Thrice:
    """Its handler allows three."""

    n: int


@check("H6", "retry and dead letter do not depend on the order in which anything is registered")
async def order_of_registration(world: World) -> None:
    """Handlers in either order; middleware that changes the error, and a time-out, in either order."""
    attempts = Attempts(world)
    around: list[str] = []
    letters = {}
    transport = await world.open_client()

    async def rename(ctx: Context, call_next: Next) -> object:
        around.append(ctx.message.id)
        try:
            return await call_next()
        except RuntimeError as error:
            raise LookupError("renamed by a middleware") from error

    for reverse in (False, True):
        queue = world.queue(Twice, Thrice)
        bus, router = world.bus(retry=Retry(max_attempts=9)), Router("inner")
        middleware: list[Middleware] = [rename, Timeout(30)]
        policies: list[tuple[type[Any], int]] = [(Twice, 2), (Thrice, 3)]
        if reverse:
            middleware.reverse()
            policies.reverse()
            bus.include(router)
        for kind, most in policies:

            async def fail(body: Any, ctx: Context) -> None:
                attempts.note(ctx)
                raise RuntimeError("always")

            policy = Retry(max_attempts=most, delay_s=0)
            router.handle(queue, only=kind, name=kind.__name__, retry=policy, middleware=middleware)(fail)
        if not reverse:
            bus.include(router)
        async with bus.worker():
            twice, thrice = await world.send(bus, queue, Twice(1), Thrice(1))
            for letter in await world.dead(transport, queue, 2):
                letters[letter.id] = letter.dead
        for message, most in ((twice, 2), (thrice, 3)):
            got = len(attempts.of(message.id)), around.count(message.id)
            if got != (most, most):
                raise Violation(f"{got} attempts and calls of the middleware, not {most} (reverse: {reverse})")
            dead = letters.get(message.id)
            if dead is None or (dead.reason, dead.attempts, dead.error_type) != ("attempts", most, "LookupError"):
                raise Violation(f"after {most} attempts the failure record is {dead!r} (reverse: {reverse})")


@check(
    "H7",
    "a publish that is repeated under its id, also after a cut, is stored once",
    tier="K",
    claimed=lambda claims: claims.dedup_window_s > 0,
)
async def repeated_publish(world: World) -> None:
    """As after an unknown outcome; another write of the same message is another."""
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    messages = [world.message(b"%d" % number) for number in range(10)]
    await world.publish(transport, queue, *messages)
    with world.part("a cut"):
        await world.harness.disconnect()
    await world.publish(transport, queue, *messages)
    await world.publish(await world.open_client(), queue, *messages)
    receiver = await world.receiver(transport, queue, prefetch=50)
    await world.drain(receiver, len(messages))
    world.balanced()
    # A replay is no duplicate: it has a key of its own, within the window too.
    await world.publish(transport, queue, messages[0], dedup_key=f"{messages[0].id}/1")
    await world.drain(receiver, 1)
