"""Traffic of all kinds that goes on through whatever happens, and what has to become of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from uuid import uuid4

from busframe.bus import Bus
from busframe.conformance.check import Violation
from busframe.conformance.history import History
from busframe.conformance.world import World
from busframe.errors import PublishError, TransportError
from busframe.handling.context import Context
from busframe.handling.outcomes import Reject
from busframe.logic.retry import Retry
from busframe.model.destination import Queue, Subscription, Topic

POLICY = Retry(max_attempts=20, delay_s=0.2, factor=2, max_delay_s=1.0)
DELAY_S = 1.0
PAUSE_S = 0.02
"""The longest that a publisher waits between two messages."""
BACKLOG = 30
"""A publisher waits while more of its source are not handled: keys are slow, because their failures hold them up."""
REJECTED, FAILING, DELAYED = 0.01, 0.05, 0.1
"""Which parts of the messages are rejected, fail at first, or are published with a delay."""
CONFIRMED_WITHIN_S = 120.0
"""For how long a publisher tries again to have one message confirmed."""

Source = Queue[Any] | Subscription[Any]


class Load:
    """The messages of one source, and which of them something has to become of yet.

    Attributes:
        history: of its messages.
        pending: confirmed, and neither handled nor rejected.
        rejected: those that its handler has rejected.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.history = History()
        self.pending: set[str] = set()
        self.rejected: set[str] = set()
        self._done: set[str] = set()

    def confirmed(self, id: str) -> None:
        """Its publish has returned."""
        self.history.confirmed.append(id)
        if id not in self._done:
            self.pending.add(id)

    def done(self, id: str, *, rejected: bool = False) -> None:
        """A handler has done with it."""
        self._done.add(id)
        self.pending.discard(id)
        self.history.done(id, "handler")
        if rejected:
            self.rejected.add(id)


class Traffic:
    """A queue, a topic with two subscriptions, and, where order is claimed, a queue with keys.

    Handlers fail now and then and are tried again, some messages are rejected, some are delayed. Publishers want each
    message there: they publish it again under its id until it is confirmed.

    Args:
        world: of the check.
        ordered: whether some are to be handled in the order of their keys.
        delays: whether some may be published with a delay.
    """

    def __init__(self, world: World, *, ordered: bool, delays: bool) -> None:
        self._world = world
        self._random = Random(world.harness.seed)
        self._delays = delays
        self._queue, self._topic = world.queue(), world.topic()
        self._ordered = world.queue() if ordered else None
        sources: list[Source] = [self._queue, *(self._topic.subscription(name) for name in ("a", "b"))]
        self.loads = [Load(source) for source in (*sources, *([self._ordered] if self._ordered else []))]
        self._publishing: list[asyncio.Task[None]] = []
        self._stopped = False

    def __str__(self) -> str:
        return ", ".join(f"{len(load.history.confirmed)} messages of {load.source}" for load in self.loads)

    @property
    def ended(self) -> int:
        """How many messages handlers had done with, each time counted."""
        return sum(len(load.history.handled) for load in self.loads)

    def bus(self, *, ordered: bool = True) -> Bus:
        """Handles all of it; the ordered queue only if told so."""
        bus = self._world.bus(config={"connect_timeout_s": 60})
        for load in self.loads:
            if load.source is not self._ordered:
                self._handle(bus, load)
            elif ordered:
                self._handle(bus, load, ordering="key")
        return bus

    def _handle(self, bus: Bus, load: Load, **options: Any) -> None:
        @bus.handle(load.source, name=str(load.source).replace("/", "-"), retry=POLICY, **options)
        async def handle(body: dict[str, Any], ctx: Context) -> None:
            id = ctx.message.id
            if body["rejected"]:
                load.done(id, rejected=True)
                raise Reject("as it says")
            if ctx.attempt <= body["failures"]:
                raise RuntimeError("not yet")
            await asyncio.sleep(body["work_s"])
            load.done(id)

    def start(self, bus: Bus) -> None:
        """Publish through an open bus, until it is stopped."""
        work = [self._publish(bus, self._queue) for _ in range(4)] + [self._publish(bus, self._topic) for _ in range(2)]
        if self._ordered is not None:
            work += [self._publish(bus, self._ordered, f"key-{number}") for number in range(4)]
        self._publishing = [asyncio.create_task(each) for each in work]

    async def stop(self) -> None:
        """End when what is being published is confirmed.

        Raises:
            Violation: it cannot be.
        """
        self._stopped = True
        await asyncio.gather(*self._publishing)

    async def abandon(self) -> None:
        """Publish no more, whatever is under way."""
        for task in self._publishing:
            task.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)

    def complain(self) -> None:
        """Raise what ended a publisher."""
        for task in self._publishing:
            if task.done():
                task.result()

    async def caught_up(self, within_s: float) -> None:
        """Wait until something has become of all that is confirmed now.

        Raises:
            Violation: it has not in time.
        """
        waited = [(load, set(load.pending)) for load in self.loads]
        began = time.monotonic()
        while left := {load.source: ids & load.pending for load, ids in waited if ids & load.pending}:
            self.complain()
            if time.monotonic() > began + within_s * self._world.harness.patience:
                said = ", ".join(f"{len(ids)} of {source} ({next(iter(ids))} …)" for source, ids in left.items())
                raise Violation(f"not handled within {within_s:g} s of calm: {said}")
            await asyncio.sleep(0.02)

    async def _publish(self, bus: Bus, to: Queue[Any] | Topic[Any], key: str | None = None) -> None:
        loads = [load for load in self.loads if to in (load.source, getattr(load.source, "topic", None))]
        while not self._stopped:
            if any(len(load.pending) > BACKLOG for load in loads):
                await asyncio.sleep(PAUSE_S)
                continue
            id, luck = uuid4().hex, self._random.random()
            body = {
                "rejected": luck < REJECTED,
                "failures": self._random.randint(1, 3) if luck > 1 - FAILING else 0,
                "work_s": self._random.uniform(0, PAUSE_S),
            }
            delayed = self._delays and key is None and self._random.random() < DELAYED
            for load in loads:
                load.history.tried.append(id)
                if key is not None:
                    load.history.keys[id] = key
            delay_s = self._random.uniform(0, DELAY_S) if delayed else 0.0
            await _insist(lambda: bus.publish(to, body, id=id, key=key, delay_s=delay_s, timeout_s=5))  # noqa: B023
            for load in loads:
                load.confirmed(id)
            await asyncio.sleep(self._random.uniform(0, PAUSE_S))

    async def account(self, bus: Bus) -> None:
        """Demand that each source's history adds up, with its dead letters.

        Args:
            bus: any one that is open.

        Raises:
            Violation: it does not.
        """
        problems = []
        for load in self.loads:
            limit = 2 * len(load.rejected) + 100  # each may be there twice: a fault came after the copy
            letters = [letter async for letter in bus.dead_letters(load.source).list(limit=limit)]
            problems += [
                f"{load.source}: {letter.message.id} is a dead letter: {letter.message.dead}"
                for letter in letters
                if letter.message.id not in load.rejected
            ]
            dead = {letter.message.id for letter in letters}
            if missing := sorted(load.rejected - dead):
                problems.append(f"{load.source}: {len(missing)} dead letters are missing ({missing[0]} …)")
            problems += [
                f"{load.source}: {problem}"
                for problem in load.history.account(
                    duplicates=len(load.history.confirmed), exclusive=False, ordered=load.source is self._ordered
                )
            ]
        if problems:
            raise Violation("; ".join(problems))


async def _insist(publish: Callable[[], Awaitable[object]]) -> None:
    until = time.monotonic() + CONFIRMED_WITHIN_S
    while True:
        try:
            await publish()
            return
        except (PublishError, TransportError) as error:
            if time.monotonic() > until:
                raise Violation(f"for {CONFIRMED_WITHIN_S:g} s no publish was confirmed; at last: {error!r}") from error
            await asyncio.sleep(0.05)
