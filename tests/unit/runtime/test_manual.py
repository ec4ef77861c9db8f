"""``ack="manual"``: the handler settles by the context's verbs."""

import asyncio
from typing import Any

import pytest

from busframe import Context, Queue, Retry, SyncContext
from busframe.errors import AlreadySettled, BusframeError, ConfigurationError, SettlementLost
from busframe.spi import Ack, Nack
from tests.support.bench import Bench, now, quiet, send, until
from tests.support.faulty import Lost

JOBS = Queue("jobs", str)


async def test_a_verb_returns_when_the_broker_has_it(bench: Bench) -> None:
    """After `ack` returned the message is gone, while the handler still runs."""
    left: list[list[str]] = []
    bus = bench.bus()

    @bus.handle(JOBS, ack="manual")
    async def handle(job: str, ctx: Context) -> None:
        left.append(bench.ids(JOBS))
        await ctx.ack()
        left.append(bench.ids(JOBS))
        await asyncio.sleep(5)

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: len(left) == 2)
    assert left == [["a"], []]
    assert bus.statistics()["jobs"]["handled"] == 1


@pytest.mark.parametrize("first", ["ack", "nack", "reject"])
async def test_a_second_verb_raises(bench: Bench, first: str) -> None:
    """A delivery is settled once; the first verb stands."""
    raised: list[BaseException] = []
    bus = bench.bus(retry=Retry(delay_s=1))

    @bus.handle(JOBS, ack="manual")
    async def handle(job: str, ctx: Context) -> None:
        if ctx.attempt > 1:
            await ctx.ack()
            return
        verbs: dict[str, Any] = {"ack": ctx.ack, "nack": lambda: ctx.nack(1), "reject": lambda: ctx.reject("no")}
        await verbs[first]()
        for verb in verbs.values():
            try:
                await verb()
            except AlreadySettled as error:
                raised.append(error)

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: not bench.ids(JOBS))
    assert len(raised) == 3
    assert list(bench.letters(JOBS)) == (["a"] if first == "reject" else [])


async def test_concurrent_verbs_settle_once(bench: Bench) -> None:
    """Of two at the same time one wins and the other raises."""
    results: list[Any] = []
    bus = bench.bus()

    @bus.handle(JOBS, ack="manual")
    async def handle(job: str, ctx: Context) -> None:
        results.extend(await asyncio.gather(ctx.ack(), ctx.reject("no"), return_exceptions=True))

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: results)
    assert results[0] is None
    assert isinstance(results[1], AlreadySettled)
    assert bench.faults.settlements(Ack) == ["a"]


async def test_returning_unsettled_is_a_failure(bench: Bench) -> None:
    """It is retried by the policy and ends as a dead letter that says why."""
    bus = bench.bus(retry=Retry(max_attempts=2, delay_s=1))

    @bus.handle(JOBS, ack="manual")
    async def handle(job: str, ctx: Context) -> None:
        pass

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: bench.letters(JOBS))
    info = bench.letters(JOBS)["a"]
    assert info.attempts == 2
    assert (info.error_message or "").startswith("not-settled")


async def test_an_exception_after_a_verb_changes_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """What the broker has it has; the failure is logged."""
    bus = bench.bus()

    @bus.handle(JOBS, ack="manual")
    async def handle(job: str, ctx: Context) -> None:
        await ctx.ack()
        raise ValueError("too late")

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: "too late" in caplog.text)
    assert bench.ids(JOBS) == []
    assert bench.letters(JOBS) == {}


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_nack_delays_and_counts_as_an_attempt(bench: Bench, ordering: Any) -> None:
    """`nack(delay_s)` is a failure of the handler's choosing, within the policy's maximum."""
    seen: list[tuple[int, float]] = []
    bus = bench.bus(retry=Retry(max_attempts=3, max_delay_s=1))

    @bus.handle(JOBS, ack="manual", ordering=ordering)
    async def handle(job: str, ctx: Context) -> None:
        seen.append((ctx.attempt, now()))
        await ctx.nack(20)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", key="k")
        await until(lambda: bench.letters(JOBS))
        await until(lambda: worker.sources[0].in_flight == 0)
    assert [(attempt, round(at, 3)) for attempt, at in seen] == [(1, 0.0), (2, 20.0), (3, 40.0)]
    assert bench.letters(JOBS)["a"].reason == "attempts"
    assert bench.faults.settlements(Nack) == ([] if ordering == "key" else ["a", "a"])


async def test_a_verb_that_comes_too_late_raises(bench: Bench) -> None:
    """A delivery that was lost meanwhile is delivered again, and the handler hears it."""
    raised: list[BaseException] = []
    bus = bench.bus()

    @bus.handle(JOBS, ack="manual")
    async def handle(job: str, ctx: Context) -> None:
        if not raised:
            bench.cut()
        try:
            await ctx.ack()
        except SettlementLost as error:
            raised.append(error)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await until(lambda: not bench.ids(JOBS))
        assert worker.sources[0].in_flight == 0
    assert len(raised) == 1


async def test_an_acknowledgement_by_hand_that_is_lost_is_not_repeated(bench: Bench) -> None:
    """The handler does not run again for a message that it had acknowledged."""
    seen: list[str] = []
    lost = iter([Lost()])
    bench.faults.judge = lambda delivery, settlement: next(lost, None)
    bus = bench.bus()

    @bus.handle(JOBS, ack="manual")
    async def handle(job: str, ctx: Context) -> None:
        seen.append(job)
        await ctx.ack()

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: not bench.ids(JOBS))
    assert seen == ["a"]


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_verb_after_the_handler_returned_raises_and_breaks_nothing(bench: Bench, ordering: Any) -> None:
    """A context that was given to a background task belongs to an attempt that is over."""
    kept: list[Context] = []
    bus = bench.bus(retry=Retry(max_attempts=3, delay_s=5))

    @bus.handle(JOBS, ack="manual", ordering=ordering, prefetch=1, concurrency=1)
    async def handle(job: str, ctx: Context) -> None:
        kept.append(ctx)
        await asyncio.sleep(1)
        if ctx.attempt == 2:
            await ctx.ack()

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", key="k")
        for at in (3, 6.5, 10):  # while it waits for its retry, while that runs, and when all is over
            await quiet(at - now())
            with pytest.raises(AlreadySettled):
                await kept[0].ack()
        assert len(kept) == 2
        await send(bus, JOBS, "b", key="k")
        await until(lambda: not bench.ids(JOBS))
        assert worker.sources[0].in_flight == 0
    assert bench.letters(JOBS) == {}


async def test_verbs_of_a_plain_function(bench: Bench) -> None:
    """`SyncContext` has the same verbs, which return when the broker has it."""
    left: list[list[str]] = []
    bus = bench.bus()

    @bus.handle(JOBS, ack="manual")
    def handle(job: str, ctx: SyncContext) -> None:
        if job == "ack":
            ctx.ack()
        elif job == "reject":
            ctx.reject("no")
        elif ctx.attempt == 1:
            ctx.nack()
        else:
            ctx.ack()
        left.append(bench.ids(JOBS))

    async with bus.worker():
        await send(bus, JOBS, "ack", "reject", "nack")
        await until(lambda: not bench.ids(JOBS))
        await until(lambda: len(left) == 4)
    assert list(bench.letters(JOBS)) == ["reject"]


async def test_verbs_of_an_automatic_source_say_what_to_write(bench: Bench) -> None:
    """Without `ack="manual"` a verb is a mistake of the application's."""
    raised: list[BusframeError] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        try:
            await ctx.ack()
        except ConfigurationError as error:
            raised.append(error)

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: raised)
    assert 'ack="manual"' in str(raised[0])
