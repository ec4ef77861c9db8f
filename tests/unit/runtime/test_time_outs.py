"""Handlers that take too long, and plain functions in their threads."""

import asyncio
import contextvars
import threading

import pytest

from busframe import Context, Queue, Retry, SyncContext
from busframe.spi import Ack
from tests.support.bench import Bench, now, quiet, send, until

JOBS = Queue("jobs", str)


async def test_an_async_handler_is_cancelled_and_that_is_a_failure(bench: Bench) -> None:
    """`timeout_s` frees the slot; the failure is `HandlerTimedOut` and is retried."""
    cancelled: list[float] = []
    bus = bench.bus(retry=Retry(max_attempts=2, delay_s=1, jitter=0))

    @bus.handle(JOBS, timeout_s=5, concurrency=1)
    async def handle(job: str) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(now())
            raise

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await until(lambda: bench.letters(JOBS))
        assert worker.sources[0].in_flight == 0
    assert cancelled == [5.0, 11.0]
    info = bench.letters(JOBS)["a"]
    assert info.error_type == "busframe.errors.HandlerTimedOut"
    assert "5" in (info.error_message or "")


async def test_a_handlers_own_time_out_error_stays_what_it_is(bench: Bench) -> None:
    """A `TimeoutError` of something inside is not the handler's time-out."""
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS, timeout_s=5)
    async def handle(job: str) -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(1000)

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: bench.letters(JOBS))
    assert bench.letters(JOBS)["a"].error_type == "TimeoutError"


async def test_a_handler_that_swallows_its_cancellation_has_succeeded(bench: Bench) -> None:
    """It came to an end by itself, if late: its work is done."""
    bus = bench.bus()

    @bus.handle(JOBS, timeout_s=1)
    async def handle(job: str) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: bench.faults.settlements(Ack))
    assert bus.statistics()["jobs"]["failed"] == 0


async def test_a_worker_that_ends_while_a_handler_times_out_counts_nothing_wrongly(bench: Bench) -> None:
    """A time-out and the end of the drain at the same moment: the message stays, or is counted as failed once."""
    bus = bench.bus(config={"drain_timeout_s": 4})

    @bus.handle(JOBS, timeout_s=5)
    async def handle(job: str) -> None:
        await asyncio.sleep(1000)

    async with bus.worker():
        await send(bus, JOBS, "a")
        await quiet(1)
    assert bench.ids(JOBS) == ["a"]
    assert bench.letters(JOBS) == {}


async def test_a_plain_function_that_outlives_its_time_out_keeps_its_slot_and_is_named(bench: Bench) -> None:
    """A thread cannot be stopped: its message is settled as failed when it returns, and health says so meanwhile."""
    go = threading.Event()
    running: list[str] = []
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS, timeout_s=0.02, concurrency=1, prefetch=1)
    def slow(job: str) -> None:
        running.append(job)
        if job == "a":
            go.wait(10)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", "b")
        await until(lambda: worker.health().problems)
        assert "slow" in worker.health().problems[0]
        assert worker.health().ready
        assert running == ["a"]
        assert bench.letters(JOBS) == {}
        go.set()
        await until(lambda: bench.letters(JOBS))
        await until(lambda: not bench.ids(JOBS))
        assert not worker.health().problems
    assert bench.letters(JOBS)["a"].error_type == "busframe.errors.HandlerTimedOut"
    assert running == ["a", "b"]


async def test_a_plain_function_that_never_returns_does_not_hold_the_drain(bench: Bench) -> None:
    """Beyond the drain's time-out it is left behind, its message is delivered again, and the worker says how many."""
    go, started = threading.Event(), threading.Event()
    bus = bench.bus(config={"drain_timeout_s": 0.02})

    @bus.handle(JOBS)
    def handle(job: str) -> None:
        started.set()
        go.wait(10)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await until(started.is_set)
        assert not await worker.drain()
        assert worker.stuck_threads == 1
    assert bench.ids(JOBS) == ["a"]
    go.set()
    await until(lambda: worker.stuck_threads == 0)


async def test_context_variables_reach_the_thread_and_middleware_wraps_it(bench: Bench) -> None:
    """What middleware sets around a plain function is seen inside it, and no message sees another's."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[tuple[str, str]] = []

    async def middleware(ctx: Context, call_next: object) -> object:
        token = variable.set(ctx.message.id)
        try:
            return await call_next()  # type: ignore[operator]
        finally:
            variable.reset(token)

    bus = bench.bus(middleware=[middleware])

    @bus.handle(JOBS, concurrency=3)
    def handle(job: str) -> None:
        seen.append((job, variable.get()))
        variable.set("changed")

    async with bus.worker():
        await send(bus, JOBS, "a", "b", "c")
        await until(lambda: len(seen) == 3)
    assert sorted(seen) == [("a", "a"), ("b", "b"), ("c", "c")]
    assert variable.get() == "unset"


async def test_plain_functions_run_at_once_and_never_more_than_their_slots(bench: Bench) -> None:
    """`concurrency` is the number of threads of the source."""
    meeting = threading.Barrier(3, timeout=5)
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS, concurrency=3, prefetch=9)
    def handle(job: str, ctx: SyncContext) -> None:
        meeting.wait()

    async with bus.worker() as worker:
        worker.sources[0].credit.window = 9
        await send(bus, JOBS, *"abcdef")
        await until(lambda: not bench.ids(JOBS))
    assert bench.letters(JOBS) == {}
    assert bus.statistics()["jobs"]["handled"] == 6


@pytest.mark.parametrize("error", [StopIteration, SystemExit, asyncio.CancelledError, TimeoutError])
async def test_whatever_a_plain_function_raises_is_its_messages_failure(
    bench: Bench, error: type[BaseException]
) -> None:
    """Also those that a future, a pool or asyncio would take for their own."""
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS)
    def handle(job: str) -> None:
        raise error

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await until(lambda: bench.letters(JOBS))
        assert worker.health().ready
    assert error.__name__ in (bench.letters(JOBS)["a"].stack or "")
