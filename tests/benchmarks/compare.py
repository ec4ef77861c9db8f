"""Contenders measured side by side: interleaved rounds, medians, ratios to the first one."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
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


def compare(title: str, contenders: list[Contender], *, messages: int, rounds: int) -> None:
    """Measure contenders in turns and print a table. The last column is how many times faster than the first one."""
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
    reference = median(taken[contenders[0].name])
    for contender in contenders:
        each = median(taken[contender.name])
        table.add_row(contender.name, f"{each * 1e6:.1f}", f"{1 / each:,.0f}", f"{reference / each:.2f}")
    Console(width=100).print(table)


async def _once(contender: Contender, messages: int) -> float:
    return await contender.run(messages)
