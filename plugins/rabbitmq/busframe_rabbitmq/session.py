"""One channel with one consumer: what it has delivered, and the acknowledgements that are written on it.

A session ends with its channel. Delivery tags begin at 1 on each channel, so a receipt is (session, tag): on another
session the same tag is another message.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from busframe.errors import ConnectionFailed, TransportError
from busframe.logic.offsets import Offsets
from busframe_rabbitmq.channel import Channel

log = logging.getLogger(__name__)

MAX_PREFETCH = 65535

QUIET_WITHIN_S = 0.1
"""How long acknowledgements wait, at most, while a consumer is replaced."""


class Session:
    """A consumer on a channel of its own.

    Args:
        channel: open, and used by nobody else.
        queue: the broker's name.
        on_message: gets (session, tag, redelivered, properties, body) and must not raise.

    Attributes:
        held: the delivered and unsettled tags.
        quiet: while a consumer is replaced and nothing should be settled; it is set when that is over.
        lost: done, with the reason, when the session has ended.
    """

    auto_ack = False
    """Whether the server forgets each message when it has sent it."""

    is_ordered = False
    """Whether the consumer is never cancelled."""

    def __init__(
        self, channel: Channel, queue: str, on_message: Callable[["Session", int, bool, Any, bytes], None]
    ) -> None:
        self.held = Offsets()
        self.quiet: asyncio.Event | None = None
        self.lost: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.on_lost: Callable[[], None] = lambda: None
        self._channel = channel
        self._queue = queue
        self._on_message = on_message
        self._consumer: str | None = None
        self._ours: set[str] = set()  # consumers that we cancel
        self._prefetch = 0
        self._wanted = 0
        self._resizing: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._cancelled = asyncio.Event()
        self._stopped = False
        channel.on_close = self._closed
        channel.on_cancelled(self._cancelled_by_server)

    async def consume(self, prefetch: int) -> None:
        """Make the consumer.

        Raises:
            ChannelRefused: the queue does not exist, or may not be consumed.
            TransportError: the channel was lost.
        """
        self._prefetch = self._wanted = min(prefetch, MAX_PREFETCH)
        self._consumer = await self._channel.consume(
            self._queue, self._delivered, prefetch=self._prefetch, auto_ack=self.auto_ack
        )

    async def resize(self, prefetch: int) -> None:
        """Another prefetch from now on: another consumer on the same channel, because each keeps the one it began with.

        More: the new one begins before the old one ends, and what the old one held may be held besides. Fewer: the old
        one ends first, and the new one begins when less is held than it may hold; until then nothing is fetched.
        Returns when the old one has ended.
        """
        self._wanted = min(prefetch, MAX_PREFETCH)
        self._room.set()  # one that waits to be smaller may have room now
        if self._wanted == self._prefetch or self._stopped or self.lost.done():
            return
        if self._resizing is None or self._resizing.done():
            self._cancelled.clear()
            self._resizing = asyncio.create_task(self._resize(), name=f"busframe rabbitmq resizes {self._queue}")
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait({self._resizing, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancelled.cancel()

    async def cancel(self) -> None:
        """End the consumer; what was delivered can still be settled, and what still arrives is still given."""
        self._stopped = True
        if self._resizing is not None:
            self._room.set()
            await asyncio.wait({self._resizing})
        await self._cancel(quietly=False)  # what is on its way goes back anyway

    def settle(self, acked: Iterable[int], released: Iterable[int]) -> None:
        """Write acknowledgements and hand-backs of held tags, all in one turn of the loop.

        Raises:
            TransportError: the channel was lost; what is unsettled goes back to the queue.
        """
        held, channel = self.held, self._channel
        for tag in released:  # before the acks: a multiple one must not cover them
            channel.requeue(tag)
            held.forget(tag)
        acked = list(acked)
        for tag in acked:
            held.finish(tag)
        mark = held.advance()
        if mark is not None:
            channel.ack(mark, multiple=True)
        for tag in acked:
            if tag in held:
                channel.ack(tag)
                held.forget(tag)
        if len(held) < self._wanted:
            self._room.set()

    async def close(self) -> None:
        """End; what is unsettled goes back. Idempotent."""
        self._stopped = True
        if self._resizing is not None:
            self._resizing.cancel()
            await asyncio.wait({self._resizing})
        await self._channel.close(keep_consumers=self.is_ordered)

    def abandon(self) -> None:
        """End it without waiting, and without telling anybody."""
        self.on_lost = lambda: None
        self._channel.abandon(keep_consumers=self.is_ordered)

    # ------------------------------------------------------------------------------------------ inside

    def _delivered(self, tag: int, redelivered: bool, properties: Any, body: bytes) -> None:
        self.held.deliver(tag)
        self._on_message(self, tag, redelivered, properties, body)

    def _closed(self, error: TransportError) -> None:
        self.held.clear()
        self._room.set()
        self._end(error)

    def _cancelled_by_server(self, consumer_tag: str) -> None:
        if consumer_tag not in self._ours:
            self.held.clear()
            self._end(ConnectionFailed(f"the server cancelled the consumer of {self._queue!r}"))
            self._channel.abandon(keep_consumers=self.is_ordered)

    def _end(self, error: TransportError) -> None:
        if not self.lost.done():
            self.lost.set_result(error)
            self.on_lost()

    async def _cancel(self, *, quietly: bool) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None or self.lost.done():
            return
        if quietly:
            await self._cancel_quietly(consumer, self._prefetch)
        else:
            self._ours.add(consumer)
            await self._channel.cancel(consumer)

    async def _cancel_quietly(self, consumer: str, credit: int) -> None:
        """End a consumer while nothing is on its way to it.

        What a quorum queue has sent and the channel has not yet passed on when the consumer ends, the server takes back
        and counts as a failed delivery (tested on 4.0.5). So nothing is acknowledged for a moment, until the queue has
        used up all credit or is empty; if that takes long, some come twice.

        Args:
            consumer: its tag.
            credit: how many unsettled messages the consumers of this session may hold together.
        """
        self._ours.add(consumer)
        self.quiet = asyncio.Event()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + QUIET_WITHIN_S
        try:
            while len(self.held) < credit and loop.time() < give_up:
                ready, _ = await self._channel.declare_queue(self._queue, passive=True)
                if not ready:
                    break
            await self._channel.cancel(consumer)
        finally:
            over, self.quiet = self.quiet, None
            over.set()

    async def _resize(self) -> None:
        try:
            while self._prefetch != self._wanted and not self._stopped:
                if self._wanted < self._prefetch:
                    await self._cancel(quietly=True)
                    self._cancelled.set()
                    while len(self.held) >= self._wanted and not self._stopped:
                        self._room.clear()
                        await self._room.wait()
                    if self._stopped:
                        return
                    await self.consume(self._wanted)
                else:
                    old, before, wanted = self._consumer, self._prefetch, self._wanted
                    self._consumer = await self._channel.consume(self._queue, self._delivered, prefetch=wanted)
                    self._prefetch = wanted
                    if old is not None:
                        await self._cancel_quietly(old, before + wanted)
        except TransportError as error:  # the session is lost with its channel, and the receiver opens another one
            log.debug("resizing", extra={"queue": self._queue, "cause": str(error)})
        finally:
            self._cancelled.set()


class OrderedSession(Session):
    """The consumer of a queue with a single active one, which hands all keys over in their order (tested on 4.0.5).

    It ends with its channel and is never cancelled: of a cancelled consumer the server keeps what is unsettled apart,
    and lets the next one begin with what comes behind.

    Its prefetch is the same in all workers, and never changes. What a lost consumer held is put into a line of its own,
    from which the next one is served first. One that takes less than the whole line, and is lost as well, puts what it
    took behind the rest. And a consumer with another prefetch would be another consumer, behind all that wait.
    """

    is_ordered = True

    async def resize(self, prefetch: int) -> None:
        """Do nothing: what is fetched ahead waits in the receiver's buffer."""

    async def cancel(self) -> None:
        """End the channel, too."""
        await self.close()
