"""One source in a worker: a loop that receives, slots that handle, a settler that settles.

How this works. ``Receiving`` fetches while there is ``Credit``, and what it gets waits in the lanes of ``Slots``. A
delivery ends in a settlement, which goes to the ``Settler``; when the broker has it, the credit comes back and the lane
is free. Nothing here ends because something failed: it is begun again with back-off, and health says so.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from busframe.errors import SettlementLost, TransportError
from busframe.handling.plan import SourcePlan
from busframe.logic.attempts import Verdict, judge_deliveries
from busframe.logic.credit import Credit
from busframe.logic.lifecycle import SourceEvent, SourceState, advance
from busframe.model.destination import Subscription
from busframe.model.entity import Entity
from busframe.model.settlement import RELEASE, Nack
from busframe.runtime.backoff import Backoff
from busframe.runtime.flight import Flight
from busframe.runtime.handle import Again, Handling, InLane
from busframe.runtime.receive import CLOSE_TIMEOUT_S, Receiving, log_failure
from busframe.runtime.settle import Settler
from busframe.runtime.slots import Slots
from busframe.spi.transport import Host, Transport

logger = logging.getLogger("busframe.worker")

RECEIVE = "receive"
SETTLE = "settle"


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
        changed: told every change of state, and why.
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
        self.address = plan.source.address
        self.state: SourceState = "starting"
        self.counters = handling.counters
        self.concurrency = plan.concurrency
        self.credit = Credit(plan.prefetch, start=1)
        self.told = ""
        """What the transport says is wrong with the source, though it is consumed."""
        self._host = host
        self._handling = handling
        self._max_deliveries = max_deliveries
        self._hold_max_s = transport.capabilities.hold_max_s
        self._changed = changed
        self._before = plan.ack == "before"
        self._tasks: set[asyncio.Task[None]] = set()
        self._parts: dict[str, asyncio.Task[None]] = {}
        self._draining = False
        self._hurried = False
        self._limit: asyncio.Timeout | None = None
        self._by_hand = False
        self._paused_until = 0.0
        self._pause_task: asyncio.Task[None] | None = None
        self._time = asyncio.get_running_loop().time
        self._last_settled = self._time()
        self._settler = Settler(self.address, host, self._on_settled, lambda: redeclare(entity), self._retry_here)
        # What an at-most-once source receives is settled already.
        handling.finish = (lambda flight: self._on_settled(flight, None)) if self._before else self._settler.put
        self._slots = Slots(
            handling, host.sleep, self._spawn, self._pause, self._end_in_drain, self._survived, self._gone
        )
        self._receiving = Receiving(
            entity,
            ack="before" if self._before else "after",
            by_key=plan.ordering == "key",
            transport=transport,
            host=host,
            slots=self._slots,
            credit=self.credit,
            counters=self.counters,
            judge=self._judge,
            settler=self._settler,
            redeclare=redeclare,
            changed=self.reported,
            spawn=self._spawn,
        )

    def __repr__(self) -> str:
        return (
            f"<SourceRunner {self.address} {self.state}: {self._slots.running} running, "
            f"{len(self._slots.lanes)} waiting, {self.credit.in_flight}/{self.credit.window} in flight>"
        )

    # ------------------------------------------------------------------------------------------------ how it is

    @property
    def in_flight(self) -> int:
        """Deliveries that are received and not settled; without those that are parked for good."""
        return self.credit.in_flight - len(self._settler.parked)

    @property
    def busy(self) -> bool:
        """Whether a handler runs or is about to start, or something is being settled: not what only waits."""
        return bool(self._slots.running or self._slots.startable or self._settler.pending > len(self._settler.parked))

    @property
    def last_active(self) -> float:
        """When something was last received or settled, on the loop's clock."""
        return max(self._receiving.last_active, self._last_settled)

    @property
    def problems(self) -> list[str]:
        """What somebody should know, though the source works."""
        overdue = list(self._handling.threads.overdue.values()) if self._handling.threads is not None else []
        parked = [
            f"{self.address}: message {flight.delivery.message.id} is too large to be dead-lettered"
            for flight in self._settler.parked
        ]
        return overdue + parked + ([self.told] if self.told else [])

    @property
    def stuck_threads(self) -> int:
        """How many plain functions still run."""
        return self._handling.threads.running if self._handling.threads is not None else 0

    def reported(self, consumed: bool, cause: BaseException | None) -> None:
        """The source is consumed, or the way to it is lost."""
        self._advance("opened" if consumed else "lost", cause)
        if consumed and self._pause_task is not None:
            self._advance("paused")

    def _advance(self, event: SourceEvent, cause: BaseException | None = None) -> None:
        state = advance(self.state, event)
        if state != self.state:
            self.state = state
            self._changed(state, cause)

    # ------------------------------------------------------------------------------------------------ start

    async def start(self) -> None:
        """Consume. When it returns, the broker has the consumer.

        Raises:
            DestinationNotFound: the source does not exist.
            TransportError: it cannot be consumed, and waiting does not help.
        """
        if self._before:
            logger.warning(
                '%s: ack="before" is at most once: what is being handled when the process dies is lost',
                self.address,
                extra={"source": self.address},
            )
        try:
            await self._receiving.open()
        except TransportError as error:
            if not error.transient:
                raise
            self._advance("lost", error)
        self._keep_running(self._settler.run, SETTLE)
        for number in range(self.concurrency):
            self._keep_running(self._slots.run, f"slot {number}")
        self._keep_running(self._receiving.run, RECEIVE)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"busframe {self.address} {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _keep_running(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a part of the worker until the worker itself ends it, and not a cancellation by anything else."""

        def ended(task: asyncio.Task[None]) -> None:
            stopped = self._handling.ending or (name == RECEIVE and (self._draining or self._by_hand))
            if task.cancelled() and not stopped and self._parts[name] is task:
                self._keep_running(work, name)

        self._parts[name] = self._spawn(self._supervised(work), name)
        self._parts[name].add_done_callback(ended)

    async def _supervised(self, work: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(self._host.sleep, self._host.random)
        while True:
            try:
                await work()
                return
            except Exception as error:
                log_failure(self.address, "a part of the worker failed and is begun again", error)
                await backoff.wait()

    def _judge(self, deliveries: int) -> Verdict:
        return judge_deliveries(
            deliveries,
            self._max_deliveries,
            max_attempts=self.plan.max_attempts,
            attempt_exact=self._handling.verdicts.exact,
        )

    # ------------------------------------------------------------------------------------------------ settle

    def _on_settled(self, flight: Flight, outcome: SettlementLost | None) -> None:
        if outcome is not None:
            self.counters.lost += 1
            logger.info("%s", outcome, extra={"source": self.address})
        elif flight.settlement is not RELEASE:
            self._survived(flight)
        if flight.settled is not None and not flight.settled.done():
            flight.settled.set_result(outcome)
        self.credit.give()
        if flight.lane is not None:
            self._slots.lanes.finish(flight.lane)
            self._slots.wake()
        self._receiving.credit_is_free()
        self._last_settled = self._time()

    def _survived(self, flight: Flight) -> None:
        if flight.delivery.deliveries < self._receiving.suspect_from and self.credit.succeed():
            self._receiving.credit_is_free()

    def _gone(self, flight: Flight) -> None:
        """Whoever has it now handles it: to start it here would handle it twice, and out of order."""
        self._on_settled(flight, SettlementLost(f"{self.address}: the broker took back what was not started yet"))

    def _retry_here(self, flight: Flight, nack: Nack) -> None:
        """A foreign message may be so large that no copy of it fits: then it waits for its retry in its lane."""
        logger.warning(
            "%s: message %s is too large to be stored again: it is held here for its retry",
            self.address,
            flight.delivery.message.id,
            extra={"source": self.address, "message_id": flight.delivery.message.id},
        )
        if flight.settled is not None and not flight.settled.done():
            flight.settled.set_result(None)
        if self._draining:
            self._release([flight])
            return
        flight.delivery = replace(flight.delivery, carried=nack.carried)
        self._slots.wait(flight, min(nack.delay_s, self._hold_max_s))

    def _release(self, flights: Sequence[Flight]) -> None:
        for flight in flights:
            flight.settlement = RELEASE
            self.counters.released += 1
            self._settler.put(flight)

    def _hand_back(self, flight: Flight) -> None:
        # Keys keep their order at a hand-over only if nothing goes back before the receiver closes.
        if self.plan.ordering != "key" and not self._before:
            self._release([flight])

    def _end_in_drain(self, flight: Flight, in_lane: InLane) -> None:
        if isinstance(in_lane, Again) and not self.plan.in_place:
            # It failed, and would run again at once: its attempt is used up, so the stored copy has to say it.
            flight.settlement = Nack(in_lane.delay_s, flight.delivery.carried)
            self._settler.put(flight)
        else:
            self._hand_back(flight)

    def _drop(self, flights: Sequence[Flight]) -> None:
        for flight in flights:
            self.counters.dropped += 1
            logger.error(
                "%s: message %s of an at-most-once source was received, not handled, and is gone",
                self.address,
                flight.delivery.message.id,
                extra={"source": self.address, "message_id": flight.delivery.message.id},
            )
            self._on_settled(flight, None)

    # ------------------------------------------------------------------------------------------------ pause

    def _pause(self, flight: Flight, pause_s: float) -> None:
        if self._draining:  # only at-most-once sources still run: this one cannot go back, and nobody waits for it
            self._drop([flight])
            return
        self._paused_until = max(self._paused_until, self._host.clock() + pause_s)
        if self._pause_task is None:
            self._receiving.resumed.clear()
            self._slots.block("paused")
            self._advance("paused")
            self._pause_task = self._spawn(self._wait_paused(), "pause")
        too_long = pause_s > self._hold_max_s and not self._before
        if too_long and self.plan.ordering != "key":
            self._slots.lanes.again(flight, flight.lane)
            self._release(self._slots.withdraw(waiting=False))
            return
        self._slots.again(flight)
        if too_long and not self._keeps_receiver:
            self._spawn(self._let_go(), "letting go")

    async def _let_go(self) -> None:
        """Close the receiver for the rest of a pause: so all goes back together, and keys keep their order."""
        await self._slots.wait_quiet()
        await self._settler.wait_empty()
        if self._pause_task is not None and not self._draining and not self._by_hand:
            for flight in self._slots.withdraw(waiting=True):
                self._on_settled(flight, None)
            await self._receiving.close()

    async def _wait_paused(self) -> None:
        while (wait_s := self._paused_until - self._host.clock()) > 0:
            await self._host.sleep(wait_s)
        self._pause_task = None
        self._receiving.resumed.set()
        if not self._by_hand:
            self._advance("resumed")
        self._slots.unblock("paused")

    async def pause(self) -> None:
        """Fetch nothing and start nothing until ``resume``. Returns when what runs has finished and is settled.

        What nobody started goes back, for other workers. If cancelled: the source stays paused.
        """
        if self._draining:
            return
        if not self._by_hand:
            self._by_hand = True
            self._slots.block("paused by hand")
            self._advance("paused")
            await _cancel(self._parts.get(RECEIVE))
            if self._by_hand and not self._keeps_receiver:
                await self._receiving.stop()
            if not self._by_hand:  # resumed meanwhile
                return
            if not self._before:  # what an at-most-once source has received waits for its end here
                for flight in self._slots.withdraw(waiting=True):
                    if self.plan.ordering == "key":
                        self._on_settled(flight, None)  # it goes back when the receiver closes
                    else:
                        self._hand_back(flight)
        await self._slots.wait_quiet()
        await self._settler.wait_empty()
        if self._by_hand and not self._keeps_receiver:
            await self._receiving.close()

    @property
    def _keeps_receiver(self) -> bool:
        # A temporary subscription would go with its receiver.
        return isinstance(self.plan.source, Subscription) and self.plan.source.temporary

    async def resume(self) -> None:
        """Go on after ``pause``."""
        if not self._by_hand or self._draining:
            return
        self._by_hand = False
        self._slots.unblock("paused by hand")
        if self._pause_task is None:
            self._advance("resumed")
        receiving = self._parts.get(RECEIVE)
        if receiving is None or receiving.done():  # else it is still being cancelled, and begins again after that
            self._keep_running(self._receiving.run, RECEIVE)

    def set_concurrency(self, concurrency: int) -> None:
        """Run so many handlers at once from now on; what runs goes on.

        The prefetch stays, unless it is smaller.
        """
        before, self.concurrency = self.concurrency, concurrency
        for number in range(before, concurrency):
            self._keep_running(self._slots.run, f"slot {number}")
        if concurrency < before:
            self._slots.retire(before - concurrency)
        if self._handling.threads is not None:
            self._handling.threads.resize(concurrency)
        self.credit.resize(max(self.plan.prefetch, concurrency))
        self._receiving.credit_is_free()

    # ------------------------------------------------------------------------------------------------ drain

    async def stop(self) -> None:
        """Fetch no more, start no more; what nobody started goes back at once."""
        if self._draining:
            return
        self._draining = True
        if not self._before:  # what an at-most-once source has received is settled already: it runs
            self._slots.block("draining")
        await _cancel(self._parts.get(RECEIVE), self._pause_task)
        self._pause_task = None
        self._slots.unblock("paused")
        self._slots.unblock("paused by hand")
        await self._receiving.stop()
        if not self._before:
            for flight in self._slots.withdraw(waiting=True):
                self._hand_back(flight)

    async def finish(self, timeout_s: float) -> bool:
        """Let handlers finish and settle them, then cancel the rest and close. Call ``stop`` first.

        Returns:
            Whether all finished by themselves. Those that were cancelled are delivered again, with no attempt counted.
        """
        finished = True
        try:
            async with asyncio.timeout(0.0 if self._hurried else timeout_s) as self._limit:
                await self._slots.wait_quiet()
                await self._settler.wait_empty()
        except TimeoutError:
            finished = False
            logger.warning(
                "%s: %d handlers did not finish in time: they are cancelled, and their messages %s",
                self.address,
                self._slots.running,
                "are gone, for they were settled before" if self._before else "delivered again",
                extra={"source": self.address},
            )
        self._limit = None
        if self._before:
            self._drop(self._slots.withdraw(waiting=True))
        self._handling.ending = True
        settling = self._parts.get(SETTLE)
        await _cancel(*(task for task in self._tasks if task is not settling))
        if self._settler.pending and settling is not None:  # of handlers that ended well all the same
            await asyncio.wait((settling,), timeout=0.1)
        await self._receiving.close()
        self._settler.close()
        await _cancel(settling)
        if self._handling.threads is not None:
            self._handling.threads.close()
        self._advance("stopped")
        return finished

    def hurry(self) -> None:
        """Let handlers finish no longer."""
        self._hurried = True
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())


async def _cancel(*tasks: asyncio.Task[None] | None) -> None:
    alive = [task for task in tasks if task is not None and not task.done()]
    for task in alive:
        task.cancel()
    if alive:
        await asyncio.wait(alive, timeout=CLOSE_TIMEOUT_S)
