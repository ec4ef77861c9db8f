"""How a worker ends: what runs finishes, what was fetched goes back, and nothing is counted that was cut short."""

import asyncio
from typing import Any

import pytest

from busframe import Context, PauseSource, Queue, Retry, SyncContext
from busframe.errors import ClosedError, TransportError
from busframe.logic.attempts import failures_recorded
from busframe.spi import Ack, Release
from tests.support.bench import Bench, now, quiet, send, until

JOBS = Queue("jobs", str)
OTHERS = Queue("others", str)


async def test_running_handlers_finish_and_can_publish_and_acknowledge(bench: Bench) -> None:
    """A drain waits for them on a live connection."""
    bus = bench.bus(uses=[OTHERS])
    started = asyncio.Event()

    @bus.handle(JOBS, ack="manual")
    async def handle(job: str, ctx: Context) -> None:
        started.set()
        await asyncio.sleep(10)
        await ctx.publish(OTHERS, "out", id="out")
        await ctx.ack()

    async with bus.worker():
        await send(bus, JOBS, "a")
        await started.wait()
    assert bench.ids(JOBS) == []
    assert bench.ids(OTHERS) == ["out"]


async def test_a_plain_function_finishes_and_can_publish(bench: Bench) -> None:
    """The loop serves threads until the last handler has returned."""
    bus = bench.bus(uses=[OTHERS])
    loop, started = asyncio.get_running_loop(), asyncio.Event()

    @bus.handle(JOBS)
    def handle(job: str, ctx: SyncContext) -> None:
        loop.call_soon_threadsafe(started.set)
        ctx.publish(OTHERS, "1", id="1")
        ctx.publish(OTHERS, "2", id="2")

    async with bus.worker():
        await send(bus, JOBS, "a")
        await started.wait()
    assert bench.ids(JOBS) == []
    assert bench.ids(OTHERS) == ["1", "2"]


async def test_handlers_beyond_the_time_out_are_cancelled_and_nothing_is_counted(bench: Bench) -> None:
    """Their messages are delivered again, with the attempts that they had."""
    bus = bench.bus(config={"drain_timeout_s": 5}, retry=Retry(delay_s=1, jitter=0))
    cancelled: list[str] = []

    @bus.handle(JOBS, concurrency=3)
    async def handle(job: str, ctx: Context) -> None:
        if job == "failed before" and ctx.attempt == 1:
            raise ValueError
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(job)
            if job == "cleans up badly":
                raise ValueError from None
            raise

    async with bus.worker() as worker:
        await send(bus, JOBS, "failed before", "a", "cleans up badly")
        await quiet(3)
        began = now()
        assert not await worker.drain()
        assert now() - began == pytest.approx(5, abs=0.5)
    assert sorted(cancelled) == ["a", "cleans up badly", "failed before"]
    rows = {row.message.id: failures_recorded(row.carried, "jobs") for row in bench.rows(JOBS)}
    assert rows == {"failed before": 1, "a": 0, "cleans up badly": 0}
    assert bench.letters(JOBS) == {}


async def test_a_handler_that_ends_well_though_it_was_cancelled_is_acknowledged(bench: Bench) -> None:
    """Its work is done: to deliver it again would be to do it twice."""
    bus = bench.bus(config={"drain_timeout_s": 1})

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass

    async with bus.worker():
        await send(bus, JOBS, "a")
        await quiet(1)
    assert bench.ids(JOBS) == []


async def test_a_handler_that_resists_its_cancellation_holds_nothing_up_for_long(bench: Bench) -> None:
    """The worker ends some seconds later without it."""
    bus = bench.bus(config={"drain_timeout_s": 1})
    go = asyncio.Event()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        while not go.is_set():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                pass

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await quiet(1)
        began = now()
        assert not await worker.drain()
        assert now() - began < 10
    assert bench.ids(JOBS) == ["a"]
    go.set()
    for task in asyncio.all_tasks():
        if "slot" in task.get_name():
            task.cancel()
    await quiet(1)


@pytest.mark.parametrize("how", [ValueError, asyncio.CancelledError])
async def test_leaving_by_an_exception_or_a_cancellation_drains(bench: Bench, how: type[BaseException]) -> None:
    """`async with bus.worker()` drains however its body ends."""
    bus = bench.bus()
    done: list[str] = []

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        await asyncio.sleep(5)
        done.append(job)

    async def program() -> None:
        async with bus.worker():
            await send(bus, JOBS, "a")
            await until(lambda: bench.faults.held)
            if how is ValueError:
                raise ValueError
            await asyncio.sleep(1000)

    running = asyncio.create_task(program())
    await quiet(1)
    if how is asyncio.CancelledError:
        running.cancel()
    with pytest.raises(how):
        await running
    assert done == ["a"]
    assert bench.ids(JOBS) == []


async def test_a_second_cancellation_cuts_the_drain_short_and_still_closes(bench: Bench) -> None:
    """Whoever cancels twice wants it to end: handlers are cancelled, and the connection outlives their end."""
    bus = bench.bus()
    ended: list[str] = []

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(repr(bus))

    async def program() -> None:
        async with bus.worker():
            await send(bus, JOBS, "a")
            await asyncio.sleep(1000)

    running = asyncio.create_task(program())
    await quiet(1)
    began = now()
    running.cancel()
    await quiet(2)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert now() - began < 10
    assert ended == ["<Bus open, 1 handlers>"]
    assert bench.ids(JOBS) == ["a"]
    assert bus.statistics()["jobs"]["failed"] == 0


async def test_what_was_fetched_and_not_started_goes_back_at_once(bench: Bench) -> None:
    """Others get it while this worker still drains."""
    bus = bench.bus()

    @bus.handle(JOBS, concurrency=1, prefetch=10)
    async def handle(job: str) -> None:
        await asyncio.sleep(20)

    seen: list[tuple[str, float]] = []
    other = bench.bus()

    @other.handle(JOBS)
    async def handle_there(job: str) -> None:
        seen.append((job, now()))

    async with bus.worker() as worker:
        await send(bus, JOBS, *"abcdef")
        await quiet(10)
        assert bench.faults.held > 2
        draining = asyncio.create_task(worker.drain())
        await quiet(1)
        async with other.worker():
            await until(lambda: len(seen) == 5)
        assert not draining.done()
        assert await draining
    assert [job for job, _ in seen] == list("bcdef")
    assert set(bench.faults.settlements(Release)) <= set("bcdef")


async def test_nothing_is_delivered_after_a_drain_began(bench: Bench) -> None:
    """No handler starts any more, whatever arrives."""
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)
        await asyncio.sleep(5)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await until(lambda: seen)
        draining = asyncio.create_task(worker.drain())
        await asyncio.sleep(0)
        await send(bus, JOBS, "b", "c")
        await draining
    assert seen == ["a"]
    assert bench.ids(JOBS) == ["b", "c"]


async def test_draining_is_idempotent_and_may_be_waited_for_by_many(bench: Bench) -> None:
    """Several may ask for it at once; a cancelled one of them does not stop it."""
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        await asyncio.sleep(5)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await until(lambda: bench.faults.held)
        impatient = asyncio.create_task(worker.drain())
        await quiet(1)
        impatient.cancel()
        assert all(await asyncio.gather(worker.drain(), worker.drain()))
        assert await worker.drain()
    assert bench.ids(JOBS) == []


@pytest.mark.parametrize(
    "situation", ["reconnecting", "pausing", "retrying", "backing off", "settling", "hung receive", "hung open"]
)
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_drain_ends_in_every_situation(bench: Bench, situation: str, ordering: Any) -> None:
    """It ends in time, no task is left, and the message is where it was."""
    bus = bench.bus(config={"drain_timeout_s": 10}, retry=Retry(delay_s=100, jitter=0))

    @bus.handle(JOBS, ordering=ordering)
    async def handle(job: str) -> None:
        if situation == "pausing":
            raise PauseSource(1000)
        if situation in ("retrying",):
            raise ValueError

    if situation == "reconnecting":
        bench.faults.fail("open receiver", 1000)
    if situation == "settling":
        bench.faults.judge = lambda delivery, settlement: TransportError("never")
    async with bus.worker() as worker:
        if situation == "backing off":
            bench.faults.fail("receive", 1000)
        if situation == "hung receive":
            bench.faults.hang("receive")
        if situation == "hung open":
            bench.faults.fail("receive")
            bench.faults.hang("open receiver")
        await send(bus, JOBS, "a", key="k")
        if situation in ("hung receive", "hung open", "backing off"):
            await send(bus, JOBS, "b", key="k")
        await quiet(20)
        began = now()
        await worker.drain()
        assert now() - began <= 16
    ids = bench.ids(JOBS)
    assert set(ids) <= {"a", "b"}
    assert "a" in ids or situation in ("hung receive", "hung open", "backing off")
    assert bench.letters(JOBS) == {}


async def test_a_stop_that_fails_or_hangs_holds_nothing_up(bench: Bench) -> None:
    """What a transport fails to do at the end is logged, and the end comes."""
    for fault in (bench.faults.fail, bench.faults.hang):
        fault("stop")
        bus = bench.bus()

        @bus.handle(JOBS)
        async def handle(job: str) -> None:
            pass

        async with bus.worker():
            pass


async def test_one_source_that_cannot_be_ended_does_not_keep_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong while one source ends, the others end in order."""
    bus = bench.bus()
    done: list[str] = []

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        await asyncio.sleep(5)
        done.append(job)

    @bus.handle(OTHERS)
    async def handle_others(job: str) -> None:
        pass

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await until(lambda: bench.faults.held)
        other = worker.sources[1]
        stop = other.stop

        async def broken() -> None:
            await stop()
            raise RuntimeError("a bug")

        monkeypatch.setattr(other, "stop", broken)
        assert not await worker.drain()
    assert done == ["a"]


async def test_publishing_after_the_end_raises(bench: Bench) -> None:
    """A bus that was left is closed, and says so."""
    bus = bench.bus(uses=[JOBS])
    async with bus:
        pass
    with pytest.raises(ClosedError):
        await bus.publish(JOBS, "a")


async def test_ten_restarts_while_messages_flow_lose_and_repeat_nothing(bench: Bench) -> None:
    """Each message is handled once, by one of the workers that came and went."""
    seen: list[str] = []
    publisher = bench.bus(uses=[JOBS])
    async with publisher:

        async def publish() -> None:
            for number in range(200):
                await send(publisher, JOBS, str(number))
                await asyncio.sleep(0.05)

        publishing = asyncio.create_task(publish())
        for _ in range(10):
            bus = bench.bus()

            @bus.handle(JOBS)
            async def handle(job: str) -> None:
                await asyncio.sleep(0.3)
                seen.append(job)

            async with bus.worker():
                await quiet(1)
        await publishing
        async with bus.worker():
            await until(lambda: not bench.ids(JOBS))
    assert sorted(seen, key=int) == [str(number) for number in range(200)]
    assert len(bench.faults.settlements(Ack)) == 200
