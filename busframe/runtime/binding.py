"""A handler made ready to be called: how its body is decoded, how its parameters are filled, what is around it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from busframe.errors import UnknownType
from busframe.handling.context import Context, SyncContext
from busframe.handling.handler import Handler, Middleware
from busframe.handling.plan import SourcePlan
from busframe.logic.retry import Retry, RetryPolicy
from busframe.middleware.timeout import Timeout
from busframe.model.message import Message
from busframe.runtime.threads import Threads

Call: TypeAlias = Callable[[Any, Context], Awaitable[object]]


class Binding:
    """What runs for messages of one type of one source.

    Attributes:
        name: the handler's.
        kind: what the body is decoded to; ``Message``: it is not.
        policy: decides about its failures.
        call: (body, context), with middleware and time-out around the function.
    """

    __slots__ = ("call", "kind", "name", "policy")

    def __init__(self, name: str, kind: Any, policy: RetryPolicy, call: Call) -> None:
        self.name = name
        self.kind = kind
        self.policy = policy
        self.call = call


class Bindings:
    """Which binding takes which message type, for one source."""

    def __init__(self, plan: SourcePlan, threads: Threads | None) -> None:
        self._source = plan.source
        self.by_type: dict[str | None, Binding] = {}
        self._catch_all: Binding | None = None
        for handler in plan.handlers:
            call = _compile(handler, threads)
            signature = handler.signature
            policy = handler.retry or Retry()
            for id, kind in signature.types.items():
                raw = signature.body is Message
                self.by_type[id] = Binding(handler.name, Message if raw else kind, policy, call)
            if signature.catch_all:
                self._catch_all = Binding(handler.name, signature.body, policy, call)
        # A message without a type goes to the only handler, or to the catch-all (semantics A.4).
        untyped = self._catch_all
        if untyped is None and len(plan.handlers) == 1:
            only = plan.handlers[0]
            untyped = Binding(only.name, only.signature.body, only.retry or Retry(), _compile(only, threads))
        if untyped is not None:
            self.by_type[None] = untyped

    def find(self, kind: str | None) -> Binding | None:
        """What takes messages of this type; None: nothing."""
        return self.by_type.get(kind or None) or self._catch_all  # an empty type says nothing

    def unknown(self, kind: str | None) -> UnknownType:
        """The error for a type that nothing takes."""
        taken = ", ".join(sorted(id for id in self.by_type if id is not None)) or "nothing"
        what = f"type {kind!r}" if kind is not None else "no type"
        return UnknownType(f"{self._source}: a message of {what}, but its handlers take {taken}")


def _compile(handler: Handler, threads: Threads | None) -> Call:
    call = _async_call(handler) if handler.signature.is_async else _thread_call(handler, threads)
    middleware: list[Middleware] = list(handler.middleware)
    if handler.timeout_s is not None and handler.signature.is_async:
        middleware.append(Timeout(handler.timeout_s))
    for around in reversed(middleware):
        call = _wrap(around, call)
    return call


def _wrap(around: Middleware, inner: Call) -> Call:
    return lambda body, ctx: around(ctx, lambda: inner(body, ctx))


def _async_call(handler: Handler) -> Call:
    fn = handler.fn
    positional, named = handler.signature.positional, handler.signature.named
    if not named and positional == ():
        return lambda body, ctx: fn(body)
    if not named and positional == ("context",):
        return fn
    return lambda body, ctx: fn(
        body,
        *(ctx if filler == "context" else ctx.message for filler in positional),
        **{name: ctx if filler == "context" else ctx.message for name, filler in named.items()},
    )


def _thread_call(handler: Handler, threads: Threads | None) -> Call:
    assert threads is not None
    fn, timeout_s, name = handler.fn, handler.timeout_s, handler.name
    positional, named = handler.signature.positional, handler.signature.named

    def call(body: Any, ctx: Context) -> Awaitable[object]:
        given = SyncContext(ctx, asyncio.get_running_loop())
        return threads.run(
            name,
            timeout_s,
            fn,
            body,
            *(given if filler == "context" else ctx.message for filler in positional),
            **{key: given if filler == "context" else ctx.message for key, filler in named.items()},
        )

    return call
