"""What the contenders of every broker do alike: publish with so many under way, and count what is handled."""

import asyncio
import time
from collections.abc import Awaitable, Callable

IN_FLIGHT = 200
"""Publishes under way; for every broker the same."""


async def lanes(messages: int, publish: Callable[[], Awaitable[object]], *, at_once: int) -> float:
    """Publish so many messages, so many at once; returns the seconds that it took."""
    left = iter(range(messages))

    async def lane() -> None:
        for _ in left:
            await publish()

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(at_once)))
    return time.perf_counter() - started


class Done:
    """Counts what is handled, and is set when it is all."""

    def __init__(self, messages: int) -> None:
        self._left = messages
        self.all = asyncio.Event()

    def one(self) -> None:
        """One more."""
        self._left -= 1
        if not self._left:
            self.all.set()
