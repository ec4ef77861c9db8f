"""One producer of the client library, and who polls it for its reports.

A thread waits for them while few records are under way: a report wakes the loop at once. With many, the thread parks
and the loop polls: each callback takes the interpreter's lock, and two threads that take it from each other for every
report are half as fast (measured). Callbacks only append: one that raises could not be caught (``KafkaError`` is no
``BaseException``).
"""

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from busframe_kafka.client import DENIED, KafkaError, Producer, error_of

if TYPE_CHECKING:
    from busframe_kafka.entry import Entry

log = logging.getLogger(__name__)

FEW = 16
TICK_S = 0.0007
POLL_S = 0.2
PURGED_S = 1.0
"""How long to wait, after the servers refused the producer, for the reports that its records were not sent."""


class Handle:
    """One librdkafka producer and its poller. It is abandoned after a fatal error."""

    def __init__(self, client: Producer, loop: asyncio.AbstractEventLoop, on_reports: Callable[[], None]) -> None:
        self.client = client
        self.reports: deque[tuple[Entry, Any]] = deque()
        self.under_way: set[Entry] = set()
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
