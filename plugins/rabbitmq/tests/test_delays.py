"""Delays on a real server."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from busframe.errors import Backpressure, PublishFailed, PublishOutcomeUnknown
from busframe.model.delivery import Outgoing
from busframe.model.destination import Queue, Topic
from busframe.model.settlement import ACK
from busframe_rabbitmq.transport import RabbitMQ
from plugins.rabbitmq.tests.support import limit_length, opened
from tests.support.transports import (
    consuming,
    declare,
    entities,
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


async def others_go_on(transport: RabbitMQ) -> None:
    """Wait until what is due now, on every level that is used here, has reached another target."""
    async with consuming(transport, EMAILS) as receiver:
        for delay_s in (0.1, 0.2, 0.3, 0.7):
            await publish_all(transport, EMAILS, *(message() for _ in range(10)), delay_s=delay_s)
        await take(receiver, 40, deadline_s=10)


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


@pytest.mark.slow
async def test_ten_thousand_delays_at_once(rabbitmq_vhost: str, record_property: Callable[[str, object], None]) -> None:
    """Of mixed length, none lost, none twice, none early. How late they are is told, and depends on the machine."""
    count = 10_000
    delays = [0.1 + 4.9 * number / count for number in range(count)]
    random.Random(1).shuffle(delays)
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, max_attempts=5, longest_delay_s=60)
        sent: dict[str, float] = {}
        confirmed: dict[str, float] = {}
        came: dict[str, float] = {}
        delay: dict[str, float] = {}

        async def send(some: Sequence[float]) -> None:
            messages = [message() for _ in some]
            ids = [each.id for each in messages]
            delay.update(zip(ids, some, strict=True))
            sent.update(dict.fromkeys(ids, time.monotonic()))
            outgoing = [Outgoing(EMAILS, each, delay[each.id]) for each in messages]
            assert await transport.publish(outgoing, timeout_s=60) == [None] * len(some)
            confirmed.update(dict.fromkeys(ids, time.monotonic()))

        async with consuming(transport, EMAILS, prefetch=1000) as receiver:
            publishing = asyncio.gather(*(send(delays[first : first + 100]) for first in range(0, count, 100)))
            while len(came) < count:
                async with asyncio.timeout(60):
                    got = await receiver.receive(500)
                now = time.monotonic()
                await receiver.settle([(each, ACK) for each in got])
                for each in got:
                    assert each.message.id not in came
                    came[each.message.id] = now
            await publishing
            await nothing_arrives(receiver)
        late = sorted(at - confirmed[id] - delay[id] for id, at in came.items())
        told = {f"p{percent}": round(late[count * percent // 100 - 1], 2) for percent in (50, 90, 99, 100)}
        record_property("late_s", told)
        print(f"late by, in seconds: {told}")  # noqa: T201
        assert min(at - sent[id] - delay[id] for id, at in came.items()) >= 0


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
            [Outgoing(gone, each, 0.7, carried={"bf-attempt": "1 gone.queue"}) for each in stranded], timeout_s=9
        )
        await asyncio.to_thread(rabbitmq.api, "DELETE", f"/queues/{vhost}/gone.queue")
        await others_go_on(transport)
        await declare(transport, gone)
        async with consuming(transport, gone) as receiver:
            got = await take(receiver, 100)
            await nothing_arrives(receiver)
        assert {each.message.id for each in got} == {each.id for each in stranded}
        assert got[0].message.headers == {"a": "b"}
        assert got[0].carried == {"bf-attempt": "1 gone.queue"}


async def test_a_full_target_holds_up_nobody_else(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """What is due for it waits for room, however much, while the delays of others go on; then all of it comes."""
    small = Queue[Any]("small")
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, small, max_attempts=5, longest_delay_s=60)
        await limit_length(rabbitmq, rabbitmq_vhost, "small", 5)
        fitted: set[str] = set()

        async def full() -> bool:
            each = message()
            if kinds(await publish(transport, small, each)) == [Backpressure]:
                return True
            fitted.add(each.id)
            return False

        await eventually(full, "the queue is full")
        late = [message() for _ in range(100)]
        for delay_s in (0.1, 0.2, 0.3, 0.7):  # on every level that others pass
            await publish_all(transport, small, *(late.pop() for _ in range(25)), delay_s=delay_s)
        await others_go_on(transport)
        async with consuming(transport, small, prefetch=50) as receiver:
            got = await take(receiver, len(fitted) + 100, deadline_s=60)
        assert len({each.message.id for each in got}) == len(fitted) + 100


async def test_a_deleted_topic_keeps_what_is_delayed_for_it(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """Until it is there again."""
    vhost = rabbitmq_vhost.rpartition("/")[2]
    topic = Topic[Any]("events")
    everything = topic.subscription("everything")
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, everything, EMAILS)
        await publish_all(transport, topic, message(id="x"), delay_s=0.7)
        await asyncio.to_thread(rabbitmq.api, "DELETE", f"/exchanges/{vhost}/events")
        await others_go_on(transport)
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


async def test_a_cascade_with_parts_missing_is_mended_by_a_start(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """Nothing but a start may notice: what a message meets later than where it was published tells no publisher."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, max_attempts=5, longest_delay_s=60)
    vhost = rabbitmq_vhost.rpartition("/")[2]
    for part in ("exchanges/{}/bf--delay-03", "queues/{}/bf--delay-01", "exchanges/{}/bf--due"):
        await asyncio.to_thread(rabbitmq.api, "DELETE", f"/{part.format(vhost)}")
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, max_attempts=5, longest_delay_s=60)
        await publish_all(transport, EMAILS, message(), delay_s=1.0)
        async with consuming(transport, EMAILS) as receiver:
            await take(receiver, 1)


async def test_a_part_that_a_publish_finds_missing_is_made_again(rabbitmq: Any, rabbitmq_vhost: str) -> None:
    """That publish is unknown; the next one is fine."""
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, EMAILS, max_attempts=5, longest_delay_s=60)
        vhost = rabbitmq_vhost.rpartition("/")[2]
        await asyncio.to_thread(rabbitmq.api, "DELETE", f"/exchanges/{vhost}/bf--delay-03")
        assert kinds(await publish(transport, EMAILS, message(), delay_s=1.0)) == [PublishOutcomeUnknown]
        await publish_all(transport, EMAILS, message(), delay_s=1.0)
        async with consuming(transport, EMAILS) as receiver:
            await take(receiver, 1)


async def test_what_is_planned_later_than_the_cascade_can_be_delayed(rabbitmq_vhost: str) -> None:
    """Also a queue that existed before: each start connects all that it names, for others to publish to."""
    before = Queue[Any]("before")
    async with opened(rabbitmq_vhost) as transport:
        await declare(transport, before)
        await declare(transport, EMAILS, max_attempts=5, longest_delay_s=60)
        assert not await transport._delays.has_door("before")
        await declare(transport, before)
        assert await transport._delays.has_door("before")


@pytest.mark.parametrize("longest_delay_s", [0.0, 30.0])
async def test_the_cascade_is_declared_only_where_it_is_needed(
    rabbitmq: Any, rabbitmq_vhost: str, longest_delay_s: float
) -> None:
    """By a handled source whose policy has delays; and at once, not at the first failure."""
    async with opened(rabbitmq_vhost) as transport:
        asked = {"max_attempts": 5, "longest_delay_s": longest_delay_s}
        await declare(transport, EMAILS, **asked)
        assert {each.action for each in await transport.plan(entities(EMAILS, **asked))} <= {"unknown"}
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
