"""The page of semantics is true: each line of its table of outcomes happens, in memory, on RabbitMQ and on NATS."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from pydantic import BaseModel

from busframe import Bus, Context, Discard, Message, PauseSource, Queue, Reject, Retry, RetryAfter, Topic
from busframe.errors import DestinationNotFound
from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "explanation" / "semantics.md"
POLICY = Retry(max_attempts=3, delay_s=0.1, factor=1.0, jitter=0.0, give_up_on=(KeyError,))


class Job(BaseModel):
    """What is handled."""

    n: int


class Other(BaseModel):
    """What nothing here handles."""


JOB = Job(n=1)
NUMBERS = count()


@dataclass
class Seen:
    """What became of one message."""

    attempts: list[int] = field(default_factory=list)
    reason: str | None = None


async def handle_one(
    url: str, answer: Callable[[Context], Awaitable[None]], body: Any = JOB, ttl_s: float | None = None
) -> Seen:
    """Publish one message to a handler that answers as it is told, and see what becomes of it."""
    jobs: Queue[Job | Other] = Queue(f"jobs-{next(NUMBERS)}", Job, Other)
    bus = Bus(url, retry=POLICY)
    seen = Seen()

    @bus.handle(jobs, only=Job)
    async def work(job: Job, ctx: Context) -> None:
        seen.attempts.append(ctx.attempt)
        await answer(ctx)

    @bus.handle(jobs.dead_letters)
    async def look(letter: Message) -> None:
        assert letter.dead is not None
        assert letter.dead.attempts == len(seen.attempts) or letter.dead.reason == "unknown-type"
        seen.reason = letter.dead.reason

    async with bus:
        await bus.publish(jobs, body, ttl_s=ttl_s)
        if ttl_s is not None:
            await asyncio.sleep(2 * ttl_s)
        async with bus.worker() as worker:
            await worker.wait_idle(0.5)
    return seen


async def returns(ctx: Context) -> None:
    """As most handlers do."""


async def fails(ctx: Context) -> None:
    """As some handlers do."""
    raise ValueError


async def fails_once(ctx: Context) -> None:
    """As a service does that is busy for a moment."""
    if ctx.attempt == 1:
        raise RetryAfter(0.1)


async def gives_up(ctx: Context) -> None:
    """With an exception of `give_up_on`."""
    raise KeyError


async def rejects(ctx: Context) -> None:
    """What can never be handled."""
    raise Reject("no")


async def discards(ctx: Context) -> None:
    """What is not worth it."""
    raise Discard("no")


def pauses() -> Callable[[Context], Awaitable[None]]:
    """A handler that pauses once."""
    paused = False

    async def pause(ctx: Context) -> None:
        nonlocal paused
        if not paused:
            paused = True
            raise PauseSource(0.1)

    return pause


async def check_outcomes(url: str) -> None:
    """Every line of the table that takes no process to die."""
    undecodable = Message(b"{}", "", "Job", "application/json")
    seen = await asyncio.gather(
        handle_one(url, returns),
        handle_one(url, fails),
        handle_one(url, gives_up),
        handle_one(url, fails_once),
        handle_one(url, rejects),
        handle_one(url, discards),
        handle_one(url, pauses()),
        handle_one(url, returns, body=undecodable),
        handle_one(url, returns, body=Other()),
        handle_one(url, returns, ttl_s=0.01),
    )
    assert seen == [
        Seen([1]),
        Seen([1, 2, 3], "attempts"),
        Seen([1], "gave-up"),
        Seen([1, 2]),
        Seen([1], "rejected"),
        Seen([1]),
        Seen([1, 1]),
        Seen([], "undecodable"),
        Seen([], "unknown-type"),
        Seen([], "expired"),
    ]


async def check_subscriptions(url: str) -> None:
    """From its declaration on, by its filter, each by itself; a topic without any takes a message and keeps it not."""
    news = Topic("news", str)
    all_of_it, some = news.subscription("all"), news.subscription("some", where={"about": ["tea", "rain"], "in": "UK"})
    got: list[tuple[str, str]] = []
    bus = Bus(url, retry=POLICY)

    @bus.handle(all_of_it)
    async def read_all(text: str) -> None:
        got.append(("all", text))
        if text == "odd":
            raise Reject("odd")

    @bus.handle(some)
    async def read_some(text: str) -> None:
        got.append(("some", text))

    async with Bus(url, uses=[news]) as early:
        await early.publish(news, "too early")
        async with bus.worker() as worker:
            for text, headers in (
                ("tea", {"about": "tea", "in": "UK"}),
                ("odd", {"about": "rain", "in": "UK"}),
                ("wine", {"about": "wine", "in": "UK"}),
                ("tea there", {"about": "tea", "in": "India"}),
                ("nothing", {}),
            ):
                await bus.publish(news, text, headers=headers)
            await worker.wait_idle(0.3)
    assert sorted(text for who, text in got if who == "all") == ["nothing", "odd", "tea", "tea there", "wine"]
    assert sorted(text for who, text in got if who == "some") == ["odd", "tea"]


async def check_order(url: str) -> None:
    """A retry holds its key and no other; what a failed handler has published stays published."""
    steps, log = Queue("steps", str), Queue("log", str)
    bus = Bus(url, uses=[log], retry=POLICY)
    done: list[str] = []
    logged: list[str] = []

    @bus.handle(steps, ordering="key")
    async def step(text: str, ctx: Context) -> None:
        if text == "a1":
            await ctx.publish(log, f"{text}, attempt {ctx.attempt}")
            if ctx.attempt == 1:
                raise ValueError
        done.append(text)

    @bus.handle(log)
    async def read(text: str) -> None:
        logged.append(text)

    async with bus.worker() as worker:
        for text in ("w1", "w2", "w3"):  # a worker begins with one message at a time, and fetches more as it succeeds
            await bus.publish(steps, text)
        await worker.wait_idle(0.2)
        done.clear()
        for text in ("a1", "a2", "b1", "b2"):
            await bus.publish(steps, text, key=text[0])
        await worker.wait_idle(0.4)
    assert done == ["b1", "b2", "a1", "a2"]
    assert logged == ["a1, attempt 1", "a1, attempt 2"]


async def check_publishing(url: str) -> None:
    """A missing destination is an error, and a delay is no less than was asked."""
    async with Bus(url) as bus:
        with pytest.raises(DestinationNotFound):
            await bus.publish(Queue("nowhere"), "x")
        with pytest.raises(DestinationNotFound):
            await bus.publish(Topic("nowhere"), "x")
    late = Queue("late", str)
    bus = Bus(url)
    waited: list[float] = []
    loop = asyncio.get_running_loop()

    @bus.handle(late)
    async def read(text: str) -> None:
        waited.append(loop.time() - begun)

    async with bus.worker() as worker:
        begun = loop.time()
        await bus.publish(late, "x", delay_s=0.4)
        await worker.wait_idle(1.5)
    assert len(waited) == 1
    assert 0.4 <= waited[0] < 1.4


CHECKS = [check_outcomes, check_subscriptions, check_order, check_publishing]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_is_true_in_memory(check: Callable[[str], Awaitable[None]]) -> None:
    """The reference transport does what the page says."""
    await check("memory://")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_is_true_on_rabbitmq(check: Callable[[str], Awaitable[None]], rabbitmq_vhost: str) -> None:
    """RabbitMQ does the same."""
    await check(rabbitmq_vhost)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_is_true_on_nats(check: Callable[[str], Awaitable[None]], nats_url: str) -> None:
    """NATS does the same."""
    await check(nats_url)


def test_every_reason_is_explained() -> None:
    """A reason that a dead letter may carry is on the page."""
    page = PAGE.read_text()
    reasons = ("attempts", "gave-up", "rejected", "undecodable", "unknown-type", "expired", "crash-loop", "filtered")
    assert [reason for reason in reasons if f"`{reason}`" not in page] == []
