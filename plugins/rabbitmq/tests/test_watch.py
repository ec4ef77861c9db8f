"""busframe_rabbitmq.watch"""

import asyncio
import time
from itertools import count

from busframe_rabbitmq.watch import Watch
from tests.support.transports import eventually

HEARTBEAT_S = 0.1


def block(seconds: float) -> None:
    """Let nothing else run."""
    time.sleep(seconds)


async def told(received: list[int]) -> "asyncio.Future[float]":
    """When it will be told that nothing is received."""
    silent: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    Watch(HEARTBEAT_S, lambda: len(received), silent.set_result)
    return silent


async def test_silence_is_told() -> None:
    """After two heartbeats, once."""
    assert await asyncio.wait_for(await told([]), 10) == 2 * HEARTBEAT_S


async def test_what_comes_is_no_silence() -> None:
    """Silence begins with the last of it."""
    received: list[int] = []
    silent = await told(received)
    while len(received) < 30:
        received.append(1)
        await asyncio.sleep(HEARTBEAT_S / 4)
        assert not silent.done()
    await asyncio.wait_for(silent, 10)


async def test_a_blocked_loop_is_no_silence() -> None:
    """It is known for how long it was blocked, before and after the loop has noticed; and then no more."""
    silent: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    watch = Watch(HEARTBEAT_S, count().__next__, silent.set_result)
    assert watch.blocked_s == 0.0
    block(5 * HEARTBEAT_S)
    assert watch.blocked_s >= 4 * HEARTBEAT_S
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert watch.blocked_s >= 4 * HEARTBEAT_S
    assert not silent.done()

    async def runs_again() -> bool:
        return watch.blocked_s == 0.0

    await eventually(runs_again, "the loop to run")
    watch.stop()


async def test_stopped_it_tells_nothing() -> None:
    """Its timer is gone."""
    silent: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    watch = Watch(HEARTBEAT_S, lambda: 0, silent.set_result)
    watch.stop()
    await asyncio.sleep(4 * HEARTBEAT_S)
    assert not silent.done()
