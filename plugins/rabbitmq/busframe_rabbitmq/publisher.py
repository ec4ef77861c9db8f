"""Where each message goes, and the calls that wait for its confirmation.

Queues, and copies for one subscription or for dead letters, go through the default exchange, mandatory, so that a
missing one is told. Topics go to their exchange, not mandatory: one without subscriptions is fine. Delays enter the
cascade. Each of the three has a channel of its own, because the server closes a channel for a missing exchange and with
it goes the answer of every other message that is under way there.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from busframe.errors import ClosedError, DestinationNotFound, MessageTooLarge, PublishError, PublishFailed, Unsupported
from busframe.logic.size import FRAMEWORK_RESERVE_BYTES, message_bytes
from busframe.model.delivery import Outgoing
from busframe.model.destination import Topic
from busframe.spi.batch import Batch, failed_alike
from busframe.spi.deadlines import Deadlines
from busframe.spi.transport import Host
from busframe_rabbitmq.cascade import MAX_DELAY_S, Cascade, target
from busframe_rabbitmq.client import ChannelRefused
from busframe_rabbitmq.confirms import ConfirmChannel, Entry
from busframe_rabbitmq.delays import Delays
from busframe_rabbitmq.link import Link
from busframe_rabbitmq.mapping import encode
from busframe_rabbitmq.settings import Settings

log = logging.getLogger(__name__)

HEADER_FRAME_BYTES = 8 + 12
"""What a content header's frame has besides the properties. All of it must fit into one frame, else the server closes
the connection."""

FLUSH_TIMEOUT_S = 5.0

Need = tuple[str, bool, bool]
"""(broker's name, is a topic, is delayed): what must be looked after once before the first publish."""


class Publisher:
    """Publishes over one link.

    Args:
        link: the publishing connection.
        delays: makes the cascade when it is needed.
        settings: sizes and windows.
        host: names and pauses.
        cascade: the routing keys of delays.
    """

    def __init__(self, link: Link, delays: Delays, settings: Settings, host: Host, cascade: Cascade) -> None:
        self._link = link
        self._delays = delays
        self._name = host.name
        self._cascade = cascade
        self._most_bytes = settings.max_message_bytes
        self._queues = ConfirmChannel("publish to queues", link, settings, host, self._missing)
        self._topics = ConfirmChannel("publish to topics", link, settings, host, self._missing)
        self._delayed = ConfirmChannel("publish with delay", link, settings, host, self._missing)
        self._channels = (self._queues, self._topics, self._delayed)
        self._deadlines = Deadlines(_expire)
        self._ready: set[Need] = set()
        self._ready_on: object = None
        self._preparing: dict[Need, asyncio.Task[PublishError | None]] = {}
        link.on_unblocked = self._unblocked

    async def publish(self, outgoing: Sequence[Outgoing], timeout_s: float) -> Sequence[Exception | None]:
        """See ``Transport.publish``."""
        loop = asyncio.get_running_loop()
        batch: Batch[Entry] = Batch(len(outgoing), loop)
        deadline = batch.began + timeout_s
        if self._ready_on is not self._link.connection:  # what was there may have gone with the server's data
            self._ready.clear()
            self._ready_on = self._link.connection
        if not outgoing:
            return []
        missing: dict[Need, PublishError] = {}
        needs = [self._need(each) for each in outgoing]
        for need in dict.fromkeys(needs):
            if need is not None and need not in self._ready:
                failed = await self._prepare(need, deadline)
                if failed is not None:
                    missing[need] = failed
        entries = batch.entries
        for index, (each, need) in enumerate(zip(outgoing, needs, strict=True)):
            if need is not None and need in missing:
                batch.finish(index, failed_alike(each, missing[need]))
                continue
            try:
                entry, channel = self._entry(each, batch, index)
            except (PublishError, Unsupported) as error:
                batch.finish(index, error)
                continue
            entries.append(entry)
            channel.put(entry)
        if batch.left:
            tick = self._deadlines.add(loop, deadline, entries)
            try:
                await batch.done
            finally:
                self._deadlines.remove(tick, entries)
                if batch.left:
                    for entry in entries:
                        entry.forget()
        return batch.outcomes()

    async def close(self) -> None:
        """Wait a few seconds for what is under way, then end. Idempotent."""
        if self._link.connection is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    for channel in self._channels:
                        await channel.flush()
        for task in list(self._preparing.values()):
            task.cancel()
        await asyncio.gather(*self._preparing.values(), return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    def _unblocked(self) -> None:
        for channel in self._channels:
            channel.pump()

    # ------------------------------------------------------------------------------------------ one message

    def _need(self, outgoing: Outgoing) -> Need | None:
        topic = isinstance(outgoing.to, Topic)
        if outgoing.delay_s > 0:
            return self._name(outgoing.to), topic, True
        return (self._name(outgoing.to), True, False) if topic else None

    def _entry(self, outgoing: Outgoing, batch: Batch[Entry], index: int) -> tuple[Entry, ConfirmChannel]:
        message = outgoing.message
        properties = encode(message, outgoing.carried)
        self._check_size(outgoing, properties)
        name = self._name(outgoing.to)
        topic = isinstance(outgoing.to, Topic)
        delayed = outgoing.delay_s > 0
        if delayed:
            if outgoing.delay_s > MAX_DELAY_S:
                raise Unsupported(f"a delay of {outgoing.delay_s} s: RabbitMQ's delay queues reach {MAX_DELAY_S} s")
            exchange, key = self._cascade.entry(outgoing.delay_s, target(name, topic=topic))
            channel = self._delayed
        elif topic:
            exchange, key, channel = name, "", self._topics
        else:
            exchange, key, channel = "", name, self._queues
        entry = Entry(
            str(outgoing.to),
            exchange,
            key,
            message.id,
            properties,
            message.body,
            mandatory=delayed or not topic,
            delayed=delayed,
            batch=batch,
            index=index,
        )
        return entry, channel

    def _check_size(self, outgoing: Outgoing, properties: bytes) -> None:
        message = outgoing.message
        most = self._most_bytes - FRAMEWORK_RESERVE_BYTES
        if len(message.body) + len(properties) > most:
            # A copy that the framework makes may use what is kept free for it.
            is_copy = outgoing.dedup_key not in ("", message.id)
            size = len(message.body) if is_copy else message_bytes(message)
            limit = self._most_bytes if is_copy else most
            if size > limit:
                raise MessageTooLarge(size, limit, message_id=message.id)
        connection = self._link.connection
        limit = (connection.max_frame_bytes if connection is not None else 131072) - HEADER_FRAME_BYTES
        if len(properties) > limit:
            raise MessageTooLarge(len(properties), limit, message_id=message.id)

    # ------------------------------------------------------------------------------------------ once for each name

    async def _prepare(self, need: Need, deadline: float) -> PublishError | None:
        """See that a topic exists, or that delays reach their target. Many calls share one look."""
        task = self._preparing.get(need)
        if task is None:
            task = asyncio.create_task(self._look(need), name=f"busframe rabbitmq looks after {need[0]}")
            self._preparing[need] = task
            task.add_done_callback(lambda _: self._preparing.pop(need, None))
        left = deadline - asyncio.get_running_loop().time()
        done, _ = await asyncio.wait({task}, timeout=max(0.0, left))
        if done and not task.cancelled():
            return task.result()
        failed = PublishFailed("there was no connection; nothing was sent")
        failed.__cause__ = self._link.error
        return failed

    async def _look(self, need: Need) -> PublishError | None:
        name, topic, delayed = need
        failed: PublishError
        try:
            if delayed:
                await self._delays.connect_target(name, topic=topic)
            else:
                await self._delays.look_for_exchange(name)
        except ChannelRefused as error:
            if error.is_missing:
                failed = DestinationNotFound(name)
            else:
                failed = PublishFailed(str(error), transient=error.transient)
            failed.__cause__ = error
            return failed
        except ClosedError as error:
            failed = PublishFailed("the transport is closed; nothing was sent")
            failed.__cause__ = error
            return failed
        except Exception as error:
            log.exception("cannot look after a destination", extra={"destination": name})
            failed = PublishFailed(f"cannot look after {name!r}: {error}")
            failed.__cause__ = error
            return failed
        self._ready.add(need)
        return None

    def _missing(self, exchange: str) -> None:
        """The server does not have an exchange any more: look again before the next publish."""
        self._ready = {need for need in self._ready if not need[2] and need[0] != exchange}
        if exchange in self._cascade.levels:
            self._delays.forget()


def _expire(entries: Sequence[Entry]) -> None:
    for entry in entries:
        entry.expire()
