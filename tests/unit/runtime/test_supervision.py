"""Whatever fails outside a handler, the worker goes on: no task ends silently, no credit and no lane is lost."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from busframe import Context, Queue, Retry
from busframe.spi import Ack
from tests.support.bench import Bench, now, quiet, send, until

JOBS = Queue("jobs", str)


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_handler_that_cancels_its_own_task_fails_and_the_slot_lives_on(bench: Bench, ordering: Any) -> None:
    """Time-out libraries and careless code do that; with as many of them as slots the worker would stand still."""
    seen: list[str] = []
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS, concurrency=2, prefetch=4, ordering=ordering)
    async def handle(job: str) -> None:
        seen.append(job)
        task = asyncio.current_task()
        assert task is not None
        if job.startswith("cancels"):
            task.cancel()
            await asyncio.sleep(1)
        if job.startswith("leaves"):
            task.cancel()
        if job.startswith("swallows"):
            task.cancel()
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                raise TimeoutError from None

    async with bus.worker() as worker:
        jobs = [f"{how} {number}" for number in range(3) for how in ("cancels", "leaves", "swallows")]
        await send(bus, JOBS, *jobs, "good", key="k")
        await until(lambda: "good" in bench.faults.settlements(Ack))
        await until(lambda: worker.sources[0].in_flight == 0)
        assert worker.health().ready
    assert sorted(bench.letters(JOBS)) == sorted(job for job in jobs if not job.startswith("leaves"))
    assert seen == [*jobs, "good"] or ordering == "none"
    assert sorted(seen) == sorted([*jobs, "good"])


@pytest.mark.parametrize("error", [TimeoutError("mine"), asyncio.CancelledError("mine"), SystemExit(3)])
async def test_a_handlers_own_error_of_any_kind_is_its_messages_failure(bench: Bench, error: BaseException) -> None:
    """Only the worker's own cancellation is shutdown; nothing that a handler raises ends the worker."""
    attempts: list[int] = []
    bus = bench.bus(retry=Retry(max_attempts=2, delay_s=1))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise error

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await until(lambda: bench.letters(JOBS))
        assert worker.health().ready
    assert attempts == [1, 2]
    stack = bench.letters(JOBS)["a"].stack
    assert stack is not None
    assert type(error).__name__ in stack


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RuntimeError("a bug"), OSError("no route")])
async def test_receiving_survives_whatever_the_transport_raises(bench: Bench, error: BaseException) -> None:
    """A cancelled future inside a client library looks like a cancellation: receiving begins again all the same."""
    bench.faults.fail("receive", 3, error)
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)

    async with bus.worker() as worker:
        await send(bus, JOBS, "a")
        await until(lambda: seen)
        assert worker.health().ready
    assert bench.faults.calls.count("receive") < 10


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_failure_inside_the_framework_counts_as_one_of_the_message(
    bench: Bench, ordering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that breaks what surrounds the handler ends in the dead letters, and takes no credit or lane along."""
    from busframe.runtime.handle import Handling

    judge = Handling._judge

    def broken(self: Handling, flight: Any, verdict: Any) -> Any:
        if flight.delivery.message.id == "bad":
            raise RuntimeError("a bug of ours")
        return judge(self, flight, verdict)

    monkeypatch.setattr(Handling, "_judge", broken)
    bus = bench.bus()

    @bus.handle(JOBS, ordering=ordering, prefetch=2, concurrency=2)
    async def handle(job: str) -> None:
        pass

    async with bus.worker() as worker:
        for body in ("bad", "good"):
            await bus.publish(JOBS, body, id=body, key="k", ttl_s=1e6)
        await quiet(600)
        assert worker.sources[0].in_flight == 0
    assert bench.letters(JOBS)["bad"].attempts == 5
    assert bench.letters(JOBS)["bad"].error_type == "RuntimeError"
    assert bench.faults.settlements(Ack) == ["good"]


async def test_opening_that_fails_at_start_is_tried_again(bench: Bench) -> None:
    """A broker that is away for a moment at start is waited for, with back-off."""
    bench.faults.fail("open receiver", 4)
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)

    async with bus.worker() as worker:
        assert worker.health().sources == {"jobs": "reconnecting"}
        assert not worker.health().ready
        await send(bus, JOBS, "a")
        await until(lambda: seen)
        assert worker.health().sources == {"jobs": "consuming"}
    assert bench.faults.calls.count("open receiver") == 5


async def test_back_off_grows_and_is_capped(bench: Bench) -> None:
    """A broker that stays away is asked ever less often, at least every 15 seconds (and a half of jitter)."""
    opened: list[float] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        pass

    meet = bench.faults.meet

    async def noted(operation: Any) -> None:
        if operation == "open receiver":
            opened.append(now())
        await meet(operation)

    bench.faults.meet = noted  # type: ignore[method-assign]
    bench.faults.fail("open receiver", 12)
    async with bus.worker():
        await quiet(120)
    waits = [later - earlier for earlier, later in pairwise(opened)]
    assert waits[:7] == pytest.approx([0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4])
    assert waits[8:] == pytest.approx([15.0] * len(waits[8:]))


async def test_closing_a_receiver_that_hangs_holds_nothing_up(bench: Bench) -> None:
    """A connection that does not answer even to a close is left behind after a while."""
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)

    async with bus.worker():
        bench.faults.hang("close receiver")
        bench.faults.fail("receive")
        await send(bus, JOBS, "a", "b")
        await until(lambda: len(seen) == 2)
        assert 5 <= now() < 10


async def test_a_drain_while_a_receiver_is_being_closed_still_closes_it(bench: Bench) -> None:
    """The bus stays open, and a consumer that nobody reads would keep messages from others."""
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)

    closing = asyncio.Event()
    go = asyncio.Event()
    async with bus:
        async with bus.worker():
            (receiver,) = bench.faults.receivers
            close = receiver.inner.close

            async def slow() -> None:
                closing.set()
                await go.wait()
                await close()

            receiver.inner.close = slow  # type: ignore[method-assign]
            bench.faults.fail("receive")
            await send(bus, JOBS, "a", "b")
            await closing.wait()
            asyncio.get_running_loop().call_later(1, go.set)
        assert not bench.store(JOBS).consumers
