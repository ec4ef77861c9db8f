"""Delays on a real server."""

import asyncio
import time
from typing import Any

import pytest

from busframe.errors import PublishFailed
from busframe.model.delivery import Outgoing
from busframe.model.destination import Queue, Topic
from busframe_rabbitmq.channel import open_channel
from plugins.rabbitmq.tests.support import (
    consuming,
    declare,
    entities,
    eventually,
    kinds,
    message,
    nothing_arrives,
    opened,
    publish,
    publish_all,
    receive,
    take,
)

EMAILS = Queue[Any]("emails")


async def test_many_delays_at_once_each_come_due_in_their_time(rabbitmq_vhost: str) -> None:
    """Not before, and not long after; a long one does not hold back a short one."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, max_attempts=5, longest_delay_s=60)
        delays = [0.1, 0.3, 3.0, 0.7, 1.0, 2.1, 0.2, 1.5] * 25
        sent: dict[str, float] = {}

        async def send(delay_s: float) -> None:
            each = message(b"%f" % delay_s)
            sent[each.id] = time.monotonic()
            await publish_all(transport, EMAILS, each, delay_s=delay_s)

        async with consuming(transport, EMAILS, prefetch=500) as receiver:
            await asyncio.gather(*map(send, delays))
            late = []
            for _ in delays:
                (got,) = await take(receiver, 1)
                waited = time.monotonic() - sent[got.message.id]
                late.append(waited - float(got.message.body))
        assert min(late) >= 0
        assert sorted(late)[len(late) // 2] < transport.capabilities.delay_resolution_s


async def test_a_delayed_publish_to_a_topic_is_filtered_when_due(rabbitmq_vhost: str) -> None:
    """Its headers are kept; a subscription that nobody matches is fine; a copy for one reaches it alone."""
    topic = Topic[Any]("events")
    some, others = topic.subscription("some", where={"kind": "a"}), topic.subscription("others")
    async with opened(rabbitmq_vhost, prefix="p-") as transport:
        await declare(transport, some)
        await publish_all(
            transport,
            topic,
            message(id="a", headers={"kind": "a"}),
            message(id="b", headers={"kind": "b"}),
            delay_s=0.1,
        )
        await declare(transport, others)
        await publish_all(transport, some, message(id="alone"), delay_s=0.1)
        async with consuming(transport, some) as first, consuming(transport, others) as second:
            assert {each.message.id for each in await take(first, 2)} == {"a", "alone"}
            await nothing_arrives(first, for_s=0.2)
            while len(got := await take(second, 1)) and got[0].message.id != "b":
                assert got[0].message.id == "a"
            await nothing_arrives(second, for_s=0.1)


async def test_what_finds_no_target_is_kept_and_blocks_nobody(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """Of a deleted queue: the delays of others go on, and when it is there again it gets what came due meanwhile."""
    vhost = rabbitmq_vhost.rpartition("/")[2]
    gone = Queue[Any]("gone.queue")
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, gone, max_attempts=5, longest_delay_s=60)
        stranded = [message(id=f"m{number}", headers={"a": "b"}) for number in range(100)]
        await transport.publish(
            [Outgoing(gone, each, 0.2, carried={"bf-attempt": "1 gone.queue"}) for each in stranded], timeout_s=9
        )
        await asyncio.to_thread(rabbitmq.api, "DELETE", f"/queues/{vhost}/gone.queue")

        async def kept() -> bool:
            channel = await open_channel(await transport.consuming.wait_up())
            ready, _ = await channel.declare_queue("bf--undelivered", passive=True)
            channel.abandon()
            return ready == 100

        await eventually(kept, "all are kept")
        async with consuming(transport, EMAILS) as receiver:
            await publish_all(transport, EMAILS, message(), delay_s=0.2)
            await take(receiver, 1, deadline_s=5)
        await declare(transport, gone)
        async with consuming(transport, gone) as receiver:
            got = await take(receiver, 100)
        assert {each.message.id for each in got} == {each.id for each in stranded}
        assert got[0].message.headers == {"a": "b"}
        assert got[0].carried == {"bf-attempt": "1 gone.queue"}


async def test_a_deleted_topic_keeps_what_is_delayed_for_it(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """Until it is there again."""
    vhost = rabbitmq_vhost.rpartition("/")[2]
    topic = Topic[Any]("events")
    everything = topic.subscription("everything")
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, everything)
        await publish_all(transport, topic, message(id="x"), delay_s=0.5)
        await asyncio.to_thread(rabbitmq.api, "DELETE", f"/exchanges/{vhost}/events")

        async def kept() -> bool:
            found = await asyncio.to_thread(rabbitmq.api, "GET", f"/queues/{vhost}/bf--undelivered")
            return bool(found.get("messages"))

        await eventually(kept, "it is kept")
        await declare(transport, everything)
        async with consuming(transport, everything) as receiver:
            assert [each.message.id for each in await take(receiver, 1)] == ["x"]


async def test_a_process_that_finds_the_cascade_made_uses_it(rabbitmq_vhost: str) -> None:
    """Ten at once may make it; a lazily made one serves everybody."""
    transports = [opened(rabbitmq_vhost) for _ in range(4)]
    async with transports[0] as first, transports[1] as second, transports[2] as third, transports[3] as fourth:
        await declare(first, EMAILS)
        each = (first, second, third, fourth)
        await asyncio.gather(
            *(publish_all(transport, EMAILS, message(), delay_s=0.1) for transport in each for _ in range(5))
        )
        async with consuming(first, EMAILS, prefetch=30) as receiver:
            await take(receiver, 20)


async def test_a_deleted_cascade_is_made_again(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """The publish that finds it gone fails surely or is unknown; the next one is fine."""
    vhost = rabbitmq_vhost.rpartition("/")[2]
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message(), delay_s=0.1)
        async with consuming(transport, EMAILS) as receiver:
            await take(receiver, 1)
        await asyncio.to_thread(rabbitmq.api, "DELETE", f"/queues/{vhost}/bf--delay-00")
        assert kinds(await publish(transport, EMAILS, message(), delay_s=0.1)) == [PublishFailed]
        await asyncio.to_thread(rabbitmq.api, "DELETE", f"/exchanges/{vhost}/bf--delay-27")
        await publish_all(transport, EMAILS, message(), delay_s=0.1)
        async with consuming(transport, EMAILS) as receiver:
            await take(receiver, 1)


@pytest.mark.parametrize("longest_delay_s", [0.0, 30.0])
async def test_the_cascade_is_declared_only_where_it_is_needed(
    rabbitmq: Any, rabbitmq_vhost: str, longest_delay_s: float
) -> None:
    """By a handled source whose policy has delays; and at once, not at the first failure."""
    async with opened(rabbitmq_vhost) as transport:
        asked = {"max_attempts": 5, "longest_delay_s": longest_delay_s}
        await declare(transport, EMAILS, **asked)
        assert await transport.plan(entities(EMAILS, **asked)) == []
        assert await transport._delays.is_made() is (longest_delay_s > 0)


async def test_delays_survive_a_restart(own_rabbitmq: Any) -> None:
    """Nothing that was confirmed is lost."""
    server = own_rabbitmq()
    async with opened(server.url) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(50)), delay_s=6.3)
        await asyncio.to_thread(server.restart)
        async with consuming(transport, EMAILS, prefetch=60) as receiver:
            assert len({each.message.id for each in await receive(receiver, 50, deadline_s=40)}) == 50
