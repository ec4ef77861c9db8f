"""Keeps the books of one run: what was published, and what handlers did with it.

It is written by two middlewares, one around each publish and one around each handler, so that the table at the end
shows what happened and not what should have happened. A broker may hold messages of an earlier run, or deliver one
twice: only messages of this run are counted (their correlation id says it), and each of them once.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from busframe import Context, DeadLetters, Destination, Message, Next, Queue, Source, Subscription

SAID_AT_MOST = 20


class Ledger:
    """The books.

    Args:
        run: the correlation id of this run's messages; what handlers publish inherits it.
        readers: of each topic and queue, who gets its messages.
    """

    def __init__(self, run: str, readers: Sequence[Queue[Any] | Subscription[Any]]) -> None:
        self.run = run
        self.readers = readers
        self.console = Console(highlight=False)
        if not self.console.is_terminal:  # a pipe or a file: no colours, no folding
            self.console = Console(highlight=False, no_color=True, width=120)
        self.published: defaultdict[str, set[str]] = defaultdict(set)  # source -> ids of what it must get
        self.handled: defaultdict[str, set[str]] = defaultdict(set)
        self.retried: defaultdict[str, set[str]] = defaultdict(set)  # handled, after it had failed before
        self.dead: defaultdict[str, set[str]] = defaultdict(set)
        self.by_type: defaultdict[str, set[str]] = defaultdict(set)
        self.by_key: defaultdict[tuple[str, str], list[str]] = defaultdict(list)  # (source, key) -> types, in order
        self.moved = time.monotonic()
        self._said = 0

    # ---------------------------------------------------------------------------------------------- the middlewares

    async def on_publish(
        self, to: Destination[Any], message: Message, send: Callable[[Message], Awaitable[None]]
    ) -> None:
        await send(message)  # returns when the broker has confirmed it
        if message.correlation_id == self.run:
            for reader in self.readers:
                if gets(reader, to, message):
                    self.published[reader.address].add(message.id)
            self.moved = time.monotonic()

    async def on_handle(self, ctx: Context, call_next: Next) -> object:
        result = await call_next()  # whatever it raises is the retry policy's business
        if ctx.message.correlation_id == self.run:
            self._handled(ctx.source, ctx.message, ctx.attempt)
        return result

    def _handled(self, source: Source[Any], message: Message, attempt: int) -> None:
        if isinstance(source, DeadLetters):
            self.dead[source.of.address].add(message.id)
        elif message.id not in self.handled[source.address]:
            self.by_key[source.address, message.key or ""].append(message.type or "")
        self.handled[source.address].add(message.id)
        if attempt > 1:
            self.retried[source.address].add(message.id)
        self.by_type[message.type or ""].add(message.id)
        self.moved = time.monotonic()

    # ---------------------------------------------------------------------------------------------- the end

    def missing(self) -> dict[str, int]:
        """Of each source, how many messages are published but neither handled nor dead letters that were read."""
        missing = {source: ids - self.handled[source] - self.dead[source] for source, ids in self.published.items()}
        return {source: len(ids) for source, ids in missing.items() if ids}

    async def complete(self, patience_s: float) -> bool:
        """Wait until everything is accounted for, or until nothing has happened for so many seconds.

        Call it when all orders are published: what handlers publish is in the books before their message is done.
        """
        while self.missing():
            if time.monotonic() - self.moved > patience_s:
                return False
            await asyncio.sleep(0.02)
        return True

    def out_of_order(self, source: Source[Any], first: str, second: str) -> int:
        """How many keys of a source had the second type before the first."""
        return sum(
            types.index(second) < types.index(first)
            for (address, _), types in self.by_key.items()
            if address == source.address and first in types and second in types
        )

    # ---------------------------------------------------------------------------------------------- for people

    def say(self, order_id: int | str, text: str, style: str = "") -> None:
        """One line about an order; after the first twenty they are only counted."""
        self._said += 1
        if self._said <= SAID_AT_MOST:
            self.console.print(f"  order {order_id:<5} {text}", style=style)

    def print_table(self, workers: Mapping[Queue[Any] | Subscription[Any] | DeadLetters, int]) -> None:
        """What the handlers did, one row a source; ``workers``: how many run at once."""
        if self._said > SAID_AT_MOST:
            self.console.print(f"  … and {self._said - SAID_AT_MOST} lines more like these", style="dim")
        terminal = self.console.is_terminal
        table = Table(box=box.SIMPLE_HEAD if terminal else box.ASCII2, show_edge=not terminal)
        table.add_column("source")
        for column in ("workers", "messages", "handled", "after a retry", "dead letters"):
            table.add_column(column, justify="right")
        for source, count in workers.items():
            got = self.published[source.address]
            if isinstance(source, DeadLetters):
                got = self.published[source.of.address] - self.handled[source.of.address]
            done = (self.handled[source.address], self.retried[source.address], self.dead[source.address])
            table.add_row(source.address, str(count), *(str(len(ids)) for ids in (got, *done)))
        self.console.print()
        self.console.print(table)


def gets(reader: Queue[Any] | Subscription[Any], to: Destination[Any], message: Message) -> bool:
    """Whether a message that is published to a destination is for this reader: what the broker decides, told again."""
    if isinstance(reader, Queue):
        return reader == to
    return reader.topic == to and all(message.headers.get(name) in values for name, values in reader.where.items())
