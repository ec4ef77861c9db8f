"""Kafka keeps the contract."""

import asyncio
from collections.abc import Iterator

import pytest

from busframe.conformance import Harness
from busframe.conformance.check import Check
from busframe.conformance.runner import select
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


WITHOUT_FAULTS = select(tiers=("C", "K"))
FIRST = [check for check in WITHOUT_FAULTS if check.letter <= "H" or check.letter == "R"]
"""About half of them, so that two can run at a time; R1 looks at what the others of these have shown."""


class KafkaConformance(TransportConformance):
    """How each check ends. Which checks are run, the classes say."""

    in_part = frozenset({"P1"})  # a topic is never full
    not_claimed = frozenset({"E2", "F5", "H7", "V17"})


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestKafka(KafkaConformance):
    """The first part of what needs no faults."""

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, kafka: Kafka) -> Iterator[Harness]:
        """The harness of the real server."""
        yield from started(Faulty(kafka))

    @pytest.mark.parametrize("check", FIRST, ids=lambda check: check.id)
    def test_check(self, check: Check, harness: Harness) -> None:
        """The transport keeps the promise, or refuses what it does not claim."""
        super().test_check(check, harness)


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestKafkaFurther(TestKafka):
    """The other part."""

    @pytest.mark.parametrize(
        "check", [check for check in WITHOUT_FAULTS if check not in FIRST], ids=lambda check: check.id
    )
    def test_check(self, check: Check, harness: Harness) -> None:
        """The transport keeps the promise, or refuses what it does not claim."""
        super().test_check(check, harness)


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestKafkaUnderFaults(KafkaConformance):
    """On a server of its own, because faults stop it."""

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, breakable_kafka: Kafka) -> Iterator[Harness]:
        """The harness of the real server."""
        yield from started(Faulty(breakable_kafka))

    @pytest.mark.parametrize("check", select(tiers=("X",)), ids=lambda check: check.id)
    def test_check(self, check: Check, harness: Harness) -> None:
        """The transport keeps the promise, whatever breaks."""
        super().test_check(check, harness)
