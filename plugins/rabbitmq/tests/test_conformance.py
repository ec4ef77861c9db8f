"""RabbitMQ keeps the contract."""

import asyncio
from collections.abc import Iterator

import pytest

from busframe.conformance import Check, Harness, select
from busframe.conformance.machine import run_machine
from busframe.conformance.suite import TransportConformance, started
from busframe_rabbitmq.conformance import RabbitMQHarness
from tests.brokers.rabbitmq import RabbitMQ


class Faulty(RabbitMQHarness):
    """A harness whose server can be stopped and killed."""

    def __init__(self, server: RabbitMQ, url: str) -> None:
        super().__init__(url, server.management_url)
        self._server = server

    async def restart(self) -> None:
        """In order, with its data."""
        await asyncio.to_thread(self._server.restart)

    async def kill(self) -> None:
        """Killed, once it has written down which queues it has."""
        await asyncio.to_thread(self._server.persist_declarations)
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)


@pytest.mark.slow
@pytest.mark.timeout(120)
class TestRabbitMQ(TransportConformance):
    """On a virtual host of a server of its own, because faults stop it."""

    not_runnable = frozenset({"V27"})  # a queue keeps what it holds
    not_claimed = frozenset({"E2", "E4", "H7", "V17"})

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, breakable_rabbitmq: RabbitMQ) -> Iterator[Harness]:
        """The harness of the real server."""
        yield from started(Faulty(breakable_rabbitmq, breakable_rabbitmq.url))


LEFT_OUT = frozenset({"F16", "J3", "M8", "V2", "V3", "V6", "V20"})
"""They take long, and show little there that M1 does not, which restarts and kills the server, or M2, which cuts."""


class TestOlderRabbitMQ(TestRabbitMQ):
    """On the oldest version that is supported."""

    # The order of keys.
    not_claimed = TestRabbitMQ.not_claimed | {"F10", "G1", "G2", "G3", "G4", "G6", "G8", "G9", "V25"}

    @classmethod
    def outcome_of(cls, check: Check) -> str:
        """For the page."""
        return "not run" if check.id in LEFT_OUT else super().outcome_of(check)

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, older_rabbitmq: RabbitMQ) -> Iterator[Harness]:
        """The harness of the older server."""
        yield from started(Faulty(older_rabbitmq, older_rabbitmq.url))

    @pytest.mark.parametrize("check", [check for check in select() if check.id not in LEFT_OUT], ids=lambda it: it.id)
    def test_check(self, check: Check, harness: Harness) -> None:
        """The transport keeps the promise there as well."""
        super().test_check(check, harness)


@pytest.mark.slow
def test_rabbitmq_and_a_dict_agree(rabbitmq_vhost: str) -> None:
    """Random histories of publishing, receiving, settling, closing and cutting."""
    run_machine(RabbitMQHarness(rabbitmq_vhost), examples=5)
