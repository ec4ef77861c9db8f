"""The server goes away in the middle and comes back: workers and publishers go on by themselves."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.rabbitmq import RabbitMQ
from tests.faults.workers import Processes, finish, processes, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# Long enough for many failed reconnects; an hour-long one is no different.
OUTAGE_S = float(os.environ.get("BUSFRAME_TEST_OUTAGE_S", "20"))
TOTAL = 6_000


def under_way(run: Processes) -> None:
    """A worker handles, and a publisher publishes, slowly enough that the fault meets both in the middle."""
    run.worker()
    wait_until(lambda: len(run.journal.lines("handled")) >= 200, "the first are handled")


def account(run: Processes, publishers: list[int]) -> None:
    """Every publisher succeeded, so every message was confirmed, and every confirmed message was handled."""
    assert publishers == [0] * len(publishers)
    wait_until(lambda: len(run.journal.counts("handled")) == TOTAL, "all are handled", 90)


def test_a_server_that_is_stopped_and_started(own_rabbitmq: Callable[[], RabbitMQ], tmp_path: Path) -> None:
    """Stopped in order for a while: nothing is lost, and nobody has to be restarted."""
    server = own_rabbitmq()
    with processes(server.url, tmp_path, BUSFRAME_TEST_WORK_S="0.002") as run:
        publisher = run.publish("jobs", range(TOTAL))
        under_way(run)
        server.stop()
        time.sleep(OUTAGE_S)
        server.start()
        account(run, [finish(publisher, 120)])


def test_a_server_that_is_killed(own_rabbitmq: Callable[[], RabbitMQ], tmp_path: Path) -> None:
    """Killed twice under load: what was confirmed is handled; what was in flight may be handled twice."""
    server = own_rabbitmq()
    with processes(server.url, tmp_path, BUSFRAME_TEST_WORK_S="0.002") as run:
        publisher = run.publish("jobs", range(TOTAL))
        under_way(run)
        server.persist_declarations()
        for kill in (1, 2):
            server.kill()
            server.start()
            wait_until(lambda: len(run.journal.lines("handled")) >= 200 + kill * 500, "it goes on")  # noqa: B023
        account(run, [finish(publisher, 120)])
