"""The slots of a source: ``concurrency`` long-lived coroutines that take what may start from the lanes.

No task is made for a message. A retry that waits in its lane keeps its credit and its lane, but no slot.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeAlias

from busframe.logic.attempts import Verdict
from busframe.logic.lanes import Lanes
from busframe.runtime.flight import Flight
from busframe.runtime.handle import Again, Handling, InLane, Pause

FAIR_SHARE_S = 0.01
AT_ONCE = Again(0.0)

Reason: TypeAlias = Literal["draining", "isolating", "paused", "paused by hand"]
Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Slots:
    """Starts what may start.

    Args:
        handling: what a delivery goes through.
        sleep: of the host's clock.
        spawn: makes a task that the source owns.
        pause: what to do with a flight whose handler asks for a pause.
        hand_back: what to do with one that would wait in its lane while the source drains.
        survived: told that a handler has failed, and that its message waits: the process lives.
        gone: takes a flight that the broker has taken back before it was started.
    """

    def __init__(
        self,
        handling: Handling,
        sleep: Callable[[float], Awaitable[None]],
        spawn: Spawn,
        pause: Callable[[Flight, float], None],
        hand_back: Callable[[Flight, InLane], None],
        survived: Callable[[Flight], None],
        gone: Callable[[Flight], None],
    ) -> None:
        self.lanes: Lanes[Flight] = Lanes()
        self.running = 0
        self._handle = handling.handle
        self._broken = handling.broken
        self._sleep = sleep
        self._spawn = spawn
        self._pause = pause
        self._hand_back = hand_back
        self._survived = survived
        self._gone = gone
        self._blocked: set[Reason] = set()
        self._retiring = 0
        self._idle: deque[asyncio.Future[None]] = deque()
        self._quiet: list[asyncio.Future[None]] = []
        self._waiting: dict[Flight, asyncio.Task[None]] = {}

    # ------------------------------------------------------------------------------------------------ what may start

    def offer(self, flight: Flight) -> None:
        """Let a flight wait for its turn; ``wake`` starts it."""
        self.lanes.offer(flight, flight.lane)

    def wake(self) -> None:
        """Start what may start."""
        if self._blocked:
            return
        idle = self._idle
        startable = len(self.lanes.ready)
        while startable and idle:
            waiter = idle.popleft()
            if not waiter.done():  # else its slot was cancelled
                waiter.set_result(None)
                startable -= 1

    def block(self, reason: Reason) -> None:
        """Start nothing until this, and every other, reason is gone. What runs goes on."""
        self._blocked.add(reason)

    def unblock(self, reason: Reason) -> None:
        """This reason is gone."""
        self._blocked.discard(reason)
        self.wake()

    def again(self, flight: Flight) -> None:
        """A flight that kept its lane may start again, before all others."""
        self.lanes.again(flight, flight.lane)
        self.wake()

    def withdraw(self, *, waiting: bool) -> list[Flight]:
        """Take out what has not started, and also, if asked, what waits for a retry. They hold no lane any more."""
        flights = self.lanes.withdraw()
        if waiting:
            for flight, timer in self._waiting.items():
                timer.cancel()
                self.lanes.finish(flight.lane)
                flights.append(flight)
            self._waiting.clear()
        for flight in flights:
            flight.lane = None
        return flights

    @property
    def startable(self) -> bool:
        """Whether something is about to start."""
        return bool(self.lanes.ready) and not self._blocked

    async def wait_quiet(self) -> None:
        """Wait until no handler runs, and nothing is about to start."""
        while self.running or self.startable:
            waiter = asyncio.get_running_loop().create_future()
            self._quiet.append(waiter)
            await waiter

    # ------------------------------------------------------------------------------------------------ running

    def retire(self, count: int) -> None:
        """Let so many slots end, each when its handler has finished."""
        self._retiring += count
        while count and self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    async def run(self) -> None:
        """One slot, until it is retired. If cancelled: its handler is cancelled, and its delivery left unsettled."""
        take = self.lanes.take
        loop = asyncio.get_running_loop()
        cancelling = current.cancelling if (current := asyncio.current_task()) is not None else int
        until = loop.time() + FAIR_SHARE_S
        while True:
            if self._retiring:
                self._retiring -= 1
                self.wake()  # what it was woken for may be for another one
                return
            taken = None if self._blocked else take()
            if taken is None:
                waiter = loop.create_future()
                self._idle.append(waiter)
                await waiter
                until = loop.time() + FAIR_SHARE_S
                continue
            await self.start(taken[0], Verdict.CLEAR)
            if cancelling():  # by a handler, or what it called: the next one begins in a task that nobody cancelled
                raise asyncio.CancelledError
            if loop.time() > until:  # handlers that never wait would keep the loop to themselves
                await asyncio.sleep(0)
                until = loop.time() + FAIR_SHARE_S

    async def start(self, flight: Flight, verdict: Verdict) -> None:
        """Take a flight through its handler, again and again while its policy says at once."""
        self.running += 1
        try:
            while True:
                if not flight.receiver.holds(flight.delivery):
                    self._gone(flight)
                    return
                try:
                    in_lane = await self._handle(flight, verdict)
                except Exception as error:
                    in_lane = self._broken(flight, error)
                if in_lane is None:
                    return
                flight.kept = None
                if in_lane == AT_ONCE and "draining" not in self._blocked:
                    await asyncio.sleep(0)  # a policy without delays may not starve the loop
                    continue
                self._keep(flight, in_lane)
                return
        finally:
            self.running -= 1
            if not self.running and self._quiet:
                for waiter in self._quiet:
                    if not waiter.done():
                        waiter.set_result(None)
                self._quiet.clear()

    def _keep(self, flight: Flight, in_lane: InLane) -> None:
        if "draining" in self._blocked:
            self._hand_back(flight, in_lane)
        elif isinstance(in_lane, Pause):
            self._pause(flight, in_lane.delay_s)
        else:
            self.wait(flight, in_lane.delay_s)

    def wait(self, flight: Flight, delay_s: float) -> None:
        """Let a flight wait in its lane, without a slot, and then start again."""
        self._survived(flight)
        self._waiting[flight] = self._spawn(self._later(flight, delay_s), "retry")

    async def _later(self, flight: Flight, delay_s: float) -> None:
        await self._sleep(delay_s)
        del self._waiting[flight]
        if flight.settlement is not None:  # its copy did not fit: it begins as if it had never been settled
            flight.settlement = flight.settled = None
        self.again(flight)
