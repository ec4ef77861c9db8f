"""Handlers of checks: what they saw, every attempt in order; and one that is held until it is let go."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from busframe.conformance.check import Violation
from busframe.conformance.world import QUIET_S, World
from busframe.handling.context import Context

PROMPT_S = 10.0
"""Within so much must come what waits for nothing, on a slow machine as well."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of a handler.

    Attributes:
        message: its id.
        number: which attempt its context said.
        handler: the handler's name.
        at: when it began, on the monotonic clock.
    """

    message: str
    number: int
    handler: str
    at: float


class Attempts:
    """Filled by handlers, read by the check around them."""

    def __init__(self, world: World) -> None:
        self.all: list[Attempt] = []
        self._world = world

    def note(self, ctx: Context) -> int:
        """Write an attempt down, in a handler. Returns how often its message was begun by now."""
        self.all.append(Attempt(ctx.message.id, ctx.attempt, ctx.handler, time.monotonic()))
        return len(self.of(ctx.message.id))

    def of(self, message: str) -> list[Attempt]:
        """The attempts at one message."""
        return [attempt for attempt in self.all if attempt.message == message]

    def numbers(self, message: str) -> list[int]:
        """What the contexts of one message said, in order."""
        return [attempt.number for attempt in self.of(message)]

    async def until(self, count: int, what: str, *, within_s: float = 15.0) -> None:
        """Wait until handlers were called so often."""
        await self._world.until(
            lambda: len(self.all) >= count,
            f"{what}: {count} calls of handlers, not {len(self.all)}",
            within_s=within_s,
        )

    async def quiet(self, *, quiet_s: float = QUIET_S) -> None:
        """Demand that no handler is called for a while."""
        before, until = len(self.all), time.monotonic() + quiet_s
        await self._world.until(lambda: len(self.all) > before or time.monotonic() > until, "a quiet period")
        if len(self.all) > before:
            extra = self.all[before]
            raise Violation(f"message {extra.message} was handled once more, as attempt {extra.number}")

    def were(self, expected: Mapping[str, Sequence[int]]) -> None:
        """Demand that each of these messages had these attempts."""
        for message, numbers in expected.items():
            if self.numbers(message) != list(numbers):
                raise Violation(f"the attempts at {message} were {self.numbers(message)}, not {list(numbers)}")


class Held:
    """A handler that waits until it is let go."""

    def __init__(self, world: World) -> None:
        self.calls = 0
        self._world = world
        self._go = asyncio.Event()

    async def hold(self, ctx: Context) -> None:
        """In a handler: wait."""
        self.calls += 1
        await self._go.wait()
        self._world.handled(ctx)

    async def started(self) -> None:
        """Wait until a handler waits."""
        await self._world.until(lambda: self.calls, "a handler to start")

    async def let_go(self, closing: "asyncio.Task[Any]", what: str) -> None:
        """Demand that a close waits for the handler, let that go, and demand that the close ends."""
        await asyncio.wait((closing,), timeout=QUIET_S)
        if closing.done():
            raise Violation(f"{what} ended while a handler ran: {closing!r}")
        self._go.set()
        await asyncio.wait((closing,), timeout=PROMPT_S * self._world.harness.patience)
        if not closing.done():
            raise Violation(f"{what} did not end within {PROMPT_S:g} s after the last handler")
