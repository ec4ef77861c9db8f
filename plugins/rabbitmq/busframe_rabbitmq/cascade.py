"""The arithmetic of the delay cascade: which exchanges and queues there are, and the routing key of a delay. Pure.

One binary cascade serves all delays of a prefix. Level k holds a message for exactly 2^k * 100 ms and then passes it
down by dead-lettering; a delay is the sum of the levels whose bit is set in its routing key, the other levels are
passed at once by a binding from exchange to exchange. Within a level all messages wait equally long, so none blocks
another (in a queue with a time for each message only the head expires), and a policy's delays need no queues of their
own.

    exchange 27 ──1──▶ queue 27 (2^27 * 100 ms) ──▶ exchange 26 ──1──▶ queue 26 … ──▶ exchange 0 … ──▶ due
          └──────────────0──────────────▶ exchange 26

    due ──q.<name>──▶ door of the queue ──▶ the queue
     └────t.<name>──▶ door of the topic ──▶ its exchange

The key is the bits from the highest level down, then ``q`` or ``t``, then the target's name as one word: dots in it
become slashes, which no name has, so that ``a.b`` never matches what is meant for ``x.a.b``.

A door is a queue that passes everything on at once. What its target does not take, because it is full or was deleted,
waits there and is offered again each 180 s (``dead_letter_worker_publisher_confirm_timeout``). Without it that would
wait in the levels, and after 32 of them the server passes on nothing of a level any more
(``dead_letter_worker_consumer_prefetch``; tested on 4.0.5): one full queue would stop the delays of all others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType

from busframe.model.destination import SEPARATOR

LEVELS = 28
UNIT_S = 0.1
MAX_DELAY_S = (2**LEVELS - 1) * UNIT_S
"""The longest delay, in seconds: 310 days."""

_DELAY = "bf" + SEPARATOR + "delay"
_DUE = "bf" + SEPARATOR + "due"
_NOBODY = "bf" + SEPARATOR + "nobody"

_NO_ARGUMENTS: Mapping[str, object] = MappingProxyType({})
_WAS_DELAYED: Mapping[str, object] = MappingProxyType({"x-match": "all-with-x", "x-first-death-reason": "expired"})


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange to declare."""

    name: str
    kind: str
    arguments: Mapping[str, object] = field(default_factory=lambda: _NO_ARGUMENTS)


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue to declare."""

    name: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Bind:
    """A binding to make, of a queue or of an exchange."""

    to: str
    exchange: str
    key: str = ""
    of_queue: bool = True
    arguments: Mapping[str, object] = field(default_factory=lambda: _NO_ARGUMENTS)


Step = Exchange | Queue | Bind


class Cascade:
    """The names and routing keys of one prefix.

    Args:
        prefix: before every name.
    """

    def __init__(self, prefix: str) -> None:
        self.levels = tuple(f"{prefix}{_DELAY}-{level:02}" for level in range(LEVELS))
        self.due = f"{prefix}{_DUE}"
        self.nobody = f"{prefix}{_NOBODY}"

    def steps(self) -> Iterator[Step]:
        """What to declare, in this order, from the bottom up: nothing is published to what is not finished.

        The last is ``nobody``: where it exists, all was declared once, the bindings as well.
        """
        yield Exchange(self.due, "topic")
        for level, name in enumerate(self.levels):
            below = self.levels[level - 1] if level else self.due
            higher = "*." * (LEVELS - 1 - level)
            yield Queue(name, self.queue_arguments(level))
            yield Exchange(name, "topic")
            yield Bind(name, name, f"{higher}1.#")
            yield Bind(below, name, f"{higher}0.#", of_queue=False)
        yield Queue(self.nobody, MappingProxyType({"x-queue-type": "quorum", "x-max-length": 0}))

    def target_steps(self, name: str, *, topic: bool) -> Iterator[Step]:
        """What connects a target that exists, with its door."""
        if topic:
            # A topic without a subscription that matches is fine, and what is delayed for it must not wait in its door:
            # only that has died once, and it goes to a queue that holds nothing as well.
            yield Bind(self.nobody, name, "", arguments=_WAS_DELAYED)
        door = self.door(name)
        yield Queue(door, self.door_arguments(name, topic=topic))
        yield Bind(door, self.due, f"#.{target(name, topic=topic)}")

    def door(self, name: str) -> str:
        """The queue before a target; a queue and a topic never share a name."""
        return f"{self.due}{SEPARATOR}{name}"

    def door_arguments(self, name: str, *, topic: bool) -> Mapping[str, object]:
        """Of the queue before a target."""
        if topic:
            return _passes_on(1, name)
        return _passes_on(1, "") | {"x-dead-letter-routing-key": name}

    def queue_arguments(self, level: int) -> Mapping[str, object]:
        """Of a level's queue."""
        return _passes_on(100 << level, self.levels[level - 1] if level else self.due)

    def entry(self, delay_s: float, target: str) -> tuple[str, str]:
        """Where a delayed message is published: (exchange, routing key).

        It enters at its highest level, so that a short delay does not pass 27 exchanges.

        Args:
            delay_s: more than 0 and at most ``MAX_DELAY_S``; rounded up to the next 100 ms.
            target: the end of the routing key.
        """
        units = units_of(delay_s)
        bits = ".".join(f"{units:0{LEVELS}b}")
        return self.levels[units.bit_length() - 1], f"{bits}.{target}"


def _passes_on(after_ms: int, exchange: str) -> dict[str, object]:
    """Of a queue that passes its messages on; it expires nothing but them: ``x-expires`` would lose them with it."""
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": after_ms,
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def units_of(delay_s: float) -> int:
    """A delay in hundreds of milliseconds, never shorter than asked (but for what floating point adds)."""
    return max(1, ceil(round(delay_s / UNIT_S, 6)))


def target(name: str, *, topic: bool) -> str:
    """The end of the routing key of what is meant for a queue, or for a topic's exchange."""
    return f"{'t' if topic else 'q'}.{name.replace('.', '/')}"
