"""``ack="before"``: at most once. The server forgets a message when it has sent it, before a handler starts.

Nothing holds the server back then, so the consumer is ended when enough is buffered and made again when little is left.
What was taken is this process's alone: it survives a lost connection, and what is not handled when the receiver stops
is published back. What cannot be is lost, and that is said.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from busframe.errors import BusframeError, PublishOutcomeUnknown, TransportError
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.settlement import Ack, DeadLetter, Nack, Release, Settlement
from busframe_rabbitmq.receiver import RabbitReceiver
from busframe_rabbitmq.session import Session

if TYPE_CHECKING:
    from busframe.model.destination import SourceAddress
    from busframe.model.entity import Entity
    from busframe_rabbitmq.channel import Channel
    from busframe_rabbitmq.transport import RabbitMQ

log = logging.getLogger(__name__)

GIVE_BACK_TIMEOUT_S = 3.0
"""Below the 5 s that the core gives to ``stop``, and then to ``close``, which tries once more."""


class EarlySession(Session):
    """A consumer whose messages need no acknowledgement."""

    auto_ack = True

    @property
    def is_paused(self) -> bool:
        """Whether the consumer was ended for now."""
        return self._consumer is None

    async def pause(self) -> None:
        """End the consumer for now. What still arrives is still given."""
        await self._cancel(quietly=False)

    async def resume(self) -> None:
        """Make it again."""
        await self.consume(self._prefetch)

    def _delivered(self, tag: int, redelivered: bool, properties: Any, body: bytes) -> None:
        self._on_message(self, tag, redelivered, properties, body)


class EarlyReceiver(RabbitReceiver):
    """Consumes with automatic acknowledgement, and a bounded buffer.

    ``settle`` has nothing to tell the server: an ``Ack`` is done already, what is to come again or to be a dead letter
    is published.
    """

    def __init__(self, transport: "RabbitMQ", entity: "Entity", prefetch: int) -> None:
        super().__init__(transport, entity, prefetch)
        self._high = max(prefetch, transport.settings.consume_before_buffer)
        self._changed = asyncio.Event()
        self._regulator: asyncio.Task[None] | None = None
        self._giving_back: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See ``Receiver.open``."""
        await super().open()
        self._regulator = asyncio.create_task(self._regulate(), name=f"busframe rabbitmq regulates {self._address}")

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See ``Receiver.receive``. What it returns is surely settled."""
        deliveries = await super().receive(limit)
        if len(self._buffer) <= self._high // 2:
            self._changed.set()
        return deliveries

    def holds(self, delivery: Delivery) -> bool:
        """See ``Receiver.holds``. What was taken is this process's alone."""
        return True

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """See ``Receiver.settle``."""
        return await asyncio.gather(*(self._settle_one(delivery, settlement) for delivery, settlement in settled))

    async def stop(self) -> None:
        """See ``Receiver.stop``."""
        if self._stopped:
            return
        self._stopped = True
        self._arrived.set()
        self._changed.set()
        if self._regulator is not None:
            # Cancelled while the server makes a consumer, it would leave one that nobody knows and that takes on.
            await asyncio.wait({self._regulator})
        if self._session is not None:
            with suppress(TransportError):
                await self._session.cancel()
        await self._publish_back()

    async def close(self) -> None:
        """See ``Receiver.close``."""
        await self.stop()
        if self._regulator is not None:
            self._regulator.cancel()
        await self._publish_back()
        lost = len(self._buffer)
        self._buffer.clear()
        await super().close()
        lost += len(self._buffer)  # of a consumer that could not be ended before
        self._buffer.clear()
        if lost:
            extra = {"source": self._address, "count": lost}
            log.error("messages lost: taken, not handled, not given back", extra=extra)

    async def resize(self, prefetch: int) -> None:
        """Do nothing: there are no unsettled messages."""

    # ------------------------------------------------------------------------------------------ inside

    def _make_session(self, channel: "Channel") -> Session:
        return EarlySession(channel, self._queue, self._arrive)

    def _arrive(self, session: Session, tag: int, redelivered: bool, properties: Any, body: bytes) -> None:
        self._buffer.append((session, tag, redelivered, properties, body))
        self._arrived.set()
        if len(self._buffer) >= self._high:
            self._changed.set()

    def _lost(self) -> None:
        self._session = None  # but what was taken stays

    async def _regulate(self) -> None:
        while not self._stopped:
            await self._changed.wait()
            self._changed.clear()
            session = self._session
            if self._stopped or not isinstance(session, EarlySession) or session.lost.done():
                continue  # the next one begins with a consumer
            try:
                if len(self._buffer) >= self._high and not session.is_paused:
                    await session.pause()
                elif len(self._buffer) <= self._high // 2 and session.is_paused:
                    await session.resume()
            except TransportError as error:  # lost with its channel: the receiver opens another one
                log.debug("regulating", extra={"source": self._address, "cause": str(error)})

    async def _settle_one(self, delivery: Delivery, settlement: Settlement) -> Exception | None:
        match settlement:
            case Ack():
                return None
            case Release():
                (outcome,) = await self._publish([delivery])
                return outcome
            case Nack() | DeadLetter():
                return await self._copy(delivery, settlement)

    async def _publish(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        to = cast("SourceAddress", self._entity.address)
        copies = [
            Outgoing(to, each.message, dedup_key=f"{each.message.id}/back", carried=each.carried) for each in deliveries
        ]
        try:
            return await self._transport.publish(copies, timeout_s=GIVE_BACK_TIMEOUT_S)
        except BusframeError as error:
            return [error] * len(copies)

    async def _publish_back(self) -> None:
        """Publish what is buffered to where it came from; what surely is not there stays in the buffer.

        If cancelled: it goes on, and the next call waits for it, because publishing again may double.
        """
        before = self._giving_back
        if before is not None:
            await asyncio.wait({before})
        if self._buffer and self._giving_back is before:
            name = f"busframe rabbitmq gives back {self._address}"
            self._giving_back = asyncio.create_task(self._publish_buffered(), name=name)
        if self._giving_back is not None:
            await asyncio.wait({self._giving_back})

    async def _publish_buffered(self) -> None:
        raws = list(self._buffer)
        outcomes = await self._publish([self._delivery(raw) for raw in raws])
        for _ in raws:
            self._buffer.popleft()
        unknown = 0
        for raw, outcome in zip(raws, outcomes, strict=True):
            if isinstance(outcome, PublishOutcomeUnknown):
                unknown += 1  # at most once: not again
            elif outcome is not None:
                self._buffer.append(raw)
        if unknown:
            extra = {"source": self._address, "count": unknown}
            log.warning("messages may be lost: taken, not handled, and giving them back had no answer", extra=extra)
