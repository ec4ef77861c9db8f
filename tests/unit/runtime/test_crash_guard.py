"""A message that may be what kills the process runs alone, and ends somewhere."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from busframe import Context, PauseSource, Queue, Retry
from busframe.errors import ClosedError, TransportError
from busframe.memory.receiver import MemoryReceiver
from busframe.spi import Ack, Message, Outgoing, Release
from tests.support.bench import Bench, now, quiet, send, until

JOBS = Queue("jobs", str)
SUSPECT = 10  # half of `max_deliveries`


async def crash(bench: Bench, times: int, limit: int = 1) -> None:
    """So often a process takes messages and dies."""
    from busframe.spi import Entity

    transport = bench.connect(bench.faults.hosts[-1]).inner
    await transport.open()
    for _ in range(times):
        receiver = transport.receiver(Entity(JOBS), prefetch=limit)
        await receiver.open()
        await receiver.receive(limit)
        await receiver.close()
    await transport.close()


async def test_a_suspect_runs_alone(bench: Bench) -> None:
    """What was fetched with it is handled before it starts, and nothing else is in flight until it is settled."""
    alone: list[tuple[str, int, int]] = []
    bus = bench.bus()

    @bus.handle(JOBS, concurrency=10, prefetch=10)
    async def handle(job: str, ctx: Context) -> None:
        if job == "suspect":
            await asyncio.sleep(30)
            alone.append((job, bench.faults.held, bench.faults.prefetch[-1]))

    async with bus.worker() as worker:
        await send(bus, JOBS, *[f"warm {number}" for number in range(30)])  # the prefetch is full-grown
        await until(lambda: len(bench.faults.settlements(Ack)) == 30)
        bench.faults.deliveries["suspect"] = SUSPECT
        await send(bus, JOBS, "x", "suspect", "y", "z")
        await until(lambda: len(bench.faults.settlements(Ack)) == 34)
        assert worker.sources[0].in_flight == 0
    assert alone == [("suspect", 1, 1)]
    assert bench.faults.settlements(Release) == []


async def test_twenty_clean_restarts_with_a_full_prefetch_use_up_no_attempt(bench: Bench) -> None:
    """A rolling deploy dead-letters nothing and counts nothing: what was prefetched goes back unstarted."""
    attempts: list[int] = []
    started = asyncio.Event()

    def worker() -> Any:
        bus = bench.bus(config={"drain_timeout_s": 0})

        @bus.handle(JOBS, concurrency=1, prefetch=8)
        async def handle(job: str, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            started.set()
            if not finishing:
                await asyncio.sleep(1000)

        return bus

    finishing = False
    first = worker()
    async with first:
        await send(first, JOBS, *[str(number) for number in range(8)])
    for _ in range(20):
        started.clear()
        async with worker().worker():
            await started.wait()
            await quiet(10)  # the prefetch grows meanwhile
    assert len(bench.ids(JOBS)) == 8
    finishing = True
    last = worker()
    async with last.worker():
        await until(lambda: not bench.ids(JOBS))
    assert set(attempts) == {1}
    assert bench.letters(JOBS) == {}


async def test_a_crash_loop_is_dead_lettered_only_when_it_comes_back_after_running_alone(bench: Bench) -> None:
    """The first delivery beyond the limit runs once more; only the one after that is given up, unhandled."""

    async def handled(deliveries: int) -> list[str]:
        bench.faults.deliveries["a"] = deliveries
        ran: list[str] = []
        bus = bench.bus(config={"max_deliveries": 20, "drain_timeout_s": 0})

        @bus.handle(JOBS)
        async def handle(job: str) -> None:
            ran.append(job)
            if job == "a":
                await asyncio.sleep(1000)

        async with bus.worker():
            await quiet(20)
        return ran

    bus = bench.bus(uses=[JOBS])
    async with bus:
        await send(bus, JOBS, "a", "b")
    assert await handled(21) == ["a"]
    assert await handled(22) == ["b"]
    info = bench.letters(JOBS)["a"]
    assert (info.reason, info.attempts, info.handler) == ("crash-loop", 0, None)
    assert "22 times" in (info.error_message or "")


async def test_crashes_are_counted_by_the_broker_and_a_recorded_failure_clears_them(bench: Bench) -> None:
    """Deliveries count since the last recorded failure: a message that only fails is never a suspect."""
    counts: list[int] = []
    bus = bench.bus(retry=Retry(max_attempts=8, delay_s=1, factor=1, jitter=0))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        (row,) = bench.rows(JOBS)
        counts.append(row.claims)
        raise ValueError

    async with bus:
        await send(bus, JOBS, "a")
    await crash(bench, 2)
    async with bus.worker():
        await quiet()
    assert counts == [3, 1, 1, 1, 1, 1, 1, 1]
    assert bench.letters(JOBS)["a"].reason == "attempts"


async def test_a_suspect_that_fails_is_retried_by_its_policy(bench: Bench) -> None:
    """Being a suspect changes when a message runs, and not what becomes of its failure."""
    bench.faults.deliveries["a"] = SUSPECT + 2
    seen: list[int] = []
    bus = bench.bus(retry=Retry(max_attempts=3, delay_s=0))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        seen.append(ctx.attempt)
        raise ValueError

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: bench.letters(JOBS))
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("error", [TransportError("away"), ClosedError("gone"), RuntimeError("a bug")])
async def test_narrowing_that_fails_costs_no_credit(bench: Bench, error: Exception) -> None:
    """With a prefetch of one, one lost credit would stop the source for good."""
    bus = bench.bus()
    seen: list[str] = []

    @bus.handle(JOBS, prefetch=1, concurrency=1)
    async def handle(job: str) -> None:
        seen.append(job)

    async with bus.worker() as worker:
        bench.faults.deliveries["a"] = SUSPECT
        bench.faults.fail("resize", 1, error)
        await send(bus, JOBS, "a", "b")
        await until(lambda: sorted(seen) == ["a", "b"])
        await until(lambda: worker.sources[0].in_flight == 0)


async def test_a_suspect_that_is_parked_does_not_stop_the_source(bench: Bench) -> None:
    """A crash loop whose letter is too large is held and reported, and the others are handled."""
    bench.faults.letter_limit = 10
    bench.faults.deliveries["a"] = 1000
    bus = bench.bus()
    seen: list[str] = []

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", "b")
        await until(lambda: seen == ["b"])
        assert worker.health().problems


async def test_a_suspect_waits_for_the_end_of_a_pause(bench: Bench) -> None:
    """While a source is paused none of its handlers starts, a suspect's neither."""
    seen: list[tuple[str, float]] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        seen.append((job, now()))
        if job == "pauses" and len(seen) == 1:
            await asyncio.sleep(5)
            raise PauseSource(50)

    async with bus.worker():
        bench.faults.deliveries["suspect"] = SUSPECT
        await send(bus, JOBS, "pauses", "suspect")
        await quiet(120)
    assert seen[0] == ("pauses", 0.0)
    assert sorted(job for job, _ in seen[1:]) == ["pauses", "suspect"]
    assert all(at >= 55 for _, at in seen[1:])


async def test_a_drain_while_a_suspect_waits_or_runs_loses_nothing(bench: Bench) -> None:
    """A suspect that runs finishes; one that still waits goes back."""
    bench.faults.deliveries["suspect"] = SUSPECT
    for wait_s in (0.5, 4.0):
        bus = bench.bus()

        @bus.handle(JOBS)
        async def handle(job: str) -> None:
            await asyncio.sleep(3)

        async with bus.worker():
            await send(bus, JOBS, "slow", "suspect")
            await quiet(wait_s)
    assert bench.ids(JOBS) == ["suspect"] or bench.ids(JOBS) == []
    assert bench.letters(JOBS) == {}


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_source_that_is_paused_while_a_suspect_waits_goes_on(bench: Bench, ordering: Any) -> None:
    """What the suspect would use is free again: with a window of one nothing else would ever be fetched."""
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS, ordering=ordering)
    async def handle(job: str) -> None:
        seen.append(job)
        if job == "slow":
            await asyncio.sleep(10)

    async with bus.worker() as worker:
        await send(bus, JOBS, "warm", key="w")
        await until(lambda: worker.sources[0].credit.window == 2)
        bench.faults.deliveries["suspect"] = SUSPECT
        await send(bus, JOBS, "slow", key="a")
        await until(lambda: "slow" in seen)
        await send(bus, JOBS, "suspect", "after", key="b")
        await quiet(5)
        await worker.pause(JOBS)
        assert worker.sources[0].in_flight == 0
        await worker.resume(JOBS)
        await until(lambda: sorted(seen) == ["after", "slow", "suspect", "warm"])
        await until(lambda: worker.sources[0].in_flight == 0)


async def test_suspects_of_an_ordered_source_run_alone_in_their_places(bench: Bench) -> None:
    """Nothing is handed back, since it would come again behind the rest; what is ahead of a suspect runs first."""
    ran: list[tuple[str, int]] = []
    running: set[str] = set()
    bus = bench.bus()

    @bus.handle(JOBS, ordering="key", concurrency=10, prefetch=8)
    async def handle(job: str) -> None:
        running.add(job)
        await asyncio.sleep(1)
        ran.append((job, len(running)))
        await asyncio.sleep(1)
        running.discard(job)

    with fetches_all_of_a_key():
        async with bus.worker() as worker:
            await send(bus, JOBS, *(f"warm {number}" for number in range(20)))
            await until(lambda: not bench.ids(JOBS))
            worker.sources[0].credit.window = 8
            ran.clear()
            bench.faults.deliveries |= {"k2": SUSPECT, "m1": SUSPECT + 2}
            transport = bus._opened().transport
            await transport.publish(
                [
                    Outgoing(JOBS, Message(job.encode(), job, key=job[0]))
                    for job in ("a1", "k1", "k2", "k3", "m1", "m2")
                ],
                timeout_s=1,
            )
            await until(lambda: not bench.ids(JOBS))
            assert worker.sources[0].in_flight == 0
    together = dict(ran)
    assert (together["k2"], together["m1"]) == (1, 1)
    order = [job for job, _ in ran]
    assert [job for job in order if job[0] == "k"] == ["k1", "k2", "k3"]
    assert [job for job in order if job[0] == "m"] == ["m1", "m2"]
    assert order.index("a1") < order.index("k2") < order.index("k3") < order.index("m1")
    assert bench.faults.settlements(Release) == []


async def test_of_what_came_back_together_only_the_first_is_found_guilty_by_its_count(bench: Bench) -> None:
    """An ordered source fetches ahead: what is behind a message that kills the process is counted with it."""

    async def handled() -> list[str]:
        ran: list[str] = []
        bus = bench.bus(config={"max_deliveries": 20, "drain_timeout_s": 0})

        @bus.handle(JOBS, ordering="key", prefetch=8)
        async def handle(job: str) -> None:
            ran.append(job)
            if job == "kills":
                await asyncio.sleep(1000)

        async with bus.worker():
            await quiet(20)
        return ran

    bus = bench.bus(uses=[JOBS])
    keyed = bench.bus()
    keyed.handle(JOBS, ordering="key")(_ignore)
    async with keyed:
        pass
    jobs = ["bad", "good", "better", "kills", "behind"]
    async with bus:
        await send(bus, JOBS, *jobs, key="k")
    bench.faults.deliveries |= dict.fromkeys(jobs, 22)
    assert await handled() == ["good", "better", "kills"]
    assert await handled() == ["behind"]
    assert {id: letter.reason for id, letter in bench.letters(JOBS).items()} == {
        "bad": "crash-loop",
        "kills": "crash-loop",
    }


async def _ignore(job: str) -> None: ...


@contextmanager
def fetches_all_of_a_key() -> Iterator[None]:
    """Let the memory broker hand out what it otherwise holds back behind an unsettled message, as RabbitMQ does."""
    opening = MemoryReceiver.open

    async def unordered(self: MemoryReceiver) -> None:
        self._ordering = "none"
        await opening(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryReceiver, "open", unordered)
        patch.setattr("busframe.memory.topology._ordering", lambda entity: "none")
        yield


async def test_the_order_of_a_key_is_kept_when_a_later_message_is_a_suspect(bench: Bench) -> None:
    """A suspect does not overtake an older message of its key that was prefetched with it."""
    seen: list[str] = []
    bus = bench.bus()
    bench.faults.capabilities = {"ordering": "process"}

    @bus.handle(JOBS, prefetch=8)  # the broker keeps no order of keys here, as RabbitMQ's does not
    async def first(job: str) -> None:
        pass

    async with bus:
        pass
    keyed = bench.bus()

    @keyed.handle(JOBS, prefetch=8, ordering="key")
    async def handle(job: str) -> None:
        seen.append(job)

    with fetches_all_of_a_key():
        async with keyed.worker() as worker:
            await send(keyed, JOBS, *[f"warm {number}" for number in range(20)], key="w")
            await until(lambda: len(seen) == 20)
            worker.sources[0].credit.window = 8
            bench.faults.deliveries["2"] = SUSPECT
            transport = keyed._opened().transport
            outgoing = [Outgoing(JOBS, Message(str(n).encode(), str(n), key="k")) for n in (1, 2, 3)]
            await transport.publish(outgoing, timeout_s=1)
            await until(lambda: len(seen) == 23)
    assert seen[20:] == ["1", "2", "3"]
