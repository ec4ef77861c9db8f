"""What a worker tells its observers (``Bus(observers=[…])``): one frozen value for each thing that happened."""

from dataclasses import dataclass

from busframe.model.destination import SourceAddress
from busframe.model.message import Message
from busframe.model.settlement import Settlement


@dataclass(frozen=True, slots=True)
class Handled:
    """A handler succeeded; its message is about to be acknowledged.

    Attributes:
        source: where the message came from.
        handler: its name.
        message: as it was published.
        attempt: which attempt it was.
        duration_s: how long the handler ran, in seconds.
    """

    source: SourceAddress
    handler: str
    message: Message
    attempt: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A message was not handled: its handler raised, or it could not be given to one.

    Attributes:
        source: where the message came from.
        handler: the name of the handler; None: none ran.
        message: as it was published.
        attempt: which attempt it was.
        error: what was raised.
        settlement: what becomes of the message.
    """

    source: SourceAddress
    handler: str | None
    message: Message
    attempt: int
    error: Exception
    settlement: Settlement


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """A source is in another state.

    Attributes:
        source: which.
        state: ``starting``, ``consuming``, ``paused``, ``reconnecting`` or ``stopped``.
        cause: why, where something failed.
    """

    source: SourceAddress
    state: str
    cause: BaseException | None
