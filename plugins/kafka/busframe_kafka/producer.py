"""One idempotent producer: a window of records under way, a queue before it, and delivery reports.

What is in the queue was surely not sent; what is in the window, which is what librdkafka has, may be stored until its
report has come. That difference is the outcome when time is over.

Reports are polled in one of two ways. A thread waits for them while few records are under way: a report wakes the loop
at once. With many, the thread parks and the loop polls: each callback takes the interpreter's lock, and two threads
that take it from each other for every report are half as fast (measured). Callbacks only append: one that raises could
not be caught (``KafkaError`` is no ``BaseException``).

A fatal error ends a librdkafka producer for good. Then all that it had is of unknown outcome, and a new one goes on
with the queue.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from busframe.errors import (
    ClosedError,
    DestinationNotFound,
    MessageTooLarge,
    PublishError,
    PublishFailed,
    PublishOutcomeUnknown,
)
from busframe.spi.batch import Batch
from busframe.spi.deadlines import Deadlines
from busframe_kafka.client import (
    DENIED,
    UNKNOWN_TOPIC,
    KafkaError,
    KafkaException,
    Producer,
    error_of,
    translate,
)
from busframe_kafka.mapping import OwnHeaders, WireHeaders, wire_bytes

log = logging.getLogger(__name__)

MANY = 128
"""From so many records under way on, the loop polls."""

FEW = 16
TICK_S = 0.0007
POLL_S = 0.2
FLUSH_TIMEOUT_S = 5.0
PURGED_S = 1.0
"""How long to wait, after the servers refused the producer, for the reports that its records were not sent."""

_FATAL = frozenset({KafkaError._FATAL, KafkaError._FENCED, KafkaError._STATE})


class Record:
    """One record on its way.

    Attributes:
        index: of its outcome in its batch.
        address: what the application calls its destination.
        sent: who has it, with a copy of key, value and headers, which are let go here; None: it was surely not sent.
        batch: who waits for it; None: nobody any more.
    """

    __slots__ = ("address", "batch", "headers", "index", "key", "message_id", "sent", "size", "topic", "value")

    def __init__(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: OwnHeaders | WireHeaders,
        index: int = 0,
        size: int = 0,
        address: object = "",
        message_id: str = "",
    ) -> None:
        self.topic = topic
        self.key = key
        self.value = value
        self.headers: OwnHeaders | WireHeaders | None = headers
        self.index = index
        self.size = size or wire_bytes(headers, key, value or b"")
        self.address = address or topic
        self.message_id = message_id
        self.batch: Batch[Record] | None = None
        self.sent: Handle | None = None

    def finish(self, error: object) -> None:
        """Tell who waits, if somebody does; None: it is stored."""
        batch, self.batch = self.batch, None
        if batch is not None:
            batch.finish(self.index, None if error is None else outcome_of(error, self))

    def __call__(self, error: Any, message: Any) -> None:
        """The client's callback, on any thread: its report."""
        try:
            handle = self.sent
            if handle is not None:
                handle.reports.append((self, error))
                if not handle.woken:
                    handle.wake()
        except BaseException:  # nothing may leave a callback; the poll that called it fails, and is seen
            pass

    def expire(self) -> None:
        """Its time is over."""
        if self.sent is not None:
            self.finish(PublishOutcomeUnknown("no answer came in time", message_id=self.message_id))
        else:
            self.finish(PublishFailed("there was no room in time; nothing was sent", message_id=self.message_id))


class Handle:
    """One librdkafka producer and its poller. It is abandoned after a fatal error."""

    def __init__(self, client: Producer, loop: asyncio.AbstractEventLoop, on_reports: Callable[[], None]) -> None:
        self.client = client
        self.reports: deque[tuple[Record, Any]] = deque()
        self.under_way: set[Record] = set()
        self.woken = False
        self.denied: KafkaError | None = None
        self.broken: object = None
        self._loop = loop
        self._on_reports = on_reports
        self._ended = False
        self._turn = threading.Event()
        self._turn.set()
        self.by_loop = False
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="busframe kafka reports", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There are reports: let the loop look at them, once for all that come meanwhile."""
        self.woken = True
        try:
            self._loop.call_soon_threadsafe(self._on_reports)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._ended = True

    def poll_by_loop(self) -> None:
        """Many are under way: from now on the loop polls."""
        if not self.by_loop and not self._ended:
            self.by_loop = True
            self._turn.clear()
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        if self._ended:
            return
        self.woken = True  # the callbacks run here: they need not wake anybody
        self._poll(0)
        self._on_reports()
        if len(self.under_way) > FEW and self.broken is None and self.denied is None:
            self._timer = self._loop.call_later(TICK_S, self._tick)
        else:
            self.by_loop = False
            self._turn.set()

    def _run(self) -> None:
        while not self._ended and self.broken is None and self.denied is None:
            if self._turn.wait(POLL_S):
                self._poll(POLL_S)
        if self.denied is not None:
            until = time.monotonic() + PURGED_S
            while self.under_way and time.monotonic() < until and not self._ended:
                self._poll(TICK_S)
            self.broken = self.denied
        if self.broken is not None:
            self.wake()

    def _poll(self, timeout_s: float) -> None:
        try:
            self.client.poll(timeout_s)
        except:  # noqa: E722 - a KafkaError that left a callback is no BaseException
            error = error_of(sys.exc_info()[1])
            if error is not None and error.code() in DENIED:
                self.denied = error  # the client goes on to report what it has not sent
            else:
                self.broken = KafkaError(KafkaError._FATAL, "the client's poll failed")

    def end(self) -> None:
        """Poll no more, and wake nobody."""
        self._ended = self.woken = True
        self._turn.set()
        if self._timer is not None:
            self._timer.cancel()

    def drop(self) -> None:
        """Let the client go with all that it has; blocks, and belongs into a thread."""
        self._thread.join()
        try:
            self.client.purge()
            self.client.poll(0)  # what it still has to report is let go with it
        except:  # noqa: E722
            log.debug("a broken producer could not be purged")
        self.reports.clear()
        del self.client


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
        self._waiting: deque[Record] = deque()
        self._handle: Handle | None = None
        self._pid = 0
        self._closed = False
        self._deadlines: Deadlines[Batch[Record]] = Deadlines(_expire)
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

    async def write(self, records: Sequence[Record], timeout_s: float) -> Sequence[Exception | None]:
        """Store records; returns the outcome of each, when all are known or time is over.

        If cancelled: each may or may not be stored.
        """
        batch: Batch[Record] = Batch(len(records), asyncio.get_running_loop())
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

    def watch(self, batch: Batch[Record], deadline: float) -> int:
        """Give up on a batch at *deadline* on the loop's clock. Returns what ``leave`` is to be called with."""
        return self._deadlines.add(asyncio.get_running_loop(), deadline, batch)

    def leave(self, batch: Batch[Record], tick: int) -> None:
        """Nobody waits for a batch any more: it is answered, or given up."""
        self._deadlines.remove(tick, batch)
        if batch.left:
            for record in batch.entries:
                record.batch = None

    def send(self, batch: Batch[Record]) -> None:
        """Send the records of a batch, each now or when there is room; it is told of them, maybe at once. Never raises.

        Records of one partition keep their order.
        """
        if self._handle is not None and self._pid != os.getpid():
            _of_parents.append(self._handle)  # its threads are not in this process, so ending it would never end
            self._handle, self._bytes = None, 0
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

    def _has_room(self, record: Record) -> bool:
        if self._handle is None:
            return True
        under_way = len(self._handle.under_way)
        return under_way < self._window and (self._bytes + record.size <= self._window_bytes or not under_way)

    def _send(self, record: Record) -> bool:
        """Give a record to the client. Returns False where the client has no room, and then it waits."""
        handle = self._handle
        if handle is None:
            try:
                client = self._make()
            except Exception as error:
                record.finish(error)
                return True
            self._pid = os.getpid()
            handle = self._handle = Handle(client, asyncio.get_running_loop(), self._take_reports)
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

    def _forget(self, handle: Handle, record: Record) -> None:
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
        for record, error in handle.reports:  # what has been reported is known
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


def _expire(batch: Batch[Record]) -> None:
    for record in batch.entries:
        record.expire()


def outcome_of(error: object, record: Record) -> Exception:
    """What an error says of its record. By the code alone: the client has retried all that can be retried.

    What is not known to mean that nothing was stored, is unknown: an earlier attempt may have been.
    """
    if isinstance(error, PublishError):
        return error
    found = error_of(error)
    code = found.code() if found is not None else None
    failed: PublishError
    if code in UNKNOWN_TOPIC:
        failed = DestinationNotFound(str(record.address), message_id=record.message_id)
    elif code in _TOO_LARGE:
        failed = MessageTooLarge(record.size, record.size - 1, message_id=record.message_id)
    elif found is not None and code in DENIED:
        why = NO_WRITE if code == KafkaError.CLUSTER_AUTHORIZATION_FAILED else ""
        error = translate(KafkaException(found), f"{record.topic!r} cannot be written{why}")
        failed = PublishFailed(str(error), message_id=record.message_id, transient=False)
    elif found is not None and code in _NOT_STORED:
        failed = PublishFailed(found.str(), message_id=record.message_id, transient=False)
    elif found is None and record.sent is None:
        failed = PublishFailed(f"it could not be sent: {error}", message_id=record.message_id)
    else:
        text = found.str() if found is not None else error
        failed = PublishOutcomeUnknown(f"no answer came: {text}", message_id=record.message_id)
    failed.__cause__ = error if isinstance(error, BaseException) else KafkaException(error)
    return failed


_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
NO_WRITE = ", as these credentials have the right to write to no topic at all"
_NOT_STORED = frozenset(
    {
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
        KafkaError._INVALID_ARG,
        KafkaError._PURGE_QUEUE,
    }
)
