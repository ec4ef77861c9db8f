"""What things are called on a broker, and the key of each write."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Literal

from busframe.model.destination import SEPARATOR, Address, DeadLetters, Queue, Subscription

DEAD = "dead"


def physical_name(address: Address, prefix: str = "") -> str:
    """The broker's name of an address: prefix and parts joined by ``--``.

    Names hold no ``--`` and do not begin or end with ``-``, so two addresses never get one name.
    """
    match address:
        case DeadLetters(of=source):
            return f"{physical_name(source, prefix)}{SEPARATOR}{DEAD}"
        case Subscription(topic=topic, name=name):
            return f"{prefix}{topic.name}{SEPARATOR}{name}"
        case _:
            return f"{prefix}{address.name}"


def find_collisions(addresses: Iterable[Address]) -> list[str]:
    """What is wrong with names that are each valid alone: one problem a line, in a stable order.

    One name is a queue or a topic, never both. Two that differ only in ``.`` and ``_`` are one to Kafka, and two that
    differ only in case are one to Service Bus. A subscription speaks for its topic, and dead letters for their source.
    """
    kinds: dict[str, str] = {}
    folded: dict[tuple[str, str], str] = {}
    problems: dict[str, None] = {}
    for address in addresses:
        for kind, topic, name in _parts(address):
            text = f"{topic}/{name}" if topic else name
            if not topic and kinds.setdefault(name, kind) != kind:
                problems[f"{name!r} is a queue and a topic: give one of them another name"] = None
            twin = folded.setdefault((topic, name.replace(".", "_").lower()), text)
            if twin != text:
                problems[f"{twin!r} and {text!r} are one name to some broker ('.' is '_', A is a): rename one"] = None
    return list(problems)


def _parts(address: Address) -> list[tuple[str, str, str]]:
    match address:
        case DeadLetters(of=source):
            return _parts(source)
        case Subscription(topic=topic, name=name):
            return [("topic", "", topic.name), ("subscription", topic.name, name)]
        case _:
            return [("queue" if isinstance(address, Queue) else "topic", "", address.name)]


def dedup_key(
    message_id: str, kind: Literal["retry", "dead", "replay", "forward"], source: str, number: int, position: str
) -> str:
    """The key of one copy that the framework writes, where the broker looks for duplicates.

    The same copy of the same stored message always has the same key, so that a crash between copy and acknowledgement
    makes no second one; another attempt, replay or source has another.

    Args:
        message_id: what the key begins with.
        kind: why there is a copy.
        source: the text form of the source that it is of.
        number: of the attempt or replay.
        position: the broker's, of the original; where it has none, ``body_position``.
    """
    digest = sha256("\n".join((kind, source, str(number), position)).encode()).hexdigest()
    return f"{message_id}/{digest[:16]}"


def body_position(message_id: str, body: bytes) -> str:
    """Stands for a position where the broker has none: the same for every delivery of the same message."""
    return f"{message_id}:{sha256(body).hexdigest()[:16]}"
