"""busframe_nats.receiver, on a real server."""

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from busframe.errors import ClosedError, DestinationNotFound, SettlementLost, Unsupported
from busframe.model.delivery import Delivery
from busframe.model.destination import Queue, Topic
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, RELEASE, DeadLetter, Nack
from busframe_nats.topology import bucket
from plugins.nats.tests.support import consumer, cut, opened
from tests.support.transports import (
    DEADLINE_S,
    Reports,
    consuming,
    declare,
    eventually,
    message,
    nothing_arrives,
    publish_all,
    receive,
    take,
)

EMAILS = Queue[Any]("emails")
ORDERED = Queue[Any]("ordered")


def ids(deliveries: list[Delivery]) -> list[str]:
    """Of their messages."""
    return [delivery.message.id for delivery in deliveries]


async def held_by_server(transport: Any, prefix: str) -> int:
    """How many the server waits for."""
    return int((await consumer(transport, f"{prefix}-emails", "workers"))["num_ack_pending"])


async def test_no_more_is_held_than_the_prefetch(nats_url: str) -> None:
    """And each that is settled makes room for another one."""
    prefix = nats_url.partition("subject_prefix=")[2]
    async with opened(nats_url) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(50)))
        async with consuming(transport, EMAILS, prefetch=7) as receiver:
            first = await receive(receiver, 7)
            await nothing_arrives(receiver, for_s=0.1)
            assert await held_by_server(transport, prefix) == 7
            await receiver.settle([(each, ACK) for each in first[:3]])
            rest = await receive(receiver, 3)
            await nothing_arrives(receiver, for_s=0.1)
            await receiver.resize(1)
            await receiver.settle([(each, ACK) for each in first[3:] + rest[1:]])
            await nothing_arrives(receiver, for_s=0.2)
            await receiver.settle([(rest[0], ACK)])
            await take(receiver, 1)
        await eventually(lambda: _is(held_by_server(transport, prefix), 0), "everything is back")


async def _is(question: Any, wanted: int) -> bool:
    return bool(await question == wanted)


async def test_what_is_buffered_goes_back_at_once(nats_url: str) -> None:
    """Far before ``ack_wait``; what was received can still be settled."""
    async with opened(nats_url, ack_wait_s=60) as transport, opened(nats_url) as other:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(10)))
        async with consuming(transport, EMAILS, prefetch=10) as receiver:
            mine = await receive(receiver, 2)
            await receiver.stop()
            with pytest.raises(ClosedError):
                await receiver.receive(1)
            async with consuming(other, EMAILS) as successor:
                theirs = await take(successor, 8)
                assert not set(ids(theirs)) & set(ids(mine))
                assert await receiver.settle([(mine[0], ACK), (mine[1], RELEASE)]) == [None, None]
                assert ids(await take(successor, 1)) == [mine[1].message.id]
                await nothing_arrives(successor)


async def test_what_is_held_is_renewed_also_when_it_is_only_buffered(nats_url: str) -> None:
    """For three times as long as the server would wait."""
    async with opened(nats_url, ack_wait_s=1) as transport, opened(nats_url) as other:
        await declare(transport, EMAILS)
        sent = [message() for _ in range(5)]
        await publish_all(transport, EMAILS, *sent)
        async with consuming(transport, EMAILS, prefetch=5) as receiver, consuming(other, EMAILS) as idle:
            (first,) = await receive(receiver, 1)
            await nothing_arrives(idle, for_s=3)
            assert receiver.holds(first)
            assert await receiver.settle([(first, ACK)]) == [None]
            assert [each.deliveries for each in await take(receiver, 4)] == [1] * 4


async def test_a_short_loss_of_the_connection_takes_nothing_back(nats_url: str) -> None:
    """What is held belongs to nobody's connection; acknowledgements that the server has not read are said again."""
    reports = Reports()
    async with opened(nats_url, reports=reports) as transport, opened(nats_url) as other:
        await declare(transport, EMAILS)
        sent = [message(b"%d" % number) for number in range(20)]
        await publish_all(transport, EMAILS, *sent)
        async with consuming(transport, EMAILS, prefetch=10) as receiver:
            got = await receive(receiver, 10)
            connection: Any = transport.link.connection
            connection._socket.pause_reading()
            connection.write = lambda *_: None  # what is written from now on is lost on the way
            assert await receiver.settle([(each, ACK) for each in got[:5]]) == [None] * 5
            cut(transport)
            await reports.wait("connection", "up", since=1)
            assert await receiver.settle([(each, ACK) for each in got[5:]]) == [None] * 5
            await take(receiver, 10)
        prefix = nats_url.partition("subject_prefix=")[2]
        found = await consumer(other, f"{prefix}-emails", "workers")
        assert (found["num_ack_pending"], found["num_pending"], found["num_redelivered"]) == (0, 0, 0)


async def test_a_delayed_hand_back_stops_nobody_else(nats_url: str) -> None:
    """A thousand of them would stop a consumer that has the server's default."""
    async with opened(nats_url) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(1200)))
        async with consuming(transport, EMAILS, prefetch=200) as receiver:
            left = 1200
            while left:
                batch = await receiver.receive(left)
                await receiver.settle([(each, Nack(60)) for each in batch])
                left -= len(batch)
            new = message()
            await publish_all(transport, EMAILS, new)
            assert ids(await take(receiver, 1)) == [new.id]


async def test_a_dead_letter_is_stored_and_then_the_original_is_gone(nats_url: str) -> None:
    """With its record; it can be looked at, removed, purged and consumed."""
    async with opened(nats_url) as transport:
        await declare(transport, EMAILS)
        sent = [message(headers={"h": "1"}) for _ in range(4)]
        await publish_all(transport, EMAILS, *sent)
        record = {"bf-dead-reason": "rejected", "bf-dead-attempts": "1"}
        letters = EMAILS.dead_letters
        async with consuming(transport, EMAILS) as receiver:
            for each in await receive(receiver, 4):
                assert await receiver.settle([(each, DeadLetter("rejected", carried=record))]) == [None]
                assert isinstance((await receiver.settle([(each, ACK)]))[0], SettlementLost)
            await nothing_arrives(receiver)
        stored = await transport.browse(letters)
        assert [each.message.id for each in stored] == [each.id for each in sent]
        assert stored[0].message.dead is not None
        assert stored[0].message.dead.reason == "rejected"
        assert [each.position for each in await transport.browse(letters, after=stored[0].position, limit=2)] == [
            stored[1].position,
            stored[2].position,
        ]
        assert await transport.remove(letters, [stored[0].position, stored[0].position, "nonsense"]) == 1
        assert await transport.remove(letters, [stored[0].position]) == 0
        async with consuming(transport, letters) as collector:
            (letter,) = await take(collector, 1)
            assert letter.message.dead == stored[1].message.dead
        assert (await transport.stats(EMAILS)).dead == 2
        assert await transport.purge(letters) == 2
        assert await transport.browse(letters) == []


async def test_a_source_that_is_deleted_ends_its_receiver(nats_url: str) -> None:
    """So that the core declares it again."""
    async with opened(nats_url) as transport:
        await declare(transport, EMAILS)
        async with consuming(transport, EMAILS) as receiver:
            await transport.jetstream.ask(f"STREAM.DELETE.{transport.names.stream(EMAILS)}")
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(DestinationNotFound):
                    await receiver.receive(1)


async def test_a_place_in_a_stream_that_is_made_anew_is_another_position(nats_url: str) -> None:
    """Or its message would be taken for one that was handled; each delivery of one has the same."""
    async with opened(nats_url) as transport:
        positions = []
        for _ in range(2):
            await declare(transport, EMAILS)
            await publish_all(transport, EMAILS, message())
            async with consuming(transport, EMAILS) as receiver:
                (first,) = await receive(receiver, 1)
                await receiver.settle([(first, RELEASE)])
                (again,) = await take(receiver, 1)
            assert again.position == first.position
            positions.append(first.position)
            await transport.jetstream.ask(f"STREAM.DELETE.{transport.names.stream(EMAILS)}")
        assert positions[0] != positions[1]


async def test_each_key_is_in_order_over_several_workers(nats_url: str) -> None:
    """One message of a partition is out at a time, whoever has it; one that goes back comes first again."""
    async with opened(nats_url) as transport, opened(nats_url) as other:
        await declare(transport, ORDERED, ordering="key", max_attempts=5)
        keys = [f"key-{number}" for number in range(8)]
        sent = [message(b"%d" % number, key=key) for number in range(20) for key in keys]
        await publish_all(transport, ORDERED, *sent)
        seen: defaultdict[str | None, list[int]] = defaultdict(list)

        async def work(receiver: Any) -> None:
            while True:
                for each in await receiver.receive(5):
                    number = int(each.message.body)
                    if number % 7 == 3 and each.deliveries == 1:
                        await receiver.settle([(each, RELEASE)])
                        continue
                    seen[each.message.key].append(number)
                    await receiver.settle([(each, ACK)])

        async with (
            consuming(transport, ORDERED, ordering="key") as first,
            consuming(other, ORDERED, ordering="key", prefetch=3) as second,
        ):
            workers = [asyncio.ensure_future(work(each)) for each in (first, second)]
            await eventually(lambda: _is(_count(seen), len(sent)), "all are handled")
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        assert all(numbers == list(range(20)) for numbers in seen.values())


async def _count(seen: dict[str | None, list[int]]) -> int:
    return sum(map(len, seen.values()))


async def test_a_busy_worker_leaves_what_it_has_no_slot_for_to_others(nats_url: str) -> None:
    """With order it asks for all partitions, and takes that back when it has as many as it may hold."""
    async with opened(nats_url) as transport, opened(nats_url) as other:
        await declare(transport, ORDERED, ordering="key", max_attempts=5)
        async with consuming(transport, ORDERED, ordering="key", prefetch=1) as busy:
            await publish_all(transport, ORDERED, message(key="first"))
            await receive(busy, 1)
            async with consuming(other, ORDERED, ordering="key", prefetch=10) as idle:
                await eventually(lambda: _is(_waiting(transport), 1), "the busy one has taken back what it asked for")
                far = [key for key in map(str, range(50)) if _partition(key) != _partition("first")][:5]
                await publish_all(transport, ORDERED, *(message(key=key) for key in far))
                assert len(await take(idle, 5)) == 5


async def _waiting(transport: Any) -> int:
    """How many requests wait at one partition."""
    stream = transport.names.stream(ORDERED)
    return int((await consumer(transport, stream, f"workers--p{(_partition('first') + 1) % 16}"))["num_waiting"])


def _partition(key: str) -> int:
    """The server's: FNV-1a of the bucket."""
    found = 2166136261
    for byte in bucket(key, "").encode():
        found = ((found ^ byte) * 16777619) % 2**32
    return found % 16


async def test_settled_before_is_settled_at_the_server(nats_url: str) -> None:
    """What ``receive`` has returned never comes again; what is left goes back when it stops."""
    prefix = nats_url.partition("subject_prefix=")[2]
    async with opened(nats_url) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message() for _ in range(10)))
        async with consuming(transport, EMAILS, prefetch=5, ack="before") as receiver:
            got = [*await receiver.receive(2), *await receiver.receive(1)]
            found = await consumer(transport, f"{prefix}-emails", "workers")
            assert found["ack_floor"]["stream_seq"] >= len(got)
            failed, released = got[0], got[1]
            assert await receiver.settle([(failed, DeadLetter("rejected")), (released, RELEASE)]) == [None, None]
        assert len(await transport.browse(EMAILS.dead_letters)) == 1
        async with consuming(transport, EMAILS) as successor:
            assert len(await take(successor, 10 - len(got) + 1)) == 10 - len(got) + 1
            await nothing_arrives(successor)


async def test_order_is_refused_where_there_is_none(nats_url: str) -> None:
    """Of dead letters, and of what is settled before; and a topic is no source."""
    async with opened(nats_url) as transport:
        for address, ack in ((EMAILS.dead_letters, "after"), (EMAILS, "before")):
            with pytest.raises(Unsupported):
                transport.receiver(Entity(address, ordering="key"), prefetch=1, ack=ack)  # type: ignore[arg-type]
        with pytest.raises(Unsupported):
            transport.receiver(Entity(Topic[Any]("t")), prefetch=1)
