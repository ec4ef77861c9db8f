"""What share groups cannot promise: when one of these fails, ask again whether queues can be share groups (0017)."""

from uuid import uuid4

import pytest
from confluent_kafka import AcknowledgeType, ShareConsumer

from busframe_kafka.client import (
    AdminClient,
    AlterConfigOpType,
    Config,
    ConfigEntry,
    ConfigResource,
    KafkaError,
    KafkaException,
    NewTopic,
    Producer,
    ResourceType,
    error_of,
)
from plugins.kafka.tests.support import make_settings
from tests.support.transports import DEADLINE_S

POLL_S = 0.5


class Shared:
    """A topic of one partition, and a share group of the same name that begins at its first record."""

    def __init__(self, url: str) -> None:
        self.name = f"test-{uuid4().hex[:10]}"
        self._servers: Config = {"bootstrap.servers": ",".join(make_settings(url).server.hosts)}
        self._admin = AdminClient(self._servers)
        self._producer = Producer(self._servers)
        self._admin.create_topics([NewTopic(self.name, 1)])[self.name].result(DEADLINE_S)
        self.set("share.auto.offset.reset", "earliest")

    def set(self, setting: str, value: str) -> None:
        """Change a setting of the group."""
        entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
        group = ConfigResource(ResourceType.GROUP, self.name, incremental_configs=[entry])
        for done in self._admin.incremental_alter_configs([group]).values():
            done.result(DEADLINE_S)

    def publish(self, body: bytes) -> None:
        """Returns when it is confirmed."""
        self._producer.produce(self.name, body)
        assert self._producer.flush(DEADLINE_S) == 0

    def consumer(self) -> ShareConsumer:
        """A member that says of each record what becomes of it."""
        consumer = ShareConsumer(self._servers | {"group.id": self.name, "share.acknowledgement.mode": "explicit"})
        consumer.subscribe([self.name])
        return consumer


def _receive(consumer: ShareConsumer) -> tuple[bytes | None, int | None]:
    """The body of the next record and how often it was delivered; it is handed back."""
    for _ in range(round(DEADLINE_S / POLL_S)):
        for record in consumer.poll(POLL_S):
            assert record.error() is None, record.error()
            consumer.acknowledge(record, AcknowledgeType.RELEASE)
            assert list(consumer.commit_sync(DEADLINE_S).values()) == [None]
            return record.value(), record.delivery_count()
    raise AssertionError("nothing was delivered")


def test_the_server_drops_what_was_handed_back(kafka_url: str) -> None:
    """Nobody settled it, and nobody is told: from the limit on what came later is delivered, and it is not."""
    shared = Shared(kafka_url)
    shared.set("share.delivery.count.limit", "2")
    shared.publish(b"confirmed")
    with shared.consumer() as consumer:
        assert [_receive(consumer) for _ in range(2)] == [(b"confirmed", 1), (b"confirmed", 2)]
        shared.publish(b"later")
        assert [_receive(consumer) for _ in range(2)] == [(b"later", 1), (b"later", 2)]


@pytest.mark.parametrize(("setting", "value"), [("delivery.count.limit", 11), ("record.lock.duration.ms", 60_001)])
def test_the_limits_cannot_be_raised_out_of_the_way(kafka_url: str, setting: str, value: int) -> None:
    """The server's own bounds, as it comes."""
    with pytest.raises(KafkaException) as refused:
        Shared(kafka_url).set(f"share.{setting}", str(value))
    error = error_of(refused.value)
    assert error is not None
    assert error.code() == KafkaError.INVALID_CONFIG


def test_the_client_can_neither_renew_a_lock_nor_tell_what_is_handled() -> None:
    """So a long handler runs twice at once, and what was handled cannot be deleted."""
    assert {each.name for each in AcknowledgeType} == {"ACCEPT", "RELEASE", "REJECT"}
    assert not [name for name in dir(AdminClient) if "share" in name]
