"""The servers as pytest fixtures, for the tests of the core and of every plugin.

`rabbitmq` is started once and shared by the whole run: leave it running, and work in a `rabbitmq_vhost`.
`own_rabbitmq()` starts one more for a test that stops or kills it. Likewise `kafka`, where tests keep apart by names of
their own, and `nats`, with a `nats_url` for each test.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import pytest

from tests.brokers.find import BROKERS, Broker, S, running
from tests.brokers.kafka import BROKER as KAFKA
from tests.brokers.kafka import Kafka
from tests.brokers.nats import BROKER as NATS_SERVER
from tests.brokers.nats import NATS
from tests.brokers.nats import OLDER as OLDER_NATS
from tests.brokers.rabbitmq import BROKER as RABBITMQ
from tests.brokers.rabbitmq import OLDER as OLDER_RABBITMQ
from tests.brokers.rabbitmq import RabbitMQ
from tests.brokers.server import Unavailable
from tests.brokers.toxiproxy import BROKER as TOXIPROXY
from tests.brokers.toxiproxy import Toxiproxy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that uses a server, so that `-m 'not broker'` leaves it out."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if any(broker in name for name in fixtures for broker in BROKERS):
            item.add_marker("broker")


@contextmanager
def skipping(broker: Broker[S]) -> Iterator[None]:
    """Turn a missing server into a skip, or into a failure in CI, where a skip would look like a pass."""
    try:
        yield
    except Unavailable as reason:
        line = f"no {broker.name} server: {reason} (or say where one is: {broker.variable}=…)"
        if os.environ.get("CI"):
            pytest.fail(line, pytrace=False)
        pytest.skip(line)


def _shared(broker: Broker[S]) -> Iterator[S]:
    with skipping(broker), running(broker) as server:
        yield server


def _own(broker: Broker[S]) -> Iterator[Callable[[], S]]:
    with ExitStack() as servers:

        def start() -> S:
            with skipping(broker):
                return servers.enter_context(running(broker, own=True))

        yield start


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """The RabbitMQ server of this run, shared by all tests."""
    yield from _shared(RABBITMQ)


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq: RabbitMQ) -> str:
    """The URL of the shared RabbitMQ server and its default virtual host."""
    return rabbitmq.url


@pytest.fixture
def rabbitmq_vhost(rabbitmq: RabbitMQ) -> Iterator[str]:
    """The URL of a virtual host of the shared RabbitMQ server that is this test's alone."""
    with rabbitmq.fresh_vhost() as url:
        yield url


@pytest.fixture
def own_rabbitmq() -> Iterator[Callable[[], RabbitMQ]]:
    """Start a RabbitMQ server that only this test uses; it may be killed and is gone afterwards."""
    yield from _own(RABBITMQ)


@pytest.fixture(scope="class")
def breakable_rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ server that the tests of one class use, and may stop and kill as long as they start it again."""
    for start in _own(RABBITMQ):
        yield start()


@pytest.fixture(scope="class")
def older_rabbitmq() -> Iterator[RabbitMQ]:
    """The same with the oldest version that is supported."""
    for start in _own(OLDER_RABBITMQ):
        yield start()


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """The Kafka server of this run, shared by all tests."""
    yield from _shared(KAFKA)


@pytest.fixture(scope="session")
def kafka_url(kafka: Kafka) -> str:
    """The URL of the shared Kafka server."""
    return kafka.url


@pytest.fixture
def own_kafka() -> Iterator[Callable[[], Kafka]]:
    """Start a Kafka server that only this test uses; it may be killed and is gone afterwards."""
    yield from _own(KAFKA)


@pytest.fixture(scope="class")
def breakable_kafka() -> Iterator[Kafka]:
    """A Kafka server that the tests of one class use, and may stop and kill as long as they start it again."""
    for start in _own(KAFKA):
        yield start()


@pytest.fixture(scope="session")
def nats() -> Iterator[NATS]:
    """The NATS server of this run, shared by all tests."""
    yield from _shared(NATS_SERVER)


@pytest.fixture
def nats_url(nats: NATS) -> str:
    """The URL of the shared NATS server, with subjects and streams that are this test's alone."""
    return f"{nats.url}?subject_prefix=test-{uuid4().hex[:12]}"


@pytest.fixture
def own_nats() -> Iterator[Callable[[], NATS]]:
    """Start a NATS server that only this test uses; it may be killed and is gone afterwards."""
    yield from _own(NATS_SERVER)


@pytest.fixture(scope="class")
def breakable_nats() -> Iterator[NATS]:
    """A NATS server that the tests of one class use, and may stop and kill as long as they start it again."""
    for start in _own(NATS_SERVER):
        yield start()


@pytest.fixture(scope="class")
def older_nats() -> Iterator[NATS]:
    """The same with the oldest version that is supported."""
    for start in _own(OLDER_NATS):
        yield start()


@pytest.fixture(scope="session")
def toxiproxy() -> Iterator[Toxiproxy]:
    """What puts proxies before servers, for the faults of networks; shared by all tests."""
    yield from _shared(TOXIPROXY)
