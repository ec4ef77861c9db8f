"""Paused, resumed and made faster by hand."""

import asyncio
import threading

import pytest

from busframe import Bus, Queue
from busframe.errors import ConfigurationError
from tests.support.bench import Bench

jobs = Queue("jobs", int)


async def test_a_paused_source_handles_nothing_and_keeps_everything(bench: Bench) -> None:
    """What runs finishes, what is published waits, another worker may take it, and resuming goes on; twice is once."""
    bus = bench.bus(uses=[jobs])
    seen: list[int] = []
    running, release = asyncio.Event(), asyncio.Event()

    @bus.handle(jobs, concurrency=2)
    async def work(n: int) -> None:
        running.set()
        await release.wait()
        seen.append(n)

    async with bus.worker() as worker:
        for n in range(6):
            await bus.publish(jobs, n)
        await running.wait()
        pausing = asyncio.create_task(worker.pause(jobs))
        await asyncio.sleep(1)
        assert not pausing.done()
        release.set()
        await pausing
        await worker.pause(jobs)
        started = len(seen)
        assert 1 <= started <= 2
        assert worker.health().sources == {"jobs": "paused"}
        assert worker.health().ready
        await bus.publish(jobs, 6)
        await asyncio.sleep(60)
        assert len(seen) == started
        await worker.resume(jobs)
        await worker.resume(jobs)
        await worker.wait_idle(1)
        assert sorted(seen) == list(range(7))
        assert worker.health().sources == {"jobs": "consuming"}


async def test_a_paused_worker_leaves_its_messages_to_others(bench: Bench) -> None:
    """Nothing stays behind in the prefetch of one that is paused."""
    seen: list[str] = []

    def worker_of(name: str) -> Bus:
        bus = bench.bus()

        @bus.handle(jobs)
        async def work(n: int) -> None:
            seen.append(name)

        return bus

    one, other = worker_of("one"), worker_of("other")
    async with one.worker() as paused:
        await paused.pause(jobs)
        for n in range(20):
            await one.publish(jobs, n)
        async with other.worker() as worker:
            await worker.wait_idle(1)
    assert seen == ["other"] * 20


async def test_a_paused_worker_drains_at_once(bench: Bench) -> None:
    """Leaving while paused, or while a pause waits for a handler, ends in order."""
    bus = bench.bus()

    @bus.handle(jobs)
    async def work(n: int) -> None:
        await asyncio.sleep(5)

    async with bus.worker() as worker:
        await bus.publish(jobs, 1)
        await asyncio.sleep(1)
        pausing = asyncio.create_task(worker.pause(jobs))
        await asyncio.sleep(1)
    await pausing
    assert bus.statistics()["jobs"]["handled"] == 1
    async with bus.worker() as worker:
        await worker.pause(jobs)


@pytest.mark.parametrize("plain", [False, True])
async def test_concurrency_follows_the_operator(bench: Bench, plain: bool) -> None:
    """Raised and lowered while handlers run: never more at once than was last said, once what ran before has ended."""
    bus = bench.bus(uses=[jobs])
    lock = threading.Lock()
    now, most = 0, 0

    def begin() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)

    def end() -> None:
        nonlocal now
        with lock:
            now -= 1

    async def work(n: int) -> None:
        begin()
        await asyncio.sleep(1)
        end()

    def work_in_a_thread(n: int) -> None:
        begin()
        threading.Event().wait(0.01)
        end()

    bus.handle(jobs, concurrency=2, prefetch=20)(work_in_a_thread if plain else work)
    async with bus.worker() as worker:
        for concurrency in (2, 6, 1, 3):
            await worker.set_concurrency(jobs, concurrency)
            most = 0
            await bus.publish_many(jobs, range(24))
            await worker.wait_idle(2)
            assert most <= concurrency
            assert plain or most == concurrency
    assert bus.statistics()["jobs"]["handled"] == 4 * 24


async def test_only_what_runs_here_can_be_steered(bench: Bench) -> None:
    """Another source, or no concurrency at all, is a ConfigurationError that names what there is."""
    bus = bench.bus()

    @bus.handle(jobs)
    async def work(n: int) -> None: ...

    async with bus.worker() as worker:
        for steer in (worker.pause(Queue("x")), worker.resume(Queue("x")), worker.set_concurrency(Queue("x"), 1)):
            with pytest.raises(ConfigurationError, match="does not run x: it runs jobs"):
                await steer
        with pytest.raises(ConfigurationError, match="1 or more"):
            await worker.set_concurrency(jobs, 0)


async def test_a_source_that_is_resumed_while_it_is_being_paused_goes_on_as_before(bench: Bench) -> None:
    """One loop receives, whoever asked for what in which order; everything is handled and nothing stays behind."""
    bus = bench.bus()
    seen: list[int] = []
    receiving = most = 0

    @bus.handle(jobs, concurrency=2)
    async def work(n: int) -> None:
        await asyncio.sleep(3)
        seen.append(n)

    async with bus.worker() as worker:
        for n in range(20):
            await bus.publish(jobs, n)
        for wait_s in (0, 0, 0.5, 2, 4):
            await asyncio.sleep(wait_s)
            pausing = asyncio.create_task(worker.pause(jobs))
            await asyncio.sleep(wait_s / 4)
            await worker.resume(jobs)
            await pausing
            receiving = sum("receive" in task.get_name() and not task.done() for task in asyncio.all_tasks())
            most = max(most, receiving)
        await worker.wait_idle(5)
        assert worker.health().ready
        assert worker.sources[0].in_flight == 0
    assert most == 1
    assert set(seen) == set(range(20))


async def test_a_drain_handles_what_a_paused_at_most_once_source_has_received(bench: Bench) -> None:
    """It cannot go back to the broker, which has it no more."""
    bus = bench.bus()
    seen: list[int] = []

    @bus.handle(jobs, concurrency=1, prefetch=5, ack="before")
    async def work(n: int) -> None:
        await asyncio.sleep(2)
        seen.append(n)

    async with bus.worker() as worker:
        for n in range(4):
            await bus.publish(jobs, n)
        await asyncio.sleep(3)
        pausing = asyncio.create_task(worker.pause(jobs))
        await asyncio.sleep(1)
        received = worker.statistics()["jobs"]["received"]
    await pausing
    assert received > 2
    assert sorted(seen) == list(range(received))
