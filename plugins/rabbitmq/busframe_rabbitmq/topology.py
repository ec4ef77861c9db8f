"""What queues, topics, subscriptions and dead letters are on RabbitMQ: names, arguments, bindings. Pure.

The arguments are constants of the wire format: every busframe program declares a queue of one name alike, whatever its
policies, because the server refuses to declare it again with others.
"""

import re
from collections.abc import Callable, Mapping
from itertools import product
from types import MappingProxyType

from busframe.errors import ConfigurationError
from busframe.logic.filters import combinations
from busframe.model.destination import Address, DeadLetters, Subscription
from busframe.model.entity import Entity

EXCHANGE_TYPE = "headers"
MAX_BINDINGS = 256
"""Of one subscription: a headers exchange looks at each binding for each message, for 0.6 µs or so (4.0.5)."""

DELIVERY_LIMIT = 100
"""Far above the core's crash guard (at most 92 deliveries of a copy), which so decides first."""

LIMIT = "x-delivery-limit"
SINGLE_ACTIVE = "x-single-active-consumer"
OPTIONS = frozenset({"single_active_consumer"})

Arguments = Mapping[str, object]


def queue_arguments(name: str, *, single_active: bool = False) -> Arguments:
    """Of a queue, or of a subscription's queue.

    Args:
        name: the broker's.
        single_active: for ``ordering="key"``. The order of a key across processes needs one active consumer, and the
            server lets nobody add it to a queue that exists (406): a source with ordering has it from the beginning.
    """
    arguments: dict[str, object] = {
        "x-queue-type": "quorum",
        LIMIT: DELIVERY_LIMIT,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": f"{name}--dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # at-least-once needs it, and a full queue must say so to who publishes
    }
    if single_active:
        arguments[SINGLE_ACTIVE] = True
    return MappingProxyType(arguments)


def dead_arguments(*, counts: bool = True) -> Arguments:
    """Of dead letters.

    Args:
        counts: whether the server, from 4.0 on, drops a message of a quorum queue after 21 looks at it unless it is
            told not to count. Older ones do not know the value.
    """
    return MappingProxyType({"x-queue-type": "quorum"} | ({LIMIT: -1} if counts else {}))


def wanted_arguments(entity: Entity, name: Callable[[Address], str], *, counts: bool = True) -> Arguments:
    """The arguments of the queue of a source.

    Raises:
        ConfigurationError: the options hold what is unknown here, or the filter is too wide.
    """
    if isinstance(entity.address, DeadLetters):
        return dead_arguments(counts=counts)
    if isinstance(entity.address, Subscription):
        check_filter(entity.address)
    return queue_arguments(name(entity.address), single_active=is_single_active(entity))


def is_single_active(entity: Entity) -> bool:
    """Whether the queue is to have one active consumer: its handlers ask for order, or its options say so.

    The option is for programs that only publish and may be the first to declare the queue.

    Raises:
        ConfigurationError: the options hold what is unknown here, or what its handlers cannot do with.
    """
    unknown = sorted(set(entity.options) - OPTIONS)
    if unknown:
        known = ", ".join(sorted(OPTIONS))
        raise ConfigurationError(
            [f"{entity.address}: rabbitmq has no option {name!r}; it has {known}" for name in unknown]
        )
    stated = entity.options.get("single_active_consumer")
    if stated is not None and not stated and entity.ordering == "key":
        raise ConfigurationError(
            f'{entity.address}: ordering="key" needs a single active consumer, and its option rules that out: '
            "leave single_active_consumer out"
        )
    return entity.ordering == "key" if stated is None else bool(stated)


def is_handled(entity: Entity) -> bool:
    """Whether something in this program handles it."""
    return entity.max_attempts > 0


def bindings(subscription: Subscription[object]) -> list[Arguments]:
    """The arguments of the bindings of a subscription's queue to its topic's exchange: one for each combination.

    ``all-with-x``: plain ``all`` ignores headers whose names begin with ``x-``.
    """
    where = subscription.where
    names = list(where)
    found = product(*(dict.fromkeys(where[name]) for name in names))
    return [{"x-match": "all-with-x", **dict(zip(names, values, strict=True))} for values in found]


def check_filter(subscription: Subscription[object]) -> None:
    """See that bindings can hold the filter.

    A binding that takes more than the filter would fill the dead letters: what a worker gets against its own filter may
    be another worker's, and is set aside.

    Raises:
        ConfigurationError: they cannot.
    """
    count = combinations(subscription.where)
    if count > MAX_BINDINGS:
        problem = (
            f"{subscription}: its filter has {count} combinations of values, each a binding, and {MAX_BINDINGS} are "
            "the most: put a coarser header on the messages, or take all of them and choose in the handler"
        )
        raise ConfigurationError([problem])


_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)'.*?(?:received (?P<wanted>.*?) but current is (?P<found>.*))?$", re.DOTALL
)


def read_inequivalent(text: str) -> tuple[str, str, str] | None:
    """What the server says of a declaration that differs: (argument, what was asked, what is); None: another text.

    ``PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but current is the
    value '5' of type 'signedint'``
    """
    match = _INEQUIVALENT.search(text)
    if match is None:
        return None
    return match["argument"], (match["wanted"] or "").strip(), (match["found"] or "").strip()


_EXCHANGE = re.compile(r"exchange '(?P<name>[^']*)'")
_TOO_LARGE = re.compile(r"message size (?P<size>\d+).*?(?:max(?:imum)?(?: size)?|limit)\D*(?P<limit>\d+)")


def read_exchange(text: str) -> str | None:
    """The exchange that the server complains about, as it is published to: the default one has a name in complaints."""
    match = _EXCHANGE.search(text)
    if match is None:
        return None
    return "" if match["name"] == "amq.default" else match["name"]


def read_too_large(text: str) -> tuple[int, int] | None:
    """(size, limit) where the server complains about the size of a message."""
    match = _TOO_LARGE.search(text)
    return (int(match["size"]), int(match["limit"])) if match else None
