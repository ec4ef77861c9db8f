"""Kafka keeps the contract."""

import asyncio
from collections.abc import Iterator

import pytest

from busframe.conformance import Harness
from busframe.conformance.machine import run_machine
from busframe.conformance.suite import TransportConformance, started
from busframe_kafka.conformance import KafkaHarness
from tests.brokers.kafka import Kafka

SESSION_TIMEOUT_S = 6.0


class Faulty(KafkaHarness):
    """A harness whose server can be stopped and killed."""

    patience = 2.0

    def __init__(self, server: Kafka) -> None:
        secure = server.secure and (f"kafka+ssl://{server.secure[0]}", server.secure[1])
        super().__init__(server.url, SESSION_TIMEOUT_S, server.proxy, secure)
        self._server = server
        self.url = f"{server.url}?session_timeout_s=2"  # of processes that are killed, twenty times

    async def restart(self) -> None:
        """In order, with its data."""
        await asyncio.to_thread(self._server.restart)

    async def kill(self) -> None:
        """Killed, with what it has written."""
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestKafka(TransportConformance):
    """On a server of its own, because faults stop it."""

    in_part = frozenset({"P1"})  # a topic is never full
    not_claimed = frozenset({"E2", "F5", "H7", "V17"})

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, breakable_kafka: Kafka) -> Iterator[Harness]:
        """The harness of the real server."""
        yield from started(Faulty(breakable_kafka))


@pytest.mark.slow
def test_kafka_and_a_dict_agree(kafka: Kafka) -> None:
    """Random histories of publishing, receiving, settling, closing and cutting."""
    run_machine(KafkaHarness(kafka.url, SESSION_TIMEOUT_S, kafka.proxy), examples=3)
