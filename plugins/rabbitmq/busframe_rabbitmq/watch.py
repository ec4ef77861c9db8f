"""What heartbeats are for, seen from this side: a server that is silent, and a loop that was too busy to send them.

pika sends heartbeats, but looks for the server's only every heartbeat and five seconds, and cannot tell a dead network
from a program that blocked its own event loop.
"""

import asyncio
from collections.abc import Callable
from math import inf

SILENT_TICKS = 4
"""Two heartbeats, in which the server should have sent at least two."""


class Watch:
    """Looks at a connection twice in each heartbeat.

    Args:
        heartbeat_s: as agreed with the server.
        received: how many bytes have come so far.
        on_silent: called once, with the seconds, when nothing has come for two heartbeats. Time in which the loop did
            not run does not count: what came then is not yet seen.
    """

    def __init__(self, heartbeat_s: float, received: Callable[[], int], on_silent: Callable[[float], None]) -> None:
        self._heartbeat_s = heartbeat_s
        self._received = received
        self._on_silent = on_silent
        self._loop = asyncio.get_running_loop()
        self._seen = received()
        self._silent = 0
        self._blocked_s = 0.0
        self._due = 0.0
        self._timer = self._next()

    def _next(self) -> asyncio.TimerHandle:
        self._due = self._loop.time() + self._heartbeat_s / 2
        return self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self._blocked_s = self._late_s()
        seen = self._received()
        self._silent = 0 if seen != self._seen else self._silent + 1
        self._seen = seen
        if self._silent < SILENT_TICKS:
            self._timer = self._next()
        else:
            self._due = inf
            self._on_silent(SILENT_TICKS / 2 * self._heartbeat_s)

    def _late_s(self) -> float:
        return max(0.0, self._loop.time() - self._due)

    @property
    def blocked_s(self) -> float:
        """For how many seconds the loop did not run just now; 0 where it is less than a heartbeat."""
        blocked_s = max(self._blocked_s, self._late_s())
        return blocked_s if blocked_s > self._heartbeat_s else 0.0

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()
