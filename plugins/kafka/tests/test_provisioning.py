"""What is declared on a real Kafka, compared, and left alone."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from busframe.errors import ConfigurationError, TopologyMismatch
from busframe.model.destination import Queue, Topic
from busframe.model.entity import Entity
from busframe_kafka import receiver
from busframe_kafka.client import ResourceType
from busframe_kafka.registry import Declared
from busframe_kafka.topology import TopicSpec
from plugins.kafka.tests.support import delete_topic, make_prefix, opened
from tests.support.transports import declare, entities, message, publish_all

EMAILS = Queue[Any]("emails")
ORDERS = Topic[Any]("orders")
ALL = ORDERS.subscription("all")


def _actions(changes: Any) -> list[tuple[str, str, str | None]]:
    return [(str(change.address), change.action, change.property) for change in changes]


async def test_everything_is_made_once(kafka_url: str) -> None:
    """Topics with their partitions and settings; afterwards nothing differs."""
    async with opened(kafka_url, min_insync_replicas=1, topic_retention_s=3600) as transport:
        wanted = entities(EMAILS, ALL, longest_delay_s=10)
        planned = _actions(await transport.plan(wanted))
        assert ("emails", "create", None) in planned
        assert ("orders/all", "create", "registration") in planned
        await transport.apply(await transport.plan(wanted))
        assert _actions(await transport.plan(wanted)) == []
        name = transport.names.prefix
        names = ["emails", "emails--retry", "emails--dead", "orders", "orders--all--retry", "orders--all--dead"]
        waits = [f"bf--wait-{rung}" for rung in ("last", "5s", "30s", "3m", "20m", "2h", "12h")]
        found = await transport.admin.topics([f"{name}{each}" for each in (*names, *waits, "orders--all")])
        partitions = {topic.removeprefix(name): each.partitions for topic, each in found.items()}
        assert partitions == dict(zip(names, (3, 4, 1, 3, 4, 1), strict=True)) | dict.fromkeys(waits, 4)
        configs = await transport.admin.configs(found)

        def setting(topic: str, what: str) -> str | None:
            return configs[f"{name}{topic}"][what].value

        assert setting("emails", "retention.ms") == "-1"
        assert setting("emails--retry", "retention.ms") == "-1"
        assert setting("orders", "retention.ms") == "3600000"
        assert setting("orders--all--dead", "cleanup.policy") == "compact"


async def test_many_at_once_make_it_once(kafka_url: str) -> None:
    """Processes that start together do not get into each other's way, and agree where a subscription begins."""
    prefix = make_prefix()
    async with opened(kafka_url, prefix=prefix) as one, opened(kafka_url, prefix=prefix) as other:
        await declare(one, ORDERS)
        await publish_all(one, ORDERS, message())
        await asyncio.gather(*(declare(transport, EMAILS, ALL) for transport in (one, other, one, other)))
        kept = []
        for transport in (one, other):
            topic = transport.names.topic(ORDERS)
            topic_id = (await transport.admin.topics([topic]))[topic].topic_id
            entries = await transport.registry.catch_up()
            kept.append(entries.declared(transport.names.group(ALL), topic_id))
        assert kept[0] == kept[1]
        assert isinstance(kept[0], Declared)
        assert sum(kept[0].positions.values()) == 1
        committed = await one.admin.committed(one.names.group(ALL))
        assert {number: offset for (_, number), offset in committed.items()} == kept[0].positions


async def test_declaring_again_does_not_move_a_subscription(kafka_url: str) -> None:
    """What was published since belongs to it, also where its group has no offsets any more."""
    async with opened(kafka_url) as transport:
        await declare(transport, ALL)
        await publish_all(transport, ORDERS, *(message() for _ in range(5)))
        await declare(transport, ALL)
        committed = await transport.admin.committed(transport.names.group(ALL))
        assert sum(committed.values()) == 0
        assert (await transport.stats(ALL)).depth == 5


async def test_a_subscription_starts_where_it_says(kafka_url: str) -> None:
    """At the earliest message, at a time, or at its declaration."""
    async with opened(kafka_url, partitions=1) as transport:
        await declare(transport, ORDERS)
        await publish_all(transport, ORDERS, message(), message())
        await asyncio.sleep(0.05)  # the servers' times have whole milliseconds
        at = datetime.now(UTC)
        await asyncio.sleep(0.05)
        await publish_all(transport, ORDERS, message())
        subscriptions = [
            ORDERS.subscription("early", start="earliest"),
            ORDERS.subscription("since", start=at),
            ORDERS.subscription("future", start=at + timedelta(days=1)),
            ORDERS.subscription("late"),
        ]
        await declare(transport, *subscriptions)
        assert [(await transport.stats(each)).depth for each in subscriptions] == [3, 1, 0, 0]


async def test_what_cannot_be_changed_in_place_is_a_conflict(kafka_url: str) -> None:
    """Kind, ordering, a stated number of partitions, a compacted queue; and nothing was touched."""
    async with opened(kafka_url) as transport:
        await declare(transport, EMAILS, ALL, ordering="none")
        for wanted, what in [
            (Entity(EMAILS, ordering="key"), "ordering"),
            (Entity(ALL, ordering="key"), "ordering"),
            (Entity(Topic("emails")), "kind"),
            (Entity(EMAILS, options={"partitions": 5}), "partitions"),
        ]:
            changes = await transport.plan([wanted])
            assert [(change.action, change.property) for change in changes if change.action == "conflict"] == [
                ("conflict", what)
            ]
            with pytest.raises(TopologyMismatch, match=what):
                await transport.apply(changes)
        compacted = f"{transport.names.prefix}compacted"
        await transport.admin.create([TopicSpec(compacted, 1, None, {"cleanup.policy": "compact"})])
        changes = await transport.plan([Entity(Queue("compacted"))])
        assert ("compacted", "conflict", "cleanup.policy") in _actions(changes)


async def test_two_that_ask_at_once_for_different_orders_do_not_both_get_it(kafka_url: str) -> None:
    """The first one counts, and the other is told."""
    prefix = make_prefix()
    async with opened(kafka_url, prefix=prefix) as one, opened(kafka_url, prefix=prefix) as other:
        plans = [await one.plan(entities(EMAILS, ordering="key")), await other.plan(entities(EMAILS, ordering="none"))]
        outcomes = await asyncio.gather(one.apply(plans[0]), other.apply(plans[1]), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [TopologyMismatch]


async def test_retention_is_made_longer_and_never_shorter(kafka_url: str) -> None:
    """A shorter one would delete messages: it is a conflict with the command to type."""
    async with opened(kafka_url) as transport:
        name = f"{transport.names.prefix}orders"
        await transport.admin.create([TopicSpec(name, 1, None, {"retention.ms": "1000000"})])
        await transport.admin.create([TopicSpec(f"{transport.names.prefix}emails", 1, None, {})])
        planned = await transport.plan([Entity(ORDERS)])
        assert [each.action for each in planned] == ["unknown"], "only what is said of this topic counts"
        await transport.apply(await transport.plan([Entity(ORDERS, options={"retention_s": 2000}), Entity(EMAILS)]))
        configs = await transport.admin.configs([name, f"{transport.names.prefix}emails"])
        assert [configs[topic]["retention.ms"].value for topic in configs] == ["2000000", "-1"]
        changes = await transport.plan([Entity(ORDERS, options={"retention_s": 5})])
        (conflict,) = [each for each in changes if each.action == "conflict"]
        assert (conflict.property, conflict.wanted, conflict.found) == ("retention.ms", "5000", "2000000")
        assert "kafka-configs.sh" in conflict.command


async def test_a_filter_can_be_changed(kafka_url: str) -> None:
    """The stored one is what was declared last."""
    narrow = ORDERS.subscription("some", where={"country": "DE"})
    wide = ORDERS.subscription("some", where={"country": ["DE", "AT"]})
    async with opened(kafka_url) as transport:
        await declare(transport, narrow)
        changes = await transport.plan([Entity(wide)])
        assert _actions(changes) == [("orders/some", "update", "where")]
        await transport.apply(changes)
        entries = await transport.registry.catch_up()
        assert entries.where(transport.names.group(wide)) == {"country": ("DE", "AT")}
        assert await transport.plan([Entity(wide)]) == []


async def test_a_topic_that_is_made_again_begins_afresh(kafka_url: str) -> None:
    """The old one's positions would skip the new one's messages."""
    async with opened(kafka_url, partitions=1) as transport:
        await declare(transport, ORDERS)
        await publish_all(transport, ORDERS, *(message() for _ in range(3)))
        await declare(transport, ALL)
        await delete_topic(transport, transport.names.topic(ORDERS))
        await declare(transport, ALL)
        await publish_all(transport, ORDERS, message())
        assert (await transport.stats(ALL)).depth == 1


@pytest.mark.parametrize("options", [{"partitons": 3}, {"partitions": 0}, {"partitions": "many"}, {"retention_s": 60}])
async def test_options_are_checked(kafka_url: str, options: dict[str, object]) -> None:
    """What is misspelt is not ignored."""
    async with opened(kafka_url) as transport:
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            await transport.plan([Entity(EMAILS, options=options)])


async def test_the_diagnosis_says_what_a_confirmation_is_worth(kafka_url: str) -> None:
    """One copy; a short retention; servers that are behind may lead."""
    async with opened(kafka_url, topic_retention_s=3600) as transport:
        await declare(transport, EMAILS, ALL)
        await transport.admin.alter(transport.names.topic(ORDERS), {"unclean.leader.election.enable": "true"})
        findings = {
            (finding.subject, finding.says.split(",")[0].split(":")[0]) for finding in await transport.diagnose()
        }
        emails, orders = transport.names.topic(EMAILS), transport.names.topic(ORDERS)
        assert (emails, "its messages are on one server alone") in findings
        assert (orders, "messages are deleted after 1.0 h") in findings
        assert (orders, "unclean.leader.election.enable") in findings
        brokers = await transport.admin.configs(["1"], ResourceType.BROKER)
        assert brokers["1"]["auto.create.topics.enable"].value == "false"


async def test_the_diagnosis_says_who_stands_idle(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two consumers of one partition: of the source that they share, and of no other."""
    monkeypatch.setattr(receiver, "SHARE_S", 0.0)  # the second one would wait for a partition
    async with opened(kafka_url, partitions=1) as transport:
        await declare(transport, EMAILS, ALL)
        consumers = [transport.receiver(Entity(source), prefetch=1) for source in (EMAILS, ALL, ALL)]
        await asyncio.gather(*(consumer.open() for consumer in consumers))
        idle = [finding for finding in await transport.diagnose() if "consumers" in finding.says]
        assert [(finding.level, finding.subject) for finding in idle] == [("warn", transport.names.group(ALL))]
        assert idle[0].says == "consumers: 2, partitions: 1; who has no partition gets nothing new"
        assert f"--topic {transport.names.topic(ORDERS)} --partitions 2" in idle[0].do
