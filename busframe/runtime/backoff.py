"""How long to wait before trying again what failed outside a handler."""

import asyncio
from collections.abc import Awaitable, Callable

from busframe.logic.retry import Retry

_POLICY = Retry(delay_s=0.2, factor=2.0, max_delay_s=15.0, jitter=0.5)


class Backoff:
    """Capped, jittered, exponential; it starts anew after a success."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]], random: Callable[[], float]) -> None:
        self._sleep = sleep
        self._random = random
        self.failures = 0

    async def wait(self) -> None:
        """Wait for the next try. If cancelled: nothing is left behind."""
        self.failures += 1
        await self._sleep(_POLICY.delay_after(self.failures, self._random()))

    def reset(self) -> None:
        """It went well."""
        self.failures = 0


def is_cancelled() -> bool:
    """Whether somebody cancelled the running task; else a ``CancelledError`` in it is a failure like any other."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
