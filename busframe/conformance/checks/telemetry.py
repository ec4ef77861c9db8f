"""T: what is told of messages on their way: traces, counts and health."""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Literal

from busframe.conformance.addresses import unreachable
from busframe.conformance.check import Violation, check
from busframe.conformance.harness import NotRunnable
from busframe.conformance.world import World
from busframe.handling.context import Context
from busframe.handling.handler import Next
from busframe.handling.outcomes import Discard, Reject
from busframe.logic.retry import Retry
from busframe.model.destination import Destination
from busframe.model.message import Message
from busframe.spi.transport import Host, Transport

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

_traced: ContextVar[str] = ContextVar("traced", default="")


@check("T1", "a trace goes with its messages; counts are what happened; health is down while the connection is")
async def telemetry(world: World) -> None:
    """With middleware as an application would write it; a cut is seen at the moment in which it is told."""
    await _traces(world)
    await _counts(world)
    with world.part("an outage"):
        await _outage(world)


async def _receives(ctx: Context, call_next: Next) -> object:
    """Middleware of handlers: the message's trace is the one that is worked for."""
    token = _traced.set(ctx.message.headers.get("traceparent", ""))
    try:
        return await call_next()
    finally:
        _traced.reset(token)


async def _sends(to: Destination[Any], message: Message, send: Callable[[Message], Awaitable[None]]) -> None:
    """Middleware of publishes: so is what is published in it."""
    parent = {"traceparent": _traced.get()} if _traced.get() else {}
    await send(replace(message, headers={**message.headers, **parent}))


async def _traces(world: World) -> None:
    """Through a retry, what a handler publishes, a handler in a thread, a dead letter and its replay."""
    first, second = world.queue(str), world.queue(str)
    delay_s = 0.05 if (await world.capabilities()).nack_delay_max_s else 0.0
    bus = world.bus(uses=[first, second], middleware=[_receives], publish_middleware=[_sends])
    seen: list[tuple[str, str]] = []

    @bus.handle(first, retry=Retry(max_attempts=2, delay_s=delay_s, jitter=0))
    async def begins(body: str, ctx: Context) -> None:
        seen.append((f"attempt {ctx.attempt}", _traced.get()))
        if ctx.attempt == 1:
            raise RuntimeError("as it should")
        await ctx.publish(second, "next")

    @bus.handle(second)
    def goes_on(body: str) -> None:
        seen.append(("a thread", _traced.get()))
        if len(seen) == 3:
            raise Reject("as it should")

    async with bus.worker():
        await bus.publish(first, "x", headers={"traceparent": PARENT})
        (letter,) = await world.letters(bus, second, 1)
        await bus.dead_letters(second).replay([letter])
        await world.until(lambda: len(seen) >= 4, "a replay in its handler")
    for where, parent in [*seen, ("a dead letter", letter.message.headers.get("traceparent", ""))]:
        if parent != PARENT:
            raise Violation(f"the trace {PARENT} is {parent!r} in {where}: {seen}")


async def _counts(world: World) -> None:
    """Each outcome so often as handlers saw it."""
    queue = world.queue(str)
    bus = world.bus()
    wanted = Counter(handled=5, retried=2, failed=3, discarded=1, dead_lettered=1, received=7)

    @bus.handle(queue, retry=Retry(max_attempts=3, delay_s=0))
    async def handle(body: str, ctx: Context) -> None:
        match body:
            case "again" if ctx.attempt == 1:
                raise RuntimeError("as it should")
            case "reject":
                raise Reject("as it should")
            case "discard":
                raise Discard("as it should")
            case _:
                world.handled(ctx)

    def counts() -> dict[str, int]:
        return {name: bus.statistics()[str(queue)][name] for name in wanted}

    async with bus.worker() as worker:
        await world.send(bus, queue, "fine", "fine", "fine", "again", "again")
        for body in ("reject", "discard"):
            await bus.publish(queue, body)
        await world.until(lambda: sum(counts().values()) >= wanted.total(), f"the counts {dict(wanted)}")
        await worker.wait_idle(0.1)
    if not (await world.capabilities()).attempt_exact:  # a retry at once goes through the broker there
        wanted["received"] += wanted["retried"]
    if counts() != wanted:
        raise Violation(f"the counts are {counts()}, and {dict(wanted)} happened")
    world.balanced()


async def _outage(world: World) -> None:
    if unreachable(world.harness) is None:
        raise NotRunnable(f"{world.harness.name} has no connection")
    queue = world.queue(str)
    ready_when_down: list[bool] = []

    def listened(host: Host) -> Transport:
        def report(name: str, state: Literal["up", "down", "blocked"], cause: BaseException | None) -> None:
            host.report(name, state, cause)
            if state == "down":
                ready_when_down.append(bus.health().ready)

        return world.harness.transport(replace(host, report=report))

    bus = world.bus(transport=listened)

    @bus.handle(queue)
    async def handle(body: str, ctx: Context) -> None:
        world.handled(ctx)

    async with bus.worker():
        await world.harness.disconnect()
        await world.until(lambda: ready_when_down, "a report that the connection is down")
        if any(ready_when_down):
            raise Violation("the connection is down, and health says that the bus is ready")
        await world.until(lambda: bus.health().ready, "health to be ready again")
        await world.send(bus, queue, "after")
        await world.until(lambda: world.history.handled, "a message after an outage")
