"""What runs: for each source its handlers, with everything that they state, inherit and are overruled by, settled."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from busframe.errors import ConfigurationError
from busframe.handling.handler import AckMode, Disposal, Handler, Middleware, Ordering, SourceOptions
from busframe.logic.retry import Retry, RetryPolicy, longest_delay_s, most_attempts
from busframe.model.destination import DeadLetters, Queue, SourceAddress, Subscription
from busframe.model.entity import Entity
from busframe.model.types import type_ids

DEFAULT_CONCURRENCY = 10
MIN_PREFETCH = 10

_CONFIGURABLE = ("concurrency", "prefetch", "ordering")  # what configuration may say of a source


class RetryOverride(Protocol):
    """What configuration may say about a policy."""

    def over(self, policy: RetryPolicy, /) -> Retry:
        """The policy with what is said here; raises ConfigurationError where it cannot be changed."""
        ...


class Override(Protocol):
    """What configuration may say about a handler: None says nothing."""

    @property
    def concurrency(self) -> int | None: ...  # noqa: D102 - the fields of Handler and SourcePlan
    @property
    def prefetch(self) -> int | None: ...  # noqa: D102
    @property
    def timeout_s(self) -> float | None: ...  # noqa: D102
    @property
    def ordering(self) -> Ordering | None: ...  # noqa: D102
    @property
    def retry(self) -> RetryOverride | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class SourcePlan:
    """One source and how it is consumed.

    Attributes:
        source: what.
        handlers: each with its own policy and middleware, resolved.
        concurrency: how many handlers run at once.
        prefetch: the most deliveries in flight.
        dead_letter: False: what would be a dead letter is dropped, and logged.
        ordering: whether messages of one key are handled one at a time and in order.
        ack: when it is settled.
        unmatched: what becomes of a type that no handler takes.
        expired: what becomes of an expired message.
        unknown_type_retry: the bus's policy, for types that no handler takes.
    """

    source: SourceAddress
    handlers: tuple[Handler, ...]
    concurrency: int
    prefetch: int
    dead_letter: bool
    ordering: Ordering
    ack: AckMode
    unmatched: Disposal
    expired: Disposal
    unknown_type_retry: RetryPolicy

    @property
    def in_place(self) -> bool:
        """Whether a retry waits in its lane instead of going back to the broker."""
        return self.ordering == "key" or isinstance(self.source, DeadLetters)

    @property
    def policies(self) -> list[RetryPolicy]:
        """All policies that may decide about a message of this source."""
        return [*(handler.retry for handler in self.handlers if handler.retry), self.unknown_type_retry]

    @property
    def max_attempts(self) -> int:
        """The most attempts that a policy allows."""
        return max(most_attempts(policy) for policy in self.policies)

    @property
    def longest_delay_s(self) -> float | None:
        """The longest delay that a policy may ask; None: one does not say."""
        delays = [longest_delay_s(policy) for policy in self.policies]
        return None if None in delays else max(delay for delay in delays if delay is not None)

    @property
    def entity(self) -> Entity:
        """What the transport has to know."""
        timeouts = [handler.timeout_s for handler in self.handlers]
        return Entity(
            self.source,
            self.ordering,
            self.max_attempts,
            0.0 if self.in_place else self.longest_delay_s or 0.0,
            None if None in timeouts else max(timeout for timeout in timeouts if timeout is not None),
        )


def plan_sources(
    handlers: Iterable[Handler],
    *,
    retry: RetryPolicy | None = None,
    middleware: Sequence[Middleware] = (),
    overrides: Mapping[str, Override] | None = None,
) -> tuple[list[SourcePlan], list[str]]:
    """Settle everything that handlers state, inherit and are overruled by.

    Args:
        handlers: all of a bus.
        retry: the bus's policy.
        middleware: the bus's, outermost first.
        overrides: what configuration says, by handler name.

    Returns:
        (the plans, in order of registration; what is wrong, each with what to do)
    """
    policy = Retry() if retry is None else retry
    problems: list[str] = []
    by_source: dict[SourceAddress, list[Handler]] = {}
    names: dict[str, Handler] = {}
    for handler in handlers:
        other = names.setdefault(handler.name, handler)
        if other is not handler:
            problems.append(
                f"two handlers are called {handler.name!r} ({other.where}, {handler.where}): say name=… for one of them"
            )
        by_source.setdefault(handler.source, []).append(handler)
    plans = []
    for source, group in by_source.items():
        problems += _disagreements(source, group)
        plans.append(_plan(source, group, policy, tuple(middleware), overrides or {}, problems))
    return plans, problems


def _plan(
    source: SourceAddress,
    group: list[Handler],
    policy: RetryPolicy,
    middleware: tuple[Middleware, ...],
    overrides: Mapping[str, Override],
    problems: list[str],
) -> SourcePlan:
    stated: SourceOptions = {}
    resolved = []
    for handler in group:
        stated = {**handler.options, **stated}
        override = overrides.get(handler.name)
        own = policy if handler.retry is None else handler.retry
        timeout_s = handler.timeout_s
        if override is not None:
            timeout_s = override.timeout_s if override.timeout_s is not None else timeout_s
            if override.retry is not None:
                try:
                    own = override.retry.over(own)
                except ConfigurationError as error:
                    problems += [f"[handlers.{handler.name}] retry: {problem}" for problem in error.problems]
        resolved.append(replace(handler, retry=own, timeout_s=timeout_s, middleware=(*middleware, *handler.middleware)))
    overruled = {option: _overruled(source, option, group, overrides, problems) for option in _CONFIGURABLE}
    concurrency: int = overruled["concurrency"] or stated.get("concurrency") or DEFAULT_CONCURRENCY
    prefetch: int = overruled["prefetch"] or stated.get("prefetch") or max(2 * concurrency, MIN_PREFETCH)
    ordering: Ordering = overruled["ordering"] or stated.get("ordering") or "none"
    if isinstance(source, DeadLetters) and stated.get("ack") == "before":
        problems.append(f'{source}: ack="before" would lose dead letters: use "after" or "manual"')
    if "unmatched" not in stated and isinstance(source, Subscription) and _takes_fewer(source, group):
        problems.append(
            f'{source}: its handlers take fewer types than the topic carries: say unmatched="discard" if the others '
            'are none of its business, or unmatched="dead-letter" if they are a mistake'
        )
    return SourcePlan(
        source=source,
        handlers=tuple(resolved),
        concurrency=concurrency,
        prefetch=prefetch,
        dead_letter=stated.get("dead_letter", True),
        ordering=ordering,
        ack=stated.get("ack", "after"),
        unmatched=stated.get("unmatched", "dead-letter"),
        expired=stated.get("expired", "dead-letter"),
        unknown_type_retry=policy,
    )


def _overruled(
    source: SourceAddress, option: str, group: list[Handler], overrides: Mapping[str, Override], problems: list[str]
) -> Any:
    """What configuration says of a source, for any of its handlers."""
    said = {handler.name: getattr(overrides[handler.name], option) for handler in group if handler.name in overrides}
    said = {name: value for name, value in said.items() if value is not None}
    if len(set(said.values())) > 1:
        values = " and ".join(f"{option} = {value!r} for {name}" for name, value in said.items())
        problems.append(
            f"{source}: configuration says {values}: it belongs to the source, so say it for one of its handlers"
        )
    return next(iter(said.values()), None)


def _disagreements(source: SourceAddress, group: list[Handler]) -> list[str]:
    problems = []
    stated: dict[str, tuple[object, Handler]] = {}
    taken: dict[str, Handler] = {}
    catch_all: Handler | None = None
    for handler in group:
        for option, value in handler.options.items():
            first, by = stated.setdefault(option, (value, handler))
            if first != value:
                problems.append(
                    f"{source}: {by.name} says {option}={first!r} and {handler.name} says {option}={value!r}: "
                    "it belongs to the source, so let one of them state it"
                )
        for id in handler.signature.types:
            other = taken.setdefault(id, handler)
            if other is not handler:
                problems.append(
                    f"{source}: {other.name} and {handler.name} both take {id!r}: one message has one handler"
                )
        if handler.signature.catch_all:
            if catch_all is not None:
                problems.append(f"{source}: {catch_all.name} and {handler.name} both take everything: only one may")
            catch_all = handler
        if isinstance(source, Subscription):
            ours = group[0].source
            if isinstance(ours, Subscription):
                problems += disagreement(ours, handler.source)
    return problems


def disagreement(one: Subscription[Any], other: object) -> list[str]:
    """What is wrong where two subscriptions of one name differ on one bus."""
    if not isinstance(other, Subscription) or one != other:
        return []
    return [
        f"{one}: it is declared with {what}={getattr(one, what)!r} and with {what}={getattr(other, what)!r}: "
        "a subscription has one meaning; give the other one another name"
        for what in ("where", "start", "temporary")
        if getattr(one, what) != getattr(other, what)
    ]


def _takes_fewer(source: Subscription[Any] | Queue[Any], group: list[Handler]) -> bool:
    if any(handler.signature.catch_all for handler in group):
        return False
    taken = {id for handler in group for id in handler.signature.types}
    return any(type_ids(kind)[0] not in taken for kind in source.types)
