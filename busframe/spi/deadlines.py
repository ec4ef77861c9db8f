"""One timer for many calls: for transports, of which each publish has a deadline that is hardly ever reached."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

PER_S = 20
NEVER_S = 1e9


class Deadlines(Generic[T]):
    """Tells when time is over.

    Calls whose time is over within the same 50 ms share a timer: to make one for each call, and to take it back, would
    cost a publish a fifth of its time.

    Args:
        expire: called with what waited too long, once. It must not raise.
    """

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._ticks: dict[int, dict[int, T]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, deadline: float, waiting: T) -> int:
        """Watch over a call until it is removed.

        Args:
            loop: the one that runs.
            deadline: on its clock, in seconds; told at most 50 ms later. May be infinite.
            waiting: what ``expire`` is called with.

        Returns:
            What it is removed by.
        """
        tick = int(min(deadline, NEVER_S) * PER_S) + 1
        together = self._ticks.get(tick)
        if together is None:
            together = self._ticks[tick] = {}
            loop.call_at(tick / PER_S, self._over, tick)
        together[id(waiting)] = waiting
        return tick

    def remove(self, tick: int, waiting: T) -> None:
        """It has its answer."""
        together = self._ticks.get(tick)
        if together is not None:
            together.pop(id(waiting), None)

    def _over(self, tick: int) -> None:
        for waiting in self._ticks.pop(tick).values():
            self._expire(waiting)
