"""Settling what finished: one call for each turn of the loop, and nothing is given up because a try failed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakSet

from busframe.errors import ClosedError, DestinationNotFound, MessageTooLarge, SettlementLost, TransportError
from busframe.logic.dead_letter import shrink
from busframe.model.settlement import DeadLetter, Nack
from busframe.runtime.backoff import Backoff, is_cancelled
from busframe.runtime.flight import Flight
from busframe.spi.transport import Host, Receiver

_COPIES = (Nack, DeadLetter)  # a union would be made anew for each message

logger = logging.getLogger("busframe.worker")


class Settler:
    """Settles the flights of one source.

    Acknowledgements and releases of a turn go out together. Copies (a delayed retry, a dead letter) wait for the
    broker's confirmation, so they go out beside them and hold nothing up. What fails is tried again with back-off,
    the delivery being held meanwhile.

    Args:
        address: of the source, for logs.
        host: sleep and random.
        settled: called once for each flight that the broker has, or has taken back (then with ``SettlementLost``).
        redeclare: makes the source and its dead letters exist again.
        too_large: takes a flight whose copy for a retry the broker finds too large.
    """

    def __init__(
        self,
        address: str,
        host: Host,
        settled: Callable[[Flight, SettlementLost | None], None],
        redeclare: Callable[[], Awaitable[None]],
        too_large: Callable[[Flight, Nack], None],
    ) -> None:
        self._address = address
        self._host = host
        self._settled = settled
        self._redeclare = redeclare
        self._too_large = too_large
        self._finished: list[Flight] = []
        self._wake: asyncio.Future[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._empty: list[asyncio.Future[None]] = []
        self._failing = False
        self._ended: WeakSet[Receiver] = WeakSet()
        self.pending = 0
        self.parked: list[Flight] = []
        """Dead letters that the broker finds too large even without their record: held and reported."""

    def put(self, flight: Flight) -> None:
        """Settle a flight as its ``settlement`` says. Never blocks."""
        self.pending += 1
        self._finished.append(flight)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self) -> None:
        """Settle until cancelled. If cancelled: what is not settled stays with the broker, and is delivered again."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._finished:
                self._wake = loop.create_future()
                await self._wake
            finished, self._finished = self._finished, []
            quick: dict[Receiver, list[Flight]] = {}
            for flight in finished:
                if isinstance(flight.settlement, _COPIES):
                    self._aside(self._settle(flight.receiver, (flight,)))
                else:
                    same = quick.get(flight.receiver)
                    if same is None:
                        quick[flight.receiver] = [flight]
                    else:
                        same.append(flight)
            for receiver, flights in quick.items():
                await self._settle(receiver, flights)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"busframe {self._address} copy")
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _settle(self, receiver: Receiver, flights: Sequence[Flight]) -> None:
        try:
            outcomes = await receiver.settle([(flight.delivery, flight.settlement) for flight in flights])  # type: ignore[misc]
            if len(outcomes) != len(flights):
                raise TransportError(f"{len(outcomes)} answers to {len(flights)} settlements")
        except Exception as error:
            outcomes = [error] * len(flights)
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            failed = TransportError("the transport cancelled a settlement by itself")
            failed.__cause__ = error
            outcomes = [failed] * len(flights)
        for flight, outcome in zip(flights, outcomes, strict=True):
            if outcome is None or isinstance(outcome, SettlementLost):
                self._done(flight, outcome)
            elif isinstance(outcome, ClosedError) or receiver in self._ended:
                self._done(flight, self._lost(outcome))
            else:
                self._failed(flight, outcome)

    def ended(self, receiver: Receiver) -> None:
        """A receiver is closed: what it delivered, and is not settled, belongs to the broker again."""
        self._ended.add(receiver)
        self.forget_parked()

    def forget_parked(self) -> None:
        """What is parked was lost with its connection: it is delivered again, and would hold its credit twice."""
        parked, self.parked[:] = self.parked[:], []
        for flight in parked:
            self._done(flight, self._lost(None))

    def _lost(self, cause: Exception | None) -> SettlementLost:
        lost = SettlementLost(f"{self._address}: the receiver is closed")
        lost.__cause__ = cause
        return lost

    def _done(self, flight: Flight, outcome: SettlementLost | None) -> None:
        if outcome is None and self._failing:
            self._failing = False
            logger.info("%s: settling works again", self._address, extra={"source": self._address})
        self.pending -= 1
        self._settled(flight, outcome)
        self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        if self.pending <= len(self.parked):
            for waiter in self._empty:
                if not waiter.done():
                    waiter.set_result(None)
            self._empty.clear()

    def _failed(self, flight: Flight, error: Exception) -> None:
        settlement = flight.settlement
        if isinstance(error, MessageTooLarge) and isinstance(settlement, Nack):
            self.pending -= 1
            self._too_large(flight, settlement)
            self._tell_if_empty()
            return
        if isinstance(error, MessageTooLarge) and isinstance(settlement, DeadLetter):
            smaller = shrink(settlement.carried)
            if smaller is None:
                self.parked.append(flight)
                if flight.settled is not None and not flight.settled.done():
                    flight.settled.set_result(error)  # who waits for it would wait for ever
                self._tell_if_empty()
                logger.error(
                    "%s: message %s is too large to be dead-lettered; it is held until the worker ends",
                    self._address,
                    flight.delivery.message.id,
                    extra={"source": self._address, "message_id": flight.delivery.message.id},
                )
                return
            flight.settlement = replace(settlement, carried=smaller)
            self._aside(self._settle(flight.receiver, (flight,)))
            return
        if not self._failing:
            self._failing = True
            logger.warning(
                "%s: settling failed and is tried again: %s", self._address, error, extra={"source": self._address}
            )
        flight.tries += 1
        self._aside(self._again(flight, isinstance(error, DestinationNotFound)))

    async def _again(self, flight: Flight, missing: bool) -> None:
        backoff = Backoff(self._host.sleep, self._host.random)
        backoff.failures = flight.tries - 1
        await backoff.wait()
        if missing:
            try:
                await self._redeclare()
            except Exception as error:  # the next try says it again
                logger.debug("%s: declaring it again failed: %r", self._address, error)
        await self._settle(flight.receiver, (flight,))

    async def wait_empty(self) -> None:
        """Wait until everything that was put is settled, but what is parked."""
        while self.pending > len(self.parked):
            waiter = asyncio.get_running_loop().create_future()
            self._empty.append(waiter)
            await waiter

    def close(self) -> None:
        """Give up what is still being tried: it is delivered again."""
        for task in self._beside:
            task.cancel()
