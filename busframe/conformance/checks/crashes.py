"""V: processes that are killed, replaced, or killed by a message."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from busframe.conformance.check import Violation, check
from busframe.conformance.harness import NotRunnable
from busframe.conformance.processes import KILLS, PREFETCH, Crew, Line, crew
from busframe.conformance.world import PREFIX, World
from busframe.handling.context import Context
from busframe.handling.outcomes import Reject
from busframe.model.destination import Queue

TEAM = 3
START_S = 30.0
"""How long processes may take to start and do their first work on a machine that is loaded."""


@asynccontextmanager
async def _crew(world: World, queue: Queue[str], **options: Any) -> AsyncIterator[Crew]:
    if world.harness.url is None:
        raise NotRunnable(f"{world.harness.name} lives in this process: no other one can be started on it")
    async with crew(world.harness.url, queue=queue.name, prefix=PREFIX, **options) as started:
        yield started


async def _all_handled(world: World, workers: Crew) -> list[Line]:
    """Wait until each confirmed message is in the journal, and take the journal into the history."""
    confirmed = set(world.history.confirmed)
    try:
        await world.until(
            lambda: confirmed <= {line.message for line in workers.lines}, "all are handled", within_s=START_S
        )
    finally:
        lines = workers.lines
        for line in lines:
            world.history.done(line.message, str(line.pid))
    return lines


@check("V2", "SIGKILL of workers at work, 20 times: nothing lost, and doubled at most what was in flight", tier="X")
async def killed_workers(world: World) -> None:
    """Whoever of three has handled a few is killed and replaced; being killed is no failed attempt."""
    claims = await world.capabilities()
    queue, kills, more = world.queue(str), 20, 40
    bus = world.bus(uses=[queue])
    allowed = 0
    async with bus, _crew(world, queue, work_s=0.02) as workers:
        team = [await workers.start() for _ in range(TEAM)]
        for kill in range(kills):
            await world.send(bus, queue, *(f"{kill} {n}" for n in range(more)))
            due: list[Any] = []

            def found() -> bool:
                lines = workers.lines
                due[:] = [process for process in team if sum(line.pid == process.pid for line in lines) >= 5]  # noqa: B023
                return bool(due)  # noqa: B023

            await world.until(found, f"a worker handles five, before kill {kill + 1}", within_s=START_S)
            victim = due[0]
            victim.kill()
            await victim.wait()
            mine = [line for line in workers.lines if line.pid == victim.pid]
            recent = sum(line.at >= mine[-1].at - claims.ack_lag_s for line in mine) if claims.ack_lag_s else 0
            allowed += PREFETCH + recent
            team[team.index(victim)] = await workers.start()
        lines = await _all_handled(world, workers)
    doubled = len(lines) - len({line.message for line in lines})
    if doubled > allowed:
        raise Violation(f"{doubled} were handled twice, and at most {allowed} were in flight at {kills} kills")
    if claims.attempt_exact and {line.attempt for line in lines} != {1}:
        raise Violation("being killed was counted as an attempt")
    world.balanced(duplicates=allowed)


@check("V6", "a rolling restart of three workers under load loses nothing", tier="X")
async def rolling_restart(world: World) -> None:
    """Each is told to end when its successor works, while messages keep coming; each ends in order."""
    queue = world.queue(str)
    bus = world.bus(uses=[queue])
    over = asyncio.Event()

    async def publish() -> None:
        while not over.is_set():
            await world.send(bus, queue, "load")
            await asyncio.sleep(0.01)

    async with bus, _crew(world, queue, work_s=0.02) as workers:
        publishing = asyncio.create_task(publish())
        try:
            team = [await workers.start() for _ in range(TEAM)]
            for old in team:
                new = await workers.start()
                await world.until(
                    lambda: all(workers.handled_by(one) for one in (old, new)),  # noqa: B023
                    "a worker and its successor both handle messages",
                    within_s=START_S,
                )
                old.send_signal(signal.SIGTERM)
                if code := await asyncio.wait_for(old.wait(), START_S):
                    raise Violation(f"a worker that was told to end did so with exit code {code}")
        finally:
            over.set()
            await publishing
        await _all_handled(world, workers)
    world.balanced(duplicates=TEAM * PREFETCH)


@check("V20", "a message that kills the process is dead-lettered as crash-loop; its neighbours are handled", tier="X")
async def crash_loop(world: World) -> None:
    """Workers are started again and again, as an orchestrator does, until one gives the message up."""
    queue, neighbours = world.queue(str), 12
    bus = world.bus(uses=[queue])
    letters: list[Any] = []

    async def buried() -> bool:
        letters[:] = [letter async for letter in bus.dead_letters(queue).list()]
        return bool(letters)

    # As few deliveries as the guard allows: each costs the start of a process.
    async with bus, _crew(world, queue, max_attempts=1, max_deliveries=3) as workers:
        await world.send(bus, queue, *(f"{n}" for n in range(neighbours // 2)))
        deadly = await bus.publish(queue, KILLS)
        await world.send(bus, queue, *(f"{n}" for n in range(neighbours // 2)))
        died = 0
        while not letters:
            worker = await workers.start()

            async def over() -> bool:
                return worker.returncode is not None or await buried()  # noqa: B023

            await world.until(over, "the worker dies, or gives the message up", within_s=START_S)
            if worker.returncode not in (None, -signal.SIGKILL):
                raise Violation(f"a worker ended by itself, with exit code {worker.returncode}")
            died += worker.returncode is not None
            if died > 25:
                raise Violation(f"the message killed {died} workers and is no dead letter")
        await _all_handled(world, workers)
    reasons = [(letter.message.id, letter.message.dead and letter.message.dead.reason) for letter in letters]
    if reasons != [(deadly.id, "crash-loop")]:
        raise Violation(f"the dead letters are {reasons}, not {deadly.id} for a crash-loop")
    if died < 3:
        raise Violation(f"it was given up after {died} crashes")
    world.balanced(duplicates=neighbours)


@check("V3", "SIGKILL of a replay midway: nothing is lost, and the rest can be replayed", tier="X")
async def killed_replay(world: World) -> None:
    """Another process replays, and dies when some have come back."""
    queue, count = world.queue(str), 40
    bus = world.bus()
    healed = False

    @bus.handle(queue)
    async def work(body: str, ctx: Context) -> None:
        if not healed:
            raise Reject("not healed")
        world.handled(ctx)

    async with bus.worker(), _crew(world, queue) as replaying:
        await world.send(bus, queue, *(f"{n}" for n in range(count)))
        await world.letters(bus, queue, count)
        healed = True
        process = await replaying.start(replay_per_s=50)
        await world.until(lambda: len(world.history.handled) >= 5, "some have come back", within_s=START_S)
        process.kill()
        await process.wait()
        rest = [letter async for letter in bus.dead_letters(queue).list()]
        if not rest:
            raise Violation("the replay was over before it was killed")
        await bus.dead_letters(queue).replay(rest)
        await world.until(
            lambda: {id for id, _ in world.history.handled} == set(world.history.confirmed), "all are handled"
        )
        await world.letters(bus, queue, 0)
    # The one whose copy was confirmed and that was not removed any more.
    world.balanced(duplicates=1)
