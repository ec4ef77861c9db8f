"""Moves what waits in the ladder, when its time has come: stored where it goes and confirmed, then committed.

Every worker of a prefix runs one, as members of one group, so what waits is moved as long as there is a worker at all.
A process that dies between the two leaves a duplicate, never a loss.
"""

import asyncio
import logging
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from busframe.errors import AccessDenied, BusframeError, DestinationNotFound, TransportError
from busframe_kafka import ladder
from busframe_kafka.assignment import Record
from busframe_kafka.client import consumer_config
from busframe_kafka.consumer import Member
from busframe_kafka.entry import Entry
from busframe_kafka.listener import Listener
from busframe_kafka.mapping import WireHeaders, read_waiting, waiting, without_waiting

if TYPE_CHECKING:
    from busframe_kafka.transport import Kafka

log = logging.getLogger(__name__)

GAP = 500
"""Of a rung, which is in the order of its times, so many records are held; of the last topic, all of its seconds."""
AGAIN_S = 1.0
MISSING_S = 30.0
"""How long a record waits again whose target does not exist: it is kept, and arrives when the target appears."""
WRITE_S = 30.0
PURGE_S = 30.0
CLOSE_S = 4.0
AT_ONCE = 500


class Forwarder(Listener):
    """Moves the delayed records of one prefix.

    Args:
        transport: stores the copies, and knows the names.
    """

    def __init__(self, transport: "Kafka") -> None:
        self._transport = transport
        self._prefix = transport.names.prefix
        self._member: Member | None = None
        self._heap: list[tuple[float, Record, str]] = []
        self._arrived = asyncio.Event()
        self._failed: BusframeError | None = None
        self._kept = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, beside the caller. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="busframe kafka forwards")

    async def close(self) -> None:
        """End; what is not moved is moved by others. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _run(self) -> None:
        settings, host = self._transport.settings, self._transport.host
        while True:
            member = self._member = Member(
                lambda on_error: consumer_config(
                    settings, self._transport.client_id, ladder.forwarder_group(self._prefix), on_error
                ),
                list(ladder.wait_topics(self._prefix)),
                self,
                gap=lambda topic: GAP if ladder.wait_topics(self._prefix).get(topic) else settings.ack_gap,
                revoke_timeout_s=settings.revoke_timeout_s,
                on_client_error=self._transport.on_client_error,
            )
            self._failed = None
            self._heap.clear()
            purging = asyncio.create_task(self._purge(member), name="busframe kafka purges what was forwarded")
            try:
                await self._transport.provisioning.make_ladder()
                await member.start()
                await self._forward(member)
            except Exception as error:  # it may not end while the transport is open
                log.warning("moving delayed messages failed and is begun again: %s", error)
            finally:
                purging.cancel()
                await member.close(CLOSE_S)
                self._transport.leave((member,))
            await host.sleep(settings.reconnect_max_s * (0.5 + host.random() / 2))

    async def _forward(self, member: Member) -> None:
        clock = self._transport.host.clock
        while True:
            if self._failed is not None:
                raise self._failed
            self._arrived.clear()
            while fresh := member.take(AT_ONCE):
                for record in fresh:
                    member.put_aside(record)
                    heappush(self._heap, self._step(record))
            due: list[tuple[float, Record, str]] = []
            while self._heap and self._heap[0][0] <= clock() and len(due) < AT_ONCE:
                step = heappop(self._heap)
                if member.again(step[1]):
                    due.append(step)
            if due:
                await self._move(member, due)
            else:
                await self._wait(self._heap[0][0] - clock() if self._heap else None)

    def _step(self, record: Record) -> tuple[float, Record, str]:
        raw: Any = record.raw
        to, due = read_waiting(raw.headers())
        if not to:  # of a foreign program, which has no business here
            log.error("%r says not where it goes: it is left out", record)
            return 0.0, record, ""
        stored_at = raw.timestamp()[1] / 1000
        held = to.endswith(ladder.RETRY)
        step = ladder.next_step(self._prefix, record.partition.topic, stored_at, due, to, held=held)
        return step.at, record, step.topic

    async def _move(self, member: Member, due: Sequence[tuple[float, Record, str]]) -> None:
        copies = [(record, _copy(record, topic)) for _, record, topic in due if topic]
        member.finish([record for _, record, topic in due if not topic])
        outcomes = await self._transport.producer.write([copy for _, copy in copies], WRITE_S)
        moved: list[Record] = []
        for (record, copy), outcome in zip(copies, outcomes, strict=True):
            if outcome is None:
                moved.append(record)
            elif isinstance(outcome, DestinationNotFound) and await self._wait_again(record, copy.topic):
                moved.append(record)
            else:
                log.debug("%r is not moved yet: %s", record, outcome)
                member.put_aside(record)
                heappush(self._heap, (self._transport.host.clock() + AGAIN_S, record, copy.topic))
        member.finish(moved)

    async def _wait_again(self, record: Record, to: str) -> bool:
        """Store a record whose target is missing for another while: it may hold up nothing else."""
        raw: Any = record.raw
        log.warning("a delayed message is due for %s, which does not exist: it waits on", to)
        again = self._transport.host.clock() + MISSING_S
        headers = waiting(list(raw.headers() or ()), to, again)
        topic = ladder.wait_topic(self._prefix, ladder.rung_of(MISSING_S))
        (outcome,) = await self._transport.producer.write([Entry(topic, raw.key(), raw.value(), headers)], WRITE_S)
        return outcome is None

    async def _wait(self, for_s: float | None) -> None:
        if for_s is None:
            await self._arrived.wait()
            return
        sleeping = asyncio.ensure_future(self._transport.host.sleep(max(0.0, for_s)))
        arriving = asyncio.ensure_future(self._arrived.wait())
        try:
            await asyncio.wait((sleeping, arriving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            arriving.cancel()

    async def _purge(self, member: Member) -> None:
        """Delete what was moved; these topics are nobody else's."""
        while True:
            await self._transport.host.sleep(PURGE_S)
            try:
                await self._transport.admin.delete_records(dict(member.committed))
            except AccessDenied as error:
                if not self._kept:
                    log.warning("what was forwarded is not deleted, without the right to Delete: %s", error)
                self._kept = True
            except TransportError as error:
                log.debug("what was forwarded is deleted later: %s", error)

    # ------------------------------------------------------------------------------------------ what the member tells

    def arrived(self) -> None:
        """See ``Listener.arrived``."""
        self._arrived.set()

    def dropped(self, topic: str, partition: int, records: int) -> None:
        """See ``Listener.dropped``."""
        log.error("%d delayed messages were deleted by the retention of %s before they were due", records, topic)

    def failed(self, error: BusframeError) -> None:
        """See ``Listener.failed``."""
        self._failed = error
        self._arrived.set()


def _copy(record: Record, topic: str) -> Entry:
    """The record as it goes on; where it waits on, it still says for what and until when."""
    raw: Any = record.raw
    headers: WireHeaders = list(raw.headers() or ())
    waits = topic.endswith(ladder.RETRY) or f"{ladder.WAIT}-" in topic
    return Entry(topic, raw.key(), raw.value(), headers if waits else without_waiting(headers))
