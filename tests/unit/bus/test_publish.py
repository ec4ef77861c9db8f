"""Publishing: confirmed or raised, never something in between without saying so."""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest

from busframe import Context, Message, Queue, Retry, Topic
from busframe.errors import (
    Backpressure,
    ClosedError,
    DestinationNotFound,
    EncodeFailed,
    InvalidHeader,
    MessageTooLarge,
    PublishError,
    PublishFailed,
    PublishOutcomeUnknown,
    TransportError,
    Unsupported,
)
from tests.support.bench import Bench, now, quiet, until

JOBS = Queue("jobs", str)


@dataclass
class Order:
    number: int


ORDERS = Queue("orders", Order)


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (PublishFailed("no"), PublishFailed),
        (Backpressure("full"), Backpressure),
        (PublishOutcomeUnknown("no answer"), PublishOutcomeUnknown),
        (DestinationNotFound("jobs"), DestinationNotFound),
        (MessageTooLarge(2, 1), MessageTooLarge),
        (TransportError("cut"), PublishOutcomeUnknown),
        (RuntimeError("a bug"), PublishOutcomeUnknown),
        (Unsupported("no delays"), Unsupported),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_what_the_transport_answers_is_raised_with_the_messages_id(
    bench: Bench, answer: Exception, raised: type[Exception]
) -> None:
    """Only publish errors, each with the id that can be published again; what is unclear is an unknown outcome."""
    bench.faults.refuse = lambda outgoing: answer
    async with bench.bus(uses=[JOBS]) as bus:
        with pytest.raises(raised) as caught:
            await bus.publish(JOBS, "a", id="mine")
    assert type(caught.value) is raised
    if isinstance(caught.value, PublishError):
        assert caught.value.message_id == "mine"
    if type(answer) in (TransportError, RuntimeError):
        assert caught.value.__cause__ is answer


async def test_a_publish_without_an_answer_ends_with_its_time_out(bench: Bench) -> None:
    """The outcome is unknown, the id is named, and the bus is usable."""
    bench.faults.hang("publish")
    async with bench.bus(uses=[JOBS]) as bus:
        began = now()
        with pytest.raises(PublishOutcomeUnknown) as caught:
            await bus.publish(JOBS, "a", timeout_s=7)
        assert now() - began == pytest.approx(7)
        again = await bus.publish(JOBS, "a", id=caught.value.message_id)
    assert bench.ids(JOBS) == [again.id]


async def test_publishing_the_same_id_again_stores_it_once(bench: Bench) -> None:
    """So an unknown outcome is repeated without a duplicate where the broker looks for them."""
    async with bench.bus(uses=[JOBS]) as bus:
        for _ in range(3):
            await bus.publish(JOBS, "a", id="same")
    assert bench.ids(JOBS) == ["same"]


async def test_many_that_partly_fail_name_the_first_and_count_the_others(bench: Bench) -> None:
    """What was confirmed is there; the error has a note with the counts."""
    bench.faults.refuse = lambda out: PublishFailed("no") if out.message.body in (b"2", b"4") else None
    async with bench.bus(uses=[JOBS]) as bus:
        with pytest.raises(PublishFailed) as caught:
            await bus.publish_many(JOBS, ["1", "2", "3", "4", "5"])
    assert caught.value.message_id
    assert any("2" in note and "3" in note for note in caught.value.__notes__)
    assert [row.message.body for row in bench.rows(JOBS)] == [b"1", b"3", b"5"]


async def test_many_keep_their_order_over_windows_and_are_read_lazily(bench: Bench) -> None:
    """A generator of any length is sent a window at a time, in order."""
    read = sent_when_read = 0

    def bodies() -> Any:
        nonlocal read, sent_when_read
        for number in range(2500):
            read += 1
            if number == 1100:
                sent_when_read = len(bench.ids(JOBS))
            yield str(number)

    async with bench.bus(uses=[JOBS]) as bus:
        sent = await bus.publish_many(JOBS, bodies(), keys=lambda body: body[-1])
    assert [row.message.body for row in bench.rows(JOBS)] == [str(number).encode() for number in range(2500)]
    assert [message.key for message in sent[:3]] == ["0", "1", "2"]
    assert sent_when_read == 1000


async def test_nothing_is_sent_that_cannot_travel(bench: Bench) -> None:
    """Sizes, headers, types and delays are judged before the transport is called."""
    bench.faults.capabilities = {"max_message_bytes": 1000, "publish_delay_max_s": 60.0}
    anything: Queue[Any] = Queue("anything")
    async with bench.bus(uses=[JOBS, ORDERS, anything]) as bus:
        wrong: list[tuple[type[Exception], Any]] = [
            (MessageTooLarge, bus.publish(JOBS, "x" * 1001)),
            (InvalidHeader, bus.publish(JOBS, "x", headers={"a b": "c"})),
            (InvalidHeader, bus.publish(JOBS, "x", headers={"bf-attempt": "3 jobs"})),
            (InvalidHeader, bus.publish(JOBS, "x", id="é")),
            (EncodeFailed, bus.publish(cast("Queue[Any]", ORDERS), "not an order")),
            (EncodeFailed, bus.publish(anything, object())),
            (EncodeFailed, bus.publish(cast("Queue[Any]", JOBS.dead_letters), "x")),
            (Unsupported, bus.publish(JOBS, "x", delay_s=61)),
            (PublishFailed, bus.publish(JOBS, "x", delay_s=-1)),
            (PublishFailed, bus.publish(JOBS, "x", ttl_s=0)),
        ]
        for error, publishing in wrong:
            with pytest.raises(error):
                await publishing
        assert "publish" not in bench.faults.calls
        await bus.publish(JOBS, "x" * 900, delay_s=60)


async def test_outside_of_the_bus_nothing_can_be_published(bench: Bench) -> None:
    """Before it is opened and after it was left."""
    bus = bench.bus(uses=[JOBS])
    with pytest.raises(ClosedError, match="async with bus"):
        await bus.publish(JOBS, "a")
    async with bus:
        await bus.publish(JOBS, "a")
    with pytest.raises(ClosedError):
        await bus.publish(JOBS, "a")


async def test_a_missing_destination_is_named(bench: Bench) -> None:
    """A queue that nobody declared is an error, not a message in nowhere; a topic without subscriptions is fine."""
    topic = Topic("events", str)
    async with bench.bus(uses=[topic]) as bus:
        with pytest.raises(DestinationNotFound, match="jobs"):
            await bus.publish(JOBS, "a")
        await bus.publish(topic, "nobody")


async def test_middleware_is_called_in_order_and_may_change_the_message(bench: Bench) -> None:
    """Outermost first; what the innermost sends is what is confirmed and returned."""
    from dataclasses import replace

    calls: list[str] = []

    async def outer(to: Any, message: Message, send: Any) -> None:
        calls.append("outer in")
        await send(replace(message, headers={**message.headers, "trace": "1"}))
        calls.append("outer out")

    async def inner(to: Any, message: Message, send: Any) -> None:
        calls.append(f"inner {message.headers['trace']}")
        await send(message)

    async with bench.bus(uses=[JOBS], publish_middleware=[outer, inner]) as bus:
        sent = await bus.publish(JOBS, "a")
        await bus.publish_many(JOBS, ["b", "c"])
    assert calls[:3] == ["outer in", "inner 1", "outer out"]
    assert dict(sent.headers) == {"trace": "1"}
    assert [dict(row.message.headers) for row in bench.rows(JOBS)] == [{"trace": "1"}] * 3


async def test_what_middleware_makes_is_checked_as_well(bench: Bench) -> None:
    """A header that could not travel is refused, wherever it came from."""
    from dataclasses import replace

    async def spoils(to: Any, message: Message, send: Any) -> None:
        await send(replace(message, headers={"bad name": "x"}))

    async with bench.bus(uses=[JOBS], publish_middleware=[spoils]) as bus:
        with pytest.raises(InvalidHeader):
            await bus.publish(JOBS, "a")
    assert bench.ids(JOBS) == []


async def test_a_cancelled_publish_leaves_the_bus_usable(bench: Bench) -> None:
    """Its message may or may not be there; the next one goes out."""
    bench.faults.hang("publish")
    async with bench.bus(uses=[JOBS]) as bus:
        publishing = asyncio.create_task(bus.publish(JOBS, "a"))
        await quiet(1)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        await bus.publish(JOBS, "b", id="b")
    assert bench.ids(JOBS) == ["b"]


async def test_a_handler_whose_publish_fails_is_not_acknowledged(bench: Bench) -> None:
    """What it publishes is confirmed before its message is acknowledged; where that fails it is tried again."""
    refused = iter([PublishFailed("no")])
    bench.faults.refuse = lambda out: next(refused, None) if out.to == ORDERS else None
    attempts: list[int] = []
    bus = bench.bus(uses=[ORDERS], retry=Retry(delay_s=1))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        await ctx.publish(ORDERS, Order(1))

    async with bus.worker():
        await bus.publish(JOBS, "a")
        await until(lambda: not bench.ids(JOBS))
    assert attempts == [1, 2]
    assert len(bench.rows(ORDERS)) == 1


async def test_a_delayed_publish_is_delivered_when_it_is_due(bench: Bench) -> None:
    """Not before its delay, and soon after; a long one holds no short one back."""
    seen: list[tuple[str, float]] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append((job, now()))

    async with bus.worker():
        await bus.publish(JOBS, "long", delay_s=30)
        await bus.publish(JOBS, "short", delay_s=10)
        await quiet(40)
    assert seen == [("short", 10.0), ("long", 30.0)]


async def test_a_message_can_be_forwarded_as_it_is(bench: Bench) -> None:
    """A `Message` keeps body, type, content type, headers and key, and gets an id of its own."""
    async with bench.bus(uses=[ORDERS, JOBS]) as bus:
        sent = await bus.publish(ORDERS, Order(1), key="k", headers={"h": "v"})
        forwarded = await bus.publish(ORDERS, sent)
    assert (forwarded.body, forwarded.type, forwarded.content_type, forwarded.headers, forwarded.key) == (
        sent.body,
        sent.type,
        sent.content_type,
        {"h": "v"},
        "k",
    )
    assert forwarded.id != sent.id
