"""Where handlers are registered."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from busframe.errors import ConfigurationError, HandlerSignatureError
from busframe.handling.handler import Handler, HandlerOptions, Middleware, SourceOptions, is_source
from busframe.handling.publisher import Publisher
from busframe.handling.signature import read_signature
from busframe.logic.retry import RetryPolicy
from busframe.model.destination import Source, SourceAddress, Topic
from busframe.model.message import Message

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
A = TypeVar("A")
R = TypeVar("R")
P = ParamSpec("P")

_SOURCE_OPTIONS = SourceOptions.__optional_keys__
_HANDLER_OPTIONS = HandlerOptions.__optional_keys__


class Handle(Protocol[T]):  # invariant, as the stubs of the destinations are
    """The decorator: the body is the function's first parameter, and the function comes back as it was."""

    @overload
    def __call__(self, fn: Callable[Concatenate[T, P], R], /) -> Callable[Concatenate[T, P], R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Message, P], R], /) -> Callable[Concatenate[Message, P], R]: ...


class Router:
    """A group of handlers with what they have in common.

    Args:
        name: stands before its handlers' names: ``billing.charge``.
        middleware: around each of its handlers, outermost first; inside the bus's.
        retry: the policy of those of its handlers that state none.
    """

    def __init__(
        self, name: str = "", *, middleware: Sequence[Middleware] = (), retry: RetryPolicy | None = None
    ) -> None:
        _check(f"router {name!r}", {"middleware": middleware, "retry": retry})
        self.name = name
        self._middleware = tuple(middleware)
        self._retry = retry
        self._own: list[Handler | Router] = []

    @overload
    def handle(self, source: Source[T], /, **options: Unpack[HandlerOptions]) -> Handle[T]: ...
    @overload
    def handle(self, source: Source[Any], /, *, only: type[A], **options: Unpack[HandlerOptions]) -> Handle[A]: ...
    def handle(self, source: Source[Any], /, *, only: type | None = None, **options: Any) -> Any:
        """Register a function for the messages of a source.

        Args:
            source: a queue, a subscription, or the dead letters of either.
            only: the one of the source's types that this function takes; others go to other handlers.
            **options: of this handler: ``name`` (default: the function's), ``retry`` (a policy), ``timeout_s`` and
                ``middleware`` (outermost first). Of the source, on which all its handlers must agree:
                ``concurrency`` (10), ``prefetch`` (twice the concurrency, at least 10), ``dead_letter`` (True),
                ``ordering`` (``none`` or ``key``), ``ack`` (``after``; ``manual``: by the context's verbs;
                ``before``: at most once), ``unmatched`` and ``expired`` (``dead-letter`` or ``discard``).

        Returns:
            A decorator that returns the function as it was.

        Raises:
            HandlerSignatureError: the function's parameters cannot be filled.
            ConfigurationError: an option is unknown or out of its range.
        """
        if isinstance(source, Topic):
            raise ConfigurationError(f"{source!r} is a topic: handle one of its subscriptions, topic.subscription(…)")
        if not is_source(source):
            raise ConfigurationError(f"{source!r} cannot be handled: give a queue, a subscription or dead letters")
        unknown = sorted(options.keys() - _HANDLER_OPTIONS)
        if unknown:
            known = ", ".join(sorted(_HANDLER_OPTIONS))
            raise ConfigurationError(f"handler of {source}: unknown options {', '.join(unknown)}; there are {known}")
        _check(f"handler of {source}", options)

        def register(fn: Callable[..., Any]) -> Callable[..., Any]:
            signature = read_signature(fn, cast("SourceAddress", source), only)
            name = options.get("name") or getattr(fn, "__name__", None)
            if not name or name == "<lambda>":
                raise HandlerSignatureError(f"handler of {source}: {fn!r} has no name: say name=…")
            self._own.append(
                Handler(
                    fn,
                    cast("SourceAddress", source),
                    signature,
                    name,
                    options.get("retry"),
                    options.get("timeout_s"),
                    tuple(options.get("middleware", ())),
                    cast("SourceOptions", {key: options[key] for key in options if key in _SOURCE_OPTIONS}),
                    _where(fn),
                    only,
                )
            )
            return fn

        return register

    def include(self, router: "Router") -> None:
        """Add another router's handlers, those it gets later as well.

        Raises:
            ConfigurationError: it includes itself, or is a bus, whose middleware and policy would be lost.
        """
        if not isinstance(router, Router) or isinstance(router, Publisher):
            raise ConfigurationError(f"{router!r} cannot be included: put the handlers into a Router, and include that")
        if self in router._routers():
            raise ConfigurationError(f"router {self.name!r} includes itself")
        self._own.append(router)

    def _routers(self) -> "Iterator[Router]":
        yield self
        for item in self._own:
            if isinstance(item, Router):
                yield from item._routers()

    def _handlers(self) -> Iterator[Handler]:
        for item in self._own:
            for handler in (item,) if isinstance(item, Handler) else item._handlers():
                yield replace(
                    handler,
                    name=f"{self.name}.{handler.name}" if self.name else handler.name,
                    retry=self._retry if handler.retry is None else handler.retry,
                    middleware=(*self._middleware, *handler.middleware),
                )


def _check(whose: str, options: Mapping[str, Any]) -> None:
    rules: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
        ("name", lambda value: isinstance(value, str) and value != "", "text"),
        ("concurrency", _is_count, "a whole number of 1 or more"),
        ("prefetch", _is_count, "a whole number of 1 or more"),
        ("timeout_s", lambda value: value is None or (_is_number(value) and value > 0), "more than 0 seconds"),
        ("dead_letter", lambda value: isinstance(value, bool), "True or False"),
        ("ordering", lambda value: value in ("none", "key"), "'none' or 'key'"),
        ("ack", lambda value: value in ("after", "before", "manual"), "'after', 'before' or 'manual'"),
        ("unmatched", lambda value: value in ("dead-letter", "discard"), "'dead-letter' or 'discard'"),
        ("expired", lambda value: value in ("dead-letter", "discard"), "'dead-letter' or 'discard'"),
        ("retry", lambda value: value is None or _can_be_called(value), "a policy, such as Retry(max_attempts=5)"),
        (
            "middleware",
            lambda value: isinstance(value, Sequence) and all(map(_can_be_called, value)),
            "a list of functions of (context, call_next), such as [Logging()]",
        ),
    )
    problems = [
        f"{whose}: {name} must be {rule}, not {options[name]!r}"
        for name, ok, rule in rules
        if name in options and not ok(options[name])
    ]
    if problems:
        raise ConfigurationError(problems)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _can_be_called(value: object) -> bool:
    return callable(value) and not isinstance(value, type)  # Retry in place of Retry()


def _where(fn: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}" if code is not None else ""
