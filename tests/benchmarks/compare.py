"""Contenders measured side by side: interleaved rounds, medians, ratios to the first one.

A ratio is the median of the rounds' own: a machine that slows down for a while slows all of a round alike.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

Run = Callable[[int], Awaitable[float]]


@dataclass(frozen=True)
class Contender:
    """Something to be measured.

    Attributes:
        name: for the table.
        run: handles so many messages; returns the seconds that they took.
    """

    name: str
    run: Run


@dataclass(frozen=True)
class Bar:
    """What must be reached: *name* is so many times as fast as *reference*."""

    name: str
    reference: str
    at_least: float


def compare(title: str, contenders: list[Contender], bars: Sequence[Bar] = (), *, messages: int, rounds: int) -> bool:
    """Measure contenders in turns and print a table. The last column is how many times faster than the first one.

    Returns:
        Whether all bars are reached.
    """
    taken: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        asyncio.run(_once(contender, max(200, messages // 20)))  # imports, caches, first declarations
    for _ in range(rounds):
        for contender in contenders:
            gc.collect()
            taken[contender.name].append(asyncio.run(_once(contender, messages)) / messages)
    table = Table(title=f"{title}: {messages} messages, median of {rounds} rounds", title_justify="left")
    for column, justify in (("", "left"), ("µs a message", "right"), ("messages/s", "right"), ("ratio", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    first = contenders[0].name
    for contender in contenders:
        each = median(taken[contender.name])
        ratio = _ratio(taken[first], taken[contender.name])
        table.add_row(contender.name, f"{each * 1e6:.1f}", f"{1 / each:,.0f}", f"{ratio:.2f}")
    console = Console(width=100)
    console.print(table)
    reached = True
    for bar in bars:
        ratio = _ratio(taken[bar.reference], taken[bar.name])
        verdict = "" if ratio >= bar.at_least else ": MISSED"
        console.print(f"{bar.name} / {bar.reference}: {ratio:.2f}, at least {bar.at_least:g}{verdict}", highlight=False)
        reached &= ratio >= bar.at_least
    return reached


def _ratio(reference: Sequence[float], taken: Sequence[float]) -> float:
    return median(theirs / ours for theirs, ours in zip(reference, taken, strict=True))


async def _once(contender: Contender, messages: int) -> float:
    return await contender.run(messages)
