"""``ack="before"``: at most once. What ``receive`` returns is settled: the server has confirmed the acknowledgement."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, cast

from busframe.errors import BusframeError, ClosedError, TransportError
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.settlement import Ack, DeadLetter, Nack, Settlement
from busframe_nats.answers import REQUEST_TIMEOUT_S
from busframe_nats.held import ACK, Receipt
from busframe_nats.receiver import NatsReceiver

if TYPE_CHECKING:
    from busframe.model.destination import SourceAddress
    from busframe.model.entity import Entity
    from busframe_nats.transport import Nats

log = logging.getLogger(__name__)

GIVE_BACK_TIMEOUT_S = 10.0


class EarlyReceiver(NatsReceiver):
    """Consumes with an acknowledgement that is confirmed before a message is given to anybody.

    ``settle`` has nothing to tell the server: an ``Ack`` is done already, what is to come again or to be a dead letter
    is published.
    """

    def __init__(self, transport: "Nats", entity: "Entity", prefetch: int) -> None:
        super().__init__(transport, entity, prefetch)
        self._settled: deque[Delivery] = deque()
        self._settling: asyncio.Task[None] | None = None

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See ``Receiver.receive``. What it returns is surely settled."""
        while not self._settled:
            if self._settling is None:
                await self._wait_for_some(limit)
                if self._stopped:
                    raise ClosedError(f"{self._address} is not received any more")
                taken = [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
                self._settling = asyncio.create_task(self._settle_early(taken), name="busframe nats settles early")
            # A task of its own: whoever is cancelled here has not lost what was settled meanwhile.
            await asyncio.wait({self._settling})
        return [self._settled.popleft() for _ in range(min(limit, len(self._settled)))]

    def holds(self, delivery: Delivery) -> bool:
        """See ``Receiver.holds``. What was settled is this process's alone."""
        return True

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """See ``Receiver.settle``."""
        copies = [
            (index, self._copy(delivery, settlement))
            for index, (delivery, settlement) in enumerate(settled)
            if not isinstance(settlement, Ack)
        ]
        outcomes: list[Exception | None] = [None] * len(settled)
        if copies:
            (found,) = await asyncio.gather(
                self._transport.publish([copy for _, copy in copies], timeout_s=GIVE_BACK_TIMEOUT_S)
            )
            for (index, _), outcome in zip(copies, found, strict=True):
                outcomes[index] = outcome
        return outcomes

    async def stop(self) -> None:
        """See ``Receiver.stop``."""
        if self._stopped:
            return
        settling, self._settling = self._settling, None
        await super().stop()
        if settling is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await asyncio.wait({settling})
        await self._publish_back()

    # ------------------------------------------------------------------------------------------ inside

    async def _wait_for_some(self, limit: int) -> None:
        while True:
            if self._stopped:
                return
            if self._buffer:
                if await self._source.refresh_for(islice(self._buffer, limit)):
                    continue
                return
            if self._failed is not None:
                raise self._failed
            self._arrived.clear()
            await self._arrived.wait()

    async def _settle_early(self, taken: Sequence[Delivery]) -> None:
        jetstream = self._transport.jetstream

        async def settle(delivery: Delivery) -> None:
            receipt = cast("Receipt", delivery.receipt)
            try:
                await jetstream.request(receipt.reply.decode(), ACK, timeout_s=REQUEST_TIMEOUT_S)
            except (TransportError, ClosedError) as error:
                # It may be settled, and may not be handled then; if it is not, it comes again.
                log.debug("not settled for sure", extra={"source": self._address, "cause": str(error)})
            else:
                self._settled.append(delivery)
            self._held.drop(receipt)

        try:
            await asyncio.gather(*map(settle, taken))
        finally:
            self._settling = None
            self._settled = deque(sorted(self._settled, key=_place))
            self._refill()

    def _copy(self, delivery: Delivery, settlement: Settlement) -> Outgoing:
        address = cast("SourceAddress", self._entity.address)
        message, key = delivery.message, f"{delivery.message.id}/{delivery.position}"
        if isinstance(settlement, DeadLetter):
            return Outgoing(address.dead_letters, message, dedup_key=key, carried=settlement.carried)
        if isinstance(settlement, Nack):
            return Outgoing(address, message, settlement.delay_s, key, settlement.carried)
        return Outgoing(address, message, dedup_key=key, carried=delivery.carried)

    async def _publish_back(self) -> None:
        """What is settled and will not be handled goes to where it came from; at most once."""
        back, self._settled = list(self._settled), deque()
        if not back:
            return
        copies = [self._copy(delivery, Nack(carried=delivery.carried)) for delivery in back]
        try:
            outcomes = await self._transport.publish(copies, timeout_s=GIVE_BACK_TIMEOUT_S)
        except BusframeError as error:
            outcomes = [error] * len(back)
        lost = sum(outcome is not None for outcome in outcomes)
        if lost:
            log.error("messages lost: taken, not handled, not given back", extra={"source": self._address, "n": lost})


def _place(delivery: Delivery) -> int:
    return cast("Receipt", delivery.receipt).seq
