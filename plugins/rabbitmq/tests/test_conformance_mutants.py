"""Checks that need a server are checked as well: each fails on a plugin that breaks its promise."""

import asyncio
import sys

import pytest

from busframe.conformance import CHECKS, programs, run_check
from busframe_rabbitmq.conformance import RabbitMQHarness

CONFIRMS_FIRST = """
import asyncio, runpy
from busframe_rabbitmq.transport import RabbitMQ

right, later = RabbitMQ.publish, set()

async def publish(self, outgoing, *, timeout_s):
    later.add(asyncio.create_task(right(self, outgoing, timeout_s=timeout_s)))
    return [None] * len(outgoing)

RabbitMQ.publish = publish
runpy.run_module("busframe.conformance.programs", run_name="__main__")
"""


def test_a_publisher_that_confirms_before_the_broker_has_it_is_caught(
    rabbitmq_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A3 fails, and says what is lost."""
    monkeypatch.setattr(programs, "PYTHON", [sys.executable, "-c", CONFIRMS_FIRST])

    async def run() -> str:
        harness = RabbitMQHarness(rabbitmq_vhost)
        harness.patience = 0.2
        await harness.start()
        result = await run_check(CHECKS["A3"], harness)
        await harness.stop()
        assert result.outcome == "failed", result
        return result.detail

    assert "confirmed messages are lost" in asyncio.run(run())
