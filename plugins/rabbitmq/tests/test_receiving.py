"""Receiving and settling on a real server."""

import asyncio
from typing import Any
from urllib.parse import quote

import pika
import pytest

from busframe.errors import ClosedError, DestinationNotFound, PublishOutcomeUnknown, SettlementLost
from busframe.model.destination import Queue, Topic
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, RELEASE, DeadLetter, Nack
from busframe_rabbitmq.channel import Channel, open_channel
from plugins.rabbitmq.tests.support import cut, opened
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
    receive,
    take,
)

EMAILS = Queue[Any]("emails")


async def depth_is(transport: Any, source: Any, depth: int) -> None:
    """Wait until so many messages are ready."""

    async def reached() -> bool:
        return bool((await transport.stats(source)).depth == depth)

    await eventually(reached, f"{source} has {depth} ready")


async def test_what_is_acknowledged_does_not_come_back(rabbitmq_vhost: str) -> None:
    """In any order, and only what was acknowledged: the others come back when the receiver is closed."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message(id=f"m{number}") for number in range(10)))
        async with consuming(transport, EMAILS) as receiver:
            got = await receive(receiver, 10)
            assert await receiver.settle([(got[index], ACK) for index in (7, 0, 1, 3)]) == [None] * 4
            assert await receiver.settle([(got[index], ACK) for index in (9, 2)]) == [None] * 2
        async with consuming(transport, EMAILS) as receiver:
            again = await take(receiver, 4)
            await nothing_arrives(receiver)
        assert {delivery.message.id for delivery in again} == {"m4", "m5", "m6", "m8"}
        assert {delivery.deliveries for delivery in again} == {2}


async def test_a_release_comes_back_at_once(rabbitmq_vhost: str) -> None:
    """Released and acknowledged in one call: neither takes the other along."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message(id=f"m{number}") for number in range(6)))
        async with consuming(transport, EMAILS, prefetch=6) as receiver:
            got = await receive(receiver, 6)
            settled = [(delivery, RELEASE if index % 2 else ACK) for index, delivery in enumerate(got)]
            assert await receiver.settle(settled) == [None] * 6
            again = await take(receiver, 3)
            assert {delivery.message.id for delivery in again} == {"m1", "m3", "m5"}
            await depth_is(transport, EMAILS, 0)


async def test_receive_gives_what_is_there_up_to_the_limit(rabbitmq_vhost: str) -> None:
    """And keeps no more than the prefetch unsettled."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(30)))
        async with consuming(transport, EMAILS, prefetch=7) as receiver:
            assert len(await receiver.receive(2)) <= 2
            await depth_is(transport, EMAILS, 23)
            await receive(receiver, 5)
            await nothing_arrives(receiver)


async def test_cancelled_receive_loses_nothing(rabbitmq_vhost: str) -> None:
    """The next call returns it."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        async with consuming(transport, EMAILS) as receiver:
            got = 0
            publishing = asyncio.gather(publish_all(transport, EMAILS, *(message() for _ in range(200))))
            while got < 200:
                task = asyncio.create_task(receiver.receive(5))
                await asyncio.sleep(0)
                task.cancel()
                try:
                    batch = await task
                except asyncio.CancelledError:
                    batch = await asyncio.wait_for(receiver.receive(5), 10)
                got += len(batch)
                await receiver.settle([(delivery, ACK) for delivery in batch])
            await publishing


async def test_a_lost_connection_brings_it_back_and_old_receipts_settle_nothing(rabbitmq_vhost: str) -> None:
    """Delivery tags begin anew: the receipt of an old one must not settle another message."""
    reports = Reports()
    async with opened(rabbitmq_vhost, reports=reports) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message(id="a"), message(id="b"))
        async with consuming(transport, EMAILS) as receiver:
            old = await receive(receiver, 2)
            cut(transport, "consuming")
            new = await receive(receiver, 2)
            assert {delivery.message.id for delivery in new} == {"a", "b"}
            assert {delivery.generation for delivery in new} == {old[0].generation + 1}
            assert kinds(await receiver.settle([(old[0], ACK), (old[1], Nack(0.0))])) == [SettlementLost] * 2
            await reports.wait("emails", "up")
            assert await receiver.settle([(new[0], ACK)]) == [None]
            assert kinds(await receiver.settle([(new[0], ACK)])) == [SettlementLost]
        async with consuming(transport, EMAILS) as receiver:
            assert [each.message.id for each in await take(receiver, 1)] == [new[1].message.id]
        assert [report[:2] for report in reports if report[0] == "emails"] == [("emails", "down"), ("emails", "up")]


async def test_a_kicked_connection_comes_back(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """One receiver's channel, or the whole connection: its siblings are consuming again as well."""
    other = Queue[Any]("other")
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, other)
        async with consuming(transport, EMAILS) as first, consuming(transport, other) as second:
            vhost = rabbitmq_vhost.rpartition("/")[2]

            async def kicked() -> bool:
                listed = await asyncio.to_thread(rabbitmq.api, "GET", f"/vhosts/{vhost}/connections")
                for connection in listed:
                    await asyncio.to_thread(
                        rabbitmq.api, "DELETE", f"/connections/{quote(connection['name'], safe='')}"
                    )
                return len(listed) >= 2

            await eventually(kicked, "the management lists the connections")
            for receiver, to in ((first, EMAILS), (second, other)):
                # The server closes a connection some time after it was told to: it can be in the midst of these.
                while kinds(await publish(transport, to, message())) == [PublishOutcomeUnknown]:
                    pass
                while kinds(await receiver.settle([((await receive(receiver, 1))[0], ACK)])) == [SettlementLost]:
                    pass


async def test_a_deleted_queue_is_told(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """receive raises, instead of waiting for ever; so does a receiver of a queue that never was."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        # Before the deletion, after which RabbitMQ 4.0 sometimes closes the connection (541): that is another error.
        with pytest.raises(DestinationNotFound):
            await transport.receiver(Entity(Queue("nope")), prefetch=1).open()
        async with consuming(transport, EMAILS) as receiver:
            waiting = asyncio.create_task(receiver.receive(1))
            await asyncio.to_thread(rabbitmq.api, "DELETE", f"/queues/{rabbitmq_vhost.rpartition('/')[2]}/emails")
            with pytest.raises(DestinationNotFound):
                await asyncio.wait_for(waiting, 20)
            with pytest.raises(DestinationNotFound):
                await receiver.receive(1)


async def test_stop_gives_back_what_was_not_received(rabbitmq_vhost: str) -> None:
    """At once, and what was received can still be settled."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(50)))
        async with consuming(transport, EMAILS, prefetch=30) as receiver:
            got = await receive(receiver, 4)
            await depth_is(transport, EMAILS, 20)
            waiting = asyncio.create_task(receiver.receive(1))
            await waiting
            await asyncio.gather(receiver.stop(), receiver.stop())
            with pytest.raises(ClosedError):
                await receiver.receive(1)
            await depth_is(transport, EMAILS, 45)
            held = got + list(waiting.result())
            assert await receiver.settle([(delivery, ACK) for delivery in held]) == [None] * 5
        await depth_is(transport, EMAILS, 45)

        async def no_consumer() -> bool:
            return (await transport.stats(EMAILS)).consumers == 0

        await eventually(no_consumer, "the consumer is gone")


async def test_stop_ends_a_waiting_receive(rabbitmq_vhost: str) -> None:
    """With ClosedError; close is idempotent."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        async with consuming(transport, EMAILS) as receiver:
            waiting = asyncio.create_task(receiver.receive(1))
            await asyncio.sleep(0)
            await receiver.stop()
            with pytest.raises(ClosedError):
                await waiting
            await receiver.close()


async def test_stop_under_load_hands_no_message_to_nobody(rabbitmq_vhost: str) -> None:
    """What arrives while the consumer is being ended goes back as well, none is lost and none stays held."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(2000)))
        taken = 0
        for _ in range(10):
            async with consuming(transport, EMAILS, prefetch=200) as receiver:
                taken += len(await take(receiver, 30))
                await receiver.stop()
        await depth_is(transport, EMAILS, 2000 - taken)


@pytest.mark.parametrize("sizes", [(4, 8, 16, 32), (50, 1, 50), (30, 10, 3, 1), (1, 2, 1)])
async def test_resize_under_load_bounces_nothing(rabbitmq_vhost: str, sizes: tuple[int, ...]) -> None:
    """Every message is delivered once, and no more than the prefetch is held afterwards."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(1500)))
        async with consuming(transport, EMAILS, prefetch=sizes[0]) as receiver:
            got = await take(receiver, 100)
            for size in sizes[1:]:
                await receiver.resize(size)
                got += await take(receiver, 100)
            held = await receive(receiver, sizes[-1])
            await nothing_arrives(receiver, for_s=0.1)
            await receiver.settle([(delivery, ACK) for delivery in held])
            got += held + await take(receiver, 1500 - len(got) - len(held))
            assert len({delivery.message.id for delivery in got}) == 1500
            assert {delivery.deliveries for delivery in got} == {1}
            await depth_is(transport, EMAILS, 0)


async def test_a_consumer_that_waits_to_be_smaller_can_be_made_larger(rabbitmq_vhost: str) -> None:
    """It fetches again at once, though nothing of what it holds is settled."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(30)))
        async with consuming(transport, EMAILS, prefetch=5) as receiver:
            await receive(receiver, 5)
            await receiver.resize(1)
            await nothing_arrives(receiver, for_s=0.1)
            await receiver.resize(10)
            await receive(receiver, 5)


async def test_cancelled_resize_leaves_one_consumer(rabbitmq_vhost: str) -> None:
    """Whenever it is cancelled."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        async with consuming(transport, EMAILS, prefetch=5) as receiver:
            for turns in range(8):
                resizing = asyncio.create_task(receiver.resize(10 + turns if turns % 2 else 3))
                for _ in range(turns):
                    await asyncio.sleep(0)
                resizing.cancel()
                await asyncio.wait({resizing})

            async def one() -> bool:
                return (await transport.stats(EMAILS)).consumers == 1

            await eventually(one, "one consumer")
            await publish_all(transport, EMAILS, message())
            await take(receiver, 1)


@pytest.mark.parametrize("lost", [False, True])
async def test_settling_while_a_consumer_is_replaced_answers_when_it_is_written(
    rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """Nothing is acknowledged for a moment: what waits is not done, and if the connection is lost, it never was."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message(id="a"), message(id="b"))
        async with consuming(transport, EMAILS, prefetch=2) as receiver:
            got = await receive(receiver, 2)
            going_on = asyncio.Event()
            cancel = Channel.cancel

            async def waits(channel: Channel, consumer_tag: str) -> None:
                await going_on.wait()
                await cancel(channel, consumer_tag)

            monkeypatch.setattr(Channel, "cancel", waits)
            resizing = asyncio.create_task(receiver.resize(4))

            async def quiet() -> bool:
                return receiver._session.quiet is not None  # type: ignore[attr-defined]

            await eventually(quiet, "the old consumer is being ended")
            settling = asyncio.create_task(receiver.settle([(got[0], ACK), (got[1], RELEASE)]))
            done, _ = await asyncio.wait({settling}, timeout=0.2)
            assert not done
            if lost:
                cut(transport, "consuming")
            going_on.set()
            await resizing
            assert kinds(await settling) == [SettlementLost if lost else None] * 2
            again = await take(receiver, 2 if lost else 1)
            assert sorted(each.message.id for each in again) == (["a", "b"] if lost else ["b"])
            await nothing_arrives(receiver)


async def test_a_retry_is_a_copy_with_what_the_core_carries(rabbitmq_vhost: str) -> None:
    """The delivery count begins anew, the message is the same."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        sent = message(b"\x00\xff", type="t", key="k", headers={"a": "é"}, correlation_id="c", ttl_s=5.0)
        await publish_all(transport, EMAILS, sent)
        async with consuming(transport, EMAILS) as receiver:
            for attempt, delay_s in enumerate((0.0, 0.2, 0.1), 1):
                (got,) = await receive(receiver, 1)
                nack = Nack(delay_s, {**got.carried, "bf-attempt": f"{attempt} emails"})
                assert await receiver.settle([(got, nack)]) == [None]
            (got,) = await take(receiver, 1)
            assert (got.message, got.carried, got.deliveries) == (sent, {"bf-attempt": "3 emails"}, 1)
            await nothing_arrives(receiver)


async def test_a_copy_that_cannot_be_stored_leaves_the_original(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """It is still held, and can be settled again."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, message())
        await asyncio.to_thread(rabbitmq.api, "DELETE", f"/queues/{rabbitmq_vhost.rpartition('/')[2]}/emails--dead")
        async with consuming(transport, EMAILS) as receiver:
            (got,) = await receive(receiver, 1)
            letter = DeadLetter("rejected", carried={"bf-dead-reason": "rejected"})
            assert kinds(await receiver.settle([(got, letter)])) == [DestinationNotFound]
            await declare(transport, EMAILS)
            assert await receiver.settle([(got, letter)]) == [None]
        assert (await transport.stats(EMAILS)).dead == 1


async def test_many_dead_letters_at_once(rabbitmq_vhost: str) -> None:
    """Of one call, among acknowledgements; each is there once."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(100)))
        async with consuming(transport, EMAILS, prefetch=100) as receiver:
            got = await receive(receiver, 100)
            letter = DeadLetter("rejected", carried={"bf-dead-reason": "rejected"})
            settled = [(each, letter if index % 2 else ACK) for index, each in enumerate(got)]
            assert await receiver.settle(settled) == [None] * 100
        stats = await transport.stats(EMAILS)
        assert (stats.depth, stats.dead) == (0, 50)


async def test_a_filter_is_the_brokers(rabbitmq_vhost: str) -> None:
    """One value, several, several names, names with x-; a copy for one subscription reaches it alone."""
    topic = Topic[Any]("events")
    everything = topic.subscription("everything")
    some = topic.subscription("some", where={"kind": ["a", "b"], "x-region": "eu"})
    many = topic.subscription("many", where={"kind": [f"v{number}" for number in range(40)]})
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, everything, some, many)
        headers: list[dict[str, str]] = [
            {"kind": "a", "x-region": "eu"}, {"kind": "b", "x-region": "us"}, {"kind": "c", "x-region": "eu"}, {},
            {"kind": "v39"},
        ]  # fmt: skip
        await publish_all(transport, topic, *(message(id=f"m{n}", headers=each) for n, each in enumerate(headers)))
        await publish_all(transport, some, message(id="alone"))
        for subscription, expected in (
            (everything, {"m0", "m1", "m2", "m3", "m4"}), (some, {"m0", "alone"}), (many, {"m4"}),
        ):  # fmt: skip
            async with consuming(transport, subscription) as receiver:
                got = await take(receiver, len(expected))
                assert {each.message.id for each in got} == expected
                assert receiver.where is None
                await nothing_arrives(receiver, for_s=0.1)


async def test_foreign_messages(rabbitmq_vhost: str) -> None:
    """What another program sends is delivered, and goes through a retry and the dead letters."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        connection = await transport.consuming.wait_up()
        channel = await open_channel(connection)
        sent = pika.BasicProperties(headers={"n": 5, "b": b"\xff", "t": {"a": True}}, expiration="60000", priority=3)
        channel._raw.basic_publish("", "emails", b"\xff\x00", sent)
        async with consuming(transport, EMAILS) as receiver:
            (got,) = await receive(receiver, 1)
            assert got.message.headers == {"n": "5", "b": "�", "t": "a=true"}
            assert await receiver.settle([(got, Nack(0.1, {"bf-attempt": "1 emails"}))]) == [None]
            (again,) = await receive(receiver, 1)
            assert again.message == got.message
            assert await receiver.settle([(again, DeadLetter("rejected", carried={"bf-dead-reason": "r"}))]) == [None]
        (letter,) = await transport.browse(EMAILS.dead_letters)
        assert letter.message.body == b"\xff\x00"
        assert letter.message.id == got.message.id


async def test_ordered_sources_have_one_active_consumer_and_hand_over_in_order(rabbitmq_vhost: str) -> None:
    """Closing without a cancel gives the successor the messages in their order."""
    async with opened(rabbitmq_vhost) as first, opened(rabbitmq_vhost) as second:
        await declare(first, EMAILS, ordering="key", max_attempts=5)
        await publish_all(first, EMAILS, *(message(b"%d" % number) for number in range(30)))
        async with consuming(second, EMAILS, ordering="key") as old, consuming(first, EMAILS, ordering="key") as new:
            got = await receive(old, 5)
            await nothing_arrives(new, for_s=0.1)
            await old.settle([(delivery, ACK) for delivery in got[:3]])
            await old.stop()
            await nothing_arrives(new, for_s=0.1)
            await old.settle([(delivery, ACK) for delivery in got[3:]])
            await old.close()
            rest = await take(new, 25)
            assert [int(delivery.message.body) for delivery in rest] == list(range(5, 30))


async def test_a_publish_to_dead_letters_reaches_them_alone(rabbitmq_vhost: str) -> None:
    """And they can be consumed like any source."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS)
        assert kinds(await publish(transport, EMAILS.dead_letters, message(id="x"))) == [None]
        async with consuming(transport, EMAILS.dead_letters) as receiver:
            assert [each.message.id for each in await take(receiver, 1)] == ["x"]
