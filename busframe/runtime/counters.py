"""What a source did."""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Counts since the worker started; all are of messages.

    Attributes:
        received: deliveries taken from the transport.
        handled: handlers that succeeded.
        failed: handlers that raised or timed out.
        retried: failures that go to another attempt.
        dead_lettered: given up, with their record.
        discarded: acknowledged unhandled because a handler or the source said so.
        filtered: not taken by the subscription's filter.
        dropped: given up where ``dead_letter=False`` or ``ack="before"``.
        released: handed back unstarted.
        skipped: delivered again although handled before: acknowledged without the handler.
        lost: settlements that came too late; those messages are delivered again.
    """

    received: int = 0
    handled: int = 0
    failed: int = 0
    retried: int = 0
    dead_lettered: int = 0
    discarded: int = 0
    filtered: int = 0
    dropped: int = 0
    released: int = 0
    skipped: int = 0
    lost: int = 0

    def snapshot(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)
