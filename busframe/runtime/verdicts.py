"""From what happened to what becomes of the message: the decisions of ``logic`` with the facts of one source."""

import logging
import traceback
from typing import TYPE_CHECKING, Any

from busframe.handling.outcomes import Reject, RetryAfter
from busframe.handling.plan import SourcePlan
from busframe.logic.attempts import failures_recorded, record_failure
from busframe.logic.dead_letter import FailureRecord, dead_letter_headers
from busframe.logic.retry import Failure, Retry, RetryPolicy
from busframe.logic.wire import format_time, from_timestamp
from busframe.model.delivery import Delivery
from busframe.model.destination import DeadLetters
from busframe.model.settlement import DeadLetter, Nack
from busframe.spi.transport import Host, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("busframe.worker")


class Verdicts:
    """Decides about the deliveries of one source."""

    def __init__(self, plan: SourcePlan, host: Host, transport: Transport, max_lane_delay_s: float) -> None:
        self.source = plan.source
        self.address = plan.source.address
        self.letters = isinstance(plan.source, DeadLetters)
        self.exact = transport.capabilities.attempt_exact or self.letters  # a letter's retries are the lane's
        self._plan = plan
        self.clock: Callable[[], float] = host.clock
        self._random: Callable[[], float] = host.random
        self._instance = host.instance
        capabilities = transport.capabilities
        self._longest = (
            min(max_lane_delay_s, capabilities.hold_max_s) if plan.in_place else capabilities.nack_delay_max_s
        )

    def attempt(self, delivery: Delivery) -> int:
        """Which attempt a delivery is."""
        recorded = failures_recorded(delivery.carried, self.address) + 1
        return recorded if self.exact else max(delivery.deliveries, recorded)

    def failed(
        self, delivery: Delivery, policy: RetryPolicy, error: Exception, handler: str | None
    ) -> Nack | DeadLetter:
        """What becomes of a message whose handler failed, with what its copy carries."""
        attempt = self.attempt(delivery)
        now = self.clock()
        if isinstance(error, Reject):
            return self.dead_letter(delivery, "rejected", error, handler, attempt)
        published = delivery.message.published_at
        age_s = max(0.0, now - published.timestamp()) if published is not None else 0.0
        failure = Failure(error, attempt, age_s, self._random())
        decision = self._decide(policy, failure)
        if isinstance(decision, DeadLetter):
            return self.dead_letter(delivery, decision.reason, error, handler, attempt, decision.description)
        delay_s = error.delay_s if isinstance(error, RetryAfter) else decision.delay_s
        if delay_s > self._longest:
            logger.warning(
                "%s: a retry after %s s is cut to %s s, the longest that waits here",
                self.address,
                delay_s,
                self._longest,
                extra={"source": self.address, "message_id": delivery.message.id},
            )
            delay_s = self._longest
        return Nack(max(0.0, delay_s), record_failure(delivery.carried, self.address, attempt, _rfc3339(now)))

    def _decide(self, policy: RetryPolicy, failure: Failure) -> Nack | DeadLetter:
        try:
            decision = policy(failure)
            if not isinstance(decision, Nack | DeadLetter):
                raise TypeError(f"it answered {decision!r} and not Nack or DeadLetter")
            if isinstance(decision, Nack) and not decision.delay_s >= 0:  # also where it is text or no number
                raise ValueError(f"it answered {decision!r}: delay_s must be 0 or more seconds")
        except Exception:
            # A broken policy may neither lose the message nor retry it for ever.
            logger.exception("%s: the retry policy failed; the default one decides", self.address)
            return Retry()(failure)
        return decision

    def dead_letter(
        self,
        delivery: Delivery,
        reason: str,
        error: BaseException | None,
        handler: str | None,
        attempts: int,
        description: str = "",
    ) -> DeadLetter:
        """A dead letter with its whole failure record."""
        record = FailureRecord(
            reason=reason,
            error_type=_type_name(error) if error is not None else None,
            error_message=(_text(error) if error is not None else None) or description or None,
            stack=_stack(error) if error is not None else None,
            attempts=attempts,
            now=_rfc3339(self.clock()),
            source=self.address,
            handler=handler,
            host=self._instance,
        )
        return DeadLetter(reason, description, dead_letter_headers(delivery.carried, record))


def _rfc3339(now: float) -> str:
    return format_time(from_timestamp(now))


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # an error's own __str__ may fail; its message is not worth the delivery
        return f"<no text: {broken!r}>"


def _stack(error: BaseException) -> str | None:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return None


def as_exception(error: BaseException) -> Exception:
    """An error as policies see it: what is no ``Exception`` (a handler's own cancellation) is wrapped in one."""
    if isinstance(error, Exception):
        return error
    wrapped: Any = RuntimeError(f"the handler raised {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped  # type: ignore[no-any-return]
