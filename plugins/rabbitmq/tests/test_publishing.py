"""Publishing to a real server: confirmed, or told why not."""

import asyncio
from typing import Any

import pytest

from busframe.errors import (
    Backpressure,
    ClosedError,
    ConnectionFailed,
    DestinationNotFound,
    InvalidHeader,
    MessageTooLarge,
    PublishFailed,
    PublishOutcomeUnknown,
    Unsupported,
)
from busframe.model.delivery import Outgoing
from busframe.model.destination import Queue, Topic
from busframe_rabbitmq.channel import open_channel
from plugins.rabbitmq.tests.support import cut, limit_length, opened, queues_are_on_disk
from tests.support.transports import (
    Reports,
    consuming,
    declare,
    eventually,
    kinds,
    message,
    nothing_arrives,
    publish,
    publish_all,
    take,
)

EMAILS = Queue[Any]("emails")
ORDERS = Topic[Any]("orders")
ALL = ORDERS.subscription("all")


async def test_a_confirmed_message_is_there(rabbitmq_vhost: str) -> None:
    """Many calls and many messages at once: each is stored once, in order of each call."""
    async with opened(rabbitmq_vhost, publish_window=50) as transport:
        await declare(transport, EMAILS)
        batches = [[message(b"%d" % number) for number in range(40)] for _ in range(20)]
        await asyncio.gather(*(publish_all(transport, EMAILS, *batch) for batch in batches))
        async with consuming(transport, EMAILS, prefetch=300) as receiver:
            got = [delivery.message.id for delivery in await take(receiver, 800)]
        assert sorted(got) == sorted(each.id for batch in batches for each in batch)
        for batch in batches:
            ids = [each.id for each in batch]
            assert [each for each in got if each in set(ids)] == ids


async def test_missing_queues_are_told_apart_from_their_neighbours(rabbitmq_vhost: str) -> None:
    """Of many concurrent messages exactly those without a queue fail."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        missing = Queue[Any]("missing")
        outgoing = [Outgoing(missing if number % 3 == 0 else EMAILS, message(id=f"m{number}")) for number in range(300)]
        outcomes = await transport.publish(outgoing, timeout_s=10)
        assert kinds(outcomes) == [DestinationNotFound if number % 3 == 0 else None for number in range(300)]
        found = outcomes[0]
        assert isinstance(found, DestinationNotFound)
        assert (found.destination, found.message_id) == ("missing", "m0")
        letters = (await publish(transport, missing.dead_letters, message()))[0]
        assert isinstance(letters, DestinationNotFound)


async def test_a_missing_topic_harms_no_neighbour(rabbitmq_vhost: str) -> None:
    """An existing topic without subscriptions is fine."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, ORDERS, EMAILS)
        results = await asyncio.gather(
            *(publish(transport, to, message()) for _ in range(20) for to in (ORDERS, Topic[Any]("nope"), EMAILS))
        )
        assert [kinds(outcomes)[0] for outcomes in results] == [None, DestinationNotFound, None] * 20


async def test_a_topic_that_is_deleted_later_is_missed(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """And seen again when it is there again, without a restart."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, ORDERS, EMAILS)
        await publish_all(transport, ORDERS, message())
        rabbitmq.api("DELETE", f"/exchanges/{rabbitmq_vhost.rpartition('/')[2]}/orders")
        first, second = await asyncio.gather(
            publish(transport, ORDERS, message(), message()), publish(transport, EMAILS, message())
        )
        # The server does not say for which one it was missing: those before could be stored.
        assert (kinds(first), kinds(second)) == ([PublishOutcomeUnknown, DestinationNotFound], [None])
        assert kinds(await publish(transport, ORDERS, message())) == [DestinationNotFound]
        await declare(transport, ORDERS)
        await publish_all(transport, ORDERS, message())


async def test_a_full_queue_is_backpressure(rabbitmq_vhost: str) -> None:
    """What the server refuses is surely not there, and may be published again."""
    async with opened(rabbitmq_vhost) as transport:
        connection = await transport.consuming.wait_up()
        channel = await open_channel(connection)
        limited = {"x-queue-type": "classic", "x-max-length": 2, "x-overflow": "reject-publish"}
        await channel.declare_queue("small", limited)
        outcomes = await publish(transport, Queue("small"), *(message() for _ in range(10)))
        assert set(kinds(outcomes)) == {None, Backpressure}
        stored, _ = await channel.declare_queue("small", passive=True)
        assert stored == kinds(outcomes).count(None)


async def test_one_full_subscription_leaves_the_outcome_open(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """The server refuses the message as a whole; the other subscription has stored it all the same."""
    small, other = ORDERS.subscription("small"), ORDERS.subscription("other")
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, small, other)
        await limit_length(rabbitmq, rabbitmq_vhost, "orders--small", 1)
        outcomes: list[Exception | None] = []

        async def refused() -> bool:
            outcomes.extend(await publish(transport, ORDERS, message()))
            return outcomes[-1] is not None

        await eventually(refused, "the subscription is full")
        assert kinds(outcomes)[-1] is PublishOutcomeUnknown
        async with consuming(transport, other) as receiver:
            await take(receiver, len(outcomes))


async def test_a_lost_connection_leaves_the_outcome_open(rabbitmq_vhost: str) -> None:
    """What was under way is unknown, what comes later waits for the connection; nothing confirmed is lost."""
    reports = Reports()
    async with opened(rabbitmq_vhost, reports=reports, publish_window=100) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message(id="before"))
        many = [message(id=f"m{number}") for number in range(1000)]
        publishing = asyncio.create_task(publish(transport, EMAILS, *many))
        await asyncio.sleep(0)
        cut(transport, "publishing")
        outcomes = await publishing
        await reports.wait("connection", "down")
        await reports.wait("connection", "up", since=1)
        assert set(kinds(outcomes)) == {None, PublishOutcomeUnknown}
        unknown = next(outcome for outcome in outcomes if outcome is not None)
        assert isinstance(unknown.__cause__, ConnectionFailed)
        await publish_all(transport, EMAILS, message(id="after"))
        confirmed = {each.id for each, outcome in zip(many, outcomes, strict=True) if outcome is None}
        async with consuming(transport, EMAILS, prefetch=500) as receiver:
            stored = (await transport.stats(EMAILS)).depth or 0
            got = {delivery.message.id for delivery in await take(receiver, max(stored, len(confirmed) + 2))}
        assert confirmed | {"before", "after"} <= got


async def test_without_a_connection_it_waits_and_then_surely_failed(own_rabbitmq: Any) -> None:
    """What was not sent when the time is over is surely not there."""
    server = own_rabbitmq()
    async with opened(server.url) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message())
        await queues_are_on_disk()
        server.kill()
        (outcome,) = await publish(transport, EMAILS, message(), timeout_s=0.5)
        assert isinstance(outcome, (PublishFailed, PublishOutcomeUnknown))
        (outcome,) = await publish(transport, EMAILS, message(), timeout_s=0.2)
        assert isinstance(outcome, PublishFailed)
        assert isinstance(outcome.__cause__, ConnectionFailed)
        topic = await publish(transport, ORDERS, message(), timeout_s=0.2)
        assert kinds(topic) == [PublishFailed]
        waiting = asyncio.create_task(publish(transport, EMAILS, message(id="late"), timeout_s=60))
        await asyncio.to_thread(server.start)
        assert await waiting == [None]


async def test_too_large_is_told_before_anything_is_sent(rabbitmq_vhost: str) -> None:
    """The limit itself passes; the client stays usable."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        limit = transport.capabilities.max_message_bytes
        assert limit is not None
        fits, over = message(b"x" * limit), message(b"x" * (limit + 1))
        large = Outgoing(EMAILS, over, dedup_key=f"{over.id}/0123456789abcdef", carried={"bf-dead-stack": "s" * 9000})
        assert kinds(await publish(transport, EMAILS, fits, over)) == [None, MessageTooLarge]
        assert await transport.publish([large], timeout_s=20) == [None]
        await publish_all(transport, EMAILS, message())


async def test_many_headers_travel_and_too_many_are_told(rabbitmq_vhost: str) -> None:
    """64 KiB pass; what fits into no frame, which would close the connection, is refused."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        fits = message(headers={f"h{number}": "v" * 8192 for number in range(8)})
        over = message(headers={f"h{number}": "v" * 8192 for number in range(20)})
        assert kinds(await publish(transport, EMAILS, fits, over)) == [None, MessageTooLarge]
        async with consuming(transport, EMAILS) as receiver:
            (got,) = await take(receiver, 1)
        assert got.message.headers == fits.headers


async def test_a_servers_own_smaller_limit_is_told(rabbitmq_vhost: str) -> None:
    """The server closes the channel for a body over its limit; that message is told from its neighbours."""
    async with opened(rabbitmq_vhost, max_message_bytes=64 * 1024 * 1024) as transport:
        await declare(transport, EMAILS)
        (outcome,) = await publish(transport, EMAILS, message(b"x" * (17 * 1024 * 1024)))
        assert isinstance(outcome, MessageTooLarge)
        assert (outcome.size, outcome.limit) == (17 * 1024 * 1024, 16 * 1024 * 1024)
        await publish_all(transport, EMAILS, message())


async def test_a_header_that_cannot_travel_fails_alone(rabbitmq_vhost: str) -> None:
    """The others of the call are published."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        outcomes = await publish(transport, EMAILS, message(), message(type="t" * 300), message())
        assert kinds(outcomes) == [None, InvalidHeader, None]


async def test_a_delay_beyond_the_cascade_is_unsupported(rabbitmq_vhost: str) -> None:
    """It is never shortened."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        outcomes = await publish(transport, EMAILS, message(), delay_s=transport.capabilities.publish_delay_max_s + 1)
        assert kinds(outcomes) == [Unsupported]


async def test_a_cancelled_publish_leaks_nothing(rabbitmq_vhost: str) -> None:
    """Neither its place in the window nor what waits behind it."""
    async with opened(rabbitmq_vhost, publish_window=3) as transport:
        await declare(transport, EMAILS)
        for turns in range(5):
            tasks = [asyncio.create_task(publish(transport, EMAILS, message(), message())) for _ in range(30)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert list(done[1::2]) == [[None, None]] * 15
        async with asyncio.timeout(10):
            await transport._publisher._queues.flush()
        assert "0 under way, 0 waiting" in repr(transport._publisher._queues)


async def test_close_flushes(rabbitmq_vhost: str) -> None:
    """What was published and not confirmed when the transport is closed is confirmed first."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        publishing = asyncio.gather(publish(transport, EMAILS, *(message() for _ in range(500))))
        await asyncio.sleep(0)
        await transport.close()
        (outcomes,) = await publishing
        assert outcomes == [None] * 500
        with pytest.raises(ClosedError):
            await publish(transport, EMAILS, message())


async def test_the_server_tells_when_it_takes_no_more(own_rabbitmq: Any) -> None:
    """While an alarm lasts, publishing waits and fails in time, and consuming goes on; then all goes on."""
    server = own_rabbitmq()
    reports = Reports()
    async with opened(server.url, reports=reports) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message(id="one"), message(id="two"))
        await asyncio.to_thread(server.ctl, "set_vm_memory_high_watermark", "0.00001")
        await publish(transport, EMAILS, message(id="unknown"), timeout_s=0.3)  # the server tells who publishes
        await reports.wait("connection", "blocked")
        assert kinds(await publish(transport, EMAILS, message(), timeout_s=0.2)) == [Backpressure]
        async with consuming(transport, EMAILS) as receiver:
            assert {delivery.message.id for delivery in await take(receiver, 2)} == {"one", "two"}
        async with consuming(transport, EMAILS) as receiver:
            await nothing_arrives(receiver)  # the server has the acknowledgements
            waiting = asyncio.create_task(publish(transport, EMAILS, message(id="late"), timeout_s=60))
            await asyncio.to_thread(server.ctl, "set_vm_memory_high_watermark", "0.6")
            await reports.wait("connection", "up", since=1)
            assert await waiting == [None]
            assert {delivery.message.id for delivery in await take(receiver, 2)} == {"unknown", "late"}
