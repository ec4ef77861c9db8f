"""Consuming from a real Kafka: what is committed, what comes again, and who gets it."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

from busframe.errors import SettlementLost
from busframe.model.delivery import Delivery
from busframe.model.destination import Queue, SourceAddress, Topic
from busframe.model.entity import Entity
from busframe.model.settlement import ACK, RELEASE
from busframe.spi.transport import Receiver
from busframe_kafka.consumer import BATCH
from busframe_kafka.transport import Kafka
from plugins.kafka.tests.support import make_prefix, opened
from tests.support.transports import DEADLINE_S, declare, eventually, message, publish_all

EMAILS = Queue[Any]("emails")
ORDERS = Topic[Any]("orders")
ALL = ORDERS.subscription("all")
METADATA_SOON = {"topic.metadata.refresh.interval.ms": 500}
"""The client asks each five minutes whether a topic has more partitions."""
ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def _consuming(transport: Kafka, source: SourceAddress = EMAILS) -> AsyncIterator[Receiver]:
    receiver = transport.receiver(Entity(source, ordering="none"), prefetch=100)
    try:
        await receiver.open()
        yield receiver
    finally:
        await receiver.close()


async def _take(receiver: Receiver, number: int) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(taken) < number:
            taken += await receiver.receive(number - len(taken))
    return taken


async def _committed(transport: Kafka) -> dict[int, int]:
    """Partition → what the group has committed of the queue, as the server says it."""
    topic = transport.names.topic(EMAILS)
    found = await transport.admin.committed(transport.names.group(EMAILS))
    return {number: offset for (name, number), offset in found.items() if name == topic}


async def test_one_slow_message_does_not_hold_the_others_back(kafka_url: str) -> None:
    """10 000 of one partition are handled beside it; nothing is committed beyond it until it is done."""
    total = 10_000
    async with opened(kafka_url, partitions=1) as transport:
        await declare(transport, EMAILS)
        for begin in range(0, total, 1000):
            await publish_all(transport, EMAILS, *(message(b"%d" % number) for number in range(begin, begin + 1000)))
        async with _consuming(transport) as receiver:
            (slow,) = await _take(receiver, 1)
            handled = 1
            async with asyncio.timeout(DEADLINE_S):
                while handled < total:
                    deliveries = await receiver.receive(200)
                    assert await receiver.settle([(each, ACK) for each in deliveries]) == [None] * len(deliveries)
                    handled += len(deliveries)
            assert (await _committed(transport)).get(0, 0) == 0
            assert await receiver.settle([(slow, ACK)]) == [None]

            async def is_committed() -> bool:
                return (await _committed(transport)).get(0) == total

            await eventually(is_committed, "all are committed")


async def test_a_slow_message_lets_so_many_by_and_no_more(kafka_url: str) -> None:
    """What a crash may bring back of a partition is ``ack_gap``, and not a batch more."""
    total, gap = 200, 50
    async with opened(kafka_url, partitions=1, ack_gap=gap) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message(b"%d" % number) for number in range(total)))
        async with _consuming(transport) as receiver:
            (slow,) = await _take(receiver, 1)
            others = await _take(receiver, gap - 1)
            assert await receiver.settle([(each, ACK) for each in others]) == [None] * len(others)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.0):
                    await receiver.receive(1)
            assert await receiver.settle([(slow, ACK)]) == [None]
            rest = len(others) + 1
            while rest < total:
                more = await _take(receiver, min(gap, total - rest))
                assert await receiver.settle([(each, ACK) for each in more]) == [None] * len(more)
                rest += len(more)


async def test_what_is_released_comes_again_and_nothing_is_skipped(kafka_url: str) -> None:
    """From memory, in its order, marked as delivered again; its earlier receipt settles nothing any more."""
    async with opened(kafka_url, partitions=1) as transport:
        await declare(transport, EMAILS)
        await publish_all(transport, EMAILS, *(message(b"%d" % number) for number in range(6)))
        async with _consuming(transport) as receiver:
            taken = await _take(receiver, 4)
            assert await receiver.settle([(each, RELEASE) for each in reversed(taken[1:3])]) == [None, None]
            (late,) = await receiver.settle([(taken[1], ACK)])
            assert isinstance(late, SettlementLost)
            again = await _take(receiver, 4)
            assert [each.message.body for each in again] == [b"1", b"2", b"4", b"5"]
            assert [each.deliveries for each in again] == [2, 2, 1, 1]
            assert await receiver.settle([(taken[3], ACK), (again[0], ACK), (again[2], ACK)]) == [None] * 3
        assert await _committed(transport) == {0: 0}
        async with _consuming(transport) as receiver:
            assert [each.message.body for each in await _take(receiver, 6)][:3] == [b"0", b"1", b"2"]


async def test_who_joins_gets_a_share_and_nothing_that_runs(kafka_url: str) -> None:
    """Members come and go while handlers run: no two handlers have the same message at once.

    A commit that the server refuses while the group changes is made a second later: what was finished just before may
    be handled twice, where its partition has moved on meanwhile.
    """
    total, handled, running = 600, Counter[bytes](), set[bytes]()
    async with opened(kafka_url) as first, opened(kafka_url, prefix=first.names.prefix) as second:
        await declare(first, EMAILS)
        await publish_all(first, EMAILS, *(message(b"%d" % number) for number in range(total)))
        here, there, beside = Counter[str](), 0, list[bytes]()

        async def work(receiver: Receiver, who: str) -> None:
            while True:
                for delivery in await receiver.receive(10):
                    body = delivery.message.body
                    beside.extend({body} & running)
                    running.add(body)
                    await asyncio.sleep(0.005)
                    running.discard(body)
                    handled[body] += 1
                    here[who] += 1
                    await receiver.settle([(delivery, ACK)])

        async with _consuming(first) as receiver:
            working = asyncio.create_task(work(receiver, "first"))
            while len(handled) < total:
                async with _consuming(second) as joined:
                    joining = asyncio.create_task(work(joined, "second"))
                    before, until = here["second"], min(total, len(handled) + 150)

                    async def reached() -> bool:
                        return len(handled) >= until  # noqa: B023

                    await eventually(reached, f"{until} are handled")
                    await joined.stop()
                    await asyncio.wait((joining,), timeout=DEADLINE_S)
                    there += here["second"] > before
                if there == 0 and len(handled) == total:
                    break
            working.cancel()
            await asyncio.wait((working,))
        assert there
        assert beside == []
        assert len(handled) == total
        assert handled.total() < total + total / 2  # a second's work, where a change fell on a commit


async def test_partitions_that_an_operator_adds_are_handled_whole(kafka_url: str) -> None:
    """Of a queue and of a subscription, with or without a worker: also what came before one knew the partition."""
    total = 60
    async with opened(kafka_url, partitions=1, client=METADATA_SOON) as transport:
        await declare(transport, EMAILS, ALL)
        topics = [transport.names.topic(address) for address in (EMAILS, ORDERS)]
        async with _consuming(transport) as receiver:
            asked = transport.admin.client.create_partitions([NewPartitions(topic, 3) for topic in topics])
            await asyncio.gather(*map(asyncio.wrap_future, asked.values()))

            async def are_known() -> bool:
                return {found.partitions for found in (await transport.admin.topics(topics)).values()} == {3}

            await eventually(are_known, "the new partitions are known")
            async with opened(kafka_url, prefix=transport.names.prefix) as publisher:
                for address in (EMAILS, ORDERS):
                    await publish_all(publisher, address, *(message(b"%d" % number) for number in range(total)))
            await _handle_all(receiver, total)
        async with _consuming(transport, ALL) as receiver:
            await _handle_all(receiver, total)


async def _handle_all(receiver: Receiver, total: int) -> None:
    taken = await _take(receiver, total)
    assert {each.message.body for each in taken} == {b"%d" % number for number in range(total)}
    assert len({each.position.split("/")[-2] for each in taken}) == 3, "each partition had some"
    assert await receiver.settle([(each, ACK) for each in taken]) == [None] * total


@pytest.mark.slow
async def test_a_killed_worker_has_committed_nothing_that_it_had_not_finished(kafka_url: str, tmp_path: Path) -> None:
    """SIGKILL, five times: whatever lies below the committed offsets was finished, and at the end all of it was."""
    total, journal, prefix = 3000, tmp_path / "journal", make_prefix()
    journal.touch()

    def ended() -> set[tuple[int, int]]:
        words = (line.split() for line in journal.read_text().splitlines())
        places = (word[1].split("/")[-2:] for word in words if len(word) == 2 and word[0] == "ended")
        return {(int(number), int(offset)) for number, offset in places}

    async with opened(kafka_url, prefix=prefix) as transport:
        await declare(transport, EMAILS)
        for begin in range(0, total, 1000):
            await publish_all(transport, EMAILS, *(message(b"%d" % number) for number in range(begin, begin + 1000)))
        for kill in range(1, 7):
            command = (sys.executable, "-m", "plugins.kafka.tests.killed", kafka_url, prefix, str(journal))
            worker = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
            due = total if kill == 6 else kill * total // 7

            async def enough() -> bool:
                return len(ended()) >= due or worker.returncode is not None  # noqa: B023

            try:
                await eventually(enough, f"{due} are finished")
            finally:
                if worker.returncode is None:
                    worker.kill()
                await worker.wait()
            finished = ended()
            for number, offset in (await _committed(transport)).items():
                unfinished = [one for one in range(offset) if (number, one) not in finished]
                assert not unfinished, f"partition {number}: {offset} is committed, {unfinished} are not finished"
        assert len(ended()) == total


async def test_a_partition_that_was_paused_is_fetched_when_it_comes_back(kafka_url: str) -> None:
    """Whoever has no room for more pauses what it has; that must not outlive the assignment, which may come again."""
    total = 3 * BATCH
    async with opened(kafka_url, partitions=2) as first, opened(kafka_url, prefix=first.names.prefix) as second:
        await declare(first, EMAILS)
        await publish_all(first, EMAILS, *(message(b"%d" % number) for number in range(total)))
        async with _consuming(first) as receiver:
            (member, _) = receiver._members  # type: ignore[attr-defined]

            async def is_paused() -> bool:
                return bool(member._held.paused)

            async def has_one() -> bool:
                return len(member._held.partitions) == 1

            await eventually(is_paused, "nobody takes what is fetched, so nothing is fetched any more")
            async with _consuming(second):
                await eventually(has_one, "the other one has got a partition")
                await eventually(is_paused, "paused again")
            taken: set[str] = set()
            async with asyncio.timeout(DEADLINE_S):
                while len(taken) < total:
                    deliveries = await receiver.receive(100)
                    assert await receiver.settle([(each, ACK) for each in deliveries]) == [None] * len(deliveries)
                    taken.update(each.message.id for each in deliveries)
