"""Processes are killed under load, workers and the server, again and again: one history, and an account of it."""

import logging
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.kafka import Kafka
from tests.brokers.nats import NATS
from tests.brokers.rabbitmq import RabbitMQ
from tests.faults.account import Account, Fault
from tests.faults.killed import Killed, KilledKafka, KilledNATS, KilledRabbitMQ
from tests.faults.workers import Processes, finish, processes, wait_until

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS = 5
KAFKA_ROUNDS = int(os.environ.get("BUSFRAME_TEST_KAFKA_KILLS", "1"))
"""Of Kafka fewer, unless somebody asks for all: a killed one comes back only after seconds, and so do partitions."""
WORKER_KILLS = 4  # in each round
TEAM = 3
ENOUGH = 60
"""So many messages a worker handles before it is killed: then it holds a full prefetch."""

# Long enough for many failed reconnects; an hour-long one is no different.
OUTAGE_S = float(os.environ.get("BUSFRAME_TEST_OUTAGE_S", "5"))


class Team:
    """Workers side by side, each replaced when it is killed."""

    def __init__(self, run: Processes) -> None:
        self._run = run
        self._workers = [run.worker() for _ in range(TEAM)]

    def kill_one(self) -> Fault:
        """Kill whoever has handled enough, in the middle of its work, and start another one."""
        worker = self._busy()
        begun = time.monotonic()
        worker.kill()
        worker.wait()
        self._workers[self._workers.index(worker)] = self._run.worker()
        return Fault(begun, time.monotonic(), worker.pid)

    def _busy(self) -> subprocess.Popen[bytes]:
        busy: list[subprocess.Popen[bytes]] = []

        def some() -> bool:
            counts = self._run.journal.counts("handled", 2)
            busy[:] = [worker for worker in self._workers if counts[worker.pid] >= ENOUGH]
            return bool(busy)

        wait_until(some, f"a worker handles {ENOUGH} messages")
        return random.choice(busy)

    def works(self, since: int) -> bool:
        """Whether each of them has handled something since the journal had so many lines."""
        recent = {int(pid) for _, _, pid, *_ in self._run.journal.lines("handled")[since:]}
        return {worker.pid for worker in self._workers} <= recent

    def end(self) -> list[int]:
        """Ask all of them to end; their exit codes."""
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        return [finish(worker) for worker in self._workers]


def test_twenty_workers_and_five_servers_are_killed(own_rabbitmq: Callable[[], RabbitMQ], tmp_path: Path) -> None:
    """On RabbitMQ: the queues, their consumers and connections."""
    kill_all(KilledRabbitMQ(own_rabbitmq()), tmp_path, ROUNDS)


def test_workers_and_servers_of_kafka_are_killed(own_kafka: Callable[[], Kafka], tmp_path: Path) -> None:
    """On Kafka: the groups and their offsets."""
    kill_all(KilledKafka(own_kafka()), tmp_path, KAFKA_ROUNDS)


def test_workers_and_servers_of_nats_are_killed(own_nats: Callable[[], NATS], tmp_path: Path) -> None:
    """On NATS: the consumers, and what they hold."""
    kill_all(KilledNATS(own_nats()), tmp_path, ROUNDS)


def kill_all(broker: Killed, folder: Path, rounds: int) -> None:
    """Nothing confirmed is lost; what comes twice was in flight at a kill; nobody has to be restarted by hand.

    After each kill nothing is settled that is not finished. Between the kills the server is once stopped in order, for
    a while.
    """
    server = broker.server
    faults = []
    with processes(broker.url, folder, BUSFRAME_TEST_WORK_S="0.05") as run:
        publishers = run.publishers()
        team = Team(run)
        wait_until(lambda: len(run.journal.lines("handled")) > 0, "the first is handled")
        with broker.watched():
            for number in range(rounds + 1):
                for _ in range(WORKER_KILLS if number < rounds else 0):
                    faults.append(team.kill_one())
                    assert broker.settled_too_early(run.journal) == []
                begun = time.monotonic()
                if number < rounds:
                    server.kill()
                else:
                    server.stop()
                    time.sleep(OUTAGE_S)
                ended = time.monotonic()
                server.start()
                assert broker.settled_too_early(run.journal) == []
                since = len(run.journal.lines("handled"))
                wait_until(lambda: team.works(since), f"all workers go on after fault {number + 1} of the server")  # noqa: B023
                faults.append(Fault(begun, ended, over=time.monotonic()))
            publishers.send_signal(signal.SIGTERM)
            assert finish(publishers) == 0
            confirmed = run.journal.counts("confirmed")
            wait_until(lambda: confirmed.keys() <= run.journal.counts("handled").keys(), "all are handled")
            assert team.end() == [0] * TEAM
            assert broker.settled_too_early(run.journal) == []
        account = Account(run.journal, faults, broker.allowance)
        log.info("%s", account)
        assert account.problems() == []
        assert broker.begun_too_late(account.runs) == []
        cut_off = sum(1 if fault.pid else TEAM for fault in faults)
        assert account.doubled <= len(account.unknown) + cut_off * broker.allowance.most
        if broker.attempt_exact:  # to be killed is no failure
            assert {attempt for _, attempt, *_ in run.journal.lines("handled")} == {"1"}
        assert run.journal.lines("buried") == []
