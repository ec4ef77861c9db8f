"""Settling: nothing is given up because a try failed, and nobody waits for ever."""

import asyncio

import pytest

from busframe import Context, Discard, Queue, Reject, Retry
from busframe.errors import MessageTooLarge, SettlementLost, TransportError
from busframe.spi import Ack, DeadLetter, Delivery, Nack, Settlement
from tests.support.bench import Bench, now, quiet, send, until
from tests.support.faulty import Lost

JOBS = Queue("jobs", str)


async def test_a_success_whose_acknowledgement_is_lost_is_not_run_again(bench: Bench) -> None:
    """The same process remembers what succeeded: the redelivery is acknowledged without the handler."""
    seen: list[str] = []
    lost = iter([Lost(), Lost()])
    bench.faults.judge = lambda delivery, settlement: next(lost, None)
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: bench.faults.settlements(Ack))
    assert seen == ["a"]
    assert bench.ids(JOBS) == []
    assert bus.statistics()["jobs"]["skipped"] == 2


async def test_a_settlement_that_fails_is_tried_again_with_back_off(bench: Bench) -> None:
    """The delivery is held meanwhile: nothing is lost and nothing runs twice."""
    tries: list[float] = []

    def judge(delivery: Delivery, settlement: Settlement) -> Exception | None:
        tries.append(now())
        return TransportError("no answer") if len(tries) < 6 else None

    seen: list[str] = []
    bench.faults.judge = judge
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: bench.faults.settlements(Ack))
    assert seen == ["a"]
    assert tries == pytest.approx([0.0, 0.2, 0.6, 1.4, 3.0, 6.2])


@pytest.mark.parametrize("error", [TransportError("gone"), RuntimeError("a bug"), asyncio.CancelledError()])
async def test_whatever_settling_raises_it_goes_on(bench: Bench, error: BaseException) -> None:
    """Not even a cancellation of the client library's own ends acknowledging for good."""
    bench.faults.fail("settle", 2, error)
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        pass

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", "b", "c")
        await until(lambda: len(bench.faults.settlements(Ack)) == 3)
        assert worker.sources[0].in_flight == 0
    assert bench.ids(JOBS) == []


async def test_a_transport_that_answers_too_few_settlements_costs_no_credit(bench: Bench) -> None:
    """Where it is not clear what was settled, all is settled again."""
    bus = bench.bus()

    @bus.handle(JOBS, concurrency=4, prefetch=4)
    async def handle(job: str) -> None:
        pass

    async with bus.worker() as worker:
        (receiver,) = bench.faults.receivers
        settle = receiver.settle
        broken = iter([True, True])

        async def too_few(settled: object) -> object:
            answers = await settle(settled)  # type: ignore[arg-type]
            return answers[1:] if next(broken, False) else answers

        receiver.settle = too_few  # type: ignore[method-assign, assignment]
        await send(bus, JOBS, *"abcdef")
        await quiet()
        assert worker.sources[0].in_flight == 0
    assert bench.ids(JOBS) == []


@pytest.mark.parametrize("outcome", ["ok", "retry", "reject", "discard"])
async def test_a_settlement_that_comes_too_late_gives_the_credit_back(bench: Bench, outcome: str) -> None:
    """What belongs to the broker again is forgotten here and delivered again: the worker keeps its full prefetch."""
    seen: list[str] = []

    def judge(delivery: Delivery, settlement: Settlement) -> Exception | None:
        if next(first, False):
            bench.cut()
            return SettlementLost("cut")
        return None

    first = iter([True])
    bench.faults.judge = judge
    bus = bench.bus(retry=Retry(delay_s=1))

    @bus.handle(JOBS, prefetch=1, concurrency=1)
    async def handle(job: str, ctx: Context) -> None:
        seen.append(job)
        if outcome == "retry" and ctx.attempt == 1:
            raise ValueError
        if outcome == "reject":
            raise Reject
        if outcome == "discard":
            raise Discard

    async with bus.worker() as worker:
        await send(bus, JOBS, "a", "b")
        await quiet()
        assert worker.sources[0].in_flight == 0
    assert bench.ids(JOBS) == []
    assert len(bench.letters(JOBS)) == (2 if outcome == "reject" else 0)
    assert bus.statistics()["jobs"]["lost"] == 1


async def test_a_dead_letter_that_is_too_large_is_sent_without_stack_and_then_without_text(bench: Bench) -> None:
    """The record gives way, in order of what can be missed most easily; the message itself never does."""
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise ValueError("x" * 500)

    async with bus.worker():
        bench.faults.letter_limit = 1000
        await send(bus, JOBS, "no stack")
        await until(lambda: "no stack" in bench.letters(JOBS))
        bench.faults.letter_limit = 400
        await send(bus, JOBS, "no text")
        await until(lambda: "no text" in bench.letters(JOBS))
    letters = bench.letters(JOBS)
    assert letters["no stack"].stack is None
    assert letters["no stack"].error_message == "x" * 500
    assert (letters["no text"].stack, letters["no text"].error_message) == (None, None)
    assert letters["no text"].error_type == "ValueError"


async def test_one_that_is_still_too_large_is_parked_and_reported(bench: Bench) -> None:
    """The original is held, health names it, others are handled, and a drain does not wait for it."""
    bench.faults.letter_limit = 10
    bus = bench.bus(retry=Retry(max_attempts=1))
    seen: list[str] = []

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(job)
        if job == "bad":
            raise ValueError("no")

    async with bus.worker() as worker:
        await send(bus, JOBS, "bad", "good")
        await until(lambda: worker.health().problems)
        assert "bad" in worker.health().problems[0]
        assert worker.health().ready
        assert worker.sources[0].in_flight == 0
        await worker.wait_idle()
        began = now()
        assert await worker.drain()
        assert now() - began < 1
    assert sorted(seen) == ["bad", "good"]
    assert bench.ids(JOBS) == ["bad"]


async def test_a_drain_ends_when_the_last_message_is_parked_during_it(bench: Bench) -> None:
    """A drain that waits for a settlement is told also when that one is parked."""
    bench.faults.letter_limit = 10
    bus = bench.bus(retry=Retry(max_attempts=1))
    go = asyncio.Event()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        await go.wait()
        raise ValueError

    async with bus.worker() as worker:
        await send(bus, JOBS, "bad")
        await until(lambda: bench.faults.held)
        draining = asyncio.create_task(worker.drain())
        await quiet(1)
        go.set()
        began = now()
        assert await draining
        assert now() - began < 1


async def test_parked_messages_give_their_credit_back_when_the_receiver_goes(bench: Bench) -> None:
    """Each reconnect delivers them again: counted twice they would use up all credit."""
    bench.faults.letter_limit = 10
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS, prefetch=2, concurrency=2)
    async def handle(job: str) -> None:
        if job == "bad":
            raise ValueError

    async with bus.worker() as worker:
        await send(bus, JOBS, "bad")
        for number in range(5):
            await until(lambda: worker.health().problems)
            bench.faults.fail("receive")
            await send(bus, JOBS, f"good {number}")
            await quiet(5)
            assert len(worker.health().problems) == 1
        assert bench.ids(JOBS) == ["bad"]


async def test_rejecting_by_hand_what_is_too_large_raises(bench: Bench) -> None:
    """A verb returns when the broker has it; where it never will, it says so instead of waiting for ever."""
    bench.faults.letter_limit = 10
    raised: list[Exception] = []
    bus = bench.bus()

    @bus.handle(JOBS, ack="manual")
    async def handle(job: str, ctx: Context) -> None:
        try:
            await ctx.reject("no")
        except MessageTooLarge as error:
            raised.append(error)

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: raised)


async def test_while_a_copy_waits_for_the_broker_others_are_acknowledged(bench: Bench) -> None:
    """A slow dead letter or retry holds up no acknowledgement."""
    bench.faults.judge = lambda delivery, settlement: (
        TransportError("slow") if isinstance(settlement, DeadLetter | Nack) and now() < 10 else None
    )
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        if job == "bad":
            raise ValueError

    async with bus.worker():
        await send(bus, JOBS, "bad", "a", "b")
        await until(lambda: len(bench.faults.settlements(Ack)) == 2)
        assert now() < 2
        await until(lambda: bench.letters(JOBS))
    assert bench.ids(JOBS) == []


async def test_a_dead_letter_that_cannot_be_stored_leaves_the_original(bench: Bench) -> None:
    """The worker stops before the copy is confirmed: the message is still there, and is no dead letter."""
    bench.faults.judge = lambda delivery, settlement: (
        TransportError("refused") if isinstance(settlement, DeadLetter) else None
    )
    bus = bench.bus(retry=Retry(max_attempts=1), config={"drain_timeout_s": 5})

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise ValueError

    async with bus.worker():
        await send(bus, JOBS, "a")
        await quiet()
    assert bench.ids(JOBS) == ["a"]
    assert bench.letters(JOBS) == {}


@pytest.mark.parametrize("manual", [False, True])
async def test_a_retry_whose_copy_is_too_large_waits_here(bench: Bench, manual: bool) -> None:
    """A foreign message of which no copy fits is tried in its lane with its delays; then it is parked and reported."""
    bus = bench.bus(retry=Retry(max_attempts=3, delay_s=10, factor=1, jitter=0))
    tried: list[tuple[int, float]] = []
    bench.faults.judge = lambda delivery, settlement: (
        MessageTooLarge(200, 100) if isinstance(settlement, Nack | DeadLetter) else None
    )

    if manual:

        @bus.handle(JOBS, ack="manual")
        async def by_hand(job: str, ctx: Context) -> None:
            tried.append((ctx.attempt, now()))
            await ctx.nack(10)

    else:

        @bus.handle(JOBS)
        async def handle(job: str, ctx: Context) -> None:
            tried.append((ctx.attempt, now()))
            raise ValueError

    async with bus.worker() as worker:
        await send(bus, JOBS, "large")
        await until(lambda: worker.health().problems, "it is parked")
        assert [attempt for attempt, _ in tried] == [1, 2, 3]
        assert [at - tried[0][1] for _, at in tried] == pytest.approx([0, 10, 20], abs=0.5)
        assert "too large to be dead-lettered" in worker.health().problems[0]
        started = now()
    assert now() - started < 1  # nobody waits for it at the end
    assert len(bench.rows(JOBS)) == 1
