"""What must exist on a broker, and how what exists differs; what can be seen there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from busframe.model.destination import Address
from busframe.model.message import Message

_NO_OPTIONS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Entity:
    """Something that an application needs on the broker.

    Attributes:
        address: a queue, a topic, a subscription, or the dead letters of a source.
        ordering: what its handlers ask; None: nothing handles it here, so what exists is right, and ``none`` is made.
        max_attempts: the most attempts that a policy of its handlers allows; 0 where nothing handles it here.
        longest_delay_s: the longest delay that a policy may ask, in seconds.
        longest_handler_s: the longest time-out of its handlers, in seconds; None: unbounded.
        options: what the application says to this transport alone.
    """

    address: Address
    ordering: Literal["none", "key"] | None = None
    max_attempts: int = 0
    longest_delay_s: float = 0.0
    longest_handler_s: float | None = None
    options: Mapping[str, object] = field(default_factory=lambda: _NO_OPTIONS)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between what is asked and what exists.

    Attributes:
        address: of the entity it belongs to.
        action: ``conflict`` cannot be made in place; ``unknown`` is applied, and no difference for an exit code.
        property: what of it; None: the whole entity.
        wanted: what the application asks.
        found: what exists.
        command: what an operator types instead.
    """

    address: Address
    action: Literal["create", "update", "conflict", "unknown"]
    property: str | None = None
    wanted: object = None
    found: object = None
    command: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a source holds; None: the broker does not say."""

    depth: int | None = None
    in_flight: int | None = None
    oldest_age_s: float | None = None
    consumers: int | None = None
    dead: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored message, looked at without taking it."""

    position: str
    message: Message
    enqueued_at: datetime | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a transport says about its broker's guarantees, and what to do about it."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    says: str
    do: str = ""
