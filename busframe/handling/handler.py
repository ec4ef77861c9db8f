"""A registered function with its source and policies."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict

from busframe.handling.context import Context
from busframe.handling.signature import Signature
from busframe.logic.retry import RetryPolicy
from busframe.model.destination import DeadLetters, Queue, SourceAddress, Subscription

Next: TypeAlias = Callable[[], Awaitable[object]]
"""Runs what is inside a middleware: the next one, and at last the handler."""

Middleware: TypeAlias = Callable[[Context, Next], Awaitable[object]]
"""A function around a handler: (context, call_next). Outermost first: the bus's, the router's, the handler's."""

Ordering: TypeAlias = Literal["none", "key"]
AckMode: TypeAlias = Literal["after", "before", "manual"]
Disposal: TypeAlias = Literal["dead-letter", "discard"]


class SourceOptions(TypedDict, total=False):
    """What belongs to a source: one of its handlers states it, and no other may state something else."""

    concurrency: int
    prefetch: int
    dead_letter: bool
    ordering: Ordering
    ack: AckMode
    unmatched: Disposal
    expired: Disposal


class HandlerOptions(SourceOptions, total=False):
    """What may be said at registration."""

    name: str
    retry: RetryPolicy
    timeout_s: float
    middleware: Sequence[Middleware]


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """A registered function.

    Attributes:
        fn: the function, as it was.
        source: what it handles.
        signature: what it takes, read once.
        name: unique on a bus.
        retry: its policy; None: the router's or the bus's.
        timeout_s: how long it may run, in seconds; None: unbounded.
        middleware: around it, outermost first.
        options: what it states about its source.
        where: the file and line where it is defined, for error texts.
        only: the one of the source's types that it was registered for.
    """

    fn: Callable[..., Any]
    source: SourceAddress
    signature: Signature
    name: str
    retry: RetryPolicy | None = None
    timeout_s: float | None = None
    middleware: tuple[Middleware, ...] = ()
    options: SourceOptions = field(default_factory=SourceOptions)
    where: str = ""
    only: type | None = None


def is_source(value: object) -> bool:
    """Whether something can be consumed. A topic cannot: its subscriptions can."""
    return isinstance(value, Queue | Subscription | DeadLetters)
