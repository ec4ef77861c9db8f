"""Receiving: a loop that fetches while there is credit, and begins again whatever failed."""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Literal

from busframe.errors import BusframeError, ClosedError, DestinationNotFound, TransportError
from busframe.logic.attempts import Verdict
from busframe.logic.credit import Credit
from busframe.model.delivery import Delivery
from busframe.model.entity import Entity
from busframe.runtime.backoff import Backoff, is_cancelled
from busframe.runtime.counters import Counters
from busframe.runtime.flight import Flight
from busframe.runtime.settle import Settler
from busframe.runtime.slots import Slots, Spawn
from busframe.spi.transport import Host, Receiver, Transport

logger = logging.getLogger("busframe.worker")

CLOSE_TIMEOUT_S = 5.0
GROW_AFTER_S = 1.0


class Receiving:
    """The receiver of a source, and the loop around it.

    Args:
        entity: the source, as the transport knows it.
        ack: when its deliveries are settled.
        by_key: whether the messages of a key share a lane.
        transport: makes receivers.
        host: sleep and random.
        slots: take what is received.
        credit: how much may be in flight.
        counters: of the source.
        judge: the crash guard's verdict on a number of deliveries.
        settler: told when what was received belongs to the broker again.
        redeclare: makes the source exist again, when the broker says that it is gone.
        changed: (whether the source is consumed, why not)
        spawn: makes a task that the source owns.
    """

    def __init__(
        self,
        entity: Entity,
        *,
        ack: Literal["after", "before"],
        by_key: bool,
        transport: Transport,
        host: Host,
        slots: Slots,
        credit: Credit,
        counters: Counters,
        judge: Callable[[int], Verdict],
        settler: Settler,
        redeclare: Callable[[Entity], Awaitable[None]],
        changed: Callable[[bool, BaseException | None], None],
        spawn: Spawn,
    ) -> None:
        self.receiver: Receiver | None = None
        self._time = asyncio.get_running_loop().time
        self.last_active = self._time()
        self.suspect_from = next(deliveries for deliveries in count(2) if judge(deliveries) is not Verdict.CLEAR)
        self.resumed = asyncio.Event()
        """Not set while the source is paused."""
        self.resumed.set()
        self._entity = entity
        self._address = str(entity.address)
        self._ack: Literal["after", "before"] = ack
        self._by_key = by_key
        self._transport = transport
        self._host = host
        self._slots = slots
        self._credit = credit
        self._counters = counters
        self._judge = judge
        self._settler = settler
        self._redeclare = redeclare
        self._changed = changed
        self._spawn = spawn
        self._window = credit.window
        self._generation: int | None = None
        self._suspected = False
        self._credit_free: asyncio.Future[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------------ the receiver

    async def open(self) -> Receiver:
        """Make a receiver and consume.

        If cancelled: nothing is consumed.
        """
        self._window = self._credit.window
        receiver = self._transport.receiver(self._entity, prefetch=self._window, ack=self._ack)
        try:
            await receiver.open()
        except BaseException:
            await asyncio.wait((self._close_beside(receiver),))
            raise
        self.receiver = receiver
        self._generation = None
        self._changed(True, None)
        return receiver

    async def stop(self) -> None:
        """Fetch no more; what the receiver has buffered goes back at once."""
        if self.receiver is not None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self.receiver.stop()
            except Exception as error:
                log_failure(self._address, "stopping a receiver failed", error)

    async def close(self) -> None:
        """End the receiver; what is unsettled goes back.

        If cancelled: it is ended all the same, and the next call waits for that.
        """
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            self._close_beside(receiver)
        if self._closing:
            await asyncio.wait(self._closing)

    def _close_beside(self, receiver: Receiver) -> asyncio.Task[None]:
        # A task of its own: a drain that ends the loop may not leave a consumer that nobody reads.
        task = asyncio.get_running_loop().create_task(self._close(receiver), name=f"busframe {self._address} close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def _close(self, receiver: Receiver) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await receiver.close()
        except Exception as error:
            log_failure(self._address, "closing a receiver failed", error)

    def _forget_unstarted(self) -> None:
        # They belong to the broker again and are delivered again: to start them would be to handle them twice.
        self._settler.forget_parked()
        if self._ack == "before":  # settled already: nobody delivers them again
            return
        for _ in self._slots.withdraw(waiting=True):
            self._credit.give()

    # ------------------------------------------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Receive until cancelled. If cancelled: nothing that was received is lost."""
        backoff = Backoff(self._host.sleep, self._host.random)
        while True:
            try:
                await self.resumed.wait()
                await self._fetch(self.receiver or await self.open(), backoff)
            except Exception as error:
                await self._begin_again(error, backoff)
            except asyncio.CancelledError as error:
                if is_cancelled():
                    raise
                failed = TransportError("the transport cancelled the receiving by itself")
                failed.__cause__ = error
                await self._begin_again(failed, backoff)

    async def _begin_again(self, error: Exception, backoff: Backoff) -> None:
        self._changed(False, error)
        if backoff.failures == 0:
            log_failure(self._address, "receiving failed and is begun again", error)
        self._forget_unstarted()
        if self.receiver is not None:
            self._settler.ended(self.receiver)
        await self.close()
        await backoff.wait()
        if isinstance(error, DestinationNotFound) or not getattr(error, "transient", True):
            await self._declare_again(backoff)

    async def _declare_again(self, backoff: Backoff) -> None:
        try:
            await self._redeclare(self._entity)
        except Exception as error:
            if backoff.failures == 1:
                log_failure(self._address, "declaring it again failed", error)

    async def _fetch(self, receiver: Receiver, backoff: Backoff) -> None:
        """Receive until the receiver is closed for a pause."""
        credit, slots, counters, by_key = self._credit, self._slots, self._counters, self._by_key
        # What an at-most-once source has received is settled: it cannot come back, and there is nothing to release.
        suspect_from = self.suspect_from if self._ack != "before" else sys.maxsize
        while True:
            if not self.resumed.is_set():
                await self.resumed.wait()
            if self.receiver is not receiver:
                return
            if credit.available <= 0:
                await self._wait_for_credit()
                continue
            if self._window != credit.window:
                self._window = credit.window
                await receiver.resize(self._window)
            try:
                deliveries = await receiver.receive(credit.available)
            except ClosedError:
                if self.receiver is receiver:
                    raise
                return
            if self.receiver is not receiver:
                return
            backoff.reset()
            self.last_active = self._time()
            if deliveries[0].generation != self._generation:
                if self._generation is not None:
                    self._forget_unstarted()
                self._generation = deliveries[0].generation
                self._suspected = False
                self._changed(True, None)
            credit.take(len(deliveries))
            counters.received += len(deliveries)
            for delivery in deliveries:
                if delivery.deliveries >= suspect_from:
                    await self._isolate(receiver, deliveries)
                    break
            else:
                for delivery in deliveries:
                    slots.offer(Flight(delivery, receiver, delivery.message.key if by_key else None))
                slots.wake()

    def credit_is_free(self) -> None:
        """Some credit came back."""
        if self._credit_free is not None and not self._credit_free.done():
            self._credit_free.set_result(None)

    async def _wait_for_credit(self) -> None:
        self._credit_free = asyncio.get_running_loop().create_future()
        if self._credit.window >= self._credit.limit:
            await self._credit_free
            return
        # Slow handlers must not keep the window small: to survive for a while is a success as well.
        done, _ = await asyncio.wait((self._credit_free,), timeout=GROW_AFTER_S)
        if not done:
            self._credit.succeed(self._credit.window)

    async def _isolate(self, receiver: Receiver, deliveries: Sequence[Delivery]) -> None:
        """Run the suspects among these alone, so that one that kills the process takes no other message with it.

        What was received with it is handled first, where keys have an order what is ahead of it: handed back, it would
        be counted like what it is not, and it would come again behind what is on its way. What still waits behind a
        suspect that kills the process is counted with it, so only the first suspect that comes is found guilty by that.
        """
        slots = self._slots
        if not self._by_key:
            deliveries = sorted(deliveries, key=lambda delivery: delivery.deliveries >= self.suspect_from)
        waiting = deque(Flight(one, receiver, one.message.key if self._by_key else None) for one in deliveries)
        try:
            while waiting:
                deliveries_so_far = waiting[0].delivery.deliveries
                if deliveries_so_far < self.suspect_from:
                    slots.offer(waiting.popleft())
                    slots.wake()
                    continue
                if self._credit.narrow():
                    await self._resize(receiver)
                await slots.wait_quiet()
                slots.block("isolating")
                verdict = self._judge(deliveries_so_far)
                if verdict is Verdict.CRASH_LOOP and self._suspected:
                    verdict = Verdict.SUSPECT
                self._suspected = True
                await self._run_alone(waiting.popleft(), verdict)
                slots.unblock("isolating")
        finally:
            for flight in waiting:  # who cancels this takes out of the lanes what has not started
                slots.offer(flight)
            slots.unblock("isolating")

    async def _resize(self, receiver: Receiver) -> None:
        self._window = self._credit.window
        try:
            await receiver.resize(self._window)
        except Exception as error:  # then the next receive waits for the connection, or says what is wrong
            log_failure(self._address, "narrowing the prefetch failed", error)

    async def _run_alone(self, flight: Flight, verdict: Verdict) -> None:
        """Run a suspect when nothing else runs, until it is settled or waits for its retry. Slots are blocked."""
        slots = self._slots
        try:
            while slots.running or not self.resumed.is_set():
                await slots.wait_quiet()
                await self.resumed.wait()
            await self._settler.wait_empty()  # what its neighbours came to must not be lost with it
        except asyncio.CancelledError:
            slots.offer(flight)
            raise
        if flight.lane is not None and not slots.lanes.seize(flight.lane):
            slots.offer(flight)  # behind an older one of its key, which waits for its retry
            return
        logger.warning(
            "%s: message %s was delivered %d times and never settled: it runs alone",
            self._address,
            flight.delivery.message.id,
            flight.delivery.deliveries,
            extra={"source": self._address, "message_id": flight.delivery.message.id},
        )
        flight.settled = asyncio.get_running_loop().create_future()
        # A task of its own, so that a drain that ends this loop lets the handler finish.
        alone = self._spawn(slots.start(flight, verdict), "alone")
        await asyncio.wait((alone,))
        if flight.settlement is not None:
            await asyncio.wait((flight.settled,))


def log_failure(address: str, what: str, error: BaseException) -> None:
    """Log what failed outside a handler: an expected error as a line, any other with its stack."""
    extra = {"source": address}
    if isinstance(error, BusframeError | TimeoutError):
        logger.warning("%s: %s: %s", address, what, error or type(error).__name__, extra=extra)
    else:
        logger.error("%s: %s", address, what, exc_info=error, extra=extra)
