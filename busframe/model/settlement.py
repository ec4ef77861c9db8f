"""What becomes of a delivery, as values."""

from dataclasses import dataclass, field
from typing import TypeAlias

from busframe.model.message import Headers, no_headers


@dataclass(frozen=True, slots=True)
class Ack:
    """Done: the broker may forget it."""


@dataclass(frozen=True, slots=True)
class Nack:
    """Deliver it again.

    Attributes:
        delay_s: not before so many seconds.
        carried: the ``bf-*`` headers that the stored message has from now on; written by the core alone.
    """

    delay_s: float = 0.0
    carried: Headers = field(default_factory=no_headers)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Put it to the dead letters of its source.

    Attributes:
        reason: why, as in ``Message.dead.reason``.
        description: more about it, for people.
        carried: the ``bf-*`` headers of the dead letter; written by the core alone.
    """

    reason: str
    description: str = ""
    carried: Headers = field(default_factory=no_headers)


@dataclass(frozen=True, slots=True)
class Release:
    """It was never started, or was cut short by shutdown: it goes back at once, and no attempt is counted."""


Settlement: TypeAlias = Ack | Nack | DeadLetter | Release

ACK = Ack()
RELEASE = Release()
