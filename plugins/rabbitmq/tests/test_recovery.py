"""What a server refuses, closes or takes back, and what of it a publisher and a consumer are told."""

import asyncio
from collections.abc import Sequence
from typing import Any

from busframe.errors import Backpressure, DestinationNotFound, PublishOutcomeUnknown, SettlementLost
from busframe.model.delivery import Outgoing
from busframe.model.destination import Queue, Topic
from busframe.model.message import Message
from busframe.model.settlement import ACK, RELEASE
from busframe_rabbitmq.channel import open_channel
from busframe_rabbitmq.transport import RabbitMQ
from plugins.rabbitmq.tests.support import cut, limit_length, opened
from tests.support.transports import (
    consuming,
    declare,
    eventually,
    kinds,
    message,
    nothing_arrives,
    publish,
    publish_all,
    receive,
    take,
)

EMAILS = Queue[Any]("emails")
SMALL = Queue[Any]("small")
UNKNOWN_TAG = 10**6


async def stored(transport: RabbitMQ, queue: Queue[Any], confirmed: Sequence[Message], unknown: int) -> None:
    """Demand that what was confirmed is there, and nothing else but what is unknown."""
    ids = {each.id for each in confirmed}
    async with consuming(transport, queue, prefetch=500) as receiver:
        got = {delivery.message.id for delivery in await take(receiver, len(ids))}
        while not ids <= got:
            got |= {delivery.message.id for delivery in await take(receiver, 1)}
        rest = (await transport.stats(queue)).depth
    assert rest is not None
    assert len(got) + rest <= len(ids) + unknown


async def test_a_full_queue_is_told_from_its_neighbours(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """Of concurrent messages those for the full queue are surely not there; it takes more when there is room."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, SMALL)
        await limit_length(rabbitmq, rabbitmq_vhost, "small", 5)
        fitted: set[str] = set()

        async def fills(full: bool) -> bool:
            each = message()
            outcome = kinds(await publish(transport, SMALL, each))[0]
            if outcome is None:
                fitted.add(each.id)
            return (outcome is Backpressure) is full

        await eventually(lambda: fills(True), "the queue is full")
        messages = [message() for _ in range(300)]
        outgoing = [Outgoing(SMALL if number % 2 else EMAILS, each) for number, each in enumerate(messages)]
        outcomes = kinds(await transport.publish(outgoing, timeout_s=20))
        assert outcomes == [None, Backpressure] * 150
        async with consuming(transport, SMALL) as receiver:
            got = await take(receiver, len(fitted))
            assert {delivery.message.id for delivery in got} == fitted
            await nothing_arrives(receiver)
        await eventually(lambda: fills(False), "there is room again")


async def test_a_closed_channel_leaves_open_what_was_under_way(rabbitmq_vhost: str) -> None:
    """Its neighbours on the channel are unknown, what came later is sent on the next one, other channels live."""
    async with opened(rabbitmq_vhost, publish_window=100) as transport:
        topic = Topic[Any]("events")
        await declare(transport, EMAILS, topic)
        await publish_all(transport, EMAILS, message(id="before"))
        connection = transport.publishing.connection
        many = [message() for _ in range(1000)]
        publishing = asyncio.create_task(publish(transport, EMAILS, *many))
        await asyncio.sleep(0)
        transport._publisher._queues._channel._raw.basic_ack(UNKNOWN_TAG)  # type: ignore[union-attr]
        await publish_all(transport, topic, message())
        outcomes = kinds(await publishing)
        assert set(outcomes) == {None, PublishOutcomeUnknown}
        assert outcomes.count(PublishOutcomeUnknown) <= 100
        assert transport.publishing.connection is connection
        confirmed = [each for each, outcome in zip(many, outcomes, strict=True) if outcome is None]
        await stored(
            transport, EMAILS, [message(id="before"), *confirmed], unknown=outcomes.count(PublishOutcomeUnknown)
        )


async def test_a_topic_that_is_gone_is_told_from_its_neighbours(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """The server closes the channel for it: of other topics' messages nothing is known, or they are there."""
    here, gone = Topic[Any]("here"), Topic[Any]("gone")
    everything = here.subscription("everything")
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, everything, gone)
        await publish_all(transport, gone, message())
        await asyncio.to_thread(rabbitmq.api, "DELETE", f"/exchanges/{rabbitmq_vhost.rpartition('/')[2]}/gone")
        messages = [message() for _ in range(60)]
        outgoing = [Outgoing(gone if number == 30 else here, each) for number, each in enumerate(messages)]
        outcomes = kinds(await transport.publish(outgoing, timeout_s=20))
        assert outcomes[30] is DestinationNotFound
        others = outcomes[:30] + outcomes[31:]
        assert set(others) <= {None, PublishOutcomeUnknown}
        await publish_all(transport, here, message())
        async with consuming(transport, everything, prefetch=100) as receiver:
            await take(receiver, others.count(None) + 1)


async def test_an_old_tag_is_another_message_now(rabbitmq_vhost: str) -> None:
    """After a reconnect the tags begin anew: what the old one says must not reach whoever has its number."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message(id="a"), message(id="b"), message(id="c"))
        async with consuming(transport, EMAILS) as receiver:
            first, old, _ = await receive(receiver, 3)
            assert await receiver.settle([(first, ACK)]) == [None]
            await receiver._session._channel.declare_queue("emails", passive=True)  # type: ignore[attr-defined]
            cut(transport, "consuming")
            again, new = await receive(receiver, 2)
            assert [again.message.id, new.message.id] == ["b", "c"]
            assert old.receipt[1] == new.receipt[1]  # type: ignore[index]
            assert kinds(await receiver.settle([(old, ACK)])) == [SettlementLost]
            assert kinds(await receiver.settle([(old, RELEASE)])) == [SettlementLost]
            assert await receiver.settle([(again, ACK)]) == [None]
        async with consuming(transport, EMAILS) as receiver:
            assert [each.message.id for each in await take(receiver, 1)] == ["c"]
            await nothing_arrives(receiver)


async def test_what_arrives_for_a_consumer_that_is_being_cancelled_is_handled(rabbitmq_vhost: str) -> None:
    """pika would reject it, unseen; here it is given, and can be acknowledged. Nothing is lost between the two."""
    total = 2000
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message(b"x" * 4096) for _ in range(total)))  # more than arrives at once
        channel = await open_channel(await transport.consuming.wait_up())
        arrived: list[int] = []
        began = asyncio.Event()

        def take_it(tag: int, redelivered: bool, properties: Any, body: bytes) -> None:
            arrived.append(tag)
            began.set()

        consumer = await channel.consume("emails", take_it, prefetch=1000)
        await began.wait()
        before = len(arrived)
        await channel.cancel(consumer)
        assert before < len(arrived) <= 1000
        assert arrived == list(range(1, len(arrived) + 1))
        channel.ack(len(arrived), multiple=True)

        async def settled() -> bool:
            return (await transport.stats(EMAILS)).depth == total - len(arrived)

        await eventually(settled, "what arrived is acknowledged, and the rest is ready")
        await channel.close()
        assert (await transport.stats(EMAILS)).depth == total - len(arrived)
