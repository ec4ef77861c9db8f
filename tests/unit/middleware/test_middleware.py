"""Functions around a handler."""

import asyncio
import logging
from typing import Any

import pytest

from busframe import Context, Queue, Reject, Retry, RetryAfter, Router
from busframe.middleware import Logging, Timeout
from tests.support.bench import Bench, now, send, until

JOBS = Queue("jobs", str)


def noting(name: str, calls: list[str]) -> Any:
    """A middleware that notes when it is entered and left."""

    async def middleware(ctx: Context, call_next: Any) -> object:
        calls.append(f"{name} in")
        try:
            return await call_next()
        finally:
            calls.append(f"{name} out")

    return middleware


async def test_the_order_is_bus_router_handler_outermost_first(bench: Bench) -> None:
    """As they are listed, whatever the order of registration."""
    calls: list[str] = []
    router = Router("r", middleware=[noting("router", calls)])

    @router.handle(JOBS, middleware=[noting("handler", calls), noting("inner", calls)])
    async def handle(job: str) -> None:
        calls.append("handled")

    bus = bench.bus(middleware=[noting("bus", calls)])
    bus.include(router)
    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: not bench.ids(JOBS))
    assert calls == [
        *["bus in", "router in", "handler in", "inner in", "handled"],
        *["inner out", "handler out", "router out", "bus out"],
    ]


async def test_every_attempt_passes_through_it_and_the_policy_is_outside(bench: Bench) -> None:
    """Retry and dead-lettering see what middleware lets out, wherever it stands."""
    attempts: list[int] = []

    async def translates(ctx: Context, call_next: Any) -> object:
        attempts.append(ctx.attempt)
        try:
            return await call_next()
        except LookupError:
            raise Reject("not found") from None
        except ValueError:
            raise RetryAfter(1) from None

    bus = bench.bus(middleware=[translates], retry=Retry(max_attempts=2))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise LookupError if job == "missing" else ValueError

    async with bus.worker():
        await send(bus, JOBS, "missing", "wrong")
        await until(lambda: len(bench.letters(JOBS)) == 2)
    letters = bench.letters(JOBS)
    assert {id: info.reason for id, info in letters.items()} == {"missing": "rejected", "wrong": "attempts"}
    assert sorted(attempts) == [1, 1, 2]


async def test_one_that_does_not_call_on_has_handled_the_message(bench: Bench) -> None:
    """A message that middleware takes is acknowledged without its handler."""

    async def takes(ctx: Context, call_next: Any) -> object:
        return None

    bus = bench.bus(middleware=[takes])

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        raise AssertionError

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: not bench.ids(JOBS))
    assert bench.letters(JOBS) == {}


async def test_time_outs_nest_and_each_is_its_own(bench: Bench) -> None:
    """The inner one ends the handler; an outer one that is longer does not hear of it."""
    ended: list[float] = []
    bus = bench.bus(middleware=[Timeout(50)], retry=Retry(max_attempts=1))

    @bus.handle(JOBS, timeout_s=5, middleware=[Timeout(20)])
    async def handle(job: str) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(now())

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: bench.letters(JOBS))
    assert ended == [5.0]
    assert "5" in (bench.letters(JOBS)["a"].error_message or "")


async def test_a_time_out_that_is_not_reached_changes_nothing(bench: Bench) -> None:
    """Results and errors pass."""
    bus = bench.bus(middleware=[Timeout(50)], retry=Retry(max_attempts=1))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        if job == "bad":
            raise TimeoutError("its own")

    async with bus.worker():
        await send(bus, JOBS, "good", "bad")
        await until(lambda: not bench.ids(JOBS))
    assert bench.letters(JOBS)["bad"].error_type == "TimeoutError"


async def test_logging_says_what_happened_and_never_the_body(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A line for each success, at the level that was asked; what becomes of a failure is the worker's to say."""
    caplog.set_level(logging.DEBUG)
    bus = bench.bus(middleware=[Logging(level=logging.WARNING)], retry=Retry(max_attempts=1))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        if job == "secret failure":
            raise ValueError

    async with bus.worker():
        await bus.publish(JOBS, "secret success", id="1")
        await until(lambda: not bench.ids(JOBS))
        await bus.publish(JOBS, "secret failure", id="2")
        await until(lambda: bench.letters(JOBS))
    records = [record for record in caplog.records if record.name == "busframe.handler"]
    assert [(record.levelname, record.__dict__["outcome"], record.__dict__["message_id"]) for record in records] == [
        ("WARNING", "handled", "1"),
        ("DEBUG", "failed", "2"),
    ]
    assert records[0].getMessage().startswith("handled jobs by handle in ")
    assert "secret" not in caplog.text
