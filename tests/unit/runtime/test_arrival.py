"""What is judged before a handler runs: filter, expiry, type, decoding."""

from dataclasses import dataclass
from typing import Any

import pytest

from busframe import Context, Message, Queue, Retry, Topic
from busframe.model.destination import Subscription
from busframe.spi import Ack, Outgoing
from tests.support.bench import Bench, now, quiet, send, until

JOBS = Queue("jobs", str)


@dataclass
class Created:
    number: int


@dataclass
class Deleted:
    number: int


EVENTS = Topic("events", Created, Deleted)


async def store(bus: Any, to: Any, **fields: Any) -> None:
    """Put a message into a source as a foreign program would."""
    await bus._opened().transport.publish([Outgoing(to, Message(**fields))], timeout_s=1)


async def test_what_cannot_be_decoded_is_a_dead_letter_at_once(bench: Bench) -> None:
    """No retry can help; bytes, id and headers are kept, and the record says why."""
    queue = Queue("numbers", Created)
    bus = bench.bus()

    @bus.handle(queue)
    async def handle(event: Created) -> None:
        raise AssertionError("it cannot be called")

    async with bus.worker() as worker:
        body = b'{"number": \xff\x00}'
        await store(bus, queue, body=body, id="x", type="Created", headers={"Colour": "blue"})
        await until(lambda: bench.letters(queue))
        assert worker.sources[0].in_flight == 0
    info = bench.letters(queue)["x"]
    assert (info.reason, info.attempts, info.handler) == ("undecodable", 0, "handle")
    (row,) = bench.rows(queue.dead_letters)
    assert (row.message.body, dict(row.message.headers)) == (body, {"Colour": "blue"})


async def test_an_unknown_type_is_retried_under_the_bus_policy_and_then_a_dead_letter(bench: Bench) -> None:
    """In a rolling deploy a newer worker may know it; in the end it is `unknown-type`."""
    queue = Queue("mixed", Created, Deleted)
    bus = bench.bus(retry=Retry(max_attempts=3, delay_s=10, factor=1, jitter=0))

    @bus.handle(queue, only=Created, retry=Retry(max_attempts=1))
    async def handle(event: Created) -> None:
        raise AssertionError("it is for another type")

    async with bus.worker():
        await bus.publish(queue, Deleted(1), id="d")
        await until(lambda: bench.letters(queue))
        assert now() == pytest.approx(20, abs=0.2)
    info = bench.letters(queue)["d"]
    assert (info.reason, info.attempts, info.handler) == ("unknown-type", 3, None)
    assert "'Deleted'" in (info.error_message or "")


async def test_unmatched_discard_acknowledges_an_unknown_type(bench: Bench) -> None:
    """What is none of the source's business is acknowledged, and counted."""
    source = EVENTS.subscription("inventory")
    seen: list[int] = []
    bus = bench.bus()

    @bus.handle(source, only=Created, unmatched="discard")
    async def handle(event: Created) -> None:
        seen.append(event.number)

    async with bus.worker():
        await bus.publish(EVENTS, Created(1))
        await bus.publish(EVENTS, Deleted(2))
        await until(lambda: not bench.ids(source))
    assert seen == [1]
    assert bench.letters(source) == {}
    assert bus.statistics()["events/inventory"]["discarded"] == 1


@pytest.mark.parametrize("expired", ["dead-letter", "discard"])
async def test_an_expired_message_is_not_handled(bench: Bench, expired: Any) -> None:
    """It is judged when it is received: a dead letter, or dropped where the source says so."""
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(JOBS, expired=expired)
    async def handle(job: str) -> None:
        seen.append(job)

    async with bus:
        await send(bus, JOBS, "short", ttl_s=10)
        await send(bus, JOBS, "long", ttl_s=100)
        await quiet(10)
    async with bus.worker():
        await until(lambda: not bench.ids(JOBS))
    assert seen == ["long"]
    assert bus.statistics()["jobs"]["discarded"] == (1 if expired == "discard" else 0)
    letters = bench.letters(JOBS)
    assert {id: info.reason for id, info in letters.items()} == ({} if expired == "discard" else {"short": "expired"})


async def test_a_message_that_expires_while_it_waits_for_its_retry_is_given_up(bench: Bench) -> None:
    """A retry does not prolong a message's life."""
    seen: list[float] = []
    bus = bench.bus(retry=Retry(delay_s=8, factor=1, jitter=0))

    @bus.handle(JOBS)
    async def handle(job: str) -> None:
        seen.append(now())
        raise ValueError

    async with bus.worker():
        await send(bus, JOBS, "a", ttl_s=15)
        await until(lambda: bench.letters(JOBS))
    assert seen == [0.0, 8.0]
    info = bench.letters(JOBS)["a"]
    assert (info.reason, info.attempts) == ("expired", 2)


async def stranger(bench: Bench, bus: Any, source: Subscription[Any]) -> None:
    """Put a message that its filter does not take into a subscription."""
    await store(bus, source, body=b"x", id="stranger", headers={"kind": "other"})
    await store(bus, source, body=b"x", id="mine", headers={"kind": "mine"})
    await until(lambda: not bench.ids(source))


async def test_the_stored_filter_decides_where_it_is_known(bench: Bench) -> None:
    """What it does not take is acknowledged without the handler, and counted as filtered."""
    source = Topic("things", str).subscription("mine", where={"kind": "mine"})
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(source)
    async def handle(thing: str, message: Message) -> None:
        seen.append(message.id)

    async with bus.worker():
        await stranger(bench, bus, source)
    assert seen == ["mine"]
    assert bench.letters(source) == {}
    assert bus.statistics()["things/mine"]["filtered"] == 1


async def test_where_nobody_knows_the_stored_filter_a_stranger_is_a_dead_letter(bench: Bench) -> None:
    """It may be for a newer worker: it is never acknowledged, and can be found and replayed."""
    bench.faults.where_known = False
    source = Topic("things", str).subscription("mine", where={"kind": ["mine"]})
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(source)
    async def handle(thing: str, message: Message) -> None:
        seen.append(message.id)

    async with bus.worker():
        await stranger(bench, bus, source)
    assert seen == ["mine"]
    assert bench.letters(source)["stranger"].reason == "filtered"


async def test_an_older_filter_of_this_worker_acknowledges_nothing(bench: Bench) -> None:
    """While a deploy widens a filter, the stored one counts for old workers as well."""
    topic = Topic("things", str)
    old, wide = topic.subscription("s", where={"kind": "a"}), topic.subscription("s", where={"kind": ["a", "b"]})
    seen: list[str] = []
    bus = bench.bus()

    @bus.handle(old)
    async def handle(thing: str, message: Message) -> None:
        seen.append(message.id)

    newer = bench.bus(uses=[wide])
    async with bus.worker(), newer:
        await newer.publish(topic, "x", id="b", headers={"kind": "b"})
        await until(lambda: not bench.ids(old))
    assert seen == ["b"]


async def test_dead_letter_false_drops_and_says_so(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Where a source has no dead letters, what is given up is acknowledged, logged as an error and counted."""
    bus = bench.bus(retry=Retry(max_attempts=2, delay_s=1))

    @bus.handle(JOBS, dead_letter=False)
    async def handle(job: str) -> None:
        raise ValueError("never")

    async with bus.worker():
        await send(bus, JOBS, "a")
        await until(lambda: not bench.ids(JOBS))
    assert bench.letters(JOBS) == {}
    assert bench.faults.settlements(Ack) == ["a"]
    assert bus.statistics()["jobs"]["dropped"] == 1
    assert [record.levelname for record in caplog.records if "dropped" in record.message] == ["ERROR"]


async def test_a_handler_cannot_change_what_is_delivered_again(bench: Bench) -> None:
    """The message is a value: its headers cannot be written, and the next attempt sees what was published."""
    seen: list[dict[str, str]] = []
    bus = bench.bus(retry=Retry(delay_s=1))

    @bus.handle(JOBS)
    async def handle(job: str, ctx: Context) -> None:
        seen.append(dict(ctx.message.headers))
        ctx.message.headers["mine"] = "changed"  # type: ignore[index]

    async with bus.worker():
        await send(bus, JOBS, "a", headers={"mine": "original"})
        await until(lambda: bench.letters(JOBS))
    assert seen == [{"mine": "original"}] * 5


async def test_every_field_reaches_the_handler(bench: Bench) -> None:
    """Type, key, correlation id, reply-to, ttl and times are those of the publish."""
    seen: list[Message] = []
    bus = bench.bus()

    @bus.handle(JOBS)
    async def handle(job: str, message: Message) -> None:
        seen.append(message)

    async with bus.worker():
        sent = await bus.publish(
            JOBS, "a", key="k", headers={"h": "v"}, ttl_s=60, correlation_id="c", reply_to="answers", id="i"
        )
        await until(lambda: seen)
    assert seen == [sent]
