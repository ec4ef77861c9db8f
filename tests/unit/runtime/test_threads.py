"""What plain functions do in threads."""

from typing import Any

from busframe import Bus, Queue, Retry
from tests.support.bench import Bench, until

jobs = Queue("jobs", str)


async def test_a_plain_function_that_returns_a_coroutine_has_handled_nothing(bench: Bench) -> None:
    """A lambda around an async function fails, and says why: its message is not acknowledged as if it had run."""
    bus: Bus = bench.bus(retry=Retry(max_attempts=1))
    ran: list[str] = []

    async def work(job: str) -> None:
        ran.append(job)

    register: Any = bus.handle(jobs, name="wrapped")
    register(lambda job: work(job))
    async with bus.worker():
        message = await bus.publish(jobs, "a")
        await until(lambda: bench.letters(jobs))
    info = bench.letters(jobs)[message.id]
    assert info.error_type == "TypeError"
    assert "returned a coroutine: make it async" in (info.error_message or "")
    assert not ran


async def test_a_plain_function_may_raise_stop_iteration(bench: Bench) -> None:
    """It is a failure like any other, and hangs nothing."""
    bus = bench.bus(retry=Retry(max_attempts=1))

    @bus.handle(jobs)
    def work(job: str) -> None:
        raise StopIteration

    async with bus.worker():
        message = await bus.publish(jobs, "a")
        await until(lambda: bench.letters(jobs))
    assert bench.letters(jobs)[message.id].error_type == "RuntimeError"
