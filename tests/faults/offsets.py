"""What a group of Kafka has committed, read natively, and what of it was finished."""

import json
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    TopicPartition,
)

from tests.faults.account import Allowance, Fault, Run
from tests.faults.workers import Journal, wait_until

TIMEOUT_S = 5.0
ANSWERED_S = 60.0
LOOK_S = 0.25
LAG_S = 3.0
"""What was finished so long before is committed: a second, and what a loaded machine needs beyond it."""

STALL_S = 1.0
"""Who has no answer of the server for so long cannot commit either, and is as good as cut off."""

SETTLED_S = 10.0
"""So long after it, whoever was cut off has what belongs to it, or nothing."""

Place = tuple[int, int]
"""(partition, offset)"""


class Offsets:
    """Follows a queue, so that it is known where each message lies; what is handled is deleted after a while.

    Args:
        url: of the server.
        queue: its name; bodies are ``{"n": number}``.

    Attributes:
        places: the number of the message at each of them.
        seen: (when, partition → what is committed of it), looked at again and again.
        stalls: when the server did not say for a while what is committed.
    """

    def __init__(self, url: str, queue: str) -> None:
        self._config: Any = {"bootstrap.servers": urlsplit(url).netloc, "log_level": 0}
        self._queue = queue
        self.places: dict[Place, int] = {}
        self.stalls: list[Fault] = []
        self.seen: list[tuple[float, dict[int, int]]] = []
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name=f"follows {queue}", daemon=True),
            threading.Thread(target=self._watch, name=f"watches what is committed of {queue}", daemon=True),
        ]

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Inside of this; the queue exists."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join()

    def _follow(self) -> None:
        own = {"group.id": "followed", "enable.auto.commit": False, "auto.offset.reset": "error"}
        consumer = Consumer({**self._config, **own})
        try:
            numbers = consumer.list_topics(self._queue, timeout=TIMEOUT_S).topics[self._queue].partitions
            consumer.assign([TopicPartition(self._queue, number, OFFSET_BEGINNING) for number in numbers])
            while not self._stopped.is_set():
                for message in consumer.consume(500, 0.1):
                    if message.error() is None:
                        place = message.partition() or 0, message.offset() or 0
                        self.places[place] = json.loads(message.value() or b"")["n"]
        finally:
            consumer.close()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(LOOK_S):
            found = self._ask()
            now = time.monotonic()
            if found is None:
                continue
            self.seen.append((now, found))
            if now - last > STALL_S + LOOK_S:
                if self.stalls and self.stalls[-1].ended == last:  # it went on
                    last = self.stalls.pop().begun
                self.stalls.append(Fault(last, now, over=now + SETTLED_S))
            last = now

    def _ask(self) -> dict[int, int] | None:
        """Partition → what is committed of it; None: the server does not say."""
        # A consumer's question, which joins nothing: librdkafka (2.16) may abort when its administration client asks
        # for what is committed while the server comes back.
        consumer = Consumer({**self._config, "group.id": self._queue})
        try:
            numbers = consumer.list_topics(self._queue, timeout=TIMEOUT_S).topics[self._queue].partitions
            asked = [TopicPartition(self._queue, number) for number in numbers]
            found = consumer.committed(asked, timeout=TIMEOUT_S)
        except KafkaException:
            return None
        finally:
            consumer.close()
        if not found or any(one.error is not None for one in found):
            return None
        return {one.partition: one.offset for one in found if one.offset >= 0}

    def committed(self) -> dict[int, int]:
        """Partition → what is committed of it."""
        until = time.monotonic() + ANSWERED_S
        while (found := self._ask()) is None:
            assert time.monotonic() < until, f"not within {ANSWERED_S} s: the server says what is committed"
        return found

    def unfinished(self, journal: Journal) -> list[int]:
        """The messages that are committed, and were not finished: each of them would be lost."""
        below = [(number, offset) for number, end in self.committed().items() for offset in range(end)]
        handled = journal.counts("handled")  # asked after the server
        wait_until(lambda: all(place in self.places for place in below), "all that is committed was seen in the queue")
        stored = Counter(self.places[place] for place in below)  # twice, where it was published again
        return sorted(n for n, times in stored.items() if handled[n] < times)

    def begun_too_late(self, runs: Sequence[Run], slack_s: float = SETTLED_S) -> list[int]:
        """The messages that a handler began so long after they were committed, wherever they lie: no fault is why."""
        committed_at: dict[int, float] = defaultdict(float)
        for (number, offset), n in self.places.items():
            at = next((at for at, found in self.seen if found.get(number, 0) > offset), math.inf)
            committed_at[n] = max(committed_at[n], at)
        return sorted({run.n for run in runs if run.n in committed_at and run.begun > committed_at[run.n] + slack_s})


class Committed(Allowance):
    """What is finished without a gap is committed each second, while the server answers; all else may come again.

    Args:
        offsets: where the messages lie.
    """

    def __init__(self, offsets: Offsets) -> None:
        self._offsets = offsets

    def cut_off(self, runs: Sequence[Run], faults: Sequence[Fault]) -> set[Run]:
        """Those above the oldest message of its partition that was not finished a while before."""
        found: set[Run] = set()
        for fault in sorted([*faults, *self._offsets.stalls], key=lambda fault: fault.begun):
            # What an earlier fault has cut off was not finished by it.
            finished = Counter(run.n for run in runs if run.ended < fault.begun - LAG_S and run not in found)
            above = self._above(finished)
            found.update(
                run for run in runs if run.n in above and fault.pid in (None, run.pid) and run.begun < fault.over
            )
        return found

    def _above(self, finished: Counter[int]) -> set[int]:
        stored = Counter(self._offsets.places.values())
        partitions: dict[int, list[int]] = defaultdict(list)
        for (number, _), n in sorted(self._offsets.places.items()):
            partitions[number].append(n)
        above: set[int] = set()
        for numbers in partitions.values():
            mark = next((at for at, n in enumerate(numbers) if finished[n] < stored[n]), len(numbers))
            above.update(numbers[mark:])
        return above
