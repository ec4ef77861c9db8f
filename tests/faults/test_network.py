"""The network between clients and server fails, in each of its ways: one history, and an account of it."""

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import gt
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest

from tests.brokers.rabbitmq import RabbitMQ
from tests.brokers.toxiproxy import Stream, Toxiproxy
from tests.faults.account import Account, Fault, Prefetch
from tests.faults.app import PREFETCH
from tests.faults.workers import Processes, finish, processes, wait_until

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEAM = 3
CUTS = 60
EACH_S = 1.0
QUEUES = ("jobs", "flaky", "deadly", "deadly--dead")


class Scene:
    """Publishers and workers, and what happened to their connections."""

    def __init__(self, run: Processes) -> None:
        self.faults: list[Fault] = []
        self.run = run
        self.workers = [run.worker() for _ in range(TEAM)]
        self.publishers = run.publishers()

    def all_go_on(self, when: str) -> None:
        """Wait until each worker has handled messages that were published from now on, and has all connections."""
        tried, handled = len(self.run.journal.lines("tried")), len(self.run.journal.lines("handled"))

        def on() -> bool:
            new = {n for (n,) in self.run.journal.lines("tried")[tried:]}
            by = {int(pid) for n, _, pid, *_ in self.run.journal.lines("handled")[handled:] if n in new}
            return {worker.pid for worker in self.workers} <= by and self.losses() == self.returns()

        wait_until(on, f"publishers and all workers go on {when}")

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Inside of this, connections are cut."""
        begun = time.monotonic()
        yield
        self.faults.append(Fault(begun, time.monotonic()))

    def losses(self) -> list[int]:
        """How often each worker has lost its connection, by its own word."""
        return [log.read_text().count("connection to the broker is down") for log in self.run.logs_of("worker")]

    def returns(self) -> list[int]:
        """How often it has come back."""
        return [log.read_text().count("the broker is there again") for log in self.run.logs_of("worker")]


def test_nothing_is_lost_on_a_bad_network(
    rabbitmq: RabbitMQ, rabbitmq_vhost: str, toxiproxy: Toxiproxy, tmp_path: Path
) -> None:
    """Cut each second for a minute, slow, silent one way or the other: all goes on by itself, and nothing is left over.

    Afterwards each of three workers has one consumer for each of its sources, and the queues are empty.
    """
    with (
        toxiproxy.before(rabbitmq_vhost) as network,
        processes(f"{network.url}?heartbeat_s=3", tmp_path, BUSFRAME_TEST_WORK_S="0.02") as run,
    ):
        scene = Scene(run)
        scene.all_go_on("before the first fault")
        for _ in range(CUTS):
            with scene.cut_off():
                network.cut()
            time.sleep(EACH_S)
        scene.all_go_on("after the cuts")
        with network.toxic("latency", "downstream", latency=200, jitter=100):
            scene.all_go_on("with answers that are late")
        with network.toxic("bandwidth", "upstream", rate=20):
            scene.all_go_on("through a line that is too slow for them")
        ways: tuple[Stream, Stream] = ("downstream", "upstream")
        for way in ways:
            before = scene.losses()
            with scene.cut_off(), network.toxic("timeout", way, timeout=0):
                wait_until(
                    lambda: all(map(gt, scene.losses(), before)),  # noqa: B023
                    f"all workers give up a connection that is silent {way}",
                )
            scene.all_go_on(f"after silence {way}")
        scene.publishers.send_signal(signal.SIGTERM)
        assert finish(scene.publishers) == 0
        confirmed = run.journal.counts("confirmed")
        wait_until(lambda: confirmed.keys() <= run.journal.counts("handled").keys(), "all are handled")
        account = Account(run.journal, scene.faults, Prefetch(PREFETCH))
        log.info("%s", account)
        assert account.problems() == []
        assert account.doubled <= len(account.unknown) + len(scene.faults) * TEAM * PREFETCH
        assert run.journal.lines("buried") == []
        for name in QUEUES:
            wait_until(lambda: now(rabbitmq_vhost, name) == (0, TEAM), f"{name}: empty, and {TEAM} consumers")  # noqa: B023
        each_has_one = [(name, worker.pid) for name in sorted(QUEUES) for worker in scene.workers]
        wait_until(lambda: consumers(rabbitmq, rabbitmq_vhost) == each_has_one, "each worker has one consumer of each")
        for worker in scene.workers:
            worker.send_signal(signal.SIGTERM)
        assert [finish(worker) for worker in scene.workers] == [0] * TEAM
        for name in QUEUES:  # nothing was held unsettled
            wait_until(lambda: now(rabbitmq_vhost, name) == (0, 0), f"{name}: empty, and no consumer")  # noqa: B023


def now(url: str, queue: str) -> tuple[int, int]:
    """How many ready messages and consumers a queue has in this moment; the management is some seconds late."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        found: Any = connection.channel().queue_declare(queue, passive=True).method
    return found.message_count, found.consumer_count


def consumers(server: RabbitMQ, url: str) -> list[tuple[str, int]]:
    """(queue, worker's process) of each consumer, as the management lists them."""
    vhost = urlsplit(url).path
    names = {each["name"]: each.get("user_provided_name") for each in server.api("GET", f"/vhosts{vhost}/connections")}
    found = []
    for consumer in server.api("GET", f"/consumers{vhost}"):
        channel = consumer["channel_details"] or {}  # a list where it is closed already
        name = names.get(channel.get("connection_name")) or "? ?-0-? ?"
        found.append((consumer["queue"]["name"], int(name.split()[1].split("-")[-2])))
    return sorted(found)
