"""One source in a worker: a loop that receives, lanes that handle, a settler that settles.

How this works. The *receive loop* fetches while there is credit, and what it gets waits in ``Lanes``. The *slots* are
``concurrency`` long-lived coroutines that take what may start, so no task is made for a message. Each ends in a
settlement, which goes to the ``Settler``; when the broker has it, the credit comes back and the lane is free. A retry
that waits in its lane keeps its credit and its lane, but no slot.

Nothing here ends because something failed: the loop and the slots are restarted with back-off, and health says so.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import count as count_from
from typing import TYPE_CHECKING, Any

from busframe.errors import BusframeError, DestinationNotFound, SettlementLost, TransportError
from busframe.handling.plan import SourcePlan
from busframe.logic.attempts import Verdict, judge_deliveries
from busframe.logic.credit import Credit
from busframe.logic.lanes import Lanes
from busframe.logic.lifecycle import SourceEvent, SourceState, advance
from busframe.model.delivery import Delivery
from busframe.model.entity import Entity
from busframe.model.settlement import RELEASE
from busframe.runtime.backoff import Backoff
from busframe.runtime.flight import Flight
from busframe.runtime.handle import Again, Handling, InLane, Pause
from busframe.runtime.settle import Settler
from busframe.spi.transport import Host, Receiver, Transport

if TYPE_CHECKING:
    from busframe.runtime.counters import Counters

logger = logging.getLogger("busframe.worker")

CLOSE_TIMEOUT_S = 5.0
GROW_AFTER_S = 1.0
FAIR_SHARE_S = 0.01
AT_ONCE = Again(0.0)


class SourceRunner:
    """Runs the handlers of one source.

    Args:
        plan: what to run.
        entity: the source, as the transport knows it.
        transport: open.
        host: clock, sleep, random.
        handling: what a delivery goes through.
        max_deliveries: of the crash guard.
        redeclare: makes an entity exist again; used when the broker says that it is gone.
        changed: told every change of state.
    """

    def __init__(
        self,
        plan: SourcePlan,
        entity: Entity,
        transport: Transport,
        host: Host,
        handling: Handling,
        *,
        max_deliveries: int,
        redeclare: Callable[[Entity], Awaitable[None]],
        changed: Callable[[SourceState, BaseException | None], None],
    ) -> None:
        self.plan = plan
        self._entity = entity
        self.address = plan.source.address
        self.state: SourceState = "starting"
        self.counters: Counters = handling.counters
        self.credit = Credit(plan.prefetch, start=1)
        self.last_active = time.monotonic()
        self._transport = transport
        self._host = host
        self._handling = handling
        self._max_deliveries = max_deliveries
        self._redeclare = redeclare
        self._changed = changed
        self._lanes: Lanes[Flight] = Lanes()
        self._settler = Settler(self.address, host, self._on_settled)
        handling.finish = self._settler.put if plan.ack != "before" else lambda flight: self._on_settled(flight, None)
        self._receiver: Receiver | None = None
        self._window = self.credit.window
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots: list[asyncio.Task[None]] = []
        self._receiving: asyncio.Task[None] | None = None
        self._idle: deque[asyncio.Future[None]] = deque()
        self._running = 0
        self._quiet: list[asyncio.Future[None]] = []
        self._credit_free: asyncio.Future[None] | None = None
        self._waiting: dict[Flight, asyncio.Task[None]] = {}
        self._hold = False
        self._isolating = False
        self._draining = False
        self._paused_until = 0.0
        self._suspect_from = next(count for count in count_from(2) if self._judge(count) is not Verdict.CLEAR)
        self._pausing: asyncio.Task[None] | None = None
        self._resumed = asyncio.Event()
        self._resumed.set()

    def __repr__(self) -> str:
        return (
            f"<SourceRunner {self.address} {self.state}: {self._running} running, {len(self._lanes)} waiting, "
            f"{self.credit.in_flight}/{self.credit.window} in flight>"
        )

    @property
    def in_flight(self) -> int:
        """Deliveries that are received and not settled; without those that are parked for good."""
        return self.credit.in_flight - len(self._settler.parked)

    @property
    def problems(self) -> list[str]:
        """What somebody should know, though the source works."""
        overdue = list(self._handling.threads.overdue.values()) if self._handling.threads is not None else []
        parked = [
            f"{self.address}: message {flight.delivery.message.id} is too large to be dead-lettered"
            for flight in self._settler.parked
        ]
        return overdue + parked

    @property
    def stuck_threads(self) -> int:
        """How many plain functions still run."""
        return self._handling.threads.running if self._handling.threads is not None else 0

    # ------------------------------------------------------------------------------------------------ start

    async def start(self) -> None:
        """Consume. When it returns, the broker has the consumer.

        Raises:
            DestinationNotFound: the source does not exist.
            TransportError: it cannot be consumed, and waiting does not help.
        """
        try:
            await self._open()
        except TransportError as error:
            if not error.transient:
                raise
            self._advance("lost", error)
        self._spawn(self._supervised(self._settler.run), "settler")
        for number in range(self.plan.concurrency):
            self._slots.append(self._spawn(self._supervised(self._slot), f"slot {number}"))
        self._receiving = self._spawn(self._receive(), "receive")

    async def _open(self) -> Receiver:
        plan = self.plan
        self._window = self.credit.window
        receiver = self._transport.receiver(
            self._entity, prefetch=self._window, ack="before" if plan.ack == "before" else "after"
        )
        try:
            await receiver.open()
        except BaseException:
            await self._close(receiver)
            raise
        self._receiver = receiver
        self._advance("opened")
        return receiver

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"busframe {self.address} {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _supervised(self, work: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(self._host.sleep, self._host.random)
        while True:
            try:
                await work()
            except Exception as error:
                self._log_failure("a part of the worker failed and is started again", error)
                await backoff.wait()

    def _advance(self, event: SourceEvent, cause: BaseException | None = None) -> None:
        state = advance(self.state, event)
        if state != self.state:
            self.state = state
            self._changed(state, cause)

    def reported(self, up: bool, cause: BaseException | None) -> None:
        """The transport says that the way to the source is there, or is not."""
        self._advance("opened" if up else "lost", cause)

    def _log_failure(self, what: str, error: BaseException) -> None:
        extra = {"source": self.address}
        if isinstance(error, BusframeError):
            logger.warning("%s: %s: %s", self.address, what, error, extra=extra)
        else:
            logger.error("%s: %s", self.address, what, exc_info=error, extra=extra)

    # ------------------------------------------------------------------------------------------------ receive

    async def _receive(self) -> None:
        backoff = Backoff(self._host.sleep, self._host.random)
        while True:
            try:
                receiver = self._receiver or await self._open()
                await self._fetch(receiver, backoff)
            except Exception as error:
                if self._draining:
                    return
                self._advance("lost", error)
                if backoff.failures == 0:
                    self._log_failure("receiving failed and is started again", error)
                await self._abandon()
                await backoff.wait()
                if isinstance(error, DestinationNotFound) or not getattr(error, "transient", True):
                    await self._declare_again()

    async def _declare_again(self) -> None:
        try:
            await self._redeclare(self._entity)
        except Exception as error:
            self._log_failure("declaring it again failed", error)

    async def _abandon(self) -> None:
        """Give up a receiver: what it delivered and nobody started belongs to the broker again."""
        receiver, self._receiver = self._receiver, None
        for _flight in self._lanes.withdraw():
            self.credit.give()
        if receiver is not None:
            await self._close(receiver)

    async def _close(self, receiver: Receiver) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await receiver.close()
        except Exception as error:
            self._log_failure("closing a receiver failed", error)

    async def _fetch(self, receiver: Receiver, backoff: Backoff) -> None:
        credit, lanes, counters = self.credit, self._lanes, self.counters
        suspect_from = self._suspect_from
        by_key = self.plan.ordering == "key"
        while True:
            if not self._resumed.is_set():
                await self._resumed.wait()
            if credit.available <= 0:
                await self._wait_for_credit()
                continue
            if self._window != credit.window:
                self._window = credit.window
                await receiver.resize(self._window)
            deliveries = await receiver.receive(credit.available)
            backoff.reset()
            self.last_active = time.monotonic()
            credit.take(len(deliveries))
            counters.received += len(deliveries)
            for delivery in deliveries:
                if delivery.deliveries >= suspect_from:
                    await self._isolate(receiver, deliveries)
                    break
            else:
                for delivery in deliveries:
                    lane = delivery.message.key if by_key else None
                    lanes.offer(Flight(delivery, receiver, lane), lane)
                self._wake_slots()

    def _judge(self, deliveries: int) -> Verdict:
        return judge_deliveries(
            deliveries,
            self._max_deliveries,
            max_attempts=self.plan.max_attempts,
            attempt_exact=self._handling.verdicts.exact,
        )

    async def _wait_for_credit(self) -> None:
        self._credit_free = asyncio.get_running_loop().create_future()
        if self.credit.window >= self.credit.limit:
            await self._credit_free
            return
        # Slow handlers must not keep the window small: surviving for a while is a success as well.
        done, _ = await asyncio.wait((self._credit_free,), timeout=GROW_AFTER_S)
        if not done and not self._isolating:
            self.credit.succeed(self.credit.window)

    async def _isolate(self, receiver: Receiver, deliveries: Sequence[Delivery]) -> None:
        """Run a suspect alone, so that if it kills the process, it takes no other message with it."""
        suspect = next(delivery for delivery in deliveries if delivery.deliveries >= self._suspect_from)
        key = suspect.message.key if self.plan.ordering == "key" else None
        flight = Flight(suspect, receiver, key)
        self._isolating = True
        self._set_hold()
        try:
            self.credit.narrow()
            self._window = 1
            others = [Flight(delivery, receiver, None) for delivery in deliveries if delivery is not suspect]
            self._release(others + self._lanes.withdraw())
            try:
                await receiver.resize(1)
            except TransportError as error:  # then the next receive waits for the connection, or says what is wrong
                self._log_failure("narrowing the prefetch failed", error)
            await self._wait_quiet()
            if key is not None and not self._lanes.seize(key):
                self._lanes.offer(flight, key)  # behind an older one of its key, which waits for its retry
                return
            logger.warning(
                "%s: message %s was delivered %d times and never settled: it runs alone",
                self.address,
                suspect.message.id,
                suspect.deliveries,
                extra={"source": self.address, "message_id": suspect.message.id},
            )
            flight.settled = asyncio.get_running_loop().create_future()
            # A task of its own, so that a drain that ends this loop lets the handler finish.
            alone = self._spawn(self._start(flight, self._judge(suspect.deliveries)), "alone")
            await asyncio.wait((alone,))
            if flight.settlement is not None:
                await asyncio.wait((flight.settled,))
        finally:
            self._isolating = False
            self._set_hold()

    # ------------------------------------------------------------------------------------------------ handle

    async def _slot(self) -> None:
        lanes = self._lanes
        loop = asyncio.get_running_loop()
        until = loop.time() + FAIR_SHARE_S
        while True:
            taken = None if self._hold else lanes.take()
            if taken is None:
                waiter = loop.create_future()
                self._idle.append(waiter)
                await waiter
                until = loop.time() + FAIR_SHARE_S
                continue
            await self._start(taken[0], Verdict.CLEAR)
            if loop.time() > until:  # handlers that never wait would keep the loop to themselves
                await asyncio.sleep(0)
                until = loop.time() + FAIR_SHARE_S

    async def _start(self, flight: Flight, verdict: Verdict) -> None:
        self._running += 1
        try:
            while True:
                in_lane = await self._handling.handle(flight, verdict)
                if in_lane is None:
                    return
                flight.kept = None
                if in_lane == AT_ONCE and not self._draining:
                    await asyncio.sleep(0)  # a policy without delays may not starve the loop
                    continue
                self._keep(flight, in_lane)
                return
        finally:
            self._running -= 1
            if not self._running and self._quiet:
                for waiter in self._quiet:
                    if not waiter.done():
                        waiter.set_result(None)
                self._quiet.clear()

    def _keep(self, flight: Flight, in_lane: InLane) -> None:
        if self._draining:
            self._hand_back(flight)
        elif isinstance(in_lane, Pause):
            self._pause(flight, in_lane.delay_s)
        else:
            self._waiting[flight] = self._spawn(self._later(flight, in_lane.delay_s), "retry")

    async def _later(self, flight: Flight, wait_s: float) -> None:
        await self._host.sleep(wait_s)
        self._waiting.pop(flight, None)
        if flight.receiver is not self._receiver:  # the broker has it again
            self._forget(flight)
            return
        self._lanes.again(flight, flight.lane)
        self._wake_slots()

    def _pause(self, flight: Flight, pause_s: float) -> None:
        self._paused_until = max(self._paused_until, self._host.clock() + pause_s)
        if pause_s > self._transport.capabilities.hold_max_s:
            self._release([flight, *self._lanes.withdraw()])
        else:
            self._lanes.again(flight, flight.lane)
        if self._pausing is None:
            self._resumed.clear()
            self._set_hold()
            self._advance("paused")
            self._pausing = self._spawn(self._sleep_paused(), "pause")

    async def _sleep_paused(self) -> None:
        while (wait_s := self._paused_until - self._host.clock()) > 0:
            await self._host.sleep(wait_s)
        self._pausing = None
        self._resumed.set()
        self._advance("resumed")
        self._set_hold()

    def _set_hold(self) -> None:
        # What an at-most-once source has received is settled already: it runs, a drain or not.
        draining = self._draining and self.plan.ack != "before"
        self._hold = draining or self._isolating or not self._resumed.is_set()
        if not self._hold:
            self._wake_slots()

    def _wake_slots(self) -> None:
        idle = self._idle
        for _ in range(min(len(self._lanes.ready), len(idle))):
            waiter = idle.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _wait_quiet(self) -> None:
        while self._running or (self.plan.ack == "before" and self._lanes.ready and not self._hold):
            waiter = asyncio.get_running_loop().create_future()
            self._quiet.append(waiter)
            await waiter

    # ------------------------------------------------------------------------------------------------ settle

    def _on_settled(self, flight: Flight, outcome: SettlementLost | None) -> None:
        if outcome is not None:
            self.counters.lost += 1
            logger.info("%s: %s", self.address, outcome, extra={"source": self.address})
        elif flight.settlement is not RELEASE and flight.delivery.deliveries < self._suspect_from:
            self.credit.succeed()
        if flight.settled is not None and not flight.settled.done():
            flight.settled.set_result(outcome)
        self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        self.credit.give()
        if flight.lane is not None:
            self._lanes.finish(flight.lane)
            self._wake_slots()
        if self._credit_free is not None and not self._credit_free.done():
            self._credit_free.set_result(None)
        self.last_active = time.monotonic()

    def _release(self, flights: Sequence[Flight]) -> None:
        for flight in flights:
            flight.settlement = RELEASE
            flight.lane = None
            self.counters.released += 1
            self._settler.put(flight)

    def _hand_back(self, flight: Flight) -> None:
        # Keys keep their order at a hand-over only if nothing goes back before the receiver closes.
        if self.plan.ordering != "key" and self.plan.ack != "before":
            self._release([flight])

    # ------------------------------------------------------------------------------------------------ drain

    async def stop(self) -> None:
        """Fetch no more, start no more; what nobody started goes back at once."""
        if self._draining:
            return
        self._draining = True
        self._set_hold()
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.wait((self._receiving,))
        if self._pausing is not None:
            self._pausing.cancel()
        if self._receiver is not None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._receiver.stop()
            except Exception as error:
                self._log_failure("stopping a receiver failed", error)
        for flight in self._lanes.withdraw() if self.plan.ack != "before" else ():
            self._hand_back(flight)
        for flight, timer in list(self._waiting.items()):
            timer.cancel()
            self._hand_back(flight)
        self._waiting.clear()

    async def finish(self, timeout_s: float) -> bool:
        """Let handlers finish and settle them, then cancel the rest and close. Call ``stop`` first.

        Returns:
            Whether all finished by themselves. Those that were cancelled are delivered again, with no attempt counted.
        """
        finished = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait_quiet()
                await self._settler.wait_empty()
        except TimeoutError:
            finished = False
            logger.warning(
                "%s: %d handlers did not finish within %s s: they are cancelled, and their messages delivered again",
                self.address,
                self._running,
                timeout_s,
                extra={"source": self.address},
            )
        await self._end()
        return finished

    async def _end(self) -> None:
        for task in [task for task in self._tasks if "settler" not in task.get_name()]:
            task.cancel()
        others = [task for task in self._tasks if "settler" not in task.get_name()]
        if others:
            await asyncio.wait(others, timeout=CLOSE_TIMEOUT_S)
        if self._settler.pending:  # of handlers that ended well though they were cancelled
            await asyncio.sleep(0)
        if self._receiver is not None:
            await self._close(self._receiver)
            self._receiver = None
        self._settler.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT_S)
        if self._handling.threads is not None:
            self._handling.threads.close()
        self._advance("stopped")
