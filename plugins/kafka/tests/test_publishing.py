"""Publishing to a real Kafka: confirmed, or told why not."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from busframe.errors import (
    ClosedError,
    DestinationNotFound,
    InvalidHeader,
    MessageTooLarge,
    PublishFailed,
    PublishOutcomeUnknown,
    Unsupported,
)
from busframe.model.delivery import Outgoing
from busframe.model.destination import Queue, Topic
from busframe_kafka.ladder import LONGEST_S
from busframe_kafka.mapping import decode, read_waiting
from plugins.kafka.tests.support import delete_topic, make_prefix, opened, stored
from tests.brokers.kafka import Kafka as KafkaServer
from tests.support.transports import DEADLINE_S, Reports, declare, kinds, message, publish, publish_all

EMAILS = Queue[Any]("emails")
ORDERS = Topic[Any]("orders")
ALL = ORDERS.subscription("all")


def _ids(records: list[Any]) -> list[str]:
    return [decode(each.value(), None, each.headers(), "", None)[0].id for each in records]


async def test_a_confirmed_message_is_there(kafka_url: str) -> None:
    """Many calls and many messages at once, through a small window: each once, each key in order."""
    async with opened(kafka_url, publish_window=50) as transport:
        await declare(transport, EMAILS)
        batches = [[message(b"%d" % number, key=f"k{batch}") for number in range(40)] for batch in range(20)]
        await asyncio.gather(*(publish_all(transport, EMAILS, *batch) for batch in batches))
        records = await stored(transport, transport.names.topic(EMAILS))
        assert sorted(_ids(records)) == sorted(each.id for batch in batches for each in batch)
        for number, batch in enumerate(batches):
            of_key = [each for each in records if each.key() == b"k%d" % number]
            assert _ids(of_key) == [each.id for each in batch]
            assert len({each.partition() for each in of_key}) == 1


async def test_a_window_of_bytes_lets_one_large_message_through(kafka_url: str) -> None:
    """Also one that is larger than the window."""
    async with opened(kafka_url, publish_window_bytes=1000) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message(b"x" * 5000) for _ in range(5)))


async def test_missing_destinations_are_told_apart_from_their_neighbours(kafka_url: str) -> None:
    """At once, and not when the client has looked for half a minute; nothing is created by publishing."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS)
        missing = Queue[Any]("missing")
        outgoing = [Outgoing(missing if number % 3 == 0 else EMAILS, message(id=f"m{number}")) for number in range(300)]
        outcomes = await transport.publish(outgoing, timeout_s=10)
        assert kinds(outcomes) == [DestinationNotFound if number % 3 == 0 else None for number in range(300)]
        found = outcomes[0]
        assert isinstance(found, DestinationNotFound)
        assert (found.destination, found.message_id) == ("missing", "m0")
        for to in (missing.dead_letters, ORDERS, ALL):
            assert kinds(await publish(transport, to, message())) == [DestinationNotFound]
        assert await transport.admin.topics([transport.names.topic(missing)]) == {}


async def test_a_topic_that_is_deleted_later_is_missed(kafka_url: str) -> None:
    """And seen again when it is there again, without a restart."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS, ORDERS)
        await publish_all(transport, ORDERS, message())
        await delete_topic(transport, transport.names.topic(ORDERS))
        outcomes = await publish(transport, ORDERS, message(id="lost"))
        await publish_all(transport, EMAILS, message())
        assert kinds(outcomes) == [DestinationNotFound]
        assert kinds(await publish(transport, ORDERS, message())) == [DestinationNotFound]
        await declare(transport, ORDERS)
        await publish_all(transport, ORDERS, message())


async def test_copies_for_one_source_reach_no_other(kafka_url: str) -> None:
    """A subscription's, and a queue's delayed retry, are where their group alone reads; a letter has its own name."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS, ALL)
        await publish_all(transport, ALL, message(id="replayed"), dedup_key="replayed/1")
        await publish_all(transport, EMAILS, message(id="retried"), delay_s=10.0, dedup_key="retried/1")
        await publish_all(transport, EMAILS, message(id="soon"), delay_s=1.0, dedup_key="soon/1")
        await publish_all(transport, EMAILS.dead_letters, message(id="dead", key="k"), dedup_key="dead/1")
        assert await stored(transport, transport.names.topic(ORDERS)) == []
        assert _ids(await stored(transport, transport.names.retry(ALL))) == ["replayed"]
        (waiting,) = await stored(transport, f"{transport.names.prefix}bf--wait-5s")
        assert read_waiting(waiting.headers())[0] == transport.names.retry(EMAILS)
        assert _ids(await stored(transport, transport.names.retry(EMAILS))) == ["soon"]
        (letter,) = await stored(transport, transport.names.dead(EMAILS))
        assert letter.key() == b"dead/1"


async def test_delayed_messages_enter_the_ladder(kafka_url: str) -> None:
    """On the highest rung that is not longer; the topics of delays are made when the first one needs them."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS)
        before = time.time()
        await publish_all(transport, EMAILS, message(id="short"), delay_s=2.0)
        await publish_all(transport, EMAILS, message(id="long"), delay_s=200.0)
        (short,) = await stored(transport, f"{transport.names.prefix}bf--wait-last")
        (long,) = await stored(transport, f"{transport.names.prefix}bf--wait-3m")
        for record, delay_s in ((short, 2.0), (long, 200.0)):
            to, due = read_waiting(record.headers())
            assert to == transport.names.topic(EMAILS)
            assert before + delay_s - 0.01 <= due <= time.time() + delay_s
        assert await stored(transport, transport.names.topic(EMAILS)) == []
        outcomes = await publish(transport, Queue("missing"), message(), delay_s=2.0)
        assert kinds(outcomes) == [DestinationNotFound], "found out now, and not when it is due"
        assert kinds(await publish(transport, EMAILS, message(), delay_s=LONGEST_S + 1)) == [Unsupported]


async def test_sizes_are_judged_before_sending(kafka_url: str) -> None:
    """The largest that is claimed is taken; one byte more is refused, and harms no neighbour."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS)
        most = transport.capabilities.max_message_bytes or 0
        await publish_all(transport, EMAILS, message(b"x" * most))
        await publish_all(transport, EMAILS, message(b"x" * most), dedup_key="a copy", carried={"bf-x": "y" * 40_000})
        outcomes = await publish(transport, EMAILS, message(b"x" * (most + 1)), message())
        assert kinds(outcomes) == [MessageTooLarge, None]
        outcomes = await publish(transport, EMAILS, message(b"x" * most), dedup_key="c", carried={"bf-x": "y" * 50_000})
        assert kinds(outcomes) == [MessageTooLarge]


async def test_a_topics_own_limit_is_told(kafka_url: str) -> None:
    """A server that takes less than the setting says."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS)
        await transport.admin.alter(transport.names.topic(EMAILS), {"max.message.bytes": "2000"})
        outcomes = await publish(transport, EMAILS, message(b"x" * 5000))
        assert kinds(outcomes) == [MessageTooLarge]
        await publish_all(transport, EMAILS, message())


async def test_what_is_no_text_is_refused(kafka_url: str) -> None:
    """Surrogates have no UTF-8."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS)
        assert kinds(await publish(transport, EMAILS, message(headers={"a": "\ud800"}))) == [InvalidHeader]


@pytest.mark.parametrize(("settings", "partitions"), [({}, {3}), ({"sticky_s": 60.0}, {1, 2})])
async def test_who_has_no_key_goes_anywhere(kafka_url: str, settings: dict[str, Any], partitions: set[int]) -> None:
    """To one at random, so that a few long jobs spread; or for a while to the same, if that is asked."""
    async with opened(kafka_url, partitions=3, **settings) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message())  # until then the client does not know the partitions
        await publish_all(transport, EMAILS, *(message() for _ in range(60)))
        used = {record.partition() for record in await stored(transport, transport.names.topic(EMAILS))}
        assert len(used) in partitions


async def test_a_cancelled_publish_leaves_the_client_usable(kafka_url: str) -> None:
    """Wherever it was cancelled: what waits for room is not sent any more."""
    async with opened(kafka_url, publish_window=10, linger_s=0.01) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message(id="before"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):  # it has begun when it is cancelled: a window is sent, the others wait
                await publish(transport, EMAILS, *(message() for _ in range(200)))
        await publish_all(transport, EMAILS, message(id="after"))
        ids = _ids(await stored(transport, transport.names.topic(EMAILS)))
        assert "after" in ids
        assert len(ids) <= 2 + 10


async def test_a_close_flushes_and_ends_the_rest(kafka_url: str) -> None:
    """What was being published is confirmed and there; afterwards nothing is taken."""
    prefix = make_prefix()
    async with opened(kafka_url, prefix=prefix, publish_window=20, linger_s=0.005) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message())
        publishing = asyncio.create_task(publish(transport, EMAILS, *(message(id=f"m{n}") for n in range(500))))
        await asyncio.sleep(0)
        await asyncio.gather(transport.close(), transport.close())
        outcomes = await publishing
        with pytest.raises(ClosedError):
            await publish(transport, EMAILS, message())
    async with opened(kafka_url, prefix=prefix) as transport:
        ids = set(_ids(await stored(transport, transport.names.topic(EMAILS))))
    assert {f"m{n}" for n, outcome in enumerate(outcomes) if outcome is None} <= ids
    assert None in outcomes


async def test_a_broken_producer_is_made_anew(kafka_url: str) -> None:
    """What it had is of unknown outcome; what comes later is confirmed by the new one."""
    async with opened(kafka_url, linger_s=0.5, publish_window=50) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message())
        handle = transport.producer._handle
        assert handle is not None

        async def break_it() -> None:
            handle.broken = RuntimeError("a poll that failed")
            handle.wake()

        outcomes, _ = await asyncio.gather(publish(transport, EMAILS, *(message() for _ in range(100))), break_it())
        assert kinds(outcomes) == [PublishOutcomeUnknown] * 50 + [None] * 50
        assert transport.producer.rebuilt == 1
        assert transport.native.producer is not None


@pytest.mark.slow
async def test_through_a_kill_of_the_server(own_kafka: Callable[[], KafkaServer]) -> None:
    """The loss of the connection is reported; what could not be confirmed is unknown; what was is there."""
    server, reports = own_kafka(), Reports()
    async with opened(server.url, reports=reports) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message(id="before"))
        await asyncio.to_thread(server.kill)
        await reports.wait("connection", "down")
        (outcome,) = await publish(transport, EMAILS, message(id="lost?"), timeout_s=0.5)
        assert isinstance(outcome, PublishOutcomeUnknown)
        (outcome,) = await publish(transport, ORDERS, message(), timeout_s=0.5)
        assert isinstance(outcome, PublishFailed), "nobody knows of this topic, so nothing was sent"
        waiting = asyncio.ensure_future(publish(transport, EMAILS, message(id="late"), timeout_s=DEADLINE_S))
        await asyncio.to_thread(server.start)
        assert await waiting == [None]
        await reports.wait("connection", "up", since=1)
        ids = _ids(await stored(transport, transport.names.topic(EMAILS)))
        assert {"before", "late"} <= set(ids) <= {"before", "late", "lost?"}
        assert len(ids) == len(set(ids))
