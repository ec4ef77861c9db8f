"""The arithmetic of the delay cascade: which exchanges and queues there are, and the routing key of a delay. Pure.

One binary cascade serves all delays of a prefix. Level k holds a message for exactly 2^k * 100 ms and then passes it
down by dead-lettering; a delay is the sum of the levels whose bit is set in its routing key, the other levels are
passed at once by a binding from exchange to exchange. Within a level all messages wait equally long, so none blocks
another (in a queue with a time for each message only the head expires), and a policy's delays need no queues of their
own.

    exchange 27 ──1──▶ queue 27 (2^27 * 100 ms) ──▶ exchange 26 ──1──▶ queue 26 … ──▶ exchange 0 … ──▶ due
          └──────────────0──────────────▶ exchange 26                        due ──q.<name>──▶ the queue
                                                                              └────t.<name>──▶ the topic's exchange

The key is the bits from the highest level down, then ``q`` or ``t``, then the target's name as one word: dots in it
become slashes, which no name has, so that ``a.b`` never matches what is meant for ``x.a.b``.

What is due and finds no target goes, by the alternate exchange of ``due``, to the queue of the undelivered, and is
taken from there when the target appears. Left where it is it would be kept as well, but after 32 of them the server
passes nothing of that level any more (``dead_letter_worker_consumer_prefetch``; tested on 4.0.5): one deleted queue
would stop the delays of all others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType

from busframe.model.destination import SEPARATOR
from busframe_rabbitmq import topology

LEVELS = 28
UNIT_S = 0.1
MAX_DELAY_S = (2**LEVELS - 1) * UNIT_S
"""The longest delay, in seconds: 310 days."""

_DELAY = "bf" + SEPARATOR + "delay"
_DUE = "bf" + SEPARATOR + "due"
_UNDELIVERED = "bf" + SEPARATOR + "undelivered"
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
        counts: whether the server counts deliveries unless it is told not to (see ``topology.dead_arguments``).
    """

    def __init__(self, prefix: str, *, counts: bool = True) -> None:
        self.counts = counts
        self.levels = tuple(f"{prefix}{_DELAY}-{level:02}" for level in range(LEVELS))
        self.due = f"{prefix}{_DUE}"
        self.undelivered = f"{prefix}{_UNDELIVERED}"
        self.nobody = f"{prefix}{_NOBODY}"

    @property
    def top(self) -> str:
        """The exchange that is declared last: where it exists, all of the cascade does."""
        return self.levels[-1]

    def steps(self) -> Iterator[Step]:
        """What to declare, in this order, from the bottom up: nothing is published to what is not finished."""
        yield Exchange(self.undelivered, "fanout")
        yield Queue(self.undelivered, topology.dead_arguments(counts=self.counts))
        yield Bind(self.undelivered, self.undelivered)
        yield Queue(self.nobody, MappingProxyType({"x-queue-type": "quorum", "x-max-length": 0}))
        yield Exchange(self.due, "topic", MappingProxyType({"alternate-exchange": self.undelivered}))
        for level, name in enumerate(self.levels):
            below = self.levels[level - 1] if level else self.due
            higher = "*." * (LEVELS - 1 - level)
            yield Queue(name, MappingProxyType(self.queue_arguments(level)))
            yield Exchange(name, "topic")
            yield Bind(name, name, f"{higher}1.#")
            yield Bind(below, name, f"{higher}0.#", of_queue=False)

    def target_steps(self, name: str, *, topic: bool) -> Iterator[Step]:
        """What connects a target that exists: declaring it for one that does not exist fails."""
        if topic:
            # A topic without a subscription that matches is fine, and its delayed messages must not count as
            # undelivered: only they have died once, and they go to a queue that holds nothing as well.
            yield Bind(self.nobody, name, "", arguments=_WAS_DELAYED)
        yield Bind(name, self.due, f"#.{target(name, topic=topic)}", of_queue=not topic)

    def queue_arguments(self, level: int) -> dict[str, object]:
        """Of a level's queue: it expires nothing but its messages (``x-expires`` would lose them with the queue)."""
        return {
            "x-queue-type": "quorum",
            "x-message-ttl": 100 << level,
            "x-dead-letter-exchange": self.levels[level - 1] if level else self.due,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }

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


def units_of(delay_s: float) -> int:
    """A delay in hundreds of milliseconds, never shorter than asked (but for what floating point adds)."""
    return max(1, ceil(round(delay_s / UNIT_S, 6)))


def target(name: str, *, topic: bool) -> str:
    """The end of the routing key of what is meant for a queue, or for a topic's exchange."""
    return f"{'t' if topic else 'q'}.{name.replace('.', '/')}"


def target_of(routing_key: str) -> str:
    """The end of a routing key: the ``target`` that it was meant for."""
    return ".".join(routing_key.rsplit(".", 2)[-2:])
