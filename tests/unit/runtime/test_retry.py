"""Failures, attempts and delays."""

import asyncio
from itertools import pairwise

import pytest

from busframe import Context, DeadLetter, Failure, Nack, Queue, Retry, RetryAfter
from busframe.logic.attempts import failures_recorded
from busframe.spi import DeadLetter as Letter
from tests.support.bench import Bench, now, quiet, send, until
from tests.support.virtual_loop import EPOCH

JOBS = Queue("jobs", str)


class Flaky(Exception):
    pass


async def test_a_message_that_fails_k_times_is_handled_at_attempt_k_plus_1(bench: Bench) -> None:
    """The delays are the policy's, the attempts count up, and then the message is gone."""
    seen: list[tuple[int, float]] = []
    bus = bench.bus(retry=Retry(max_attempts=5, delay_s=1, factor=2, jitter=0))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        seen.append((ctx.attempt, now()))
        if ctx.attempt <= 3:
            raise Flaky

    async with bus.worker():
        await send(bus, JOBS, "a")
        await quiet()
    assert seen == [(1, 0.0), (2, 1.0), (3, 3.0), (4, 7.0)]
    assert bench.ids(JOBS) == []
    assert bench.letters(JOBS) == {}


async def test_the_delay_is_capped_and_lengthened_by_jitter_only(bench: Bench) -> None:
    """A delay is never shorter than the formula, and at most longer by its jitter."""
    seen: list[float] = []
    bus = bench.bus(random=0.5, retry=Retry(max_attempts=6, delay_s=1, factor=1.5, max_delay_s=2, jitter=0.5))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        seen.append(now())
        raise Flaky

    async with bus.worker():
        await send(bus, JOBS, "a")
        await quiet()
    delays = [later - earlier for earlier, later in pairwise(seen)]
    assert delays == pytest.approx([1.25, 1.875, 2.5, 2.5, 2.5])


async def test_a_waiting_retry_holds_no_slot_and_no_neighbour(bench: Bench) -> None:
    """With one slot and a prefetch of one, others are handled while a message waits for its retry."""
    seen: list[str] = []
    bus = bench.bus(retry=Retry(delay_s=10, jitter=0))

    @bus.handle(JOBS, concurrency=1, prefetch=1)
    async def handle(job: str, ctx: Context) -> None:
        seen.append(job)
        if job == "bad" and ctx.attempt == 1:
            raise Flaky

    async with bus.worker():
        await send(bus, JOBS, "bad", "a", "b", "c")
        await until(lambda: len(seen) == 4)
        assert now() < 1
        await quiet()
    assert seen == ["bad", "a", "b", "c", "bad"]


async def test_a_retry_without_delay_runs_again_at_once_and_lets_others_run(bench: Bench) -> None:
    """Delay 0 needs no round trip to the broker, and starves nobody."""
    seen: list[str] = []
    bus = bench.bus(retry=Retry(max_attempts=50, delay_s=0))

    @bus.handle(JOBS, concurrency=1)
    async def handle(job: str, ctx: Context) -> None:
        seen.append(job)
        raise Flaky

    turns = 0

    async def other() -> None:
        nonlocal turns
        while len(seen) < 50:
            turns += 1
            await asyncio.sleep(0)

    async with bus.worker():
        neighbour = asyncio.create_task(other())
        await send(bus, JOBS, "a")
        await until(lambda: bench.letters(JOBS))
        await neighbour
    assert seen == ["a"] * 50
    assert turns > 40
    assert bench.letters(JOBS)["a"].attempts == 50
    assert bench.faults.settlements(Nack) == []


async def test_attempts_survive_a_restart(bench: Bench) -> None:
    """The count is with the message, so that a fleet of restarting workers does not retry for ever."""
    seen: list[int] = []
    for _ in range(2):
        bus = bench.bus(retry=Retry(max_attempts=4, delay_s=10, factor=1, jitter=0))

        @bus.handle(JOBS)
        async def handle(job: str, ctx: Context) -> None:
            seen.append(ctx.attempt)
            raise Flaky

        async with bus.worker():
            if not seen:
                await send(bus, JOBS, "a")
            await quiet(19)
    assert seen == [1, 2, 3, 4]
    assert bench.letters(JOBS)["a"].attempts == 4


async def test_a_failure_is_counted_though_the_worker_drains(bench: Bench) -> None:
    """A handler that fails while the worker drains has used up an attempt, also where the policy has no delay."""
    started, go = asyncio.Event(), asyncio.Event()
    bus = bench.bus(retry=Retry(max_attempts=5, delay_s=0))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        started.set()
        await go.wait()
        raise Flaky

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await started.wait()
        draining = asyncio.create_task(worker.drain())
        await quiet(1)
        go.set()
        assert await draining
    (row,) = bench.rows(JOBS)
    assert failures_recorded(row.carried, "jobs") == 1


async def test_retry_after_says_the_delay_and_counts_as_an_attempt(bench: Bench) -> None:
    """A handler's own delay wins over the policy's, within its attempts."""
    seen: list[float] = []
    bus = bench.bus(retry=Retry(max_attempts=3, delay_s=1, jitter=0))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        seen.append(now())
        raise RetryAfter(7.5, "later")

    async with bus.worker():
        await send(bus, JOBS, "a")
        await quiet()
    assert seen == [0.0, 7.5, 15.0]
    assert bench.letters(JOBS)["a"].reason == "attempts"


async def test_an_error_that_is_not_worth_a_retry_is_given_up_at_once(bench: Bench) -> None:
    """`give_up_on` skips the retries."""
    bus = bench.bus(retry=Retry(give_up_on=(ValueError,)))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        int(job)

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: bench.letters(JOBS))
    info = bench.letters(JOBS)["a"]
    assert (info.reason, info.attempts, info.error_type) == ("gave-up", 1, "ValueError")


async def test_a_message_that_is_too_old_is_given_up(bench: Bench) -> None:
    """`max_age_s` counts from the publish."""
    seen: list[float] = []
    bus = bench.bus(retry=Retry(max_attempts=100, delay_s=4, factor=1, jitter=0, max_age_s=10))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(now())
        raise Flaky

    async with bus.worker():
        await send(bus, JOBS, "a")
        await quiet()
    assert seen == [0.0, 4.0, 8.0, 12.0]
    assert bench.letters(JOBS)["a"].reason == "gave-up"


@pytest.mark.parametrize(
    "broken",
    [
        lambda failure: 1 / 0,
        lambda failure: None,
        lambda failure: Nack("soon"),  # type: ignore[arg-type]  # as an application without a type checker
        lambda failure: Nack(float("nan")),
    ],
    ids=["raises", "answers nothing", "delay is text", "delay is no number"],
)
async def test_a_broken_policy_neither_loses_nor_retries_for_ever(bench: Bench, broken: object) -> None:
    """Where a policy of the application's own fails, the default one decides."""
    seen = 0
    bus = bench.bus(retry=broken)

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        nonlocal seen
        seen += 1
        raise Flaky

    async with bus.worker():
        await send(bus, JOBS, "a")
        await quiet(600)
    assert seen == 5
    assert bench.letters(JOBS)["a"].reason == "attempts"


async def test_a_policy_of_ones_own_decides(bench: Bench) -> None:
    """A policy is a function from a failure to what becomes of the message, with a reason of its own."""

    def policy(failure: Failure) -> Nack | DeadLetter:
        return Nack(2.0) if failure.attempt < 3 else Letter("tired", "three times is enough")

    bus = bench.bus()

    @bus.handle(JOBS, retry=policy)
    async def handle(job: str) -> None:
        raise Flaky("again")

    async with bus.worker():
        await send(bus, JOBS, "a")
        await quiet()
    info = bench.letters(JOBS)["a"]
    assert (info.reason, info.attempts, info.error_message) == ("tired", 3, "again")


async def test_where_failures_cannot_be_recorded_the_deliveries_are_the_attempts(bench: Bench) -> None:
    """Without `attempt_exact` a retry at once goes through the broker, and its count is the attempt."""
    bench.faults.capabilities = {"attempt_exact": False}
    seen: list[int] = []
    bus = bench.bus(retry=Retry(max_attempts=4, delay_s=0))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        seen.append(ctx.attempt)
        raise Flaky

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: bench.letters(JOBS))
    assert seen == [1, 2, 3, 4]
    assert bench.letters(JOBS)["a"].attempts == 4


async def test_a_failure_of_another_source_does_not_count_here(bench: Bench) -> None:
    """What one subscription's handler failed on is no attempt of another one."""
    from busframe import Topic

    topic = Topic("events", str)
    seen: dict[str, list[int]] = {"one": [], "two": []}
    bus = bench.bus(retry=Retry(max_attempts=3, delay_s=1, jitter=0))

    @bus.handle(topic.subscription("one"))
    async def one(event: str, ctx: Context) -> None:
        seen["one"].append(ctx.attempt)
        raise Flaky

    @bus.handle(topic.subscription("two"))
    async def two(event: str, ctx: Context) -> None:
        seen["two"].append(ctx.attempt)

    async with bus.worker():
        await bus.publish(topic, "x", id="x")
        await quiet()
    assert seen == {"one": [1, 2, 3], "two": [1]}
    assert list(bench.letters(topic.subscription("one"))) == ["x"]
    assert bench.letters(topic.subscription("two")) == {}


async def test_the_time_of_the_first_failure_is_kept(bench: Bench) -> None:
    """A dead letter says when its message first failed and when it was given up."""
    bus = bench.bus(retry=Retry(max_attempts=3, delay_s=5, factor=1, jitter=0))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise Flaky

    async with bus.worker():
        await send(bus, JOBS, "a")
        await quiet()
    info = bench.letters(JOBS)["a"]
    assert info.first_failed_at is not None
    assert info.first_failed_at.timestamp() == EPOCH
    assert info.last_failed_at.timestamp() == EPOCH + 10
