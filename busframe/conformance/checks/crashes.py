"""V: processes that are killed, replaced, or killed by a message."""

import asyncio
import signal
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from busframe.bus import Bus
from busframe.conformance.check import Violation, check
from busframe.conformance.processes import Crew, crew
from busframe.conformance.program import KILLS, PREFETCH
from busframe.conformance.world import World
from busframe.handling.context import Context
from busframe.handling.outcomes import Reject
from busframe.model.destination import Queue

TEAM = 3
FULL = (TEAM + 1) * PREFETCH
"""So many messages fill each worker, and one more."""


@asynccontextmanager
async def _load(world: World, bus: Bus, queue: Queue[str], workers: Crew) -> AsyncIterator[None]:
    """See that there is always something to do, and at the end that all of it is done."""
    over = asyncio.Event()

    async def publish() -> None:
        while not over.is_set():
            if len(world.history.confirmed) < len(workers.look("done")) + 2 * FULL:
                await _publish(world, bus, queue, PREFETCH)
            else:
                await asyncio.sleep(0.01)

    publishing = asyncio.create_task(publish())
    try:
        yield
    finally:
        over.set()
        await publishing
    await workers.all_handled()


async def _publish(world: World, bus: Bus, queue: Queue[str], count: int) -> None:
    await asyncio.gather(*(world.send(bus, queue, "load") for _ in range(count)))


@check("V2", "SIGKILL of workers at work, 20 times: nothing lost, and doubled at most what was in flight", tier="X")
async def killed_workers(world: World) -> None:
    """Of three workers one that is within a handler is killed and replaced; being killed is no failed attempt."""
    claims = await world.capabilities()
    queue, kills = world.queue(str), 20
    bus = world.bus(uses=[queue])
    killed = allowed = 0
    async with bus, crew(world, queue, work_s=0.1) as workers, _load(world, bus, queue, workers):
        team = [await workers.start() for _ in range(TEAM)]
        while killed < kills:
            await workers.until(lambda: any(map(workers.at_work, team)), f"a worker handles, before kill {killed + 1}")
            victim = next(filter(workers.at_work, team))
            victim.kill()
            at = time.time()
            await victim.wait()
            killed += workers.at_work(victim)  # else it came to an end in the last moment
            allowed += PREFETCH + workers.may_come_back({victim.pid: at}, claims.ack_lag_s)
            team[team.index(victim)] = await workers.start()
            if killed % 5 == 1:
                await workers.all_handled()
    lines = workers.look("done")
    doubled = len(lines) - len({line.message for line in lines})
    if doubled > allowed:
        raise Violation(f"{doubled} were handled twice, and at most {allowed} were in flight at {kills} kills")
    if claims.attempt_exact and {line.attempt for line in lines} != {1}:
        raise Violation("being killed was counted as an attempt")
    world.balanced(duplicates=allowed)


@check("V6", "a rolling restart of three workers under load loses nothing", tier="X")
async def rolling_restart(world: World) -> None:
    """Each is told to end when its successor works, and it has as many messages as it can take; each ends in order."""
    queue = world.queue(str)
    bus = world.bus(uses=[queue])
    async with bus, crew(world, queue, work_s=0.1) as workers, _load(world, bus, queue, workers):
        team = [await workers.start() for _ in range(TEAM)]
        for old in team:
            new = await workers.start()

            def both(pair: Sequence[Process] = (old, new)) -> bool:
                return all(workers.handled_by(one) >= 2 * PREFETCH for one in pair)

            await workers.until(both, "a worker and its successor both handle messages")
            await _publish(world, bus, queue, FULL)
            old.send_signal(signal.SIGTERM)
            await workers.ended(old, 0)
    world.balanced(duplicates=TEAM * PREFETCH)


@check("M8", "workers join while handlers run, and at once others are killed: nothing is lost", tier="X")
async def joining(world: World) -> None:
    """Where a broker shares a source out anew for each that joins, what is being handled then is settled by nobody."""
    queue, rounds = world.queue(str), 4
    bus = world.bus(uses=[queue])
    async with bus, crew(world, queue, work_s=0.5) as workers, _load(world, bus, queue, workers):
        team = [await workers.start()]
        for number in range(rounds):
            await workers.until(lambda: any(map(workers.at_work, team)), f"a worker handles, before join {number + 1}")
            victim = next(filter(workers.at_work, team))
            team.append(await workers.start())
            await workers.until(
                lambda: team[-1].pid in {line.pid for line in workers.look("began")}, "who joined has messages"
            )
            victim.kill()
            await victim.wait()
            team.remove(victim)
    world.balanced(duplicates=rounds * 2 * PREFETCH)


@check("V20", "a message that kills the process is dead-lettered as crash-loop; its neighbours are handled", tier="X")
async def crash_loop(world: World) -> None:
    """Workers are started again and again, as an orchestrator does, until one gives the message up."""
    claims = await world.capabilities()
    queue, neighbours = world.queue(str), 12
    bus = world.bus(uses=[queue])
    letters: list[Any] = []
    # As few as the guard allows: each costs the start of a process. Where attempts are deliveries it allows ten more.
    max_attempts, max_deliveries = 1, 3
    most = 2 + (max_deliveries if claims.attempt_exact else max_attempts + 10)

    async def buried() -> bool:
        letters[:] = [letter async for letter in bus.dead_letters(queue).list()]
        return bool(letters)

    async with bus, crew(world, queue, max_attempts=max_attempts, max_deliveries=max_deliveries) as workers:
        await world.send(bus, queue, *(f"{n}" for n in range(neighbours // 2)))
        deadly = await bus.publish(queue, KILLS)
        await world.send(bus, queue, *(f"{n}" for n in range(neighbours // 2)))
        died = 0
        while not letters:
            worker = await workers.start()

            async def over() -> bool:
                return worker.returncode is not None or await buried()  # noqa: B023

            await workers.until(over, "the worker dies, or gives the message up")
            if worker.returncode is not None:
                await workers.died(worker)
                died += 1
            if died > most:
                raise Violation(f"the message killed {died} workers and is no dead letter")
        await workers.all_handled()
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

    async with bus.worker(), crew(world, queue, does="replay", replay_per_s=50) as replaying:
        await world.send(bus, queue, *(f"{n}" for n in range(count)))
        await world.letters(bus, queue, count)
        healed = True
        process = await replaying.start()
        await replaying.until(lambda: len(world.history.handled) >= 5, "some have come back")
        process.kill()
        await process.wait()
        rest = [letter async for letter in bus.dead_letters(queue).list()]
        if not rest and set(world.history.confirmed) == {id for id, _ in world.history.handled}:
            raise Violation("the replay was over before it was killed")

        async def replayed() -> bool:
            # Again: what the killed process was looking at may come back a little later.
            await bus.dead_letters(queue).replay([letter async for letter in bus.dead_letters(queue).list()])
            return {id for id, _ in world.history.handled} == set(world.history.confirmed)

        await world.until(replayed, "all are handled")
        await world.letters(bus, queue, 0)
    # The one whose copy was confirmed and that was not removed any more.
    world.balanced(duplicates=1)
