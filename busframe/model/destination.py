"""Where messages go and where they come from.

A ``Destination`` can be published to (a queue, a topic), a ``Source`` can be consumed (a queue, a subscription, the
dead letters of either). A queue is both. They are names with types, nothing more: making one connects nothing.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeAlias, TypeVar, overload

from busframe.errors import InvalidName
from busframe.model.message import Message

T = TypeVar("T")  # invariant: a covariant one would let publish(emails, order) type-check
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")

Options: TypeAlias = Mapping[str, Mapping[str, object]]
"""What is said to one transport alone, by its plugin's name: ``{"kafka": {"partitions": 24}}``."""

Where: TypeAlias = Mapping[str, str | Sequence[str]]
"""A filter: header name → one value or several; all names must match."""

Start: TypeAlias = Literal["earliest", "latest"] | datetime

SEPARATOR = "--"
# A dot at an end, or two together, is an empty part of a NATS subject, and Kafka refuses "." and "..".
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_]|-(?!-)|\.(?!\.))*(?<![-.])")
_RESERVED_NAMES = frozenset({"bf"})
_RABBITMQ_OWN = "amq."  # RabbitMQ answers ACCESS_REFUSED to such a declaration
_RESERVED_SUBSCRIPTIONS = frozenset({"dead", "retry"})
_NO_OPTIONS: Options = MappingProxyType({})


def _check_name(kind: str, name: object, longest: int, reserved: frozenset[str]) -> None:
    if not isinstance(name, str) or not name or len(name) > longest or not _NAME.fullmatch(name):
        raise InvalidName(
            f"{kind} name {name!r} is not valid on every broker: use 1 to {longest} characters of ASCII letters, "
            f"digits and '-_.', without '{SEPARATOR}' or '..' and without '-' or '.' at either end"
        )
    if name in reserved or name.lower().startswith(_RABBITMQ_OWN):
        raise InvalidName(f"{kind} name {name!r} is reserved, for the framework or by a broker: choose another")


def _check_types(owner: str, types: tuple[object, ...]) -> None:
    for kind in types:
        if not isinstance(kind, type):
            raise TypeError(f"{owner}: {kind!r} is not a class; say the classes of its messages one by one")


class Destination(Generic[T]):
    """Something that can be published to.

    Attributes:
        name: as the application says it; the broker's name has the configured prefix before it.
        types: the classes of its payloads; empty: anything.
        options: what is said to one transport alone.
    """

    __slots__ = ("name", "options", "types")

    name: str
    types: tuple[type, ...]
    options: Options

    def __init__(self, name: str, /, *types: type, options: Options = _NO_OPTIONS) -> None:
        _check_name(type(self).__name__.lower(), name, 80, _RESERVED_NAMES)
        _check_types(f"{type(self).__name__}({name!r})", types)
        self.name = name
        self.types = types
        self.options = options

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is type(self) and other.name == self.name)

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([repr(self.name), *(kind.__name__ for kind in self.types)])})"


class Source(Generic[T]):
    """Something that can be consumed."""

    __slots__ = ()

    @property
    def address(self) -> str:
        """The text form used everywhere: ``emails``, ``order-events/inventory``, ``order-events/inventory!dead``."""
        raise NotImplementedError

    @property
    def dead_letters(self) -> "DeadLetters":
        """Where the messages go that could not be handled: a source, too."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.address


class Queue(Destination[T], Source[T]):
    """A point-to-point destination: each message is handled by one consumer.

    Args:
        name: 1 to 80 characters of letters, digits and ``-_.``.
        types: up to six classes of its messages; none: anything.
        options: what is said to one transport alone.

    Raises:
        InvalidName: not every broker takes the name.
    """

    __slots__ = ()

    @overload
    def __init__(self: "Queue[Any]", name: str, /, *, options: Options = ...) -> None: ...
    @overload
    def __init__(self: "Queue[A]", name: str, a: type[A], /, *, options: Options = ...) -> None: ...
    @overload
    def __init__(self: "Queue[A | B]", name: str, a: type[A], b: type[B], /, *, options: Options = ...) -> None: ...
    @overload
    def __init__(
        self: "Queue[A | B | C]", name: str, a: type[A], b: type[B], c: type[C], /, *, options: Options = ...
    ) -> None: ...
    @overload
    def __init__(
        self: "Queue[A | B | C | D]",
        name: str,
        a: type[A],
        b: type[B],
        c: type[C],
        d: type[D],
        /,
        *,
        options: Options = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "Queue[A | B | C | D | E]",
        name: str,
        a: type[A],
        b: type[B],
        c: type[C],
        d: type[D],
        e: type[E],
        /,
        *,
        options: Options = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "Queue[A | B | C | D | E | F]",
        name: str,
        a: type[A],
        b: type[B],
        c: type[C],
        d: type[D],
        e: type[E],
        f: type[F],
        /,
        *,
        options: Options = ...,
    ) -> None: ...
    def __init__(self, name: str, /, *types: type, options: Options = _NO_OPTIONS) -> None:
        super().__init__(name, *types, options=options)

    @property
    def address(self) -> str:
        """Its text form."""
        return self.name

    @property
    def dead_letters(self) -> "DeadLetters":
        """Where the messages go that could not be handled."""
        return DeadLetters(self)


class Topic(Destination[T]):
    """A publish/subscribe destination: every subscription gets each message.

    Args:
        name: 1 to 80 characters of letters, digits and ``-_.``.
        types: up to six classes of its messages; none: anything.
        options: what is said to one transport alone.

    Raises:
        InvalidName: not every broker takes the name.
    """

    __slots__ = ()

    @overload
    def __init__(self: "Topic[Any]", name: str, /, *, options: Options = ...) -> None: ...
    @overload
    def __init__(self: "Topic[A]", name: str, a: type[A], /, *, options: Options = ...) -> None: ...
    @overload
    def __init__(self: "Topic[A | B]", name: str, a: type[A], b: type[B], /, *, options: Options = ...) -> None: ...
    @overload
    def __init__(
        self: "Topic[A | B | C]", name: str, a: type[A], b: type[B], c: type[C], /, *, options: Options = ...
    ) -> None: ...
    @overload
    def __init__(
        self: "Topic[A | B | C | D]",
        name: str,
        a: type[A],
        b: type[B],
        c: type[C],
        d: type[D],
        /,
        *,
        options: Options = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "Topic[A | B | C | D | E]",
        name: str,
        a: type[A],
        b: type[B],
        c: type[C],
        d: type[D],
        e: type[E],
        /,
        *,
        options: Options = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "Topic[A | B | C | D | E | F]",
        name: str,
        a: type[A],
        b: type[B],
        c: type[C],
        d: type[D],
        e: type[E],
        f: type[F],
        /,
        *,
        options: Options = ...,
    ) -> None: ...
    def __init__(self, name: str, /, *types: type, options: Options = _NO_OPTIONS) -> None:
        super().__init__(name, *types, options=options)

    def __str__(self) -> str:
        return self.name

    def subscription(
        self,
        name: str,
        /,
        *,
        where: Where = MappingProxyType({}),
        start: Start = "latest",
        temporary: bool = False,
        options: Options = _NO_OPTIONS,
    ) -> "Subscription[T]":
        """A durable, named reading position; consumers of one subscription compete.

        Args:
            name: 1 to 40 characters of letters, digits and ``-_.``.
            where: header name → one value or several; only messages whose headers match all names are taken.
            start: what a *new* subscription sees: messages from its declaration on, from the earliest one kept, or
                from a time. Everything but ``latest`` needs a transport that claims ``start``.
            temporary: it vanishes with its consumer; needs a transport that claims ``temporary``.
            options: what is said to one transport alone.

        Raises:
            InvalidName: not every broker takes the name.
        """
        return Subscription(self, name, where=where, start=start, temporary=temporary, options=options)


class Subscription(Source[T]):
    """A durable, named reading position on a topic. Made by ``topic.subscription(…)``.

    Attributes:
        topic: what it reads.
        name: unique on its topic.
        where: header name → the values that match.
        start: what it sees when it is new.
        temporary: whether it vanishes with its consumer.
        options: what is said to one transport alone.
    """

    __slots__ = ("name", "options", "start", "temporary", "topic", "where")

    def __init__(
        self, topic: Topic[T], name: str, /, *, where: Where, start: Start, temporary: bool, options: Options
    ) -> None:
        _check_name("subscription", name, 40, _RESERVED_SUBSCRIPTIONS)
        self.topic = topic
        self.name = name
        self.where: Mapping[str, tuple[str, ...]] = MappingProxyType(
            {header: (values,) if isinstance(values, str) else tuple(values) for header, values in where.items()}
        )
        self.start: Start = start
        self.temporary = temporary
        self.options = options

    @property
    def address(self) -> str:
        """Its text form."""
        return f"{self.topic.name}/{self.name}"

    @property
    def types(self) -> tuple[type, ...]:
        """The classes of its payloads: its topic's."""
        return self.topic.types

    @property
    def dead_letters(self) -> "DeadLetters":
        """Where the messages go that could not be handled."""
        return DeadLetters(self)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Subscription) and other.topic == self.topic and other.name == self.name
        )

    def __hash__(self) -> int:
        return hash(("Subscription", self.topic.name, self.name))

    def __repr__(self) -> str:
        where = f", where={dict(self.where)!r}" if self.where else ""
        return f"{self.topic!r}.subscription({self.name!r}{where})"


class DeadLetters(Source[Message]):
    """The messages of a queue or subscription that could not be handled. Made by ``source.dead_letters``.

    Attributes:
        of: the source that they come from.
    """

    __slots__ = ("of",)

    def __init__(self, of: "Queue[Any] | Subscription[Any]", /) -> None:
        self.of = of

    @property
    def address(self) -> str:
        """Its text form."""
        return f"{self.of.address}!dead"

    @property
    def dead_letters(self) -> "DeadLetters":
        """Itself: nothing is dead-lettered from here (semantics A.4)."""
        return self

    @property
    def types(self) -> tuple[type, ...]:
        """The letters are taken as they are: ``Message``."""
        return (Message,)

    @property
    def options(self) -> Options:
        """What is said to one transport alone: its source's."""
        return self.of.options

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, DeadLetters) and other.of == self.of)

    def __hash__(self) -> int:
        return hash(("DeadLetters", self.of))

    def __repr__(self) -> str:
        return f"{self.of!r}.dead_letters"


SourceAddress: TypeAlias = Queue[Any] | Subscription[Any] | DeadLetters
Address: TypeAlias = SourceAddress | Topic[Any]
