"""How a source is configured on the server: its consumers, and the filter that is stored with them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from busframe.errors import DestinationNotFound, TopologyMismatch, TransportError
from busframe.logic.filters import matches
from busframe.model.delivery import Delivery
from busframe.model.destination import DeadLetters, Queue, Subscription, Where
from busframe.model.entity import Entity
from busframe_nats.answers import JetStream, Refused
from busframe_nats.topology import SECOND, Names, partitions_of, read_where

if TYPE_CHECKING:
    from busframe_nats.held import Receipt

Info: TypeAlias = dict[str, Any] | None

REFRESH_S = 30.0
RETRY_S = 0.5


class ConfiguredSource:
    """What the server has stored of a source.

    Args:
        jetstream: the server's interface.
        names: of streams and consumers.
        entity: the source, and what its handlers ask.
        now: the loop's clock, in seconds.

    Attributes:
        stream: its name.
        consumers: their names; with order one for each partition.
        ack_wait_s: how long the server waits for a sign of life of a message.
        where: the stored filter; None: nobody can tell.
    """

    def __init__(self, jetstream: JetStream, names: Names, entity: Entity, now: Callable[[], float]) -> None:
        self.stream = names.stream(entity.address)
        self.consumers: list[str] = []
        self.ack_wait_s = 30.0
        self.where: Where | None = None
        self._jetstream = jetstream
        self._names = names
        self._entity = entity
        self._now = now
        self._read_at = 0.0

    async def read(self) -> None:
        """Read all of it.

        Raises:
            DestinationNotFound: it does not exist.
            TopologyMismatch: it exists with another ordering than its handlers ask for.
        """
        address, names = cast("Queue[object] | Subscription[object] | DeadLetters", self._entity.address), self._names
        partitions = 0
        if self._entity.ordering == "key":
            stream = await self._ask(self._jetstream.stream(self.stream))
            if stream is None:
                raise DestinationNotFound(str(address))
            partitions = partitions_of(stream["config"])
        self.consumers = names.consumers(address, partitions)
        try:
            await self.refresh()
        except DestinationNotFound:
            other = names.consumers(address, 0 if partitions else 1)[0]
            if await self._ask(self._jetstream.consumer(self.stream, other)) is not None:
                order = "without" if partitions else "with"
                raise TopologyMismatch(f"{address} exists {order} order of keys: see its ordering") from None
            raise

    async def refresh(self) -> None:
        """Read what can change while it is consumed.

        Raises:
            DestinationNotFound: it does not exist any more.
        """
        at = self._now()
        info = await self._ask(self._jetstream.consumer(self.stream, self.consumers[0]))
        if info is None:
            raise DestinationNotFound(str(self._entity.address))
        self.ack_wait_s = int(info["config"].get("ack_wait") or 30 * SECOND) / SECOND
        if isinstance(self._entity.address, Subscription):
            self.where = read_where(info["config"])
        self._read_at = at

    async def look(self) -> None:
        """See that all of it is there.

        Raises:
            DestinationNotFound: it does not exist any more.
        """
        for name in self.consumers:
            if await self._ask(self._jetstream.consumer(self.stream, name)) is None:
                raise DestinationNotFound(str(self._entity.address))

    @property
    def is_old(self) -> bool:
        """Whether it was read so long ago that it is to be read again."""
        return self._now() - self._read_at > REFRESH_S

    async def refresh_for(self, deliveries: Iterable[Delivery]) -> bool:
        """Before a message is dropped that the filter does not take, see whether it is still the stored one.

        It may have been widened before the message was published.

        Returns:
            Whether something was awaited, so that all may be different.
        """
        where = self.where
        if not where:
            return False
        strangers = (each for each in deliveries if not matches(where, each.message.headers))
        if all(cast("Receipt", each.receipt).at < self._read_at for each in strangers):
            return False
        try:
            await self.refresh()
        except TransportError:
            await asyncio.sleep(RETRY_S)
        return True

    async def _ask(self, question: Awaitable[Info]) -> Info:
        try:
            return await question
        except Refused as error:
            raise TransportError(f"{self._entity.address}: {error}", transient=error.transient) from error
