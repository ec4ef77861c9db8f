"""A group of Kafka over processes: workers come and go all the time, and one message that is never finished."""

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.kafka import Kafka
from tests.faults.account import runs
from tests.faults.app import CONCURRENCY, held
from tests.faults.offsets import Offsets
from tests.faults.workers import finish, processes, wait_until

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REBALANCING_S = float(os.environ.get("BUSFRAME_TEST_REBALANCING_S", "10"))
EACH_S = 2.0
TEAM = 3
KNOWN_S = 5.0
"""So soon whoever gives a partition up begins nothing more of it."""

BEFORE, BESIDE = 500, 9_999
GAP = 10_000
"""As the capabilities declare it."""


def test_nothing_is_lost_while_workers_come_and_go(own_kafka: Callable[[], Kafka], tmp_path: Path) -> None:
    """One joins or leaves in order each two seconds, with handlers of up to three.

    A commit that falls between two generations of the group is refused, so what was finished just before may be handled
    twice: fewer than handlers run at once, unless the server stood still; and nothing that has been committed.
    """
    server = own_kafka()
    offsets = Offsets(server.url, "jobs")
    work = {"BUSFRAME_TEST_MORE_WORK_S": "3", "BUSFRAME_TEST_PUBLISH_PER_S": "15"}
    # Who is told to end while the server gives it its name in the group has none to leave with: the server keeps a
    # place for it, and the group waits, until a session is over.
    with processes(f"{server.url}?session_timeout_s=6", tmp_path, **work) as run:
        team = [run.worker() for _ in range(TEAM)]
        leaving = []
        changes = 0
        publishers = run.publishers()
        wait_until(lambda: len(run.journal.lines("handled")) > 0, "the first is handled")
        with offsets.followed():
            until = time.monotonic() + REBALANCING_S
            while time.monotonic() < until:
                changes += 1
                if len(team) > TEAM:
                    leaving.append(team.pop(0))
                    leaving[-1].send_signal(signal.SIGTERM)
                else:
                    team.append(run.worker())
                time.sleep(EACH_S)
                assert offsets.unfinished(run.journal) == []
            publishers.send_signal(signal.SIGTERM)
            assert finish(publishers) == 0
            confirmed = run.journal.counts("confirmed")
            wait_until(lambda: confirmed.keys() <= run.journal.counts("handled").keys(), "all are handled", 120)
            for worker in team:
                worker.send_signal(signal.SIGTERM)
            assert [finish(worker) for worker in (*leaving, *team)] == [0] * len((*leaving, *team))
            assert offsets.unfinished(run.journal) == []
        handled = run.journal.counts("handled")
        again = handled.total() - len(handled)
        log.info("%d confirmed, %d handled again, %d changes, %s", len(confirmed), again, changes, offsets.stalls)
        assert set(handled) == set(confirmed)
        assert again <= CONCURRENCY * changes or offsets.stalls
        assert offsets.begun_too_late(runs(run.journal), slack_s=KNOWN_S) == []


def test_one_slow_message_holds_nobody_back(own_kafka: Callable[[], Kafka], tmp_path: Path) -> None:
    """Of one partition 9 999 others are handled beside it; after a kill they come again, and none from before it."""
    server = own_kafka()
    offsets = Offsets(server.url, "jobs")
    slow, total = BEFORE, BEFORE + 1 + BESIDE
    with processes(f"{server.url}?partitions=1&session_timeout_s=4", tmp_path) as run:
        (tmp_path / held(slow)).touch()
        worker = run.worker()
        assert finish(run.publish("jobs", range(total))) == 0
        with offsets.followed():
            wait_until(lambda: len(run.journal.counts("handled")) == total - 1, "all others are handled", 120)
            wait_until(lambda: offsets.committed() == {0: slow}, "what came before it is committed")
            worker.kill()
            finish(worker)
            (tmp_path / held(slow)).unlink()
            run.worker()
            wait_until(lambda: offsets.committed() == {0: total}, "all are handled, and committed", 120)
        handled = run.journal.counts("handled")
        assert set(handled) == set(range(total))
        again = {n for n, times in handled.items() if times > 1}
        assert min(again) > slow
        assert sum(handled.values()) - total <= GAP
