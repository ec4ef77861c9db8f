"""Receivers that settle otherwise: at most once, and of dead letters."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from busframe.errors import BusframeError, ClosedError, TransportError
from busframe.model.delivery import Delivery
from busframe.model.settlement import Ack, Settlement
from busframe_kafka.assignment import Record
from busframe_kafka.mapping import decode_letter, position_of
from busframe_kafka.receiver import KafkaReceiver

COMMIT_AGAIN_S = 0.1


class EarlyReceiver(KafkaReceiver):
    """At most once: what ``receive`` returns is committed, and the server has confirmed it."""

    _copies = False
    _ready: deque[Record]
    _committing: "asyncio.Task[None] | None" = None

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See ``Receiver.receive``. If cancelled, what was committed meanwhile is returned by the next call."""
        ready = self._ready = getattr(self, "_ready", deque())
        while True:
            if self._stopped:
                raise ClosedError(f"{self._address} is not received any more")
            if ready:
                return [self._delivery(ready.popleft()) for _ in range(min(limit, len(ready)))]
            if self._failed is not None:
                raise self._failed
            if self._committing is None:
                self._arrived_event.clear()
                if not (records := self._take(limit)):
                    await self._wait()
                    continue
                self._committing = asyncio.create_task(self._commit(records), name=f"busframe {self._address} commits")
            await asyncio.shield(self._committing)
            self._committing = None

    async def _commit(self, records: Sequence[Record]) -> None:
        for record in records:
            self._finish(record)
        owners = list(dict.fromkeys(map(self._owner, records)))
        while True:
            try:
                for member in owners:
                    await member.commit_now()
            except ClosedError:
                return
            except BusframeError:
                if not any(record.partition.owned for record in records):
                    return
                await asyncio.sleep(COMMIT_AGAIN_S)
            else:
                # What was revoked meanwhile was maybe committed and maybe not: others may have it.
                self._ready.extend(record for record in records if record.partition.owned)
                return

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """Nothing is left to be settled."""
        return [None] * len(settled)


class LettersReceiver(KafkaReceiver):
    """Of dead letters: what was removed is not delivered, and what is handled is removed."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See ``Receiver.receive``."""
        while True:
            deliveries = await super().receive(limit)
            try:
                present = await self._transport.letters.keys(self._source)
            except BaseException:
                for delivery in deliveries:
                    self._release(_record(delivery))
                raise
            gone = [delivery for delivery in deliveries if _raw(delivery).key() not in present]
            gone += [one for one in deliveries if one not in gone and _raw(one).value() is None]
            for delivery in gone:
                self._finish(_record(delivery))
            if there := [delivery for delivery in deliveries if delivery not in gone]:
                return there

    def _delivery(self, record: Record) -> Delivery:
        raw: Any = record.raw
        place = record.partition
        _, time_ms = raw.timestamp()
        position = position_of(place.topic, place.number, record.offset, time_ms)
        message, carried = decode_letter(raw.value(), raw.headers(), position, time_ms)
        return Delivery(message, record, position, record.deliveries, place.generation, carried)

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        """See ``Receiver.settle``: a letter that is done with is removed before its offset is."""
        done = [one for one, settlement in settled if isinstance(settlement, Ack) and not _record(one).settled]
        failed: Exception | None = None
        if done:
            try:
                await self._transport.letters.bury(self._source, [_raw(one).key() or b"" for one in done])
            except TransportError as error:
                failed = error
        if failed is None:
            return await super().settle(settled)
        others = [pair for pair in settled if pair[0] not in done]
        outcomes = iter(await super().settle(others))
        return [failed if delivery in done else next(outcomes) for delivery, _ in settled]


def _record(delivery: Delivery) -> Record:
    record = delivery.receipt
    assert isinstance(record, Record)
    return record


def _raw(delivery: Delivery) -> Any:
    return _record(delivery).raw
