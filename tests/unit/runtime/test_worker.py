"""The worker as a whole: health, waiting for quiet, observers, reconnects, sources that vanish."""

import asyncio
from typing import Any

import pytest

from busframe import Context, Message, Queue, Reject, Retry, Topic
from busframe.errors import ConnectionFailed, DestinationNotFound, TransportError
from busframe.logic.names import physical_name
from busframe.model.events import Failed, Handled, SourceChanged
from busframe.spi import Ack, DeadLetter, Nack
from tests.support.bench import Bench, now, quiet, send, until

JOBS = Queue("jobs", str)
OTHERS = Queue("others", str)


async def test_observers_are_told_what_happened_and_cannot_break_it(bench: Bench) -> None:
    """Handled, failed with what becomes of it, and every change of state; one that raises is logged."""
    events: list[object] = []

    def broken(event: object) -> None:
        raise RuntimeError("an observer's own")

    bus = bench.bus(observers=[broken, events.append], retry=Retry(max_attempts=2, delay_s=1, jitter=0))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        if job == "bad":
            raise ValueError("no")

    async with bus.worker():
        await send(bus, JOBS, "good")
        await until(lambda: bench.faults.settlements(Ack))
        await send(bus, JOBS, "bad")
        await until(lambda: bench.letters(JOBS))
    assert [event.state for event in events if isinstance(event, SourceChanged)] == ["consuming", "stopped"]
    (handled,) = [event for event in events if isinstance(event, Handled)]
    assert (str(handled.source), handled.handler, handled.message.id, handled.attempt) == ("jobs", "handle", "good", 1)
    failures = [event for event in events if isinstance(event, Failed)]
    assert [(event.attempt, type(event.settlement)) for event in failures] == [(1, Nack), (2, DeadLetter)]


async def test_wait_idle_waits_for_what_is_in_flight_and_then_for_quiet(bench: Bench) -> None:
    """It returns when nothing runs and nothing came for a while, counted from the call at the earliest."""
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        await asyncio.sleep(10)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await worker.wait_idle(3)
        assert now() == pytest.approx(13, abs=0.2)
        await asyncio.sleep(100)
        await send(bus, JOBS, "b")
        await worker.wait_idle(3)
        assert now() == pytest.approx(126, abs=0.2)


async def test_what_a_handler_publishes_carries_the_correlation_id(bench: Bench) -> None:
    """Its message's correlation id, or its id where it has none; a fresh id of its own at each attempt."""
    seen: list[Message] = []
    bus = bench.bus(retry=Retry(delay_s=1))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        await ctx.publish(OTHERS, job)
        if ctx.attempt == 1:
            raise ValueError

    @bus.handle(OTHERS)
    async def collect(job: str, message: Message) -> None:
        seen.append(message)

    async with bus.worker():
        await bus.publish(JOBS, "a", id="first")
        await bus.publish(JOBS, "b", id="second", correlation_id="shared")
        await until(lambda: len(seen) == 4)
    found = {(message.body, message.correlation_id) for message in seen}
    assert found == {(b"a", "first"), (b"b", "shared")}
    assert len({message.id for message in seen}) == 4


async def test_the_transports_reports_are_the_sources_states(bench: Bench) -> None:
    """A source is ready while it is consumed, and not while the way to it is lost."""
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        pass

    @bus.handle(OTHERS)
    async def handle_others(job: str) -> None:
        pass

    assert not bus.health().ready
    async with bus.worker():
        report = bench.faults.hosts[-1].report
        assert bus.health().ready
        report("jobs", "down", ConnectionFailed("cut"))
        assert bus.health().sources == {"jobs": "reconnecting", "others": "consuming"}
        assert not bus.health().ready
        report("jobs", "up", None)
        assert bus.health().ready
        report("connection", "down", ConnectionFailed("cut"))
        assert not bus.health().ready
        assert bus.health().problems
        report("connection", "blocked", None)
        assert bus.health().problems
        report("connection", "up", None)
        assert bus.health().ready
        assert not bus.health().problems
        report("jobs", "blocked", ConnectionFailed("the broker has deleted 7 messages"))
        assert bus.health().ready
        assert bus.health().problems == ["the broker has deleted 7 messages"]
    assert not bus.health().ready


async def test_a_cut_gives_everything_again_and_loses_nothing(bench: Bench) -> None:
    """Deliveries of a lost connection are forgotten; only what was running runs twice."""
    finished: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS, prefetch=10, concurrency=2)
    async def handle(job: str) -> None:
        await asyncio.sleep(1)
        finished.append(job)

    async with bus.worker() as worker:
        await send(bus, JOBS, *map(str, range(20)))
        for _ in range(5):
            await quiet(1.3)
            bench.cut()
        await until(lambda: not bench.ids(JOBS))
        await until(lambda: worker.sources[0].in_flight == 0)
    assert set(finished) == set(map(str, range(20)))
    assert len(finished) <= 20 + 5 * 2


async def test_a_deleted_source_is_declared_again_in_mode_create(bench: Bench) -> None:
    """What the application owns comes back, with its dead letters, and is consumed."""
    topic = Topic("events", str)
    source = topic.subscription("s", where={"k": "v"})
    seen: list[str] = []
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(source)
    async def handle(event: str) -> None:
        seen.append(event)
        raise ValueError

    async with bus.worker() as worker:
        for name in (physical_name(source), physical_name(source.dead_letters), "events"):
            bench.broker.delete(name)
        await until(lambda: worker.health().sources == {"events/s": "reconnecting"})
        await until(lambda: worker.health().ready)
        assert dict(bench.store(source).where) == {"k": ("v",)}
        await bus.publish(topic, "x", headers={"k": "v"}, id="x")
        await until(lambda: bench.letters(source))
    assert seen == ["x"]


async def test_a_deleted_source_is_an_error_and_not_silence_in_mode_assume(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is declared; health is down, the log says it once, and it is consumed again when somebody makes it."""
    other = bench.bus(uses=[JOBS])
    async with other:
        pass
    seen: list[str] = []
    bus = bench.bus(config={"topology": "assume"})

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)

    async with bus.worker() as worker:
        bench.broker.delete("jobs")
        await quiet(300)
        assert worker.health().sources == {"jobs": "reconnecting"}
        assert "jobs" not in bench.broker.entities
        assert len([record for record in caplog.records if "does not exist" in record.getMessage()]) == 1
        async with other:
            await send(other, JOBS, "a")
        await until(lambda: seen)
        assert worker.health().ready


async def test_a_worker_whose_source_is_missing_does_not_start(bench: Bench) -> None:
    """With `topology = "assume"` a missing source is an error at start, and nothing stays behind."""
    bus = bench.bus(config={"topology": "assume"}, uses=[OTHERS])

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        pass

    with pytest.raises(DestinationNotFound, match="jobs"):
        async with bus.worker():
            raise AssertionError("it started")


async def test_dead_letters_that_vanish_are_declared_again(bench: Bench) -> None:
    """A worker in mode create that finds nowhere to put a dead letter makes it, instead of trying for ever."""
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise ValueError

    async with bus.worker():
        bench.broker.delete(physical_name(JOBS.dead_letters))
        await send(bus, JOBS, "a")
        await until(lambda: not bench.ids(JOBS))
    assert list(bench.letters(JOBS)) == ["a"]


async def test_the_prefetch_starts_small_and_doubles_with_success(bench: Bench) -> None:
    """After a start a message that kills the process takes few others along."""
    bus = bench.bus()

    @bus.handle(JOBS, concurrency=4, prefetch=16)
    async def handle(job: str) -> None:
        pass

    async with bus.worker():
        await send(bus, JOBS, *map(str, range(100)))
        await until(lambda: not bench.ids(JOBS))
    assert bench.faults.prefetch == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("fault", ["raise", "non-transient"])
async def test_health_and_statistics_never_raise(bench: Bench, fault: str) -> None:
    """Whatever the state, they answer: before, during, in failure, after."""
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        pass

    def look() -> Any:
        return bus.health(), bus.statistics(), repr(bus)

    look()
    async with bus.worker() as worker:
        look()
        bench.faults.fail("receive", 5, TransportError("x", transient=fault == "raise"))
        bench.faults.fail("open receiver", 5)
        await send(bus, JOBS, "a")
        for _ in range(100):
            await quiet(0.1)
            look()
            repr(worker)
        await until(lambda: not bench.ids(JOBS))
    look()
    assert bus.statistics()["jobs"]["handled"] == 1


async def test_only_the_chosen_handlers_sources_run(bench: Bench) -> None:
    """`handlers=[…]` runs their sources whole, and the others not at all."""
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def one(job: str) -> None:
        seen.append("one")

    @bus.handle(OTHERS)
    async def two(job: str) -> None:
        seen.append("two")

    async with bus.worker(handlers=["two"]) as worker:
        await send(bus, JOBS, "a")
        await send(bus, OTHERS, "b")
        await worker.wait_idle()
    assert seen == ["two"]
    assert bench.ids(JOBS) == ["a"]


async def test_what_waited_for_a_slot_when_the_connection_went_is_not_started(bench: Bench) -> None:
    """It belongs to the broker again; only what ran, and what started before the loss was seen, runs twice."""
    started: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS, prefetch=8, concurrency=1)
    async def handle(job: str) -> None:
        started.append(job)
        await asyncio.sleep(5)
        raise Reject

    async with bus.worker() as worker:
        await send(bus, JOBS, *map(str, range(12)))
        await quiet(8)
        assert bench.faults.held == 8
        bench.cut()
        await until(lambda: not bench.ids(JOBS))
        await until(lambda: worker.sources[0].in_flight == 0)
    assert len(bench.letters(JOBS)) == 12
    assert len(started) <= 12 + 2
