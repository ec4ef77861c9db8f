"""``PauseSource``: something outside is down, and the source waits without counting anything."""

import asyncio
from typing import Any

import pytest

from busframe import Context, PauseSource, Queue, Retry
from busframe.errors import ConnectionFailed
from busframe.spi import Ack, Release
from tests.support.bench import Bench, now, quiet, send, until

JOBS = Queue("jobs", str)
OTHERS = Queue("others", str)


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_nothing_starts_nothing_is_counted_and_it_resumes(bench: Bench, ordering: Any) -> None:
    """While it lasts no handler of the source starts and nothing is fetched; then the message is tried again."""
    seen: list[tuple[str, int, float]] = []
    bus = bench.bus(retry=Retry(max_attempts=2))

    @bus.handle(JOBS, prefetch=2, concurrency=2, ordering=ordering)
    async def handle(job: str, ctx: Context) -> None:
        seen.append((job, ctx.attempt, round(now(), 6)))
        if job == "a" and now() < 90:
            raise PauseSource(50, "the database is down")

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", "b", "c", key="k")
        await quiet(1)
        assert worker.health().sources == {"jobs": "paused"}
        assert worker.health().ready
        received = bench.faults.calls.count("receive")
        await quiet(48)
        assert bench.faults.calls.count("receive") == received
        await until(lambda: not bench.ids(JOBS))
        assert worker.health().sources == {"jobs": "consuming"}
        assert worker.statistics()["jobs"]["failed"] == 0
    assert [entry for entry in seen if entry[0] == "a"] == [("a", 1, 0.0), ("a", 1, 50.0), ("a", 1, 100.0)]
    if ordering == "key":
        assert [job for job, _, _ in seen] == ["a", "a", "a", "b", "c"]


async def test_the_latest_end_counts_and_other_sources_go_on(bench: Bench) -> None:
    """Two handlers that ask for pauses get the longer one; a pause is the source's alone."""
    seen: list[tuple[str, float]] = []
    bus = bench.bus()

    @bus.handle(JOBS, prefetch=4, concurrency=4)
    async def handle(job: str) -> None:
        first = not any(job == other for other, _ in seen)
        seen.append((job, round(now(), 6)))
        if first:
            await asyncio.sleep(10 - now())
            raise PauseSource(float(job))

    @bus.handle(OTHERS)
    async def handle_others(job: str) -> None:
        pass

    async with bus.worker():
        await send(bus, JOBS, "30", "100", "20")
        await quiet(15)
        assert len(seen) == 3
        await send(bus, OTHERS, "x")
        await until(lambda: bench.faults.settlements(Ack), deadline_s=5)
        await quiet(200)
    assert [at for _, at in seen[3:]] == [110.0] * 3


async def test_a_drain_ends_it_with_release(bench: Bench) -> None:
    """A worker that stops does not wait for the end of a pause: the message goes back, with no attempt counted."""
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise PauseSource(1e6)

    async with bus.worker():
        await send(bus, JOBS, "a", "b")
        await quiet(5)
        began = now()
    assert now() - began < 1
    assert sorted(bench.faults.settlements(Release)) == ["a"]
    assert all(not row.carried for row in bench.rows(JOBS))
    assert bench.ids(JOBS) == ["a", "b"]


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_beyond_what_the_broker_lets_hold_the_deliveries_go_back(bench: Bench, ordering: Any) -> None:
    """A long pause gives back what it would hold too long, and its keys are free when it ends."""
    bench.faults.capabilities = {"hold_max_s": 30.0}
    seen: list[str] = []
    bus = bench.bus(retry=Retry(delay_s=1, max_delay_s=5))

    @bus.handle(JOBS, ordering=ordering)
    async def handle(job: str) -> None:
        seen.append(job)
        if len(seen) == 1:
            raise PauseSource(100)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", "b", key="k")
        await quiet(5)
        assert bench.faults.held == 0
        await quiet(90)
        assert seen == ["a"]
        await until(lambda: not bench.ids(JOBS))
        assert worker.sources[0].in_flight == 0
    assert seen == ["a", "a", "b"]


@pytest.mark.parametrize("meanwhile", ["drained", "paused by hand", "resumed"])
async def test_letting_go_of_an_ordered_source_gives_way(bench: Bench, meanwhile: str) -> None:
    """It waits for the handlers that run; what happens until they end decides."""
    bench.faults.capabilities = {"hold_max_s": 30.0}
    seen: list[str] = []
    bus = bench.bus(retry=Retry(delay_s=1, max_delay_s=5))

    @bus.handle(JOBS, ordering="key")
    async def handle(job: str) -> None:
        seen.append(job)
        if job == "long" and seen.count(job) == 1:
            await asyncio.sleep(200 if meanwhile == "resumed" else 20)
        if job == "pauses" and seen.count(job) == 1:
            await asyncio.sleep(5)
            raise PauseSource(100)

    async with bus.worker() as worker:
        await send(bus, JOBS, *"12345")
        await until(lambda: not bench.ids(JOBS))
        await send(bus, JOBS, "long", key="l")
        await send(bus, JOBS, "pauses", "next", key="k")
        await quiet(10)
        if meanwhile == "paused by hand":
            await worker.pause(JOBS)
            await quiet(200)
            assert "next" not in seen
            await worker.resume(JOBS)
        if meanwhile != "drained":
            await until(lambda: not bench.ids(JOBS))
            await until(lambda: worker.sources[0].in_flight == 0)
    assert seen.count("long") == 1
    assert bench.ids(JOBS) == (["pauses", "next"] if meanwhile == "drained" else [])


async def test_a_reconnect_during_a_pause_neither_ends_it_nor_doubles_anything(bench: Bench) -> None:
    """The connection comes and goes; the handlers wait for what they wait for."""
    seen: list[tuple[str, float]] = []
    bus = bench.bus()

    @bus.handle(JOBS, prefetch=2)
    async def handle(job: str) -> None:
        seen.append((job, round(now(), 6)))
        if len(seen) == 1:
            raise PauseSource(100)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", "b")
        await quiet(5)
        host = bench.faults.hosts[-1]
        host.report("jobs", "down", ConnectionFailed("cut"))
        assert worker.health().sources == {"jobs": "reconnecting"}
        bench.cut()
        host.report("jobs", "up", None)
        assert worker.health().sources == {"jobs": "paused"}
        await quiet(5)
        assert len(seen) == 1
        await until(lambda: not bench.ids(JOBS))
        assert worker.sources[0].in_flight == 0
    assert seen[0] == ("a", 0.0)
    assert all(at >= 100 for _, at in seen[1:])
