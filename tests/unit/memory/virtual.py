"""A clock that only a test moves, and a host that tells it."""

import asyncio
from heapq import heappop, heappush
from itertools import count

from busframe.logic.names import physical_name
from busframe.spi import Host

START = 1_000_000.0


class VirtualClock:
    """Time stands still until ``advance``; whoever sleeps wakes in the order of time."""

    def __init__(self) -> None:
        self.now = START
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def __call__(self) -> float:
        return self.now

    @property
    def sleepers(self) -> int:
        """How many sleep."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (self.now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move on, and let everybody whose time has come run."""
        end = self.now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, future = heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await settle_down()
        self.now = end
        await settle_down()


async def settle_down() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def host(clock: VirtualClock, prefix: str = "") -> Host:
    """What the core would give."""
    return Host(
        clock=clock,
        sleep=clock.sleep,
        random=lambda: 0.5,
        application="test",
        instance="test-1",
        name=lambda address: physical_name(address, prefix),
        report=lambda what, state, cause: None,
    )
