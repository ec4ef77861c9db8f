"""An event loop whose time is not real: it jumps to the next timer when nothing else is to be done.

A test may sleep for an hour, and a deadline of a minute is over at once where what it waits for never comes. While
plain functions run in threads, time passes as it really does.
"""

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any

from busframe.runtime.clock import Clock

EPOCH = float(2**30)
"""The host's clock when the loop begins: a power of two, so that adding fractions of two to it is exact."""

THREAD_STEP_S = 0.02
STUCK_AFTER_S = 20.0


class Stuck(BaseException):
    """Nothing runs, nothing is timed and no thread works: whatever is awaited will never come."""


class _Selector(selectors.DefaultSelector):
    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.loop.threads:
            started = time.monotonic()
            ready = super().select(min(timeout if timeout is not None else THREAD_STEP_S, THREAD_STEP_S))
            self.loop.now += time.monotonic() - started
            return ready
        if timeout is None:
            ready = super().select(STUCK_AFTER_S)
            if not ready:
                raise Stuck
            return ready
        self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time.

    Attributes:
        now: seconds since it began.
        threads: how many functions run in executors.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.threads = 0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """The virtual time."""
        return self.now

    def run_in_executor(  # type: ignore[override]  # the stubs' version changes with Python's
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        """As usual; meanwhile time passes as it really does."""
        work: asyncio.Future[Any] = asyncio.ensure_future(super().run_in_executor(executor, func, *args))
        self.threads += 1
        work.add_done_callback(self._returned)
        return work

    def _returned(self, work: "asyncio.Future[Any]") -> None:
        self.threads -= 1


def clock(random: float = 0.0) -> Clock:
    """The clock of the running loop, with chance taken out."""
    loop = asyncio.get_running_loop()
    return Clock(lambda: EPOCH + loop.time(), asyncio.sleep, lambda: random)
