"""busframe_nats.topology"""

from typing import Any

import pytest

from busframe.errors import ConfigurationError
from busframe.logic.names import physical_name
from busframe.model.destination import Queue, Topic
from busframe.model.entity import Entity
from busframe_nats.topology import (
    BUCKETS,
    SPREAD,
    Names,
    bucket,
    has_schedules,
    partitions_of,
    read_options,
    read_where,
    where_text,
)
from plugins.nats.tests.support import make_settings

QUEUE = Queue[Any]("a.b")
TOPIC = Topic[Any]("t")
SUBSCRIPTION = TOPIC.subscription("s.1", where={"x": ["1", "2"]})
SETTINGS = make_settings("nats://h")
NAMES = Names("bf", lambda address: physical_name(address, "pre-"))


def test_names_have_no_dots_and_never_collide() -> None:
    """A name is one part of a subject."""
    assert NAMES.stream(QUEUE) == "bf-pre-a=b"
    assert NAMES.stream(QUEUE.dead_letters) == "bf-pre-a=b--dead"
    assert NAMES.stream(SUBSCRIPTION) == NAMES.stream(TOPIC) == "bf-pre-t"
    assert NAMES.stream(SUBSCRIPTION.dead_letters) == "bf-pre-t--s=1--dead"
    assert NAMES.to(QUEUE) == "bf.q.pre-a=b"
    assert NAMES.to(TOPIC) == "bf.t.pre-t.all"
    assert NAMES.to(SUBSCRIPTION) == "bf.t.pre-t.to-s=1"
    assert NAMES.to(QUEUE.dead_letters) == "bf.dead.pre-a=b--dead"


def test_a_subscription_called_all_is_not_the_topic() -> None:
    """Nor is any other."""
    assert NAMES.to(TOPIC.subscription("all")) != NAMES.to(TOPIC)


def test_buckets_are_few_and_depend_on_the_key_alone() -> None:
    """The server keeps a state for each subject."""
    assert bucket("k", "1") == bucket("k", "2")
    assert len({bucket(f"key-{n}", "1") for n in range(10_000)}) == BUCKETS
    assert len({bucket(None, f"id-{n}") for n in range(10_000)}) == SPREAD


def test_a_queue_is_a_work_queue() -> None:
    """In partitions, whether or not anybody asks for order: who publishes need not know."""
    config = NAMES.stream_config(Entity(QUEUE), SETTINGS, schedules=True)
    assert config["retention"] == "workqueue"
    assert config["subjects"] == ["bf.q.pre-a=b.*", "bf.later.pre-a=b.*"]
    assert partitions_of(config) == 16
    assert has_schedules(config)


def test_a_topic_keeps_what_somebody_is_to_read() -> None:
    """Its messages, those for one subscription, and delayed ones."""
    config = NAMES.stream_config(Entity(TOPIC, options={"partitions": 3}), SETTINGS, schedules=True)
    assert config["retention"] == "interest"
    assert config["subjects"] == ["bf.t.pre-t.*.*", "bf.later.pre-t.*"]
    assert partitions_of(config) == 3


@pytest.mark.parametrize(
    ("entity", "schedules"),
    [(Entity(QUEUE), False), (Entity(QUEUE, options={"max_bytes": 10**6}), True), (Entity(QUEUE.dead_letters), True)],
)
def test_what_may_be_full_refuses_instead_of_discarding(entity: Entity, schedules: bool) -> None:
    """The server does not let delayed messages into such a stream (its error 10052)."""
    config = NAMES.stream_config(entity, SETTINGS, schedules=schedules)
    assert config["discard"] == "new"
    assert not has_schedules(config)
    assert not any("later" in subject for subject in config["subjects"])


def test_one_consumer_or_one_for_each_partition() -> None:
    """With order one message of a partition is out at a time."""
    (plain,) = NAMES.consumer_configs(Entity(SUBSCRIPTION), SETTINGS, 0)
    assert plain["durable_name"] == "s=1"
    assert plain["filter_subjects"] == ["bf.t.pre-t.all.>", "bf.t.pre-t.to-s=1.>"]
    assert (plain["max_ack_pending"], plain["max_deliver"], plain["deliver_policy"]) == (-1, -1, "new")
    ordered = NAMES.consumer_configs(Entity(QUEUE, ordering="key"), SETTINGS, 2)
    assert [each["durable_name"] for each in ordered] == ["workers--p0", "workers--p1"]
    assert [each["filter_subject"] for each in ordered] == ["bf.q.pre-a=b.0.*", "bf.q.pre-a=b.1.*"]
    assert {each["max_ack_pending"] for each in ordered} == {1}


@pytest.mark.parametrize("options", [{"nonsense": 1}, {"partitions": 0}, {"partitions": "4"}, {"partitions": 1000}])
def test_an_option_that_is_wrong_is_refused(options: dict[str, object]) -> None:
    """Before anything is made."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        read_options(Entity(QUEUE, options=options))


def test_a_filter_is_stored_as_text_that_does_not_depend_on_its_order() -> None:
    """Two programs that say the same agree."""
    text = where_text({"b": "1", "a": ["y", "x"]})
    assert text == where_text({"a": ["x", "y"], "b": ["1"]})
    assert read_where({"metadata": {"bf-where": text}}) == {"a": ("x", "y"), "b": ("1",)}


@pytest.mark.parametrize("metadata", [None, {}, {"bf-where": "nonsense"}, {"bf-where": "[]"}, {"bf-where": '{"a": 1}'}])
def test_where_there_is_no_filter_nobody_can_tell(metadata: object) -> None:
    """An operator may have made the consumer."""
    assert read_where({"metadata": metadata}) is None


@pytest.mark.parametrize("transform", [None, {}, {"dest": "x"}, {"dest": "{{partition(x,1)}}"}])
def test_a_foreign_stream_has_no_partitions(transform: object) -> None:
    """Its transform is another one."""
    assert partitions_of({"subject_transform": transform}) == 0
