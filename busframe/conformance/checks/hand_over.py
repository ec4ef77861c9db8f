"""G: order across workers, when the one that has the keys ends in order, is killed, or is cut off."""

import asyncio
import contextlib
import signal
import time
from asyncio.subprocess import Process
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from itertools import count

from busframe.bus import Bus
from busframe.conformance.check import Violation, check
from busframe.conformance.checks.settling import no_order
from busframe.conformance.processes import Crew, Line, crew
from busframe.conformance.program import PREFETCH
from busframe.conformance.world import World
from busframe.handling.context import Context
from busframe.model.capabilities import Capabilities

KEYS = tuple("abcdefgh")
TEAM = 3
WORK_S = 0.05
"""What a handler takes: long enough for a worker to be killed while it is at its first message."""

AHEAD = 60
"""So many messages wait, at least, while workers come and go."""


def across_workers(claims: Capabilities) -> bool:
    """Whether the order of keys is claimed for all workers together."""
    return claims.ordering == "fleet"


async def _not_across(world: World) -> None:
    """Where no order is claimed it is refused; the order within one process is for other checks."""
    if (await world.capabilities()).ordering == "none":
        await no_order(world)


def wrong_steps(begun: Iterable[tuple[str, int, bool]], *, marked: bool = True) -> list[str]:
    """What is out of order where handlers began, each with (key, number within it, marked as delivered again).

    Numbers of a key rise one by one. One that was lost comes again, marked where the broker counts deliveries, and
    everything behind it follows.
    """
    wrong: list[str] = []
    last: defaultdict[str, int] = defaultdict(lambda: -1)
    newest: defaultdict[str, int] = defaultdict(lambda: -1)
    for key, number, again in begun:
        if number > last[key] + 1:
            wrong.append(f"{key}{number} began behind {key}{last[key]}, and what is between them later or never")
        elif marked and number <= newest[key] and not again:
            wrong.append(f"{key}{number} began behind {key}{newest[key]}, and not as one that is delivered again")
        last[key] = number
        newest[key] = max(number, newest[key])
    return wrong


@check(
    "G8",
    "what a lost connection took back starts nowhere but where it is delivered again",
    tier="K",
    claimed=across_workers,
    unclaimed=_not_across,
)
async def cut_off(world: World) -> None:
    """A worker has one slot, in which a handler hangs, and more that waits for it; another one goes on after a cut."""
    queue, rounds = world.queue(), 4
    goes_on, hangs = asyncio.Event(), asyncio.Event()
    sent: dict[str, tuple[str, int]] = {}
    begun: list[tuple[str, int, bool]] = []

    def worker() -> Bus:
        bus = world.bus()

        @bus.handle(queue, ordering="key", concurrency=1, prefetch=1 + len(KEYS))
        async def handler(body: bytes, ctx: Context) -> None:
            if ctx.message.id in sent:
                begun.append((*sent[ctx.message.id], ctx.redelivered))
            if body == b"hangs" and not hangs.is_set():
                hangs.set()
                await goes_on.wait()
            world.handled(ctx)

        return bus

    def left() -> set[str]:
        return set(world.history.confirmed) - {message for message, _ in world.history.handled}

    async with AsyncExitStack() as stack:
        transport = await world.open_client()
        await stack.enter_async_context(worker().worker())
        stack.callback(goes_on.set)  # whatever goes wrong: else a worker waits for its handler
        await world.publish(transport, queue, *(world.message() for _ in range(60)))
        await world.until(lambda: not left(), "as many handled as it takes until enough may be in flight")
        first = world.message(b"hangs", key="hangs")
        sent[first.id] = ("hangs", 0)
        others = [(world.message(key=key), number) for number in range(rounds) for key in KEYS]
        sent |= {message.id: (message.key or "", number) for message, number in others}
        await world.publish(transport, queue, first, *(message for message, _ in others))
        await hangs.wait()
        await world.quiet(lambda: len(begun))
        await stack.enter_async_context(worker().worker())
        await world.harness.disconnect()
        with contextlib.suppress(Violation):  # the same worker may get all of it again: then it waits for its slot
            await world.until(lambda: left() <= {first.id}, "another worker goes on", within_s=3)
        goes_on.set()
        await world.until(lambda: not left(), "all are handled", within_s=30)
        await world.quiet(lambda: len(begun))
    claims = transport.capabilities
    if wrong := wrong_steps(begun, marked=claims.delivery_count):
        raise Violation(f"{len(wrong)} handlers began out of order: {wrong[0]}")
    # What was finished just before the cut may come back where acknowledgements lag behind.
    world.balanced(duplicates=len(world.history.confirmed if claims.ack_lag_s else sent))


@check(
    "G9",
    "keys stay in order while three workers are replaced one by one, and when whoever is at work is killed",
    tier="K",
    claimed=across_workers,
    unclaimed=_not_across,
)
async def hand_overs(world: World) -> None:
    """Under load; the kills are in a row, each as soon as a worker has begun what the killed one left."""
    await roll(world, deploys=1, kills=3)


async def roll(world: World, *, deploys: int, kills: int) -> None:
    """Replace all workers so many times, with so many kills after each; then look at every key."""
    queue = world.queue(str)
    bus = world.bus()
    bus.handle(queue, ordering="key")(_not_here)
    over = asyncio.Event()
    place: dict[str, tuple[str, int]] = {}
    killed: dict[int, float] = {}

    async def publish(workers: Crew) -> None:
        for number in count():
            await workers.until(
                lambda: len(place) <= len({line.message for line in workers.look("done")}) + AHEAD, "workers keep up"
            )
            if over.is_set():
                return
            for key in KEYS:
                (message,) = await world.send(bus, queue, f"{number}", key=key)
                place[message.id] = (key, number)

    async with bus, crew(world, queue, ordering="key", work_s=WORK_S) as workers:
        publishing = asyncio.create_task(publish(workers))
        try:
            team = [await workers.start() for _ in range(TEAM)]
            await _up(workers, team)
            for _ in range(deploys):
                successors = [await workers.start() for _ in range(TEAM)]
                await _up(workers, successors)
                for old in team:
                    await _going_on(workers)
                    old.send_signal(signal.SIGTERM)
                    await workers.ended(old, 0)
                team = successors
                for _ in range(kills):
                    pid = await _going_on(workers)
                    victim = next(process for process in team if process.pid == pid)
                    killed[pid] = time.time()
                    victim.kill()
                    await victim.wait()
                    team.remove(victim)
                    team = team or [await workers.start() for _ in range(TEAM)]
                team += [await workers.start() for _ in range(TEAM - len(team))]
                await _going_on(workers)
        finally:
            over.set()
            await publishing
        await workers.all_handled()
        began, done = workers.look("began"), workers.look("done")
    claims = await world.capabilities()
    steps = [(*place[line.message], line.redelivered) for line in began]
    if wrong := wrong_steps(steps, marked=claims.delivery_count):
        raise Violation(f"{len(wrong)} handlers began out of order: {wrong[0]}")
    if together := _together(began, done, killed, lambda line: place[line.message][0]):
        raise Violation(f"{len(together)} handlers began beside another of their key: {together[0]}")
    late = workers.may_come_back(killed, claims.ack_lag_s)
    world.balanced(duplicates=deploys * kills * 2 * PREFETCH + late)


def _together(
    began: Iterable[Line], done: Iterable[Line], killed: Mapping[int, float], key: Callable[[Line], str]
) -> list[str]:
    """Handlers of a key that began before the one before had ended, by itself or with its process."""
    ends = {(line.message, line.pid): line.at for line in done}
    until: dict[str, float] = {}
    wrong: list[str] = []
    for line in sorted(began, key=lambda line: line.at):
        if line.at < until.get(key(line), 0.0):
            wrong.append(f"a message of {key(line)}, {until[key(line)] - line.at:.3f} s too early")
        until[key(line)] = ends.get((line.message, line.pid), killed.get(line.pid, line.at))
    return wrong


async def _not_here(body: str) -> None: ...


async def _up(workers: Crew, team: list[Process]) -> None:
    await workers.until(
        lambda: {process.pid for process in team} <= {line.pid for line in workers.look("up")},
        "workers are up",
    )


async def _going_on(workers: Crew) -> int:
    """Wait until a handler begins; tell in which process."""
    before = len(workers.look("began"))
    await workers.until(lambda: len(workers.look("began")) > before, "a handler begins")
    return workers.look("began")[-1].pid
