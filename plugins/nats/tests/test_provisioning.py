"""busframe_nats.provisioning, on real servers."""

import asyncio
from typing import Any

import pytest

from busframe.errors import AccessDenied, ConfigurationError, TopologyMismatch, Unsupported
from busframe.model.destination import Queue, Topic
from busframe.model.entity import Entity
from busframe_nats.topology import SCHEDULES
from plugins.nats.tests.support import consumer, opened
from tests.brokers.nats import NATS
from tests.support.transports import consuming, declare, entities, message, nothing_arrives, publish_all, take

QUEUE = Queue[Any]("q.dotted")
TOPIC = Topic[Any]("t")
SUBSCRIPTION = TOPIC.subscription("s", where={"kind": ["a", "b"]})


async def plan(transport: Any, *addresses: Any, **asked: Any) -> list[tuple[str, str, str | None]]:
    """(address, action, property) of each change."""
    changes = await transport.plan(entities(*addresses, **asked))
    return [(str(change.address), change.action, change.property) for change in changes]


async def test_what_is_declared_needs_no_change(nats_url: str) -> None:
    """All kinds, in order and not; ten times at once."""
    ordered = Queue[Any]("ordered")
    async with opened(nats_url) as transport:
        assert await plan(transport, QUEUE, SUBSCRIPTION) == [
            ("q.dotted", "create", None),
            ("q.dotted!dead", "create", None),
            ("t", "create", None),
            ("t/s", "create", None),
            ("t/s!dead", "create", None),
        ]
        await asyncio.gather(*(declare(transport, QUEUE, SUBSCRIPTION) for _ in range(10)))
        await declare(transport, ordered, ordering="key", max_attempts=5)
        assert await plan(transport, QUEUE, SUBSCRIPTION) == []
        assert await plan(transport, ordered, ordering="key", max_attempts=5) == []
        assert await plan(transport, ordered) == []  # nobody here handles it, so what is there is right


async def test_the_older_server_has_all_but_schedules(older_nats: NATS) -> None:
    """And drops in silence what it does not know, so it is not asked."""
    async with opened(older_nats.url) as transport:
        await declare(transport, QUEUE, SUBSCRIPTION)
        assert await plan(transport, QUEUE, SUBSCRIPTION) == []
        stream = transport.names.stream(TOPIC)
        assert await transport.jetstream.consumer(stream, SCHEDULES) is None
        assert ((await transport.jetstream.stream(stream)) or {})["config"]["discard"] == "new"


async def test_order_cannot_be_changed_in_place(nats_url: str) -> None:
    """In either direction, and it says so."""
    async with opened(nats_url) as transport:
        await declare(transport, QUEUE, ordering="none", max_attempts=5)
        with pytest.raises(TopologyMismatch, match="ordering is 'none' on the server and 'key' is needed"):
            await declare(transport, QUEUE, ordering="key", max_attempts=5)
        other = Queue[Any]("other")
        await declare(transport, other, ordering="key", max_attempts=5)
        with pytest.raises(TopologyMismatch, match="ordering"):
            await declare(transport, other, ordering="none", max_attempts=5)
        with pytest.raises(TopologyMismatch, match="exists with order"):
            await transport.receiver(Entity(other, ordering="none"), prefetch=1).open()
        await publish_all(transport, QUEUE, message())


async def test_who_only_publishes_can_say_that_a_queue_has_order(nats_url: str) -> None:
    """By the option that says the partitions; another number is another queue."""
    async with opened(nats_url) as transport:
        await declare(transport, QUEUE, options={"partitions": 3})
        assert await plan(transport, QUEUE, ordering="key", max_attempts=5, options={"partitions": 3}) == []
        with pytest.raises(TopologyMismatch, match="partitions is 3 on the server and 4 is needed"):
            await declare(transport, QUEUE, options={"partitions": 4})
        with pytest.raises(ConfigurationError, match="no option 'nonsense'"):
            await transport.plan([Entity(QUEUE, options={"nonsense": 1})])


async def test_a_filter_is_changed_in_place(nats_url: str) -> None:
    """And a receiver that is open sees it before it drops a message."""
    async with opened(nats_url) as transport, opened(nats_url) as other:
        await declare(transport, SUBSCRIPTION)
        async with consuming(transport, SUBSCRIPTION) as receiver:
            assert receiver.where == {"kind": ("a", "b")}
            wider = TOPIC.subscription("s", where={"kind": ["a", "b", "c"]})
            assert await plan(other, wider) == [("t/s", "update", "where")]
            await declare(other, wider)
            await publish_all(transport, TOPIC, message(headers={"kind": "c"}))
            await take(receiver, 1)
            assert receiver.where == {"kind": ("a", "b", "c")}


@pytest.mark.parametrize(
    ("stream", "consumer_config", "says"),
    [
        ({"retention": "limits"}, None, "retention"),
        ({"max_msgs": 10, "discard": "old"}, None, "discard"),
        ({"max_age": 10**12}, None, "max_age"),
        ({}, {"max_deliver": 3}, "max_deliver"),
    ],
)
async def test_what_would_lose_messages_is_refused(
    nats_url: str, stream: dict[str, Any], consumer_config: dict[str, Any] | None, says: str
) -> None:
    """An operator made it otherwise: it is named, and nothing is changed."""
    async with opened(nats_url) as transport:
        name, root = transport.names.stream(QUEUE), transport.names.to(QUEUE)
        config = {"name": name, "subjects": [f"{root}.*"], "retention": "workqueue", "discard": "new", **stream}
        await transport.jetstream.ask(f"STREAM.CREATE.{name}", config)
        if consumer_config is not None:
            made = {"durable_name": "workers", "ack_policy": "explicit", "filter_subject": f"{root}.>"}
            body = {"stream_name": name, "config": {**made, **consumer_config}}
            await transport.jetstream.ask(f"CONSUMER.CREATE.{name}.workers", body)
        with pytest.raises(TopologyMismatch, match=f"q.dotted: {says}"):
            await declare(transport, QUEUE)
        assert ((await transport.jetstream.stream(name)) or {})["config"]["retention"] == config["retention"]


async def test_what_is_too_narrow_is_widened(nats_url: str) -> None:
    """A stream of an older server gets schedules, a consumer may have any number of messages out."""
    async with opened(nats_url) as transport:
        name, root = transport.names.stream(QUEUE), transport.names.to(QUEUE)
        config = {"name": name, "subjects": [f"{root}.*"], "retention": "workqueue", "discard": "new"}
        await transport.jetstream.ask(f"STREAM.CREATE.{name}", config)
        made = {"durable_name": "workers", "ack_policy": "explicit", "filter_subject": f"{root}.>"}
        body = {"stream_name": name, "config": {**made, "max_ack_pending": 10, "ack_wait": 5 * 10**9}}
        await transport.jetstream.ask(f"CONSUMER.CREATE.{name}.workers", body)
        await publish_all(transport, QUEUE, message(b"before"))
        changes = await plan(transport, QUEUE)
        assert changes == [
            ("q.dotted", "update", "stream"),
            ("q.dotted", "update", "consumers"),
            ("q.dotted!dead", "create", None),
        ]
        await declare(transport, QUEUE)
        assert await plan(transport, QUEUE) == []
        found = (await consumer(transport, name, "workers"))["config"]
        assert (found["max_ack_pending"], found["ack_wait"]) == (-1, 5 * 10**9)
        await publish_all(transport, QUEUE, message(b"after"), delay_s=0.1)
        async with consuming(transport, QUEUE) as receiver:
            assert [each.message.body for each in await take(receiver, 2)] == [b"before", b"after"]


async def test_a_topic_keeps_nothing_for_nobody(nats_url: str) -> None:
    """A new subscription sees what is published from its declaration on."""
    async with opened(nats_url) as transport:
        await declare(transport, TOPIC)
        await publish_all(transport, TOPIC, message())
        await declare(transport, SUBSCRIPTION)
        assert ((await transport.jetstream.stream("x")) or {}) == {}
        async with consuming(transport, SUBSCRIPTION) as receiver:
            await nothing_arrives(receiver)


@pytest.mark.parametrize("asked", [{"start": "earliest"}, {"temporary": True}])
async def test_what_a_topic_cannot_do_is_refused(nats_url: str, asked: dict[str, Any]) -> None:
    """Before anything is made."""
    async with opened(nats_url) as transport:
        with pytest.raises(Unsupported):
            await transport.plan([Entity(TOPIC.subscription("s", **asked))])


async def test_who_may_declare_nothing_is_told_so(nats: NATS, nats_url: str) -> None:
    """At once, and not after a time-out: the server's word comes beside the answer."""
    async with opened(nats_url.replace("tester:", "user:")) as transport:
        async with asyncio.timeout(3):
            with pytest.raises(AccessDenied):
                await declare(transport, QUEUE)
