"""Checks that need a server are checked as well: each fails on a client of RabbitMQ that breaks its promise."""

import asyncio
import logging
import re
from collections.abc import Iterator

import pytest

from busframe.conformance import CHECKS, Harness, run_check
from busframe.conformance.mutants import MUTANTS, ServerMutant, mutated
from busframe.conformance.suite import started
from plugins.rabbitmq.tests.test_conformance import Faulty
from tests.brokers.rabbitmq import RabbitMQ

CAUGHT = [
    pytest.param(mutant, id, id=f"{mutant.name}-{id}")
    for mutant in MUTANTS.values()
    if isinstance(mutant, ServerMutant)
    for id in mutant.caught_by
]


@pytest.mark.slow
@pytest.mark.timeout(120)
class TestMutants:
    """On a server of their own, because faults stop it."""

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls, breakable_rabbitmq: RabbitMQ) -> Iterator[Harness]:
        """The harness of the real server."""
        yield from started(Faulty(breakable_rabbitmq, breakable_rabbitmq.url))

    @pytest.mark.parametrize(("mutant", "id"), CAUGHT)
    def test_a_check_catches_its_mutant(
        self, mutant: ServerMutant, id: str, harness: Harness, caplog: pytest.LogCaptureFixture
    ) -> None:
        """On a broken client the check fails, for the right reason."""
        caplog.set_level(logging.CRITICAL)  # what goes wrong is what it is about
        with mutated(harness, mutant):
            result = asyncio.run(run_check(CHECKS[id], harness))
        assert result.outcome == "failed", f"{id} {result.outcome} although {mutant.wrong}"
        assert re.search(mutant.says, result.detail), result.detail
