"""Deadlines that are watched together."""

import asyncio
from math import inf

from busframe.spi.deadlines import Deadlines
from tests.support.bench import until


async def test_what_waits_too_long_is_told_once() -> None:
    """And what has its answer is not."""
    loop = asyncio.get_running_loop()
    over: list[list[str]] = []
    deadlines = Deadlines(over.append)
    began = loop.time()
    first, second, answered = ["first"], ["second"], ["answered"]
    deadlines.add(loop, began + 0.06, first)
    deadlines.add(loop, began + 0.06, second)
    deadlines.remove(deadlines.add(loop, began + 0.06, answered), answered)
    await until(lambda: len(over) == 2)
    assert loop.time() >= began + 0.06
    await asyncio.sleep(0.1)
    assert over == [first, second]


async def test_equal_ones_are_told_apart() -> None:
    """They go by what they are, not by what they hold."""
    loop = asyncio.get_running_loop()
    over: list[list[str]] = []
    deadlines = Deadlines(over.append)
    one, other = ["same"], ["same"]
    tick = deadlines.add(loop, loop.time(), one)
    deadlines.add(loop, loop.time(), other)
    deadlines.remove(tick, one)
    await until(lambda: bool(over))
    assert over[0] is other


async def test_an_infinite_deadline_is_never_over() -> None:
    """Nor is what is removed after its time, or twice, an error."""
    loop = asyncio.get_running_loop()
    over: list[str] = []
    deadlines = Deadlines(over.append)
    tick = deadlines.add(loop, inf, "for ever")
    deadlines.remove(tick, "for ever")
    deadlines.remove(tick, "for ever")
    deadlines.remove(0, "never there")
    deadlines.add(loop, inf, "for ever")
    await asyncio.sleep(0.06)
    assert over == []
