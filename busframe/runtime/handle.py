"""What one delivery goes through: judged on arrival, decoded, handled, and what becomes of it."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from busframe.codecs import Codecs
from busframe.errors import AlreadySettled, DecodeFailed, DeliveryError
from busframe.handling.context import Context
from busframe.handling.outcomes import Discard, PauseSource, Reject, RetryAfter
from busframe.handling.outlet import Outlet
from busframe.handling.plan import SourcePlan
from busframe.logic.attempts import Verdict
from busframe.logic.dead_letter import read_dead_letter
from busframe.logic.expiry import is_expired
from busframe.logic.filters import matches
from busframe.logic.retry import Retry
from busframe.logic.wire import ATTEMPT
from busframe.model.destination import Subscription
from busframe.model.events import Failed, Handled
from busframe.model.message import Message
from busframe.model.settlement import ACK, DeadLetter, Nack, Settlement
from busframe.runtime.binding import Binding, Bindings
from busframe.runtime.counters import Counters
from busframe.runtime.flight import Flight
from busframe.runtime.successes import Successes
from busframe.runtime.threads import Threads
from busframe.runtime.verdicts import Verdicts, as_exception

logger = logging.getLogger("busframe.worker")

LETTERS_PAUSE_S = 60.0
BROKEN_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Again:
    """Handle it again in its lane, after so many seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Start nothing of this source for so many seconds; this one waits in its lane."""

    delay_s: float


InLane: TypeAlias = Again | Pause


class Handling:
    """What deliveries of one source go through.

    Args:
        plan: the handlers.
        verdicts: decide about failures.
        codecs: decode.
        outlet: what handlers publish through.
        state: what the lifespan yielded.
        observers: told what happened.
        threads: for plain functions; None where there are none.
    """

    def __init__(
        self,
        plan: SourcePlan,
        verdicts: Verdicts,
        codecs: Codecs,
        outlet: Outlet,
        state: object,
        observers: Sequence[Callable[[object], None]],
        threads: Threads | None,
    ) -> None:
        self.verdicts = verdicts
        self.counters = Counters()
        self.threads = threads
        self.finish: Callable[[Flight], None] = _unset
        """Takes a flight whose settlement is decided; set by the source's runner."""
        self.ending = False
        """Set before handlers are cancelled: only the worker's own cancellation is shutdown."""
        self._plan = plan
        self._source = plan.source
        self._address = plan.source.address
        self._bindings = Bindings(plan, threads)
        self._by_type = self._bindings.by_type
        self._decode = codecs.decode
        self._outlet = outlet
        self._state = state
        self._observers = tuple(observers)
        self._manual = plan.ack == "manual"
        self._before = plan.ack == "before"
        self._subscription = isinstance(plan.source, Subscription)
        self._where = plan.source.where if isinstance(plan.source, Subscription) else {}
        self._clock = verdicts.clock
        self._successes = Successes()

    async def handle(self, flight: Flight, verdict: Verdict) -> InLane | None:
        """Take a delivery through.

        Returns:
            None: its settlement is decided, and it was given to ``finish``. Or that it goes on in its lane.

        If cancelled: nothing is settled; the delivery goes back to the broker, and no attempt is counted.
        """
        delivery = flight.delivery
        message = delivery.message
        binding = self._by_type.get(message.type)
        if (
            binding is None
            or delivery.deliveries > 1
            or delivery.carried
            or verdict is not Verdict.CLEAR
            or (self._subscription and (flight.receiver.where or self._where))
        ):
            settlement = self._judge(flight, verdict)
            if settlement is not None:
                return self._settle(flight, settlement)
            if self.verdicts.letters:
                message = replace(message, dead=read_dead_letter(delivery.carried))
            binding = binding or self._bindings.find(message.type)
            if binding is None:
                return self._unknown_type(flight)
            attempt = self.verdicts.attempt(delivery)
        else:
            attempt = 1
        if binding.kind is Message:
            body: Any = message
        else:
            try:
                body = self._decode(message.body, message.content_type, binding.kind)
            except DecodeFailed as error:
                return self._give_up(flight, "undecodable", error, binding.name, attempt - 1)
        by_hand = _ByHand(self, flight, binding) if self._manual else None
        context = Context(
            message,
            self._source,
            binding.name,
            attempt,
            attempt > 1 or delivery.deliveries > 1,
            self._state,
            self._outlet,
            by_hand,
        )
        started = time.perf_counter() if self._observers else 0.0
        try:
            await binding.call(body, context)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if self.ending:
                raise asyncio.CancelledError from error
            # Not `Task.cancelling()`: libraries for time-outs leave that counted up in the task of their caller.
            return self._raised(flight, binding, as_exception(error), attempt)
        finally:
            if by_hand is not None:
                by_hand.over = True
        if self._manual:
            if flight.settlement is None and flight.kept is None:
                unsettled = DeliveryError(f"not-settled: {binding.name} returned without ack, nack or reject")
                return self._raised(flight, binding, unsettled, attempt)
            return flight.kept
        self.counters.handled += 1
        if self._observers:
            self.tell(Handled(self._source, binding.name, message, attempt, time.perf_counter() - started))
        if not self._before:
            self._successes.add(delivery)
        flight.settlement = ACK
        self.finish(flight)
        return None

    def broken(self, flight: Flight, error: Exception) -> InLane | None:
        """Something around the handler failed that never should: a failure of the message, so that it has an end."""
        logger.error("%s: busframe failed", self._address, exc_info=error, extra=self._extra(flight, None))
        if flight.settlement is not None:
            return flight.kept
        try:
            self.counters.failed += 1
            return self._decided(flight, self.verdicts.failed(flight.delivery, Retry(), error, None), error, None)
        except Exception:
            logger.exception("%s: busframe failed again", self._address, extra=self._extra(flight, None))
            return Again(BROKEN_PAUSE_S)

    # ------------------------------------------------------------------------------------------------ on arrival

    def _judge(self, flight: Flight, verdict: Verdict) -> Settlement | None:
        """In the order of semantics A.4: already succeeded here, stored filter, expiry, crash guard."""
        delivery = flight.delivery
        headers = delivery.message.headers
        counters = self.counters
        if delivery.deliveries > 1 and delivery in self._successes:
            counters.skipped += 1
            return ACK
        if self.verdicts.letters:
            return None
        if self._subscription:
            stored = flight.receiver.where
            if stored is not None:
                if not matches(stored, headers):
                    counters.filtered += 1
                    return ACK
            elif not matches(self._where, headers):
                # It may be for a worker with another filter: never acknowledged, it can be found.
                counters.filtered += 1
                return self._verdict(flight, "filtered", "the subscription's filter does not take it")
        if is_expired(delivery.carried, self._clock()):
            if self._plan.expired == "discard":
                counters.discarded += 1
                return ACK
            return self._verdict(flight, "expired", f"expired at {delivery.carried.get('bf-expires-at')}")
        if verdict is Verdict.CRASH_LOOP:
            what = f"delivered {delivery.deliveries} times and never settled"
            return self._verdict(flight, "crash-loop", what)
        return None

    def _verdict(self, flight: Flight, reason: str, description: str) -> DeadLetter:
        delivery = flight.delivery
        attempts = self.verdicts.attempt(delivery) - 1 if self.verdicts.exact else 0
        return self.verdicts.dead_letter(delivery, reason, None, None, attempts, description)

    def _unknown_type(self, flight: Flight) -> InLane | None:
        error = self._bindings.unknown(flight.delivery.message.type)
        if self._plan.unmatched == "discard":
            self.counters.discarded += 1
            return self._settle(flight, ACK)
        decision = self.verdicts.failed(flight.delivery, self._plan.unknown_type_retry, error, None)
        if isinstance(decision, DeadLetter):
            attempt = self.verdicts.attempt(flight.delivery)
            decision = self.verdicts.dead_letter(flight.delivery, "unknown-type", error, None, attempt)
        return self._decided(flight, decision, error, None)

    # ------------------------------------------------------------------------------------------------ outcomes

    def _raised(self, flight: Flight, binding: Binding, error: Exception, attempt: int) -> InLane | None:
        if flight.settlement is not None or flight.kept is not None:
            logger.warning(
                "%s: %s failed after it had settled its message; that stands",
                self._address,
                binding.name,
                exc_info=error,
                extra=self._extra(flight, binding.name),
            )
            return flight.kept
        if isinstance(error, PauseSource):
            logger.info("%s: paused for %s s: %s", self._address, error.delay_s, error, extra={"source": self._address})
            return Pause(error.delay_s)
        if isinstance(error, Discard):
            self.counters.discarded += 1
            logger.info("%s: discarded: %s", self._address, error, extra=self._extra(flight, binding.name))
            return self._settle(flight, ACK)
        self.counters.failed += 1
        decision = self.verdicts.failed(flight.delivery, binding.policy, error, binding.name)
        return self._decided(flight, decision, error, binding.name)

    def _decided(
        self, flight: Flight, decision: Nack | DeadLetter, error: Exception, handler: str | None
    ) -> InLane | None:
        if self._observers:
            delivery = flight.delivery
            attempt = self.verdicts.attempt(delivery)
            self.tell(Failed(self._source, handler, delivery.message, attempt, error, decision))
        if isinstance(decision, DeadLetter) or self._before:
            return self._settle(flight, decision, error, handler)
        self.counters.retried += 1
        logger.info(
            "%s: %s failed, again in %.3f s: %r",
            self._address,
            handler or "a message",
            decision.delay_s,
            error,
            extra=self._extra(flight, handler),
        )
        if self._plan.in_place or (decision.delay_s == 0 and self.verdicts.exact):
            flight.delivery = replace(flight.delivery, carried=decision.carried)
            return Again(decision.delay_s)
        return self._settle(flight, decision)

    def _give_up(
        self, flight: Flight, reason: str, error: Exception, handler: str | None, attempts: int
    ) -> InLane | None:
        decision = self.verdicts.dead_letter(flight.delivery, reason, error, handler, attempts)
        return self._decided(flight, decision, error, handler)

    def _settle(
        self, flight: Flight, settlement: Settlement, error: Exception | None = None, handler: str | None = None
    ) -> InLane | None:
        if isinstance(settlement, DeadLetter | Nack) and self._before:
            self.counters.dropped += 1
            logger.error(
                "%s: a message of an at-most-once source failed and is gone: %r",
                self._address,
                error or settlement,
                extra=self._extra(flight, handler),
            )
        elif isinstance(settlement, DeadLetter):
            if self.verdicts.letters:
                return self._letter_failed(flight, settlement)
            if not self._plan.dead_letter:
                self.counters.dropped += 1
                logger.error(
                    "%s: dropped (%s), because the source has dead_letter=False: %s",
                    self._address,
                    settlement.reason,
                    error or settlement.description,
                    extra=self._extra(flight, handler),
                )
                settlement = ACK
            else:
                self.counters.dead_lettered += 1
                logger.warning(
                    "%s: dead-lettered (%s): %s",
                    self._address,
                    settlement.reason,
                    _said(error, settlement),
                    extra=self._extra(flight, handler),
                )
        flight.settlement = settlement
        self.finish(flight)
        return None

    def _letter_failed(self, flight: Flight, settlement: DeadLetter) -> InLane:
        # Nothing is dead-lettered from the dead letters: it begins anew after a pause (semantics A.4).
        logger.warning(
            "%s: its handler gave a letter up (%s); it begins anew in %s s",
            self._address,
            settlement.reason,
            LETTERS_PAUSE_S,
            extra=self._extra(flight, None),
        )
        carried = {name: value for name, value in flight.delivery.carried.items() if name != ATTEMPT}
        flight.delivery = replace(flight.delivery, carried=carried)
        return Pause(LETTERS_PAUSE_S)

    # ------------------------------------------------------------------------------------------------ by hand

    async def by_hand(self, flight: Flight, binding: Binding, outcome: RetryAfter | Reject | None) -> None:
        """What the verbs of the context do; returns when the broker has it."""
        if flight.settlement is not None or flight.kept is not None:
            raise AlreadySettled(f"{binding.name}: message {flight.delivery.message.id} is settled already")
        flight.settled = flight.settled or asyncio.get_running_loop().create_future()
        if outcome is None:
            self.counters.handled += 1
            self._successes.add(flight.delivery)
            self._settle(flight, ACK)
        else:
            self.counters.failed += 1
            decision = self.verdicts.failed(flight.delivery, binding.policy, outcome, binding.name)
            if self._plan.in_place and isinstance(decision, Nack):
                flight.kept = self._decided(flight, decision, outcome, binding.name)
            elif isinstance(decision, Nack):
                self.counters.retried += 1
                self._settle(flight, decision)
            else:
                flight.kept = self._decided(flight, decision, outcome, binding.name)
        if flight.kept is None:
            lost = await asyncio.shield(flight.settled)
            if lost is not None:
                raise lost

    # ------------------------------------------------------------------------------------------------ telling

    def tell(self, event: object) -> None:
        """Tell the observers; one that fails is logged."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                logger.exception("an observer failed")

    def _extra(self, flight: Flight, handler: str | None) -> dict[str, object]:
        message = flight.delivery.message
        return {
            "source": self._address,
            "handler": handler,
            "message_id": message.id,
            "message_type": message.type,
        }


class _ByHand:
    """Settles one attempt at a delivery; once its handler has ended, the delivery is not the handler's any more."""

    __slots__ = ("_binding", "_flight", "_handling", "over")

    def __init__(self, handling: Handling, flight: Flight, binding: Binding) -> None:
        self._handling = handling
        self._flight = flight
        self._binding = binding
        self.over = False

    async def __call__(self, outcome: RetryAfter | Reject | None) -> None:
        if self.over:
            raise AlreadySettled(f"{self._binding.name}: settle before the handler returns, not afterwards")
        await self._handling.by_hand(self._flight, self._binding, outcome)


def _unset(flight: Flight) -> None:
    raise AssertionError("finish is set by the runner")


def _said(error: Exception | None, settlement: DeadLetter) -> str:
    if error is None:
        return settlement.description
    return str(error) if isinstance(error, Reject) else f"{type(error).__name__}: {error}"
