"""``ack="before"``: settled before the handler starts, so it is handled once or not at all."""

import asyncio

from busframe import Context, PauseSource, Queue, Reject, Retry
from tests.support.bench import Bench, quiet, send, until

JOBS = Queue("jobs", str)


async def test_the_broker_has_the_settlement_before_the_handler_starts(bench: Bench) -> None:
    """A crash in the handler loses the message, and can never bring it back."""
    left: list[int] = []
    bus = bench.bus()

    @bus.handle(JOBS, ack="before")
    async def handle(job: str) -> None:
        left.append(len([row for row in bench.rows(JOBS) if row.message.id == job]))

    async with bus.worker():
        await send(bus, JOBS, "a", "b")
        await until(lambda: len(left) == 2)
    assert left == [0, 0]
    assert "settle" not in bench.faults.calls


async def test_a_failure_is_counted_as_dropped_and_never_retried(bench: Bench) -> None:
    """There is nothing left to retry or to dead-letter: it is logged as an error."""
    attempts: list[int] = []
    bus = bench.bus(retry=Retry(delay_s=0))

    @bus.handle(JOBS, ack="before")
    async def handle(job: str, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise Reject("no") if job == "rejected" else ValueError("no")

    async with bus.worker() as worker:
        await send(bus, JOBS, "failed", "rejected")
        await until(lambda: len(attempts) == 2)
        await quiet()
        assert worker.sources[0].in_flight == 0
    assert attempts == [1, 1]
    assert bus.statistics()["jobs"]["dropped"] == 2
    assert bench.letters(JOBS) == {}


async def test_a_drain_handles_what_was_received(bench: Bench) -> None:
    """It cannot go back, so it runs, although the worker is ending."""
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS, ack="before", concurrency=1, prefetch=5)
    async def handle(job: str) -> None:
        await asyncio.sleep(3)
        seen.append(job)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", "b", "c", "d")
        await quiet(4)
        received = worker.statistics()["jobs"]["received"]
    assert received > len(seen[:1])
    assert len(seen) == received
    assert len(bench.ids(JOBS)) == 4 - received


async def test_a_reconnect_loses_nothing_that_was_received(bench: Bench) -> None:
    """What waits for a slot when the connection goes is handled: the broker does not have it any more."""
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS, ack="before", concurrency=1, prefetch=5)
    async def handle(job: str) -> None:
        await asyncio.sleep(3)
        seen.append(job)

    async with bus.worker():
        await send(bus, JOBS, "a", "b", "c", "d")
        await quiet(4)
        bench.faults.fail("receive")
        await quiet()
        bench.cut()
        await send(bus, JOBS, "e")
        await until(lambda: len(seen) == 5)
    assert sorted(seen) == ["a", "b", "c", "d", "e"]


async def test_a_message_that_was_delivered_often_is_handled_like_any_other(bench: Bench) -> None:
    """The crash guard has nothing to guard where nothing comes back."""
    bench.faults.deliveries = {"a": 3, "b": 100}
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS, ack="before", prefetch=5)
    async def handle(job: str) -> None:
        seen.append(job)

    async with bus.worker():
        await send(bus, JOBS, "a", "b", "c")
        await until(lambda: sorted(seen) == ["a", "b", "c"])


async def test_a_pause_holds_what_was_received_and_a_drain_ends_it(bench: Bench) -> None:
    """Paused messages are handled when the pause ends; one whose handler pauses on to the end is counted as dropped."""
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS, ack="before", concurrency=1, prefetch=5)
    async def handle(job: str) -> None:
        seen.append(job)
        if job == "stuck" or seen == ["once"]:
            raise PauseSource(20)

    async with bus.worker():
        await send(bus, JOBS, "once", "a")
        await quiet(5)
        assert seen == ["once"]
        await until(lambda: sorted(seen) == ["a", "once", "once"])
        await send(bus, JOBS, "stuck")
        await quiet(5)
    assert seen[3:] == ["stuck", "stuck"]
    assert bus.statistics()["jobs"]["dropped"] == 1
