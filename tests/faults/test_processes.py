"""Workers and publishers as processes over a real RabbitMQ: they are drained, restarted, ended."""

import signal
import time
from pathlib import Path

import pytest

from busframe.runtime.signals import ECHO_S
from tests.faults.workers import finish, processes, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_ten_thousand_messages_are_handled_once_each(rabbitmq_vhost: str, tmp_path: Path) -> None:
    """A worker in one process and a publisher in another: without faults nothing is lost and nothing doubled."""
    with processes(rabbitmq_vhost, tmp_path) as run:
        worker = run.worker()
        publisher = run.publish("jobs", range(10_000))
        assert finish(publisher) == 0
        wait_until(lambda: len(run.journal.counts("handled")) == 10_000, "all are handled", 90)
        worker.send_signal(signal.SIGTERM)
        assert finish(worker) == 0
        assert set(run.journal.counts("handled").values()) == {1}


def test_sigterm_drains(rabbitmq_vhost: str, tmp_path: Path) -> None:
    """SIGTERM lets running handlers finish and exits 0; what was not started is there for the next worker, once."""
    total = 200
    with processes(rabbitmq_vhost, tmp_path, BUSFRAME_TEST_WORK_S="0.2") as run:
        worker = run.worker()
        assert finish(run.publish("jobs", range(total))) == 0
        wait_until(lambda: len(run.journal.lines("handled")) >= 10, "some are handled")
        worker.send_signal(signal.SIGTERM)
        assert finish(worker, 20) == 0
        assert len(run.journal.lines("handled")) < total
        run.worker()
        wait_until(lambda: len(run.journal.counts("handled")) == total, "the next worker handles the rest")
        assert set(run.journal.counts("handled").values()) == {1}


def test_a_second_signal_ends_it_at_once(rabbitmq_vhost: str, tmp_path: Path) -> None:
    """The second SIGTERM does not wait for handlers: exit code 1, and their messages are delivered again."""
    with processes(rabbitmq_vhost, tmp_path, BUSFRAME_TEST_WORK_S="5") as run:
        worker = run.worker()
        assert finish(run.publish("jobs", range(3))) == 0
        wait_until(lambda: "consuming" in run.logs(), "the worker consumes")
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in run.logs(), "the worker drains")
        worker.send_signal(signal.SIGTERM)  # an echo of the first one, as wrappers make: not taken for a second
        time.sleep(2 * ECHO_S)
        assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        assert finish(worker, 4) == 1


def test_a_message_that_kills_the_process_is_buried(rabbitmq_vhost: str, tmp_path: Path) -> None:
    """It is dead-lettered as a crash loop after its many deliveries, and its neighbours are handled."""
    neighbours = list(range(1, 30))
    with processes(rabbitmq_vhost, tmp_path) as run:
        assert finish(run.publish("deadly", [*neighbours[:10], 0, *neighbours[10:]])) == 0
        for _ in range(60):
            worker = run.worker()
            wait_until(
                lambda: worker.poll() is not None or bool(run.journal.lines("buried")),  # noqa: B023
                "the worker dies, or buries it",
            )
            if run.journal.lines("buried"):
                break
        wait_until(lambda: len(run.journal.counts("survived")) == len(neighbours), "its neighbours are handled")
        assert run.journal.lines("buried") == [['{"n":0}', "crash-loop"]]
        assert 20 <= len(run.journal.lines("killed")) <= 25


def test_clean_restarts_use_up_no_attempt(rabbitmq_vhost: str, tmp_path: Path) -> None:
    """Ten restarts with a full prefetch: every message is still at its first attempt, and none is a dead letter."""
    total = 60
    with processes(rabbitmq_vhost, tmp_path, BUSFRAME_TEST_WORK_S="0.4") as run:
        assert finish(run.publish("jobs", range(total))) == 0
        for restart in range(10):
            before = len(run.journal.lines("handled"))
            worker = run.worker()
            wait_until(lambda: len(run.journal.lines("handled")) > before, f"restart {restart} handles")  # noqa: B023
            worker.send_signal(signal.SIGTERM)
            assert finish(worker, 20) == 0
            if len(run.journal.counts("handled")) == total:
                break
        run.worker()
        wait_until(lambda: len(run.journal.counts("handled")) == total, "all are handled")
        assert {attempt for _, attempt, *_ in run.journal.lines("handled")} == {"1"}


def test_a_retry_waits_beside_its_neighbours(rabbitmq_vhost: str, tmp_path: Path) -> None:
    """One that fails twice runs three times with the policy's delays, while the others go on."""
    with processes(rabbitmq_vhost, tmp_path) as run:
        run.worker()
        assert finish(run.publish("flaky", range(200))) == 0
        wait_until(lambda: len(run.journal.lines("tried")) == 202, "all are tried")
        times = [float(at) for n, _, at in run.journal.lines("tried") if n == "0"]
        assert len(times) == 3
        assert times[1] - times[0] >= 0.2
        assert times[2] - times[1] >= 0.4
        others = [float(at) for n, _, at in run.journal.lines("tried") if n != "0"]
        assert sum(at < times[1] for at in others) > len(others) / 2
