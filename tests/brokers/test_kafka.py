"""The Kafka server that the other tests rely on."""

from collections.abc import Callable
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.brokers.kafka import Kafka


def _publish(server: Kafka, topic: str, body: bytes) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap})  # it must outlive what it is asked
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    producer = Producer({"bootstrap.servers": server.bootstrap, "acks": "all", "log_level": 0})
    errors: list[object] = []
    producer.produce(topic, body, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(20) == 0
    assert errors == [None]


def _read(server: Kafka, topic: str) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "tests", "log_level": 0})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        got = consumer.consume(1, 20.0)
        return got[0].value() if got else None
    finally:
        consumer.close()


def test_takes_and_gives_messages(kafka: Kafka) -> None:
    """A topic can be made, filled and read."""
    topic = f"emails-{uuid4().hex[:8]}"
    _publish(kafka, topic, b"hello")
    assert _read(kafka, topic) == b"hello"


def test_nothing_is_created_by_asking(kafka: Kafka) -> None:
    """A topic that nobody has created stays missing: else its partitions would be the server's choice."""
    topic = f"missing-{uuid4().hex[:8]}"
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": "tests", "allow.auto.create.topics": True, "log_level": 0}
    )
    try:
        consumer.subscribe([topic])
        consumer.poll(0.1)
        assert topic not in consumer.list_topics(timeout=20).topics
    finally:
        consumer.close()


@pytest.mark.slow
def test_confirmed_messages_survive_a_kill(own_kafka: Callable[[], Kafka]) -> None:
    """A killed server is gone at once, and comes back on the same address with what it had confirmed."""
    server = own_kafka()
    _publish(server, "emails", b"hello")
    server.kill()
    assert not server.ready()
    server.start()
    assert _read(server, "emails") == b"hello"
