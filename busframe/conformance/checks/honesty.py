"""R: what is claimed is proven, what is not is refused, and a check that proves nothing is found out."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from math import isfinite
from typing import Any

from busframe.bus import Bus
from busframe.conformance.check import CHECKS, OUTCOMES, Check, Violation, check, run_check
from busframe.conformance.harness import NotRunnable
from busframe.conformance.world import World
from busframe.errors import Unsupported
from busframe.logic.retry import Retry
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Delivery
from busframe.model.entity import Entity, Stats
from busframe.model.settlement import DeadLetter, Nack

PROVEN_BY = {
    "durable": ("E1", "F1", "J3"),
    "confirm": ("A3", "M1", "A1"),
    "delivery_count": ("F5",),
    "attempt_exact": ("H1", "H2"),
    "nack": ("F2", "H3"),
    "dead_letter": ("I1", "I2"),
    "ordering": ("G1", "G2", "G3", "G4"),
    "filters": ("D4",),
    "nack_delay_max_s": ("J1", "J2", "H3"),
    "publish_delay_max_s": ("J1", "J2"),
    "delay_resolution_s": ("J1", "H3"),
    "ack_lag_s": ("F1", "F9"),
    "ack_gap": ("F9", "F10"),
    "hold_max_s": ("F4", "H5"),
    "dedup_window_s": ("H7", "A8"),
    "max_message_bytes": ("B3", "P1"),
    "start": ("E4",),
    "temporary": ("E2", "O3"),
    "browse": ("O3", "R3"),
    "remove": ("O3",),
    "stats": ("R3",),
}
"""Capability → the checks that measure it; one of them, at least, has to be executed where it is claimed."""


def claimed(claims: Capabilities) -> list[str]:
    """The names of what is claimed."""
    return [
        field.name
        for field in fields(claims)
        if (value := getattr(claims, field.name)) is not None
        and value is not False
        and value not in (0, "none")
        and field.name != "why_not"
    ]


@check("R1", "every capability that is claimed is measured by a check that was executed")
async def claims_are_measured(world: World) -> None:
    """In this run; those of which no check was executed so far are measured now."""
    claims, outcomes = await world.capabilities(), OUTCOMES.setdefault(world.harness, {})
    measured_by = {
        name: [id for id in PROVEN_BY.get(name, ()) if id in CHECKS and _concerns(CHECKS[id], claims)]
        for name in claimed(claims)
    }
    if unmeasured := [name for name, ids in measured_by.items() if not ids]:
        raise Violation(f"claimed, and measured by no check that can be executed: {', '.join(unmeasured)}")
    for name, ids in measured_by.items():
        for id in ids:
            if id not in outcomes and not any(_was_executed(outcomes, other) for other in ids):
                await run_check(CHECKS[id], world.harness)
        if not any(_was_executed(outcomes, id) for id in ids):
            raise Violation(f"{name} is claimed, and none of {', '.join(ids)} was executed: {outcomes}")


def _concerns(check: Check, claims: Capabilities) -> bool:
    return check.tier != "X" and (check.claimed is None or check.claimed(claims))


def _was_executed(outcomes: Mapping[str, str], id: str) -> bool:
    return outcomes.get(id) in ("passed", "failed")


@check("R2", "what is not claimed is refused with Unsupported, never ignored")
async def unclaimed_is_refused(world: World) -> None:
    """Each call of the driver interface that a capability stands for, and what a bus can ask when it opens."""
    claims = await world.capabilities()
    queue, topic = world.queue(), world.topic()
    transport = await world.open_client()
    await world.declare(transport, queue)
    await world.publish(transport, queue, world.message())

    async def delayed() -> None:
        (outcome,) = await world.try_publish(transport, queue, world.message(), delay_s=0.5)
        if outcome is not None:
            raise outcome

    calls: list[tuple[str, bool, Callable[[], Awaitable[object]]]] = [
        ("stats", claims.stats, lambda: transport.stats(queue)),
        ("browse", claims.browse, lambda: transport.browse(queue)),
        ("remove", claims.remove, lambda: transport.remove(queue, ["1"])),
        ("publish_delay_max_s", claims.publish_delay_max_s > 0, delayed),
        ("start", claims.start, lambda: _opens(world, topic.subscription("first", start="earliest"))),
        ("temporary", claims.temporary, lambda: _opens(world, topic.subscription("short", temporary=True))),
        ("ordering", claims.ordering != "none", lambda: _works_in_order(world)),
    ]
    for name, is_claimed, call in calls:
        if is_claimed:
            continue
        try:
            got = await call()
        except Unsupported:
            continue
        except Exception as error:
            raise Violation(f"{name} is not claimed: Unsupported was expected, not {error!r}") from error
        raise Violation(f"{name} is not claimed: Unsupported was expected, not {got!r}")


async def _opens(world: World, use: Any) -> str:
    async with world.bus(uses=[use]):
        return "an open bus"


async def _works_in_order(world: World) -> str:
    bus = world.bus()

    @bus.handle(world.queue(), ordering="key")
    async def handle(body: bytes) -> None:
        pass

    async with bus:
        return "an open bus"


@check("R3", "what is claimed does something: limits are kept at their edge, statistics and looks are the truth")
async def claims_are_true(world: World) -> None:
    """Compared with what the check did, and with what the broker itself says. B3 and J4 have the other limits."""
    claims = await world.capabilities()
    await _longest(world, claims)
    queue = world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    messages = [world.message(b"%d" % number) for number in range(5)]
    await world.publish(transport, queue, *messages)
    if claims.browse:
        stored = await transport.browse(queue)
        if [one.message.id for one in stored] != [message.id for message in messages]:
            raise Violation(f"browse shows {len(stored)} messages, and {len(messages)} are there")
        later = await transport.browse(queue, after=stored[1].position, limit=2)
        if [one.message.id for one in later] != [message.id for message in messages[2:4]]:
            raise Violation(f"two after the second one are {[one.message.body for one in later]}")
    receiver = await world.receiver(transport, queue, prefetch=2)
    first, second = await world.take(receiver, 2)
    if claims.browse and len(await transport.browse(queue)) > len(messages):
        raise Violation("browse doubles what is unsettled")
    await world.settle(receiver, [first], DeadLetter("rejected"))
    await world.dead(transport, queue, 1)
    if claims.stats:
        await _statistics(world, lambda: transport.stats(queue), queue)
    await _finish(world, receiver, second)


async def _longest(world: World, claims: Capabilities) -> None:
    """The longest delays and holds that are claimed are taken; a longer hold is refused (J4 has longer delays)."""
    transport = await world.open_client()
    queue = world.queue()
    await world.declare(transport, Entity(queue, ordering="none", longest_delay_s=_finite(claims.nack_delay_max_s)))
    receiver = await world.receiver(transport, queue)
    if longest := _finite(claims.publish_delay_max_s):
        (outcome,) = await world.try_publish(transport, queue, world.message(), delay_s=longest)
        if outcome is not None:
            raise Violation(f"a publish with a delay of {longest:g} s, which is claimed, ended as {outcome!r}")
    if longest := _finite(claims.nack_delay_max_s):
        await world.publish(transport, queue, world.message())
        (outcome,) = await receiver.settle([(each, Nack(longest)) for each in await world.take(receiver, 1)])
        if outcome is not None:
            raise Violation(f"a nack with a delay of {longest:g} s, which is claimed, ended as {outcome!r}")
        async with _retrying(world, longest):
            pass
    if (longest := _finite(claims.hold_max_s)) and claims.ordering != "none":
        async with _retrying(world, longest, ordering="key"):
            pass
        await world.refused(_retrying(world, longest + 1, ordering="key"), Unsupported)
    world.watch(receiver)


def _finite(limit_s: float) -> float:
    return limit_s if isfinite(limit_s) else 0.0


def _retrying(world: World, delay_s: float, **options: Any) -> Bus:
    bus = world.bus(config={"max_lane_delay_s": 2 * delay_s})

    @bus.handle(world.queue(), retry=Retry(delay_s=delay_s, max_delay_s=delay_s, jitter=0), **options)
    async def handle(body: bytes) -> None:
        pass

    return bus


async def _statistics(world: World, ask: Callable[[], Awaitable[Stats]], queue: Any) -> None:
    seen: list[Stats] = []

    async def true() -> bool:
        stats = await ask()
        seen[:] = [stats]
        if stats.in_flight is not None:
            depth_is_true = stats.depth is not None and stats.depth + stats.in_flight == 4
        else:  # one is held, and with a prefetch of 2 the broker may have handed out one more; or it cannot tell
            depth_is_true = stats.depth in (2, 3, 4)
        return depth_is_true and stats.consumers in (None, 1) and stats.dead in (None, 1)

    try:
        await world.until(true, "true statistics", within_s=5)
    except Violation:
        raise Violation(f"4 messages (1 held), 1 consumer and 1 dead letter are there; statistics say {seen}") from None
    with world.part("what the broker says"):
        state = await world.broker_state(queue)
        for name, told in (("consumers", seen[0].consumers), ("ready", seen[0].depth)):
            broker = getattr(state, name)
            if broker is not None and told is not None and broker != told:
                raise Violation(f"statistics say {told} {name}, and the broker says {broker}")


async def _finish(world: World, receiver: Any, held: Delivery) -> None:
    await world.settle(receiver, [held])
    await world.drain(receiver, 3)


async def _raises(world: World) -> None:
    raise NotRunnable("it has no such fault")


async def _fails(world: World) -> None:
    raise Violation("as asked")


async def _passes(world: World) -> None:
    pass


@check("R4", "what is skipped never counts as passed, and a harness that proves nothing is found out")
async def nothing_is_vacuous(world: World) -> None:
    """The kit's own runner; and the native side of the harness against the transport, both ways."""
    expected = {
        "not runnable": Check("R4a", "skipped", "X", _raises),
        "failed": Check("R4b", "fails", "C", _fails),
        "not claimed": Check("R4c", "not claimed", "K", _passes, lambda _: False),
    }
    for outcome, fake in expected.items():
        result = await run_check(fake, world.harness)
        del OUTCOMES[world.harness][fake.id]
        if result.outcome != outcome or not (result.detail or outcome == "not claimed"):
            raise Violation(f"a check that is {outcome} was reported as {result.outcome}: {result.detail!r}")
    queue, absent = world.queue(), world.queue()
    transport = await world.open_client()
    await world.declare(transport, queue)
    for address, wanted in ((absent, False), (queue, True), (queue.dead_letters, True)):
        if await world.harness.native_exists(address, world.name(address)) is not wanted:
            raise Violation(f"the harness says the opposite of whether {address} exists: {not wanted}")
    receiver = await world.receiver(transport, queue)
    await world.native_publish(queue, b"native", {"tenant": "a"})
    (got,) = await world.take(receiver, 1)
    await world.settle(receiver, [got])
    if got.message.body != b"native":
        raise Violation(f"the harness published b'native', and {got.message.body!r} came")
    await receiver.close()
    await world.publish(transport, queue, world.message(b"ours"))
    try:
        async with asyncio.timeout(10 * world.harness.patience):
            body, _ = await world.native_read(queue)
    except Exception as error:
        raise Violation(f"the harness cannot read what is there: {error!r}") from error
    if body != b"ours":
        raise Violation(f"b'ours' is there, and the harness read {body!r}")
