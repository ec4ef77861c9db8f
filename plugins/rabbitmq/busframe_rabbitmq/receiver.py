"""A consumer of one source that comes back after each loss of its channel."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from busframe.errors import (
    AccessDenied,
    BusframeError,
    ClosedError,
    DestinationNotFound,
    SettlementLost,
    TransportError,
)
from busframe.model.delivery import Delivery
from busframe.model.destination import DeadLetters
from busframe.model.entity import Entity
from busframe.model.settlement import Ack, DeadLetter, Nack, Release, Settlement
from busframe.spi.copy import copy_then_ack
from busframe.spi.transport import Receiver
from busframe_rabbitmq.channel import Channel, open_channel
from busframe_rabbitmq.client import ChannelRefused
from busframe_rabbitmq.link import Backoff
from busframe_rabbitmq.mapping import decode, decode_letter
from busframe_rabbitmq.session import OrderedSession, Session

if TYPE_CHECKING:
    from busframe_rabbitmq.transport import RabbitMQ

log = logging.getLogger(__name__)

Raw = tuple[Session, int, bool, Any, bytes]


class RabbitReceiver(Receiver):
    """Consumes with manual acknowledgement.

    What is buffered is raw and bounded by the prefetch; it becomes a ``Delivery`` when it is asked for.
    """

    def __init__(self, transport: "RabbitMQ", entity: Entity, prefetch: int) -> None:
        address = entity.address
        self._transport = transport
        self._host = transport.host
        self._address = str(address)
        self._entity = entity
        self._queue = transport.host.name(address)
        self._ordered = entity.ordering == "key"
        self._prefetch = transport.settings.ordered_prefetch if self._ordered else prefetch
        self._letters_of: tuple[str, str] | None = None
        if isinstance(address, DeadLetters):
            self._letters_of = (str(address.of), transport.host.name(address.of))
        self._session: Session | None = None
        self._generation = 0
        self._buffer: deque[Raw] = deque()
        self._arrived = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._failed: BusframeError | None = None
        self._stopped = False
        self._given_back = False
        self._closed = False

    def __repr__(self) -> str:
        held = len(self._session.held) if self._session is not None else 0
        counts = f"generation {self._generation}, {held} held, {len(self._buffer)} buffered"
        return f"<RabbitReceiver {self._address}: {counts}>"

    async def open(self) -> None:
        """See ``Receiver.open``."""
        self._session = await self._open_session()
        self._keeper = asyncio.create_task(self._keep(), name=f"busframe rabbitmq consumes {self._address}")

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See ``Receiver.receive``."""
        buffer = self._buffer
        while not buffer or self._stopped:
            if self._stopped:
                raise ClosedError(f"{self._address} is not received any more")
            if self._failed is not None:
                raise self._failed
            self._arrived.clear()
            await self._arrived.wait()
        return [self._delivery(buffer.popleft()) for _ in range(min(limit, len(buffer)))]

    def holds(self, delivery: Delivery) -> bool:
        """See ``Receiver.holds``."""
        session, tag = _receipt(delivery)
        return session is self._session and self._session is not None and tag in self._session.held

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """See ``Receiver.settle``."""
        while self._session is not None and self._session.quiet is not None:
            await self._session.quiet.wait()
        outcomes: list[Exception | None] = [None] * len(settled)
        acked: list[int] = []
        released: list[int] = []
        copied: list[int] = []
        copies: list[Coroutine[Any, Any, Exception | None]] = []
        session = self._session
        for index, (delivery, settlement) in enumerate(settled):
            of, tag = _receipt(delivery)
            if of is not session or session is None or tag not in session.held:
                outcomes[index] = SettlementLost(
                    f"{self._address}: the connection it came over is lost; it comes again"
                )
                continue
            match settlement:
                case Ack():
                    acked.append(tag)
                case Release():
                    released.append(tag)
                case Nack() | DeadLetter():
                    copied.append(index)
                    copies.append(self._copy(delivery, settlement))
        if session is not None and (acked or released):
            try:
                session.settle(acked, released)
            except TransportError as error:
                lost = SettlementLost(f"{self._address}: the connection is lost; what is unsettled comes again")
                lost.__cause__ = error
                done = {*acked, *released}
                for index, (delivery, _) in enumerate(settled):
                    if outcomes[index] is None and _receipt(delivery)[1] in done:
                        outcomes[index] = lost
        if copies:
            for index, outcome in zip(copied, await asyncio.gather(*copies), strict=True):
                outcomes[index] = outcome
        return outcomes

    async def stop(self) -> None:
        """See ``Receiver.stop``."""
        if self._stopped:
            return
        self._stopped = True
        self._arrived.set()
        if self._ordered:
            # The successor gets the messages in their order only all at once, when the channel is closed. So what is
            # buffered stays here until ``close``.
            return
        session = self._session
        if session is not None:
            # First the consumer: what goes back to one that is there comes again at once, and counts once more.
            with suppress(TransportError):
                await session.cancel()
            self._given_back = True
            self._give_back(session)

    async def close(self) -> None:
        """See ``Receiver.close``."""
        self._stopped = self._closed = True
        self._arrived.set()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        session, self._session = self._session, None
        self._buffer.clear()
        if session is not None:
            session.on_lost = lambda: None
            await session.close()
        self._transport.forget(self)

    async def resize(self, prefetch: int) -> None:
        """See ``Receiver.resize``."""
        if self._ordered:
            return
        self._prefetch = prefetch
        session = self._session
        if session is not None and not self._stopped:
            await session.resize(prefetch)

    # ------------------------------------------------------------------------------------------ messages

    def _arrive(self, session: Session, tag: int, redelivered: bool, properties: Any, body: bytes) -> None:
        if self._given_back:
            with suppress(TransportError):
                session.settle((), (tag,))
            return
        self._buffer.append((session, tag, redelivered, properties, body))
        self._arrived.set()

    def _delivery(self, raw: Raw) -> Delivery:
        session, tag, redelivered, properties, body = raw
        if self._letters_of is None:
            message, carried, deliveries = decode(properties, body, redelivered)
        else:
            message, carried, deliveries = decode_letter(properties, body, redelivered, *self._letters_of)
        return Delivery(message, (session, tag), "", deliveries, self._generation, carried)

    def _give_back(self, session: Session) -> None:
        tags = [tag for of, tag, *_ in self._buffer if of is session]
        self._buffer.clear()
        with suppress(TransportError):  # lost: then they go back by themselves
            session.settle((), tags)

    async def _copy(self, delivery: Delivery, settlement: Nack | DeadLetter) -> Exception | None:
        to = self._entity.address if isinstance(settlement, Nack) else self._entity.address.dead_letters  # type: ignore[union-attr]
        return await copy_then_ack(self._transport, self, delivery, settlement, to=to)

    # ------------------------------------------------------------------------------------------ supervision

    async def _open_session(self) -> Session:
        connection = await self._transport.consuming.wait_up()
        channel = await open_channel(connection)
        session = self._make_session(channel)
        session.on_lost = self._lost
        try:
            await session.consume(self._prefetch)
        except BaseException as error:
            session.abandon()
            if isinstance(error, ChannelRefused):
                raise self._refused(error) from error
            raise
        return session

    def _make_session(self, channel: Channel) -> Session:
        kind = OrderedSession if self._ordered else Session
        return kind(channel, self._queue, self._arrive)

    def _refused(self, error: ChannelRefused) -> BusframeError:
        # A queue whose server is down is a 404, too: it comes back.
        if error.code == 404 and "no queue" in error.text:
            return DestinationNotFound(self._address)
        if error.code == 403 and "exclusive" not in error.text:
            return AccessDenied(f"{self._address} may not be consumed: {error.text}")
        return TransportError(str(error))

    def _lost(self) -> None:
        # At the very moment: what is buffered belongs to the broker again, and old receipts must find no session.
        self._session = None
        self._buffer.clear()

    async def _keep(self) -> None:
        backoff = Backoff(self._transport.settings.reconnect_min_s, self._transport.settings.reconnect_max_s)
        while True:
            session = self._session
            if session is not None:
                error = await asyncio.shield(session.lost)
                self._host.report(self._address, "down", error)
                log.debug("consumer lost", extra={"source": self._address, "cause": str(error)})
            self._generation += 1
            while not self._stopped:
                try:
                    self._session = await self._open_session()
                    if not self._stopped:
                        break
                    with suppress(TransportError):
                        await self._session.cancel()  # stopped meanwhile
                    return
                except (DestinationNotFound, AccessDenied, ClosedError) as error:
                    self._fail(error)
                    return
                except TransportError as error:
                    log.debug("cannot consume", extra={"source": self._address, "cause": str(error)})
                except Exception as error:  # no consumer may end silently
                    log.exception("consuming failed", extra={"source": self._address})
                    failed = TransportError(f"{self._address} cannot be consumed: {error!r}", transient=False)
                    failed.__cause__ = error
                    self._fail(failed)
                    return
                await self._host.sleep(backoff.pause(self._host.random()))
            if self._stopped:
                return
            backoff.reset()
            self._host.report(self._address, "up", None)

    def _fail(self, error: BusframeError) -> None:
        self._failed = error
        self._arrived.set()


def _receipt(delivery: Delivery) -> tuple[object, int]:
    return cast("tuple[object, int]", delivery.receipt)
