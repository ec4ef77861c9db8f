"""A clock that stands still until a test moves it."""

import asyncio
from heapq import heappop, heappush

from busframe.runtime.clock import Clock

EPOCH = 1_767_225_600.0
"""2026-01-01T00:00:00Z: where the clock begins, so that tests say the same every day."""


class ManualClock:
    """Sleepers wake when the time that they sleep for has been jumped over, in its order."""

    def __init__(self, now: float = EPOCH) -> None:
        self._now = now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = 0

    def clock(self) -> Clock:
        """For a bus: without jitter, so that every delay is what the policy says."""
        return Clock(self.now, self.sleep, lambda: 0.0)

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved so far. If cancelled: nothing is left behind."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        self._number += 1
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (self._now + seconds, self._number, awake))
        await awake

    def next_due(self) -> float | None:
        """When the next sleeper wakes; None: nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():  # it was cancelled
            heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def advance_to(self, at: float) -> None:
        """Move to a time, at once; those who slept until then are woken in their order."""
        self._now = max(self._now, at)
        while (due := self.next_due()) is not None and due <= self._now:
            heappop(self._sleepers)[2].set_result(None)
