"""``ack="before"`` on a real server."""

import asyncio
from typing import Any

import pytest

from busframe.errors import ClosedError
from busframe.model.destination import Queue
from busframe.model.settlement import ACK, RELEASE, DeadLetter, Nack
from busframe.runtime.receive import CLOSE_TIMEOUT_S
from busframe.spi.transport import Receiver
from busframe_rabbitmq import early
from busframe_rabbitmq.channel import Channel
from busframe_rabbitmq.transport import RabbitMQ
from plugins.rabbitmq.tests.support import cut, opened
from tests.support.transports import DEADLINE_S, Reports, consuming, declare, eventually, message, publish_all, receive

EMAILS = Queue[Any]("emails")


async def test_what_is_received_is_settled_already(rabbitmq_vhost: str) -> None:
    """Even if the process dies now."""
    async with opened(rabbitmq_vhost) as transport, opened(rabbitmq_vhost) as other:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(5)))
        async with consuming(transport, EMAILS, ack="before") as receiver:
            got = await receive(receiver, 5)
            cut(transport, "consuming")
            assert await receiver.settle([(each, ACK) for each in got]) == [None] * 5
        assert (await other.stats(EMAILS)).depth == 0


async def test_the_buffer_is_bounded_and_nothing_is_dropped(rabbitmq_vhost: str) -> None:
    """The consumer ends while enough is buffered, and begins again; what the handlers do not get goes back."""
    async with opened(rabbitmq_vhost, consume_before_buffer=50) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(5000)))
        async with consuming(transport, EMAILS, ack="before", prefetch=10) as receiver:
            got = {each.message.id for each in await receive(receiver, 3000)}
            await receiver.stop()
            with pytest.raises(ClosedError):
                await receiver.receive(1)
        assert len(got) == 3000

        async def back() -> bool:
            return (await transport.stats(EMAILS)).depth == 2000

        await eventually(back, "what was not received is in the queue again")
        async with consuming(transport, EMAILS, ack="before", prefetch=10) as receiver:
            rest = await receive(receiver, 2000)
        assert len(got | {each.message.id for each in rest}) == 5000


async def test_the_broker_keeps_what_does_not_fit(rabbitmq_vhost: str) -> None:
    """Not receiving is back-pressure."""
    async with opened(rabbitmq_vhost, consume_before_buffer=20) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message(b"x" * 1000) for _ in range(20_000)))
        async with consuming(transport, EMAILS, ack="before", prefetch=1) as receiver:
            await receive(receiver, 1)

            async def ended() -> bool:
                stats = await transport.stats(EMAILS)
                return stats.consumers == 0 and (stats.depth or 0) > 5000

            await eventually(ended, "the consumer has ended")


async def test_a_lost_connection_drops_nothing_that_was_taken(rabbitmq_vhost: str) -> None:
    """What is buffered is received all the same, then the rest."""
    reports = Reports()
    async with opened(rabbitmq_vhost, reports=reports) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(100)))
        async with consuming(transport, EMAILS, ack="before") as receiver:
            got = await receive(receiver, 1)

            async def taken() -> bool:
                return (await transport.stats(EMAILS)).depth == 0

            await eventually(taken, "all are taken")
            cut(transport, "consuming")
            got += await receive(receiver, 99)
            await reports.wait("emails", "up")
            await publish_all(transport, EMAILS, message())
            await receive(receiver, 1)
            assert len({each.message.id for each in got}) == 100


async def test_a_stop_while_a_consumer_is_made_loses_nothing(
    rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server was asked is waited for, so that no consumer goes on which nobody knows."""
    begun = asyncio.Event()
    begin = Channel._begin

    def noted(channel: Channel, method: Any, *arguments: Any, **named: Any) -> "asyncio.Future[Any]":
        if method.__name__ == "basic_consume":
            begun.set()
        return begin(channel, method, *arguments, **named)

    async with opened(rabbitmq_vhost, consume_before_buffer=20) as transport, opened(rabbitmq_vhost) as other:
        await declare(transport, EMAILS)
        async with consuming(transport, EMAILS, ack="before", prefetch=10) as receiver:
            monkeypatch.setattr(Channel, "_begin", noted)
            await publish_all(other, EMAILS, *(message() for _ in range(100)))
            got = 0
            inside: Any = receiver
            async with asyncio.timeout(DEADLINE_S):
                while not begun.is_set():
                    if inside._session.is_paused and inside._buffer:
                        got += len(await receiver.receive(1))
                    await asyncio.sleep(0)
            await receiver.stop()
            await publish_all(other, EMAILS, *(message() for _ in range(100)))

        async def back() -> bool:
            return (await other.stats(EMAILS)).depth == 200 - got

        await eventually(back, "all that was not received is in the queue")


async def buffered(transport: RabbitMQ, receiver: Receiver, count: int) -> None:
    """Wait until the receiver has so many."""

    async def taken() -> bool:
        return (await transport.stats(EMAILS)).depth == 0 and f"{count} buffered" in repr(receiver)

    await eventually(taken, "all are buffered")


async def test_a_stop_that_is_cut_off_while_publishing_waits_loses_nothing(rabbitmq_vhost: str) -> None:
    """What is under way goes on, and closing waits for it."""
    async with opened(rabbitmq_vhost) as transport, opened(rabbitmq_vhost) as other:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(50)))
        async with consuming(transport, EMAILS, ack="before") as receiver:
            await buffered(other, receiver, 50)
            transport.publishing.blocked = "memory"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await receiver.stop()
            transport.publishing.blocked = None
            transport.publishing.on_unblocked()

        async def back() -> bool:
            return (await other.stats(EMAILS)).depth == 50

        await eventually(back, "all is in the queue")


async def test_what_cannot_be_given_back_is_said(
    rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends before the core's patience, is tried again by closing, and then is lost."""
    assert early.GIVE_BACK_TIMEOUT_S < CLOSE_TIMEOUT_S
    monkeypatch.setattr(early, "GIVE_BACK_TIMEOUT_S", 0.1)
    async with opened(rabbitmq_vhost) as transport, opened(rabbitmq_vhost) as other:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(50)))
        async with consuming(transport, EMAILS, ack="before") as receiver:
            await buffered(other, receiver, 50)
            transport.publishing.blocked = "memory"
            await receiver.stop()
            assert "50 buffered" in repr(receiver)
        transport.publishing.blocked = None
    (record,) = [record for record in caplog.records if record.message.startswith("messages lost")]
    assert (record.__dict__["count"], record.levelname) == (50, "ERROR")


async def test_settling_otherwise_publishes(rabbitmq_vhost: str) -> None:
    """A retry, a dead letter, a release: the broker has none of them any more, so each is a copy."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(3)))
        async with consuming(transport, EMAILS, ack="before") as receiver:
            a, b, c = await receive(receiver, 3)
            letter = DeadLetter("rejected", carried={"bf-dead-reason": "rejected"})
            assert await receiver.settle([(a, Nack(0.1)), (b, letter), (c, RELEASE)]) == [None] * 3
            again = await receive(receiver, 2)
            assert {each.message.id for each in again} == {a.message.id, c.message.id}
            assert (await transport.stats(EMAILS)).dead == 1
            await asyncio.gather(receiver.close(), receiver.close())
