"""Where a bus takes time and chance from."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """The real ones, wired in once when a bus opens; a test gives its own.

    Attributes:
        now: seconds since the epoch.
        sleep: waits so many seconds of that clock.
        random: uniform in [0, 1).
    """

    now: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random
