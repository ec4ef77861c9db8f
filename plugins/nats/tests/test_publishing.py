"""busframe_nats.publisher, on a real server."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from busframe.errors import (
    Backpressure,
    DestinationNotFound,
    MessageTooLarge,
    PublishFailed,
    PublishOutcomeUnknown,
    Unsupported,
)
from busframe.model.delivery import Outgoing
from busframe.model.destination import Queue, Topic
from busframe.model.entity import Entity
from busframe.model.message import Message
from busframe_nats.topology import MAX_DELAY_S, SCHEDULES
from plugins.nats.tests.support import consumer, cut, opened
from tests.brokers.nats import NATS
from tests.support.transports import (
    Reports,
    consuming,
    declare,
    frozen,
    kinds,
    message,
    nothing_arrives,
    proxied,
    publish,
    publish_all,
    take,
)

EMAILS = Queue[Any]("emails")
EVENTS = Topic[Any]("events")
SUBSCRIPTION = EVENTS.subscription("s")


async def test_the_same_write_is_stored_once_and_a_copy_beside_it(nats_url: str) -> None:
    """The server looks at ``Nats-Msg-Id``: it is the key of the write, not the id of the message."""
    async with opened(nats_url) as transport:
        await declare(transport, EMAILS)
        one = message()
        await publish_all(transport, EMAILS, one)
        await publish_all(transport, EMAILS, one)
        await publish_all(transport, EMAILS, one, dedup_key=f"{one.id}/copy")
        async with consuming(transport, EMAILS) as receiver:
            assert [each.message.id for each in await take(receiver, 2)] == [one.id] * 2
            await nothing_arrives(receiver)


async def test_what_was_under_way_when_the_connection_was_lost_is_stored_once_and_confirmed(nats_url: str) -> None:
    """It is sent again, in its order, with the same ids."""
    sent = [message(b"%d" % number, key="one") for number in range(3000)]
    async with opened(nats_url, publish_window=500) as transport:
        await declare(transport, EMAILS)
        publishing = asyncio.ensure_future(publish(transport, EMAILS, *sent))
        for _ in range(3):
            await asyncio.sleep(0.02)
            if transport.link.connection is not None:
                cut(transport)
        assert await publishing == [None] * len(sent)
        async with consuming(transport, EMAILS, prefetch=500) as receiver:
            got = [each.message.id for each in await take(receiver, len(sent))]
            assert got == [each.id for each in sent]
            await nothing_arrives(receiver)


async def test_without_an_answer_the_outcome_is_unknown_and_without_a_connection_it_surely_failed(
    nats_url: str,
) -> None:
    """Told apart by whether it was sent."""
    async with proxied(nats_url.partition("?")[0]) as (proxy, url):
        query = nats_url.partition("?")[2]
        reports = Reports()
        async with opened(f"{url}?{query}", reports=reports) as transport:
            await declare(transport, EMAILS)
            async with frozen(proxy):
                (unknown,) = await publish(transport, EMAILS, message(), timeout_s=0.2)
                assert isinstance(unknown, PublishOutcomeUnknown)
                cut(transport)
                await reports.wait("connection", "down")
                (failed,) = await publish(transport, EMAILS, message(), timeout_s=0.2)
                assert isinstance(failed, PublishFailed)
                assert failed.transient
            await publish_all(transport, EMAILS, message())


async def test_nothing_is_sent_again_when_the_server_may_have_forgotten_it(nats_url: str) -> None:
    """It would be stored twice: the outcome is unknown instead."""
    base, _, query = nats_url.partition("?")
    reports = Reports()
    async with (
        proxied(base) as (proxy, url),
        opened(f"{url}?{query}", reports=reports, duplicate_window_s=1) as transport,
    ):
        await declare(transport, EMAILS)
        async with frozen(proxy):
            publishing = asyncio.create_task(publish(transport, EMAILS, message()))
            await asyncio.sleep(1)  # as long as the server remembers
            cut(transport)
            await reports.wait("connection", "down")
        assert kinds(await publishing) == [PublishOutcomeUnknown]


@pytest.mark.parametrize("to", [EMAILS, EMAILS.dead_letters, EVENTS, SUBSCRIPTION])
async def test_a_destination_that_is_not_there_is_named(nats_url: str, to: Any) -> None:
    """Also a subscription, whose topic's stream would confirm the message and drop it."""
    async with opened(nats_url) as transport:
        if to is SUBSCRIPTION:
            await declare(transport, EVENTS)
        missing, also = await publish(transport, to, message(), message())
        for outcome in (missing, also):
            assert isinstance(outcome, DestinationNotFound)
            assert outcome.destination == str(to)
        await declare(transport, *([EMAILS] if to is EMAILS.dead_letters else [to]))
        await publish_all(transport, to, message())


async def test_a_copy_for_one_subscription_reaches_it_alone(nats_url: str) -> None:
    """The others of its topic have another filter."""
    other = EVENTS.subscription("other")
    async with opened(nats_url) as transport:
        await declare(transport, SUBSCRIPTION, other)
        await publish_all(transport, SUBSCRIPTION, message(b"one"))
        await publish_all(transport, EVENTS, message(b"all"))
        async with consuming(transport, SUBSCRIPTION) as mine, consuming(transport, other) as others:
            assert {each.message.body for each in await take(mine, 2)} == {b"one", b"all"}
            assert [each.message.body for each in await take(others, 1)] == [b"all"]
            await nothing_arrives(others)


async def test_payload_and_headers_together_are_judged_before_anything_is_sent(nats_url: str) -> None:
    """Over ``max_payload`` the server would close the connection."""
    async with opened(nats_url) as transport:
        await declare(transport, EMAILS)
        most = transport.capabilities.max_message_bytes or 0
        fits = Message(b"x" * (most - 10), "fits", headers={"h": "123456789"})
        over = Message(b"x" * (most - 8), "over", headers={"h": "123456789"})
        connection = transport.link.connection
        assert kinds(await publish(transport, EMAILS, over, fits)) == [MessageTooLarge, None]
        copy = Outgoing(EMAILS.dead_letters, fits, dedup_key="fits/1", carried={"bf-dead-stack": "s" * 45_000})
        assert await transport.publish([copy], timeout_s=10) == [None]
        copy.carried = {"bf-dead-stack": "s" * 60_000}
        assert kinds(await transport.publish([copy], timeout_s=10)) == [MessageTooLarge]
        copy = Outgoing(EMAILS, message(), dedup_key="headers", carried={"bf-dead-stack": "s" * 70_000})
        assert kinds(await transport.publish([copy], timeout_s=10)) == [MessageTooLarge]
        assert transport.link.connection is connection


async def test_a_full_stream_says_who_holds_it(nats_url: str) -> None:
    """One subscription reads, the other does not."""
    slow, quick = EVENTS.subscription("slow.one"), EVENTS.subscription("quick")
    async with opened(nats_url, stream_max_bytes=1024 * 1024) as transport:
        await declare(transport, slow, quick)
        async with consuming(transport, quick) as receiver:
            while not (failed := [each for each in await publish(transport, EVENTS, message(b"x" * 200_000)) if each]):
                await take(receiver, 1)
            assert isinstance(failed[0], Backpressure)
            assert failed[0].transient
            assert "'slow.one' holds the most of it" in str(failed[0])
        async with consuming(transport, slow) as receiver:
            await take(receiver, 3)
        await publish_all(transport, EVENTS, message(b"x" * 200_000))


async def test_a_delayed_message_waits_in_the_stream_that_it_is_for(nats_url: str) -> None:
    """Of a queue, of a topic, for one subscription; those of a topic are held by a consumer that nobody reads."""
    async with opened(nats_url) as transport:
        await declare(transport, EMAILS, SUBSCRIPTION)
        for to in (EMAILS, EVENTS, SUBSCRIPTION):
            await publish_all(transport, to, message(str(to).encode(), headers={"h": "1"}), delay_s=0.3)
        stream = await transport.jetstream.stream(transport.names.stream(EVENTS))
        assert stream is not None
        assert stream["state"]["messages"] == 2
        async with consuming(transport, EMAILS) as queue, consuming(transport, SUBSCRIPTION) as subscription:
            assert [each.message.body for each in await take(queue, 1)] == [b"emails"]
            got = await take(subscription, 2)
            assert {each.message.body for each in got} == {b"events", b"events/s"}
            assert all(dict(each.message.headers) == {"h": "1"} for each in got)


async def test_nothing_delayed_is_confirmed_that_a_topic_would_drop(nats_url: str) -> None:
    """Its stream keeps it for one consumer, which anybody can delete; declaring makes it again."""
    async with opened(nats_url) as transport:
        assert kinds(await publish(transport, EVENTS, message(), delay_s=1)) == [DestinationNotFound]
        await transport.apply(await transport.plan([Entity(SUBSCRIPTION)]))
        await publish_all(transport, EVENTS, message(), delay_s=60)
        await transport.jetstream.ask(f"CONSUMER.DELETE.{transport.names.stream(EVENTS)}.{SCHEDULES}")
        failed, also = await publish(transport, EVENTS, message(id="a"), message(id="b"), delay_s=60)
        assert isinstance(failed, PublishFailed)
        assert isinstance(also, PublishFailed)
        assert (failed.message_id, also.message_id, failed.transient) == ("a", "b", True)
        await declare(transport, SUBSCRIPTION)
        await publish_all(transport, EVENTS, message(), delay_s=60)


async def test_what_cannot_be_delayed_is_refused(nats_url: str) -> None:
    """Too long, to dead letters, and in a stream with a limit."""
    async with opened(nats_url) as transport:
        await declare(transport, EMAILS)
        assert kinds(await publish(transport, EMAILS, message(), delay_s=MAX_DELAY_S + 1)) == [Unsupported]
        assert kinds(await publish(transport, EMAILS.dead_letters, message(), delay_s=1)) == [Unsupported]
    async with opened(nats_url, stream_max_bytes=1024 * 1024) as transport:
        limited = Queue[Any]("limited")
        await declare(transport, limited)
        assert kinds(await publish(transport, limited, message(), delay_s=1)) == [Unsupported]


async def test_an_older_server_delays_no_publish(older_nats: NATS) -> None:
    """It says so before anything is sent."""
    async with opened(older_nats.url) as transport:
        assert transport.capabilities.publish_delay_max_s == 0
        await declare(transport, EMAILS)
        assert kinds(await publish(transport, EMAILS, message(), delay_s=1)) == [Unsupported]


async def test_what_is_delayed_outlives_a_kill_of_the_server(own_nats: Callable[[], NATS]) -> None:
    """Of a queue and of a topic, whose stream keeps it for a consumer that nobody reads."""
    server = own_nats()
    async with opened(server.url) as transport:
        await declare(transport, EMAILS, SUBSCRIPTION)
        for to in (EMAILS, EVENTS):
            await publish_all(transport, to, message(), delay_s=1.5)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        async with consuming(transport, EMAILS) as queue, consuming(transport, SUBSCRIPTION) as subscription:
            await take(queue, 1)
            await take(subscription, 1)


@pytest.mark.slow
async def test_a_server_that_is_killed_under_a_publisher_loses_nothing_that_it_confirmed(
    own_nats: Callable[[], NATS],
) -> None:
    """Five times, with hundreds of messages under way; what was published again with the same id is stored once."""
    server = own_nats()
    confirmed: list[str] = []
    news = asyncio.Event()
    over = False

    async def publisher(number: int) -> None:
        count = 0
        while not over:
            batch = [message(id=f"{number}-{count + each}") for each in range(20)]
            count += 20
            for each, outcome in zip(batch, await publish(transport, EMAILS, *batch, timeout_s=30), strict=True):
                if outcome is None:
                    confirmed.append(each.id)
                    news.set()

    async with opened(server.url, publish_window=200) as transport:
        await declare(transport, EMAILS)
        publishers = [asyncio.ensure_future(publisher(number)) for number in range(20)]
        for _ in range(5):
            before = len(confirmed)
            while len(confirmed) < before + 500:
                news.clear()
                await news.wait()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        over = True
        await asyncio.gather(*publishers)
        stream = await transport.jetstream.stream(transport.names.stream(EMAILS))
        assert stream is not None
        stored = int(stream["state"]["messages"])
        async with consuming(transport, EMAILS, prefetch=1000) as receiver:
            got = [each.message.id for each in await take(receiver, stored)]
        assert set(confirmed) <= set(got)
        assert len(set(got)) == len(got)
        assert (await consumer(transport, "bf-emails", "workers"))["num_pending"] == 0
