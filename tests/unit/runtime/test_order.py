"""``ordering="key"`` and ``concurrency``: what may run beside what."""

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from busframe import Context, Queue, Reject, Retry, RetryAfter
from tests.support.bench import Bench, now, quiet, send, until

JOBS = Queue("jobs", str)


async def test_the_order_of_a_key_is_kept_through_retries(bench: Bench) -> None:
    """A message that fails is tried again before the next one of its key; other keys go on."""
    seen: list[tuple[str, float]] = []
    bus = bench.bus(retry=Retry(max_attempts=5, delay_s=10, factor=1, jitter=0))

    @bus.handle(JOBS, ordering="key", concurrency=2, prefetch=4)
    async def handle(job: str, ctx: Context) -> None:
        seen.append((job, now()))
        if job == "a1" and ctx.attempt < 4:
            raise ValueError

    async with bus.worker():
        await send(bus, JOBS, "a1", "a2", "a3", key="a")
        await send(bus, JOBS, "b1", "b2", "b3", key="b")
        await send(bus, JOBS, "free")
        await quiet(100)
    assert [job for job, _ in seen if job.startswith("a")] == ["a1"] * 4 + ["a2", "a3"]
    assert [job for job, _ in seen if job.startswith("b")] == ["b1", "b2", "b3"]
    assert max(at for job, at in seen if not job.startswith("a")) < 5
    assert next(at for job, at in seen if job == "a2") >= 30


async def test_dead_lettering_releases_the_key(bench: Bench) -> None:
    """A message that is given up blocks its successors no longer."""
    seen: list[str] = []
    bus = bench.bus(retry=Retry(max_attempts=2, delay_s=5))

    @bus.handle(JOBS, ordering="key")
    async def handle(job: str) -> None:
        seen.append(job)
        if job == "bad":
            raise ValueError
        if job == "worse":
            raise Reject

    async with bus.worker():
        await send(bus, JOBS, "bad", "worse", "good", key="k")
        await until(lambda: not bench.ids(JOBS))
    assert seen == ["bad", "bad", "worse", "good"]
    assert sorted(bench.letters(JOBS)) == ["bad", "worse"]


async def test_a_waiting_retry_holds_its_key_and_no_slot(bench: Bench) -> None:
    """With one slot, other keys are handled while one waits."""
    seen: list[str] = []
    bus = bench.bus(retry=Retry(delay_s=100, jitter=0))

    @bus.handle(JOBS, ordering="key", concurrency=1, prefetch=3)
    async def handle(job: str, ctx: Context) -> None:
        seen.append(job)
        if job == "bad" and ctx.attempt == 1:
            raise ValueError

    async with bus.worker():
        await send(bus, JOBS, "bad", key="x")
        for number in range(5):
            await send(bus, JOBS, str(number), key=str(number))
        await until(lambda: len(seen) == 6)
        assert now() < 10
        await until(lambda: not bench.ids(JOBS))
    assert seen[-1] == "bad"


async def test_a_longer_retry_after_is_cut_to_what_a_lane_may_wait(bench: Bench) -> None:
    """`RetryAfter` cannot hold a key longer than `max_lane_delay_s`."""
    seen: list[float] = []
    bus = bench.bus(config={"max_lane_delay_s": 60})

    @bus.handle(JOBS, ordering="key", retry=Retry(max_attempts=2, max_delay_s=10))
    async def handle(job: str) -> None:
        seen.append(now())
        raise RetryAfter(10_000)

    async with bus.worker():
        await send(bus, JOBS, "a", key="k")
        await until(lambda: bench.letters(JOBS))
    assert seen == [0.0, 60.0]


async def test_one_slot_is_strictly_serial(bench: Bench) -> None:
    """With `concurrency=1` no two handlers of a source ever overlap, retries included."""
    running = 0
    most = 0
    bus = bench.bus(retry=Retry(delay_s=1))

    @bus.handle(JOBS, concurrency=1)
    async def handle(job: str, ctx: Context) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.1)
        running -= 1
        if ctx.attempt == 1 and int(job) % 3 == 0:
            raise ValueError

    async with bus.worker():
        await send(bus, JOBS, *map(str, range(50)))
        await until(lambda: not bench.ids(JOBS))
    assert most == 1


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_in_flight_and_running_never_exceed_their_limits(bench: Bench, ordering: Any) -> None:
    """At most `prefetch` deliveries are unsettled and at most `concurrency` handlers run, whatever they answer."""
    running = most = most_held = 0
    bus = bench.bus(retry=Retry(max_attempts=3, delay_s=2))

    @bus.handle(JOBS, concurrency=3, prefetch=7, ordering=ordering, timeout_s=0.5)
    async def handle(job: str, ctx: Context) -> None:
        nonlocal running, most, most_held
        running += 1
        most = max(most, running)
        most_held = max(most_held, bench.faults.held)
        try:
            await asyncio.sleep(1 if int(job) % 7 == 0 else 0.1)
            if int(job) % 5 == 0:
                raise ValueError
        finally:
            running -= 1

    async with bus.worker() as worker:
        for number in range(100):
            await send(bus, JOBS, str(number), key=str(number % 4))
        await until(lambda: not bench.ids(JOBS))
        assert worker.sources[0].in_flight == 0
    assert most == 3
    assert most_held <= 7
    assert len(bench.letters(JOBS)) == len([number for number in range(100) if number % 7 == 0 or number % 5 == 0])


async def test_competing_workers_keep_the_order_of_every_key(bench: Bench) -> None:
    """Across workers, failures, cuts and a worker that leaves: no message of a key is skipped or overtaken."""
    history: defaultdict[str, list[int]] = defaultdict(list)
    finished: set[str] = set()

    def worker() -> Any:
        bus = bench.bus(retry=Retry(max_attempts=50, delay_s=0.5, factor=1))

        @bus.handle(JOBS, ordering="key", concurrency=4)
        async def handle(job: str, ctx: Context) -> None:
            key, number = job.split("-")
            await asyncio.sleep(0.05)
            if int(number) % 10 == 3 and ctx.attempt == 1 and not ctx.redelivered:
                raise ValueError
            if job not in finished:
                finished.add(job)
                history[key].append(int(number))

        return bus.worker()

    publisher = bench.bus(uses=[JOBS])
    async with worker(), publisher:
        for number in range(40):
            for key in "abcd":
                await send(publisher, JOBS, f"{key}-{number}", key=key)
        async with worker():
            await quiet(2)
            bench.cut()
            await quiet(2)
        async with worker(), worker():
            await quiet(1)
            bench.cut()
            await until(lambda: not bench.ids(JOBS))
    assert dict(history) == {key: list(range(40)) for key in "abcd"}


async def test_a_cut_while_a_key_waits_for_its_retry_keeps_the_order(bench: Bench) -> None:
    """The stale delivery of a lost connection does not start beside its redelivery."""
    seen: list[str] = []
    running = 0
    bus = bench.bus(retry=Retry(max_attempts=3, delay_s=10, factor=1, jitter=0))

    @bus.handle(JOBS, ordering="key", prefetch=5)
    async def handle(job: str, ctx: Context) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(1)
        running -= 1
        seen.append(job)
        if job == "a" and len(seen) == 1:
            raise ValueError

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", "b", "c", key="k")
        await quiet(5)
        bench.cut()
        await until(lambda: not bench.ids(JOBS))
        await until(lambda: worker.sources[0].in_flight == 0)
    assert seen == ["a", "a", "b", "c"]


async def test_what_a_cut_took_back_is_not_started_where_it_was(bench: Bench) -> None:
    """Another worker goes on with its key, so what waited here for a slot must not run behind what is newer."""
    seen: list[tuple[str, str, bool]] = []

    def worker(name: str) -> Any:
        bus = bench.bus()

        @bus.handle(JOBS, ordering="key", concurrency=1, prefetch=6)
        async def handle(job: str, ctx: Context) -> None:
            if name == "old" and job == "a1":
                await asyncio.sleep(100)
            seen.append((name, job, ctx.redelivered))

        return bus.worker()

    async with worker("old") as old:
        publisher = bench.bus(uses=[JOBS])
        async with publisher:
            await send(publisher, JOBS, *(f"warm {number}" for number in range(20)))
            await until(lambda: not bench.ids(JOBS))
            seen.clear()
            for job in ("a1", "b1", "c1", "d1", "e1", "f1", "b2"):
                await send(publisher, JOBS, job, key=job[0])
            await until(lambda: old.sources[0].credit.available == 0)
            async with worker("new"):
                bench.cut()
                await until(lambda: not bench.ids(JOBS))
                await quiet(200)
        assert old.sources[0].counters.lost == 6
        assert old.sources[0].in_flight == 0
    assert sorted(seen[:-1]) == sorted(("new", job, job != "b2") for job in ("a1", "b1", "b2", "c1", "d1", "e1", "f1"))
    assert seen[-1] == ("old", "a1", False)


async def test_the_first_failure_holds_up_its_key_alone(bench: Bench) -> None:
    """Also right after the start, when little may be in flight: a message that waits for its retry killed nothing."""
    bus = bench.bus(uses=[JOBS])
    handled: list[tuple[str, float]] = []

    @bus.handle(JOBS, ordering="key", retry=Retry(delay_s=100, max_delay_s=100, jitter=0))
    async def work(job: str, ctx: Context) -> None:
        if job == "fails" and ctx.attempt == 1:
            raise ValueError
        handled.append((job, now()))

    async with bus:
        await bus.publish(JOBS, "fails", key="a")
        for number in range(5):
            await bus.publish(JOBS, f"other-{number}", key=f"b{number}")
        async with bus.worker() as worker:
            await worker.wait_idle(1)
    assert [job for job, _ in handled] == [f"other-{number}" for number in range(5)] + ["fails"]
    assert [at for _, at in handled] == pytest.approx([0.0] * 5 + [100.0], abs=0.01)
