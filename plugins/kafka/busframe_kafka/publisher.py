"""Where each message goes: to its topic, to the topic that only one source reads, to dead letters, or into the ladder.

librdkafka learns that a topic is missing half a minute late, or lets the server create it with any number of
partitions. So each name is looked up before its first record, and again after the server has said that it is unknown.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from busframe.errors import (
    BusframeError,
    ClosedError,
    DestinationNotFound,
    InvalidHeader,
    MessageTooLarge,
    PublishError,
    PublishFailed,
    TransportError,
    Unsupported,
)
from busframe.logic.size import FRAMEWORK_RESERVE_BYTES, message_bytes
from busframe.model.delivery import Outgoing
from busframe.model.destination import DeadLetters, Queue, Subscription
from busframe.spi.batch import Batch, failed_alike
from busframe.spi.transport import Host
from busframe_kafka.admin import Admin
from busframe_kafka.entry import Entry
from busframe_kafka.ladder import LAST, LONGEST_S, RETRY, rung_of, wait_topic
from busframe_kafka.mapping import RECORD_OVERHEAD_BYTES, OwnHeaders, WireHeaders, encode, waiting, wire_bytes
from busframe_kafka.producer import FLUSH_TIMEOUT_S, PipelinedProducer
from busframe_kafka.settings import Settings
from busframe_kafka.topology import Names

LOOK_TIMEOUT_S = 5.0
LOOK_AGAIN_S = 0.25
"""Between two tries to look for a topic while the servers do not answer."""


class Publisher:
    """Publishes messages.

    Args:
        producer: stores records.
        admin: looks for topics.
        names: of topics.
        settings: sizes.
        host: the clock.
        make_ladder: creates the topics of delays where they are missing.
    """

    def __init__(
        self,
        producer: PipelinedProducer,
        admin: Admin,
        names: Names,
        settings: Settings,
        host: Host,
        make_ladder: Callable[[], Awaitable[None]],
    ) -> None:
        self._producer = producer
        self._admin = admin
        self._names = names
        self._host = host
        self._make_ladder = make_ladder
        self._most_bytes = settings.max_message_bytes
        self._known: set[str] = set()
        self._looking: dict[str, asyncio.Task[PublishError | None]] = {}
        producer.on_missing = self._missing
        self._gone: set[str] = set()
        self._calls = 0
        self._idle: asyncio.Event | None = None

    async def publish(self, outgoing: Sequence[Outgoing], timeout_s: float) -> Sequence[Exception | None]:
        """See ``Transport.publish``."""
        self._calls += 1
        try:
            batch: Batch[Entry] = Batch(len(outgoing), asyncio.get_running_loop())
            deadline = batch.began + timeout_s
            missing: dict[str, PublishError | None] = {}
            for index, each in enumerate(outgoing):
                try:
                    record, needs = self._record(each, index)
                except (PublishError, Unsupported) as error:
                    batch.finish(index, error)
                    continue
                absent: PublishError | None = None
                for topic in needs:
                    if topic not in self._known:
                        if topic not in missing:
                            missing[topic] = await self._look_for(topic, deadline)
                        absent = absent or missing[topic]
                if absent is not None:
                    batch.finish(index, failed_alike(each, absent))
                else:
                    batch.entries.append(record)
            self._producer.send(batch)  # all together, so that none is between two that were looked for
            if batch.left:
                tick = self._producer.watch(batch, deadline)
                try:
                    await batch.done
                finally:
                    self._producer.leave(batch, tick)
            return batch.outcomes()
        finally:
            self._calls -= 1
            if not self._calls and self._idle is not None:
                self._idle.set()

    async def close(self) -> None:
        """Wait a few seconds for what is being published, then end what is still being looked for. Idempotent."""
        if self._calls:
            self._idle = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    await self._idle.wait()
        tasks = list(self._looking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _missing(self, topic: str) -> None:
        self._known.discard(topic)
        self._gone.add(topic)

    # ------------------------------------------------------------------------------------------ one message

    def _record(self, outgoing: Outgoing, index: int) -> tuple[Entry, Sequence[str]]:
        """What is stored, and the topics that must exist for it."""
        message, to = outgoing.message, outgoing.to
        letter = isinstance(to, DeadLetters)
        headers: OwnHeaders | WireHeaders
        try:
            headers = own = encode(message, outgoing.carried, letter=letter)
            key = message.key.encode() if message.key is not None else None
        except UnicodeEncodeError as error:
            raise InvalidHeader(f"a header or field is no text: {error}", message_id=message.id) from error
        is_copy = outgoing.dedup_key not in ("", message.id)
        if letter:
            key = (outgoing.dedup_key or message.id).encode()
        topic = self._topic(outgoing, is_copy)
        needs: tuple[str, ...] = (topic,)
        if outgoing.delay_s > 0:
            if outgoing.delay_s > LONGEST_S:
                raise Unsupported(f"a delay of {outgoing.delay_s} s: on Kafka the longest is {LONGEST_S:.0f} s")
            headers = waiting([*own.items()], topic, self._host.clock() + outgoing.delay_s)
            rung = rung_of(outgoing.delay_s)
            if rung != LAST or not topic.endswith(RETRY):  # who reads a retry topic holds the last seconds itself
                wait = wait_topic(self._names.prefix, rung)
                topic, needs = wait, (topic, wait)
        # What the fields and the headers' frames add is far less than what is kept free.
        size = wire_bytes(headers, key, message.body) if is_copy else message_bytes(message)
        most = self._most_bytes if is_copy else self._most_bytes - FRAMEWORK_RESERVE_BYTES
        if size > most:  # a copy that the framework makes may use what is kept free for it
            raise MessageTooLarge(size, most, message_id=message.id)
        return Entry(topic, key, message.body, headers, index, size + RECORD_OVERHEAD_BYTES, to, message.id), needs

    def _topic(self, outgoing: Outgoing, is_copy: bool) -> str:
        """Where it goes in the end.

        A retry of a queue's message waits for its last seconds in the memory of the queue's own workers, who read its
        retry topic; an application's delayed message may be for programs that read the queue alone.
        """
        to = outgoing.to
        if isinstance(to, Subscription) or (isinstance(to, Queue) and is_copy and outgoing.delay_s > 0):
            return self._names.retry(to)
        return self._names.topic(to)

    # ------------------------------------------------------------------------------------------ once for each topic

    async def _look_for(self, topic: str, deadline: float) -> PublishError | None:
        """See that a topic exists. Many calls share one look."""
        task = self._looking.get(topic)
        if task is None:
            task = asyncio.create_task(self._look(topic), name=f"busframe kafka looks for {topic}")
            self._looking[topic] = task
            task.add_done_callback(lambda _: self._looking.pop(topic, None))
        left = deadline - asyncio.get_running_loop().time()
        done, _ = await asyncio.wait({task}, timeout=max(0.0, left))
        if done and not task.cancelled():
            return task.result()
        return PublishFailed("no server said whether the destination exists; nothing was sent")

    async def _look(self, topic: str) -> PublishError | None:
        while True:
            try:
                if topic not in await self._admin.topics([topic]):
                    if not topic.startswith(wait_topic(self._names.prefix, "")):
                        return DestinationNotFound(topic)
                    await self._make_ladder()
            except TransportError as error:
                if error.transient:
                    await asyncio.sleep(LOOK_AGAIN_S)
                    continue
                return _failed(topic, error)
            except BusframeError as error:
                return _failed(topic, error)
            if topic in self._gone:
                await self._producer.look_again(topic, LOOK_TIMEOUT_S)
                self._gone.discard(topic)
            self._known.add(topic)
            return None


def _failed(topic: str, error: BusframeError) -> PublishError:
    what = "the transport is closed" if isinstance(error, ClosedError) else f"cannot look for {topic!r}: {error}"
    failed = PublishFailed(f"{what}; nothing was sent", transient=False)
    failed.__cause__ = error
    return failed
