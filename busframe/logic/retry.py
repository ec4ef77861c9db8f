"""The retry policy: a pure function from a failure to what becomes of the message."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from sys import float_info
from typing import TypeAlias

from busframe.errors import ConfigurationError
from busframe.model.settlement import DeadLetter, Nack


class AsksRetry(Exception):
    """An error that says itself when to try again: what a policy says of all exceptions is not meant for it."""


ASSUMED_MAX_ATTEMPTS = 100
"""What is assumed of a policy that does not say its ``max_attempts``."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A handler's failure.

    Attributes:
        error: what it raised.
        attempt: which attempt failed, from 1.
        age_s: seconds since the message was published.
        random: uniform in [0, 1), for jitter.
    """

    error: Exception
    attempt: int
    age_s: float
    random: float


RetryPolicy: TypeAlias = Callable[[Failure], Nack | DeadLetter]


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Exponential back-off, then dead-lettering.

    The delay after attempt n is ``min(max_delay_s, delay_s · factorⁿ⁻¹)``, lengthened by a random part of up to
    ``jitter``; it is never shortened and never overflows.

    Args:
        max_attempts: how often a handler may fail on a message; after that it is dead-lettered as ``attempts``.
        delay_s: after the first failure, in seconds.
        factor: by which each further delay is longer, ≥ 1.
        max_delay_s: the longest delay before jitter, in seconds.
        jitter: the largest lengthening, as a fraction of the delay.
        max_age_s: messages published longer ago are dead-lettered as ``gave-up``, in seconds; None: no limit.
        give_up_on: exceptions that are not worth a retry: ``gave-up`` at once.
        rules: another policy for some exceptions. Of the rules and ``give_up_on`` the class nearest to the error's own
            wins, by its method resolution order. What they say of ``Exception`` is not meant for ``RetryAfter``.

    Raises:
        ConfigurationError: a number is out of its range, or what should be exception classes is not.
    """

    max_attempts: int = 5
    delay_s: float = 1.0
    factor: float = 2.0
    max_delay_s: float = 300.0
    jitter: float = 0.1
    max_age_s: float | None = None
    give_up_on: tuple[type[Exception], ...] = ()
    rules: Mapping[type[Exception], "Retry"] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        problems = [
            f"Retry: {name} must be {rule}, not {value!r}"
            for name, value, ok, rule in (
                ("max_attempts", self.max_attempts, self.max_attempts >= 1, "1 or more"),
                ("delay_s", self.delay_s, 0 <= self.delay_s <= float_info.max, "0 or more seconds"),
                ("factor", self.factor, 1 <= self.factor <= float_info.max, "1 or more"),
                ("max_delay_s", self.max_delay_s, 0 <= self.max_delay_s <= float_info.max, "0 or more seconds"),
                ("jitter", self.jitter, 0 <= self.jitter <= float_info.max, "0 or more, a fraction"),
                ("max_age_s", self.max_age_s, self.max_age_s is None or self.max_age_s > 0, "more than 0 seconds"),
                ("give_up_on", self.give_up_on, _are_errors(self.give_up_on), "a tuple of exception classes"),
                ("rules", self.rules, _are_errors(tuple(self.rules)), "by exception class"),
            )
            if not ok
        ]
        if problems:
            raise ConfigurationError(problems)

    def __call__(self, failure: Failure, /) -> Nack | DeadLetter:
        """Decide about a failure; the same failure always gets the same answer."""
        for kind in type(failure.error).__mro__:
            if kind is AsksRetry:
                break
            if kind in self.rules:
                return self.rules[kind](failure)
            if kind in self.give_up_on:
                return DeadLetter("gave-up", f"{kind.__name__} is not worth a retry")
        if failure.attempt >= self.max_attempts:
            return DeadLetter("attempts", f"failed {failure.attempt} times")
        if self.max_age_s is not None and failure.age_s >= self.max_age_s:
            return DeadLetter("gave-up", f"published {failure.age_s:.0f} s ago")
        return Nack(self.delay_after(failure.attempt, failure.random))

    def delay_after(self, attempt: int, random: float) -> float:
        """The delay after a failed attempt (from 1), in seconds."""
        try:
            # A float, for whole numbers do not overflow: 2 ** 10**9 takes minutes and gigabytes.
            delay = min(self.max_delay_s, self.delay_s * float(self.factor) ** (attempt - 1))
        except OverflowError:
            delay = self.max_delay_s if self.delay_s else 0.0
        return min(float_info.max, delay * (1 + self.jitter * random))

    @property
    def longest_delay_s(self) -> float:
        """The longest delay that it or one of its rules may ask, in seconds, jitter included."""
        own = self.delay_after(max(1, self.max_attempts - 1), 1.0) if self.max_attempts > 1 else 0.0
        return max([own, *(rule.longest_delay_s for rule in self.rules.values())])

    @property
    def most_attempts(self) -> int:
        """The most attempts that it or one of its rules allows."""
        return max([self.max_attempts, *(rule.most_attempts for rule in self.rules.values())])


def _are_errors(kinds: object) -> bool:
    return isinstance(kinds, tuple) and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds)


def most_attempts(policy: RetryPolicy) -> int:
    """The most attempts that any policy allows, or what is assumed of one that does not say."""
    stated = getattr(policy, "most_attempts", None) or getattr(policy, "max_attempts", None)
    return int(stated) if stated else ASSUMED_MAX_ATTEMPTS


def longest_delay_s(policy: RetryPolicy) -> float | None:
    """The longest delay that any policy may ask, in seconds; None where it does not say."""
    stated = getattr(policy, "longest_delay_s", None)
    return None if stated is None else float(stated)
