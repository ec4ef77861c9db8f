"""The driver interface: what only a transport can do.

Retry decisions, concurrency, key lanes, decoding, filters, expiry, the crash guard, the content of dead letters,
draining, supervision and the topology modes are the core's, once. A transport connects, makes entities, publishes with
confirmation, receives, settles and looks.

For every method: the transport never retries an operation by itself, except to reconnect; methods may be called
concurrently from tasks of the one loop that opened the transport, unless it says otherwise; every error is a
``BusframeError`` with the client's as its ``__cause__``.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from busframe.errors import Unsupported
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Address, SourceAddress, Where
from busframe.model.entity import Change, Entity, Finding, Stats, Stored
from busframe.model.settlement import Settlement


@dataclass(frozen=True, slots=True)
class Host:
    """All that the core gives a transport; nothing is global.

    Attributes:
        clock: seconds since the epoch.
        sleep: waits so many seconds of that clock.
        random: uniform in [0, 1).
        application: the name of the application, for connection names and the like.
        instance: names this process: host, pid and a random part.
        name: the broker's name of an address: prefix and parts joined by ``--``, in one injective function.
        report: (``connection`` or a source's address, state, cause), for health, log and metrics. A source that is
            ``blocked`` is consumed, and its cause is what somebody should know: messages that the broker has deleted.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]
    application: str
    instance: str
    name: Callable[[Address], str]
    report: Callable[[str, Literal["up", "down", "blocked"], BaseException | None], None]


class Receiver(ABC):
    """One consumer of one source."""

    where: Where | None = None
    """The filter that the broker has stored for this subscription, kept fresh; None: nobody can tell."""

    @abstractmethod
    async def open(self) -> None:
        """Consume. When it returns, the broker has the consumer: what is published from now on is received.

        Raises:
            DestinationNotFound: the source does not exist.
            TransportError: it cannot be consumed.

        If cancelled: nothing is consumed after ``close()``.
        """

    @abstractmethod
    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Wait for messages. Called by one task at a time.

        Not calling it is back-pressure, however long: leases, memberships and heartbeats are kept alive meanwhile, for
        buffered messages as well. It waits through reconnects, which are the transport's work (``generation`` + 1).

        Args:
            limit: the most to return, ≥ 1.

        Returns:
            At least one delivery, at once when there is one.

        Raises:
            DestinationNotFound: the source is gone; waiting cannot help.
            TransportError: with ``transient=False``, waiting cannot help. After either the core declares the source
                again and opens a new receiver.
            ClosedError: the receiver was stopped or closed.

        If cancelled: no message is lost; the next call returns it.
        """

    def holds(self, delivery: Delivery) -> bool:
        """Whether a delivery of this receiver is still its own; False once the broker has surely taken it back.

        Asked each time before a handler starts, so it answers at once. Where another worker may go on with the next
        messages of a key, what is stale must not start here.
        """
        return True

    @abstractmethod
    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Tell the broker what became of deliveries of this receiver. Works until ``close``, also after ``stop``.

        Returns:
            One outcome for each, in order: None (the broker has it, or for an acknowledgement that brokers never
            answer, it was written), ``SettlementLost`` (the delivery belongs to the broker again), or what failed:
            the delivery is then still held, and may be settled again.

        If cancelled: each may or may not be settled; none is lost.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Receive no more: a waiting ``receive`` raises ``ClosedError``, buffered messages go back at once.

        Idempotent. What was returned by ``receive`` can still be settled.
        """

    @abstractmethod
    async def close(self) -> None:
        """End the consumer; what is unsettled goes back to the broker. Idempotent; returns within seconds."""

    async def resize(self, prefetch: int) -> None:
        """Hold at most so many unsettled messages from now on; those held beyond it stay valid.

        A transport that begins another consumer for more of them may hold what the old one held besides.

        Only for a transport that fetches beyond the ``limit`` of ``receive``; for others it does nothing.
        """


class Transport(ABC):
    """One client of one broker."""

    capabilities: Capabilities
    """Final after ``open``."""

    native: object = None
    """The client library's own object, for what is not portable."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, once; the core repeats it as the settings say.

        Raises:
            ConnectionFailed: the broker cannot be reached.
            AccessDenied: it refuses the credentials.

        If cancelled: nothing stays open.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the receivers, flush what was published, disconnect. Idempotent; also after a failed ``open``."""

    @abstractmethod
    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Compare what is asked with what exists; reads only."""

    @abstractmethod
    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the changes of a plan. Idempotent and safe beside another process that does the same; deletes nothing.

        Raises:
            TopologyMismatch: what exists differs and cannot be changed in place.
            AccessDenied: the credentials may not.
        """

    @abstractmethod
    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Store messages; returns when the broker has answered for each, or after ``timeout_s``.

        Pipelined: many calls and many messages are under way at once, each waiting for its own answer only. It waits
        for a lost connection to come back, up to ``timeout_s``.

        Returns:
            One outcome for each, in order: None (confirmed), ``PublishFailed`` (surely not there),
            ``PublishOutcomeUnknown``, ``DestinationNotFound``, ``MessageTooLarge``, ``Unsupported``.

        If cancelled: each may or may not be stored.
        """

    @abstractmethod
    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """Make a consumer of a source; connects nothing before its ``open``.

        Args:
            entity: the source, and what its handlers ask.
            prefetch: the most unsettled messages to hold.
            ack: ``before``: what ``receive`` returns is surely settled at the broker already.

        Raises:
            Unsupported: the transport cannot.
        """

    async def stats(self, source: SourceAddress) -> Stats:
        """What a source holds. Needs the capability ``stats``."""
        raise Unsupported(f"{type(self).__name__} has no statistics of {source}")

    @abstractmethod
    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """Look at stored messages without taking or counting anything.

        Every transport can browse dead letters; other sources need the capability ``browse``.

        Args:
            source: what to look at.
            after: the position of the last one seen; empty: from the oldest.
            limit: the most to return.
        """

    @abstractmethod
    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        """Remove stored messages by position; idempotent. Returns how many were there.

        Every transport can remove dead letters; other sources need the capability ``remove``.
        """

    @abstractmethod
    async def purge(self, source: SourceAddress) -> int:
        """Remove all that is stored. Returns how many. Required for dead letters, else optional."""

    async def diagnose(self) -> Sequence[Finding]:
        """Say in plain words what this broker's acknowledgement is worth."""
        return ()
