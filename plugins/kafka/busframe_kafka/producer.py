"""One idempotent producer: a window of records under way, and a queue before it.

What is in the queue was surely not sent; what is in the window, which is what librdkafka has, may be stored until its
report has come. That difference is the outcome when time is over.

A fatal error ends a librdkafka producer for good. Then all that it had is of unknown outcome, and a new one goes on
with the queue.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from busframe.errors import ClosedError, PublishFailed, PublishOutcomeUnknown
from busframe.spi.batch import Batch
from busframe.spi.deadlines import Deadlines
from busframe_kafka.client import UNKNOWN_TOPIC, KafkaError, KafkaException, Producer, error_of
from busframe_kafka.entry import Entry
from busframe_kafka.handle import Handle

log = logging.getLogger(__name__)

MANY = 128
"""From so many records under way on, the loop polls."""

FLUSH_TIMEOUT_S = 5.0

_FATAL = frozenset({KafkaError._FATAL, KafkaError._FENCED, KafkaError._STATE})


class PipelinedProducer:
    """Produces records and answers for each.

    Args:
        make: makes a librdkafka producer.
        window: the most records under way.
        window_bytes: the most bytes under way; a single record may be larger.
    """

    def __init__(self, make: Callable[[], Producer], window: int, window_bytes: int) -> None:
        self._make = make
        self._window = window
        self._window_bytes = window_bytes
        self._bytes = 0
        self._waiting: deque[Entry] = deque()
        self._handle: Handle | None = None
        self._pid = 0
        self._closed = False
        self._deadlines: Deadlines[Batch[Entry]] = Deadlines(_expire)
        self._emptied = asyncio.Event()
        self._dropping: set[asyncio.Task[None]] = set()
        self.on_missing: Callable[[str], None] = lambda topic: None
        """Called with the name of a topic that does not exist."""
        self.rebuilt = 0
        """How often a fatal error made a new client necessary."""

    def __repr__(self) -> str:
        return f"<PipelinedProducer {self.under_way} under way, {len(self._waiting)} waiting>"

    @property
    def client(self) -> Producer | None:
        """The client's own; None before the first record."""
        return self._handle.client if self._handle is not None else None

    @property
    def under_way(self) -> int:
        """Records that the client has and has not answered."""
        return len(self._handle.under_way) if self._handle is not None else 0

    async def write(self, records: Sequence[Entry], timeout_s: float) -> Sequence[Exception | None]:
        """Store records; returns the outcome of each, when all are known or time is over.

        If cancelled: each may or may not be stored.
        """
        batch: Batch[Entry] = Batch(len(records), asyncio.get_running_loop())
        for index, record in enumerate(records):
            record.index = index
            batch.entries.append(record)
        self.send(batch)
        if batch.left:
            tick = self.watch(batch, batch.began + timeout_s)
            try:
                await batch.done
            finally:
                self.leave(batch, tick)
        return batch.outcomes()

    def watch(self, batch: Batch[Entry], deadline: float) -> int:
        """Give up on a batch at *deadline* on the loop's clock. Returns what ``leave`` is to be called with."""
        return self._deadlines.add(asyncio.get_running_loop(), deadline, batch)

    def leave(self, batch: Batch[Entry], tick: int) -> None:
        """Nobody waits for a batch any more: it is answered, or given up."""
        self._deadlines.remove(tick, batch)
        if batch.left:
            for record in batch.entries:
                record.batch = None

    def send(self, batch: Batch[Entry]) -> None:
        """Send the records of a batch, each now or when there is room; it is told of them, maybe at once. Never raises.

        Records of one partition keep their order.
        """
        if self._handle is not None and self._pid != os.getpid():
            _of_parents.append(self._handle)  # its threads are not in this process, so ending it would never end
            self._handle, self._bytes = None, 0
            self._waiting.clear()
        for record in batch.entries:
            record.batch = batch
            if self._closed:
                record.finish(PublishFailed("the transport is closed; nothing was sent", message_id=record.message_id))
            elif self._waiting or not self._has_room(record):
                self._waiting.append(record)
            else:
                self._send(record)

    async def look_again(self, topic: str, timeout_s: float) -> None:
        """Let the client learn that a topic exists which it takes for missing: it would not ask again for minutes."""
        client = self.client
        if client is not None:
            with suppress(KafkaException):
                await asyncio.to_thread(client.list_topics, topic, timeout_s)

    async def close(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Wait a few seconds for what is under way, then end. Idempotent."""
        self._closed = True
        if self._waiting or self.under_way:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._emptied.wait()
        closed = ClosedError("the transport is closed")
        while self._waiting:
            record = self._waiting.popleft()
            failed = PublishFailed("the transport was closed; nothing was sent", message_id=record.message_id)
            failed.__cause__ = closed
            record.finish(failed)
        handle, self._handle = self._handle, None
        if handle is not None:
            self._abandon(handle, "the transport was closed before the answer came")
        if self._dropping:
            await asyncio.wait(self._dropping, timeout=timeout_s)

    # ------------------------------------------------------------------------------------------ inside

    def _has_room(self, record: Entry) -> bool:
        if self._handle is None:
            return True
        under_way = len(self._handle.under_way)
        return under_way < self._window and (self._bytes + record.size <= self._window_bytes or not under_way)

    def _send(self, record: Entry) -> bool:
        """Give a record to the client. Returns False where the client has no room, and then it waits."""
        handle = self._handle
        if handle is None:
            try:
                handle = Handle(self._make(), asyncio.get_running_loop(), self._take_reports)
            except Exception as error:
                record.finish(error)
                return True
            self._pid, self._handle = os.getpid(), handle
        record.sent = handle
        handle.under_way.add(record)
        self._bytes += record.size
        try:
            handle.client.produce(record.topic, record.value, record.key, headers=record.headers, on_delivery=record)
        except BufferError:
            self._forget(handle, record)
            self._waiting.appendleft(record)
            return False
        except BaseException as error:
            self._forget(handle, record)
            found = error_of(error)
            if found is not None and found.code() in _FATAL:
                self._waiting.appendleft(record)  # it was refused, so it was surely not sent
                if handle.denied is not None and handle.broken is None:
                    return False  # until it is known what became of the others
                self._rebuild(handle, found)
                return True
            record.finish(error)
            return True
        record.key = record.value = record.headers = None
        if len(handle.under_way) > MANY and not handle.by_loop:
            handle.poll_by_loop()
        return True

    def _forget(self, handle: Handle, record: Entry) -> None:
        record.sent = None
        handle.under_way.discard(record)
        self._bytes -= record.size

    def _take_reports(self) -> None:
        """Answer for what was reported, and fill the room that it leaves. On the loop."""
        handle = self._handle
        if handle is None:
            return
        handle.woken = False
        reports, under_way = handle.reports, handle.under_way
        fatal: object = handle.broken
        while reports:
            record, error = reports.popleft()
            if record not in under_way:
                continue
            under_way.remove(record)
            self._bytes -= record.size
            if error is None:
                record.finish(None)
                continue
            code = error.code()
            if code in _FATAL:
                fatal = error
            if code == KafkaError._PURGE_QUEUE and handle.denied is not None:
                error = handle.denied  # that is why
            record.finish(error)
            if error.code() in UNKNOWN_TOPIC:
                self.on_missing(record.topic)
        if fatal is not None:
            self._rebuild(handle, fatal)
        self._pump()

    def _pump(self) -> None:
        waiting = self._waiting
        while waiting:
            record = waiting[0]
            if record.batch is None:  # nobody waits, and nothing was sent
                waiting.popleft()
            elif not self._has_room(record):
                return
            else:
                waiting.popleft()
                if not self._send(record):
                    return
        if self._closed and not self.under_way:
            self._emptied.set()

    def _rebuild(self, handle: Handle, error: object) -> None:
        if handle is not self._handle:
            return
        log.error("the producer failed for good and is made anew: %s", error)
        self._handle = None
        self.rebuilt += 1
        self._abandon(handle, f"the producer failed ({error})")
        asyncio.get_running_loop().call_soon(self._pump)

    def _abandon(self, handle: Handle, why: str) -> None:
        handle.end()
        self._bytes = 0
        for record, error in list(handle.reports):  # what has been reported is known
            if record in handle.under_way and error is None:
                handle.under_way.discard(record)
                record.finish(None)
        for record in list(handle.under_way):
            record.finish(PublishOutcomeUnknown(f"{why}: it may be stored", message_id=record.message_id))
        handle.under_way.clear()
        task = asyncio.create_task(asyncio.to_thread(handle.drop), name="busframe kafka drops a producer")
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)


_of_parents: list[Handle] = []


def _expire(batch: Batch[Entry]) -> None:
    for record in batch.entries:
        record.expire()
