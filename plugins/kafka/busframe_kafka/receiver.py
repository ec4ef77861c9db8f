"""A consumer of one source: a member of its group, and what becomes of each of its records."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from busframe.errors import (
    AccessDenied,
    BusframeError,
    ClosedError,
    ConnectionFailed,
    DestinationNotFound,
    SettlementLost,
    TransportError,
)
from busframe.logic.filters import matches
from busframe.model.delivery import Delivery
from busframe.model.destination import DeadLetters, Subscription
from busframe.model.entity import Entity
from busframe.model.settlement import Ack, DeadLetter, Nack, Release, Settlement
from busframe.spi.copy import copy_then_ack
from busframe.spi.transport import Receiver
from busframe_kafka.assignment import Record
from busframe_kafka.client import AclOperation, consumer_config
from busframe_kafka.consumer import Member
from busframe_kafka.holding import BEGINNING
from busframe_kafka.listener import Listener
from busframe_kafka.mapping import decode, position_of, read_waiting

if TYPE_CHECKING:
    from busframe_kafka.transport import Kafka

log = logging.getLogger(__name__)

FILTER_AGAIN_S = 1.0

JOIN_S = 30.0
"""How long to wait for the group besides the session of a member that may have died in it."""
SHARE_S = 5.0
"""How long to wait for partitions of others, who first finish what they hold of them."""
CLOSE_S = 4.0
LOOK_S = 3.0
"""The client hears only after minutes that a topic was deleted."""
REFRESH_TURNS = 10


class KafkaReceiver(Receiver, Listener):
    """Consumes with an offset of its group for each partition.

    What is released stays in memory and is delivered again from there: a partition has one offset, and going back to it
    would bring everything again that comes after it.
    """

    _copies = True
    """It writes copies, to retry what failed or to give it up."""

    def __init__(self, transport: "Kafka", entity: Entity) -> None:
        address: Any = entity.address
        self._transport = transport
        self._host = transport.host
        self._address = str(address)
        self._source = address
        self._topic = transport.names.topic(address)
        self._group = transport.names.group(address)
        # A group of its own: in one group, who joins late might get nothing but partitions of retries.
        self._retry = None if isinstance(address, DeadLetters) else transport.names.retry(address)
        self._topic_id = ""
        self._members: list[Member] = []
        self._released: list[Record] = []
        self._waiting: list[tuple[float, Record]] = []
        self._arrived_event = asyncio.Event()
        self._refreshing: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._failed: BusframeError | None = None
        self._dropped = 0
        self._kept = False
        self._stopped = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address}: {self._members!r}, {len(self._waiting)} wait for their time>"

    # ------------------------------------------------------------------------------------------ the driver interface

    async def open(self) -> None:
        """See ``Receiver.open``.

        What is published from the declaration of the source on is received, whoever is in the group by then; so the
        group need not have given this member a partition yet, but it has taken it in.
        """
        begin = await self._look_up_patiently()
        self._members = [self._make_member(self._group, self._topic, begin)]
        if self._retry is not None:
            self._members.append(self._make_member(self._retry, self._retry))
        try:
            async with asyncio.timeout(JOIN_S + self._transport.settings.session_timeout_s):
                await asyncio.gather(*(one.start(SHARE_S if one.topic == self._topic else 0) for one in self._members))
        except TimeoutError as error:
            raise ConnectionFailed(f"{self._address}: the group did not take a new member in time") from error
        self._refreshing = asyncio.create_task(self._refresh(), name=f"busframe kafka refreshes {self._address}")
        self._transport.forward()

    def _make_member(self, group: str, topic: str, begin: Callable[[int], int] = lambda _: BEGINNING) -> Member:
        transport, settings = self._transport, self._transport.settings
        return Member(
            lambda on_error: consumer_config(settings, transport.client_id, group, on_error),
            [topic],
            self,
            gap=lambda _: settings.ack_gap,
            revoke_timeout_s=settings.revoke_timeout_s,
            on_client_error=transport.on_client_error,
            begin=begin,
        )

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See ``Receiver.receive``."""
        while True:
            if self._stopped:
                raise ClosedError(f"{self._address} is not received any more")
            if self._failed is not None:
                raise self._failed
            self._arrived_event.clear()
            if records := self._take(limit):
                deliveries = [self._delivery(record) for record in records]
                try:
                    await self._look_at_filter(deliveries)
                except BaseException as error:
                    for record in records:
                        self._release(record)
                    if not isinstance(error, TransportError):
                        raise
                    log.warning("%s: its stored filter cannot be read: %s", self._address, error)
                    await self._host.sleep(FILTER_AGAIN_S)
                    continue
                return deliveries
            await self._wait()

    def holds(self, delivery: Delivery) -> bool:
        """See ``Receiver.holds``."""
        return cast("Record", delivery.receipt).partition.owned

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """See ``Receiver.settle``."""
        outcomes: list[Exception | None] = [None] * len(settled)
        copied: list[int] = []
        copies: list[Coroutine[Any, Any, Exception | None]] = []
        for index, (delivery, settlement) in enumerate(settled):
            record = cast("Record", delivery.receipt)
            if record.settled or not record.partition.owned:
                outcomes[index] = self._lost(record)
                continue
            match settlement:
                case Ack():
                    self._finish(record)
                case Release():
                    self._release(record)
                case Nack() | DeadLetter():
                    copied.append(index)
                    copies.append(self._copy(delivery, settlement))
        if copies:
            for index, outcome in zip(copied, await asyncio.gather(*copies), strict=True):
                outcomes[index] = outcome
        return outcomes

    async def stop(self) -> None:
        """See ``Receiver.stop``.

        What is buffered is delivered to whoever gets its partition when the receiver closes: a partition cannot be
        given away while a record of it is held here.
        """
        self._stopped = True
        self._arrived_event.set()
        for member in self._members:
            member.stop()

    async def close(self) -> None:
        """See ``Receiver.close``."""
        await self.stop()
        tasks = [task for task in (self._refreshing, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.gather(*(member.close(CLOSE_S) for member in self._members))
        self._transport.leave(self._members)
        self._released.clear()
        self._waiting.clear()
        self._transport.forget(self)

    # ------------------------------------------------------------------------------------------ records

    def _owner(self, record: Record) -> Member:
        return self._members[record.partition.topic == self._retry]

    def _finish(self, record: Record) -> None:
        record.settled = True
        self._owner(record).finish((record,))

    def _take(self, limit: int) -> list[Record]:
        """What may be delivered now: first what was released, then what was due, then what is new."""
        taken: list[Record] = []
        while self._released and len(taken) < limit:
            record = heappop(self._released)
            if self._owner(record).again(record):
                taken.append(record)
        now = self._host.clock()
        while self._waiting and len(taken) < limit and self._waiting[0][0] <= now:
            record = heappop(self._waiting)[1]
            if self._owner(record).again(record):
                taken.append(record)
        for member in reversed(self._members):  # retries first: they are older
            while len(taken) < limit and (fresh := member.take(limit - len(taken))):
                taken += [record for record in fresh if self._is_due(member, record, now)]
        return taken

    def _is_due(self, member: Member, record: Record, now: float) -> bool:
        if record.partition.topic != self._retry:
            return True
        raw: Any = record.raw
        _, due = read_waiting(raw.headers())
        if due <= now:
            return True
        member.put_aside(record)
        heappush(self._waiting, (due, record))
        return False

    async def _wait(self) -> None:
        due_s = max(0.0, self._waiting[0][0] - self._host.clock()) if self._waiting else None
        if due_s is None:
            await self._arrived_event.wait()
            return
        sleeping = asyncio.ensure_future(self._host.sleep(due_s))
        waiting = asyncio.ensure_future(self._arrived_event.wait())
        try:
            await asyncio.wait((sleeping, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            waiting.cancel()

    def _delivery(self, record: Record) -> Delivery:
        raw: Any = record.raw
        partition = record.partition
        _, time_ms = raw.timestamp()
        position = position_of(partition.topic, partition.number, record.offset, time_ms)
        message, carried = decode(raw.value(), raw.key(), raw.headers(), position, time_ms)
        return Delivery(message, record, position, record.deliveries, partition.generation, carried)

    async def _look_at_filter(self, deliveries: Sequence[Delivery]) -> None:
        """Read the stored filter again before a message is dropped that it does not take.

        It may have been widened before the message was published, and by whoever handles what it takes now.
        """
        where = self.where
        if where is not None and not all(matches(where, delivery.message.headers) for delivery in deliveries):
            self.where = (await self._transport.registry.catch_up()).where(self._group)

    def _release(self, record: Record) -> None:
        self._owner(record).put_aside(record)
        heappush(self._released, record.anew())
        self._arrived_event.set()

    def _lost(self, record: Record) -> SettlementLost:
        why = "it is settled already" if record.settled else "its partition was given to another member; it comes again"
        return SettlementLost(f"{self._address}: {why}")

    async def _copy(self, delivery: Delivery, settlement: Nack | DeadLetter) -> Exception | None:
        to = self._source if isinstance(settlement, Nack) else self._source.dead_letters
        return await copy_then_ack(self._transport, self, delivery, settlement, to=to)

    # ------------------------------------------------------------------------------------------ what the member tells

    def arrived(self) -> None:
        """See ``Listener.arrived``."""
        self._arrived_event.set()

    def assigned(self, partitions: int) -> None:
        """See ``Listener.assigned``; without any, its topic may be gone."""
        if not partitions and self._refreshing is not None:
            self.missing()

    def lost(self) -> None:
        """See ``Listener.lost``."""
        log.info("%s: the group went on without this member; it joins again", self._address)

    def dropped(self, topic: str, partition: int, records: int) -> None:
        """See ``Listener.dropped``."""
        self._dropped += records
        lost = TransportError(
            f"{self._address}: {self._dropped} messages were deleted by the retention of {topic} before they were read"
        )
        log.error("%s", lost)
        self._host.report(self._address, "blocked", lost)

    def missing(self) -> None:
        """See ``Listener.missing``: look whether it is gone."""
        if self._looking is None and not self._stopped:
            self._looking = asyncio.create_task(self._look_again(), name=f"busframe kafka looks for {self._address}")
            self._looking.add_done_callback(lambda _: setattr(self, "_looking", None))

    def failed(self, error: BusframeError) -> None:
        """See ``Listener.failed``."""
        self._failed = error
        self._arrived_event.set()

    # ------------------------------------------------------------------------------------------ looking

    async def _look_up_patiently(self) -> Callable[[int], int]:
        """The same, again while servers that just came back do not agree yet about who leads what."""
        until = self._host.clock() + self._transport.settings.connect_timeout_s
        while True:
            try:
                return await self._look_up()
            except (ConnectionFailed, AccessDenied):
                raise
            except TransportError as error:
                if not error.transient or self._host.clock() > until:
                    raise
                await self._host.sleep(self._transport.settings.reconnect_min_s)

    async def _look_up(self) -> Callable[[int], int]:
        """See that the source exists. Returns where each partition begins of which nothing is committed."""
        needs = self._needs()
        topics = await self._transport.admin.topics(needs, rights=True)
        found = topics.get(self._topic)
        if found is None:
            raise DestinationNotFound(self._address)
        for name, topic in topics.items():
            # Else the first message that fails would show it, and hold up its partition.
            if topic.may is not None and (lacks := needs[name] - topic.may):
                rights = " and ".join(sorted(right.name.capitalize() for right in lacks))
                raise AccessDenied(f"{self._address}: these credentials have not the right to {rights} on {name!r}")
        self._topic_id = found.topic_id
        entries = await self._transport.registry.catch_up()
        declared = entries.declared(self._group, found.topic_id)
        if not isinstance(self._source, Subscription):
            # Of a queue that busframe made everything is to be handled; what somebody else made may be old.
            return lambda _: 0 if declared is not None else BEGINNING
        if declared is None and not await self._transport.admin.committed(self._group):
            raise DestinationNotFound(self._address)
        self.where = entries.where(self._group)
        return lambda number: declared.positions.get(number, 0) if declared is not None else BEGINNING

    def _needs(self) -> dict[str, frozenset[AclOperation]]:
        """The rights on each topic."""
        read, write = frozenset({AclOperation.READ}), frozenset({AclOperation.WRITE})
        if self._retry is None:
            return {self._topic: read | write}  # what is handled is removed by a record
        if not self._copies:
            return {self._topic: read, self._retry: read}
        return {self._topic: read, self._retry: read | write, self._transport.names.dead(self._source): write}

    async def _look_again(self) -> None:
        try:
            found = (await self._transport.admin.topics([self._topic])).get(self._topic)
        except TransportError as error:
            log.debug("%s: it is not known whether it exists: %s", self._address, error)
            return
        if found is None or found.topic_id != self._topic_id:
            self.failed(DestinationNotFound(self._address))
            await asyncio.gather(*(member.close(CLOSE_S, commit=False) for member in self._members))

    async def _refresh(self) -> None:
        """See often whether the source is there; each half a minute read its filter again, delete what is handled."""
        for turn in count(1):
            await self._host.sleep(LOOK_S)
            self.missing()
            if turn % REFRESH_TURNS:
                continue
            try:
                if isinstance(self._source, Subscription):
                    self.where = (await self._transport.registry.catch_up()).where(self._group)
                await self._purge()
            except TransportError as error:
                log.debug("%s: not refreshed: %s", self._address, error)
            except Exception:  # it may not end while the source is consumed
                log.exception("%s: not refreshed", self._address)

    async def _purge(self) -> None:
        """Delete what is handled, of topics that busframe made and that only this group reads."""
        committed = {place: offset for member in self._members for place, offset in member.committed.items()}
        mine = {self._retry} if isinstance(self._source, Subscription) else {self._topic, self._retry}
        if isinstance(self._source, DeadLetters) or not committed:
            return
        entries = await self._transport.registry.catch_up()
        handled = {place: at for place, at in committed.items() if place[0] in mine and entries.is_made(place[0])}
        try:
            await self._transport.admin.delete_records(handled)
        except AccessDenied as error:
            if not self._kept:
                log.warning("%s: what is handled is not deleted, without the right to Delete: %s", self._address, error)
            self._kept = True
