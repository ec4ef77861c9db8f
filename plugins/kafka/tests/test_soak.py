"""Kafka keeps the contract for long."""

from collections.abc import Iterator

import pytest

from busframe.conformance import Harness
from busframe.conformance.suite import SoakConformance, started
from plugins.kafka.tests.test_conformance import Faulty
from tests.brokers.kafka import Kafka
from tests.conformance.soak import TIMEOUT_S, soaking


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
class TestKafka(SoakConformance):
    """With all faults, so on a server of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, breakable_kafka: Kafka) -> Iterator[Harness]:
        """The harness of the real server."""
        yield from started(soaking(Faulty(breakable_kafka)))
