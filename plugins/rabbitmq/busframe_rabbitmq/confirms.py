"""One channel in confirm mode: a window of messages under way, and a queue of those that wait for room or for the link.

Everything that changes state here is synchronous: ``put`` and the server's answers move messages from the queue into
the window and out of it. A message in the queue was surely not sent; one in the window may be stored until the server
has answered. That difference is the outcome when time is over or the connection is lost.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from busframe.errors import (
    Backpressure,
    ClosedError,
    DestinationNotFound,
    MessageTooLarge,
    PublishError,
    PublishFailed,
    PublishOutcomeUnknown,
    TransportError,
)
from busframe.spi.transport import Host
from busframe_rabbitmq.channel import Channel, open_channel
from busframe_rabbitmq.client import ChannelDenied, ChannelRefused
from busframe_rabbitmq.link import Backoff, Link
from busframe_rabbitmq.settings import Settings
from busframe_rabbitmq.topology import read_exchange, read_too_large

if TYPE_CHECKING:
    from busframe.spi.batch import Batch

log = logging.getLogger(__name__)


class Entry:
    """One message on its way.

    Attributes:
        address: what the application calls the destination.
        delayed: it enters the cascade.
        channel: where it waits or is under way.
        tag: the server's number of it; 0: not sent.
        batch: who waits for it; None: nobody any more.
    """

    __slots__ = (
        "address",
        "batch",
        "body",
        "channel",
        "delayed",
        "exchange",
        "index",
        "mandatory",
        "message_id",
        "properties",
        "routing_key",
        "size",
        "tag",
    )

    def __init__(
        self,
        address: str,
        exchange: str,
        routing_key: str,
        message_id: str,
        properties: bytes,
        body: bytes,
        *,
        mandatory: bool,
        delayed: bool,
        batch: "Batch[Entry]",
        index: int,
    ) -> None:
        self.address = address
        self.exchange = exchange
        self.routing_key = routing_key
        self.message_id = message_id
        self.properties = properties
        self.body = body
        self.size = len(body) + len(properties)
        self.mandatory = mandatory
        self.delayed = delayed
        self.batch: Batch[Entry] | None = batch
        self.index = index
        self.channel: ConfirmChannel | None = None
        self.tag = 0

    def finish(self, outcome: PublishError | None) -> None:
        """Tell who waits."""
        batch, self.batch = self.batch, None
        if batch is not None:
            batch.finish(self.index, outcome)

    def expire(self) -> None:
        """Its time is over."""
        if self.batch is None:
            return
        if self.tag or self.channel is None:
            self.finish(PublishOutcomeUnknown("no answer came in time", message_id=self.message_id))
        else:
            self.finish(self.channel.withdraw(self))

    def forget(self) -> None:
        """Nobody waits any more; what was sent keeps its place in the window until the server answers."""
        self.batch = None
        if not self.tag and self.channel is not None:
            self.channel.withdraw(self)


class ConfirmChannel:
    """A supervised channel in confirm mode; it opens itself with the first message.

    Args:
        name: for logs.
        link: the publishing connection.
        settings: the window.
        host: for pauses.
        on_missing: called with the name of an exchange that the server does not have, or refuses.
    """

    def __init__(
        self, name: str, link: Link, settings: Settings, host: Host, on_missing: Callable[[str], None]
    ) -> None:
        self.name = name
        self._link = link
        self._host = host
        self._on_missing = on_missing
        self._window = settings.publish_window
        self._window_bytes = settings.publish_window_bytes
        self._backoff = Backoff(settings.reconnect_min_s, settings.reconnect_max_s)
        self._channel: Channel | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._queue: OrderedDict[Entry, None] = OrderedDict()
        self._under_way: dict[int, Entry] = {}
        self._bytes_under_way = 0
        self._last_tag = 0
        self._lowest_tag = 1
        self._idle: asyncio.Future[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "open" if self._channel else "closed" if self._closed else "opening"
        return f"<ConfirmChannel {self.name}: {state}, {len(self._under_way)} under way, {len(self._queue)} waiting>"

    def put(self, entry: Entry) -> None:
        """Send a message as soon as there is room for it."""
        if self._closed:
            entry.finish(PublishFailed("the transport is closed", message_id=entry.message_id))
            return
        entry.channel = self
        self._queue[entry] = None
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"busframe rabbitmq {self.name} channel")
        self.pump()

    def withdraw(self, entry: Entry) -> PublishFailed:
        """Take back a message that was not sent, and say why it was not."""
        self._queue.pop(entry, None)
        self._tell_idle()
        failed: PublishFailed
        if self._link.blocked is not None:
            failed = Backpressure(
                f"the server takes no messages for now: {self._link.blocked}", message_id=entry.message_id
            )
        elif self._channel is not None:
            failed = Backpressure(
                "the server did not confirm fast enough; nothing was sent", message_id=entry.message_id
            )
        else:
            failed = PublishFailed("there was no connection; nothing was sent", message_id=entry.message_id)
            failed.__cause__ = self._link.error
        return failed

    def pump(self) -> None:
        """Send what waits, as far as there is room."""
        channel = self._channel
        if channel is None or self._link.blocked is not None:
            return
        queue, under_way = self._queue, self._under_way
        while queue and len(under_way) < self._window:
            entry = next(iter(queue))
            if under_way and self._bytes_under_way + entry.size > self._window_bytes:
                return
            try:
                channel.publish(
                    entry.exchange, entry.routing_key, entry.properties, entry.body, mandatory=entry.mandatory
                )
            except TransportError:
                return  # closed in this moment; the keeper opens another one and sends it there
            del queue[entry]
            self._last_tag += 1
            entry.tag = self._last_tag
            under_way[entry.tag] = entry
            self._bytes_under_way += entry.size

    async def flush(self) -> None:
        """Wait until nothing is under way or waiting."""
        while self._queue or self._under_way:
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    async def close(self) -> None:
        """End; what is still here fails. Idempotent."""
        self._closed = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.on_close = lambda error: None
            channel.abandon()
        self._lost(ClosedError("the transport was closed"))
        while self._queue:
            entry, _ = self._queue.popitem(last=False)
            entry.finish(PublishFailed("the transport was closed; nothing was sent", message_id=entry.message_id))

    # ------------------------------------------------------------------------------------------ the server's answers

    def _confirmed(self, tag: int, multiple: bool, refused: bool) -> None:
        tags = range(self._lowest_tag, tag + 1) if multiple else (tag,)
        for each in tags:
            entry = self._under_way.pop(each, None)
            if entry is None:
                continue
            self._bytes_under_way -= entry.size
            entry.finish(_refusal(entry) if refused else None)
        if multiple:
            self._lowest_tag = tag + 1
        else:  # else the next multiple one would look at all that were confirmed one by one
            while self._lowest_tag <= self._last_tag and self._lowest_tag not in self._under_way:
                self._lowest_tag += 1
        self._backoff.reset()
        if self._queue:
            self.pump()
        else:
            self._tell_idle()

    def _returned(self, exchange: str, routing_key: str, message_id: str | None) -> None:
        # It has no tag, and its confirm follows as if all were well. Two of one id to one address: both fail.
        for entry in self._under_way.values():
            if (
                entry.routing_key == routing_key
                and entry.exchange == exchange
                and entry.message_id == message_id
                and entry.mandatory
            ):
                if entry.delayed:
                    self._on_missing(exchange)
                    entry.finish(
                        PublishFailed("the delay queues are gone: publish it again", message_id=entry.message_id)
                    )
                else:
                    entry.finish(DestinationNotFound(entry.address, message_id=entry.message_id))

    # ------------------------------------------------------------------------------------------ supervision

    async def _keep(self) -> None:
        while True:
            connection = None
            try:
                connection = await self._link.wait_up()
                channel = await open_channel(connection)
                try:
                    await channel.confirm(self._confirmed, self._returned)
                except BaseException:
                    channel.abandon()
                    raise
                channel.on_close = self._lost
                self._channel, self._last_tag, self._lowest_tag = channel, 0, 1
                self.pump()
                await asyncio.shield(channel.closed)
            except ClosedError:
                return
            except TransportError as error:
                log.debug("no channel", extra={"channel": self.name, "cause": str(error)})
            except Exception:  # whatever it is, the channel must come back
                log.exception("the channel failed", extra={"channel": self.name})
            if self._link.connection is connection:  # else it is the link that pauses
                await self._host.sleep(self._backoff.pause(self._host.random()))

    def _lost(self, error: Exception) -> None:
        self._channel = None
        under_way, self._under_way = self._under_way, {}
        self._bytes_under_way = 0
        exchange = too_large = None
        if isinstance(error, ChannelRefused):
            too_large = read_too_large(error.text)
            exchange = read_exchange(error.text) if error.code in (403, 404) else None
            log.warning("channel closed", extra={"channel": self.name, "cause": error.text})
            if exchange is not None:
                self._on_missing(exchange)
        last = next((entry for entry in reversed(under_way.values()) if entry.exchange == exchange), None)
        for entry in under_way.values():
            entry.finish(self._outcome(entry, error, entry is last, too_large))
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._queue and not self._under_way and not self._idle.done():
            self._idle.set_result(None)

    def _outcome(
        self, entry: Entry, error: Exception, refused: bool, too_large: tuple[int, int] | None
    ) -> PublishError:
        """What became of a message that was under way when the channel was closed.

        The server closes it for one of them and says which only indirectly. Where it does so for an exchange, those
        before that one are stored, perhaps, and those behind it are not: only the last one surely is not.
        """
        outcome: PublishError
        if refused and isinstance(error, ChannelDenied):
            outcome = PublishFailed(f"access refused: {error.text}", message_id=entry.message_id, transient=False)
        elif refused and not entry.delayed:
            outcome = DestinationNotFound(entry.address, message_id=entry.message_id)
        elif too_large is not None and len(entry.body) == too_large[0]:
            outcome = MessageTooLarge(*too_large, message_id=entry.message_id)
        else:
            outcome = PublishOutcomeUnknown("the channel was lost before the answer", message_id=entry.message_id)
        outcome.__cause__ = error
        return outcome


def _refusal(entry: Entry) -> PublishError:
    """A negative confirm says of a queue that it is not there, and of a topic that not all subscriptions took it."""
    if entry.exchange and not entry.delayed:
        return PublishOutcomeUnknown(
            "a subscription refused it, because it is full; others may have it", message_id=entry.message_id
        )
    return Backpressure("the server refused it: the queue is full", message_id=entry.message_id)
