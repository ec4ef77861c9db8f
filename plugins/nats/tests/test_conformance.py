"""NATS keeps the contract."""

import asyncio
from collections.abc import Iterator

import pytest

from busframe.conformance import Check, Harness, select
from busframe.conformance.machine import run_machine
from busframe.conformance.suite import TransportConformance, started
from busframe_nats.conformance import NatsHarness
from tests.brokers.nats import NATS


class Faulty(NatsHarness):
    """A harness whose server can be stopped and killed."""

    def __init__(self, server: NATS) -> None:
        super().__init__(server.url, (server.url_of("user"), server.url_of("nobody")))
        self._process = server

    async def restart(self) -> None:
        """In order, with its data."""
        await asyncio.to_thread(self._process.restart)

    async def kill(self) -> None:
        """Killed, with what it has written."""
        await asyncio.to_thread(self._process.kill)
        await asyncio.to_thread(self._process.start)


@pytest.mark.slow
@pytest.mark.timeout(120)
class TestNATS(TransportConformance):
    """On a server of its own, because faults stop it."""

    not_runnable = frozenset({"V27"})  # a stream keeps what it holds
    not_claimed = frozenset({"E2", "E4"})

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, breakable_nats: NATS) -> Iterator[Harness]:
        """The harness of the real server."""
        yield from started(Faulty(breakable_nats))


LEFT_OUT = frozenset({"F16", "M8", "V2", "V3", "V6", "V20"})
"""They take long, and show little there that M1 does not, which restarts and kills the server, or M2, which cuts."""


class TestOlderNATS(TestNATS):
    """On the oldest version that is supported."""

    # What is published with a delay.
    not_claimed = TestNATS.not_claimed | {"J3"}

    @classmethod
    def outcome_of(cls, check: Check) -> str:
        """For the page."""
        return "not run" if check.id in LEFT_OUT else super().outcome_of(check)

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, older_nats: NATS) -> Iterator[Harness]:
        """The harness of the older server."""
        yield from started(Faulty(older_nats))

    @pytest.mark.parametrize("check", [check for check in select() if check.id not in LEFT_OUT], ids=lambda it: it.id)
    def test_check(self, check: Check, harness: Harness) -> None:
        """The transport keeps the promise there as well."""
        super().test_check(check, harness)


@pytest.mark.slow
def test_nats_and_a_dict_agree(nats: NATS) -> None:
    """Random histories of publishing, receiving, settling, closing and cutting."""
    run_machine(NatsHarness(nats.url), examples=5)
