"""Looking at dead letters, and removing some.

The topic is compacted: a letter is removed by a record with its key and without a body, and gone for good when the
server compacts. Until then both are there, and the later one counts. Who consumes the letters has an offset of their
group besides; what was removed is not to be handled, whatever that offset says.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from busframe.errors import BusframeError, DestinationNotFound, PublishError, TransportError
from busframe.logic import wire
from busframe.logic.dead_letter import read_dead_letter
from busframe.model.destination import DeadLetters
from busframe.model.entity import Stored
from busframe_kafka.admin import Admin
from busframe_kafka.client import Consumer
from busframe_kafka.entry import Entry
from busframe_kafka.mapping import decode, position_of
from busframe_kafka.producer import PipelinedProducer
from busframe_kafka.reader import read_to_end
from busframe_kafka.topology import Names

WRITE_TIMEOUT_S = 30.0


class Letters:
    """Works on the dead letters of one cluster.

    Args:
        admin: looks for their topics.
        producer: writes what removes them.
        names: of topics.
        make_consumer: makes a consumer that is told the end of a partition.
    """

    def __init__(
        self, admin: Admin, producer: PipelinedProducer, names: Names, make_consumer: Callable[[], Consumer]
    ) -> None:
        self._admin = admin
        self._producer = producer
        self._names = names
        self._make_consumer = make_consumer

    async def browse(self, source: DeadLetters, after: str, limit: int) -> Sequence[Stored]:
        """See ``Transport.browse``; also after a letter that is gone."""
        begin = _order(after) if after else (-1, -1)
        found = (
            (position, message)
            for position, message in (await self._present(source)).values()
            if _order(position) > begin
        )
        chosen = sorted(found, key=lambda each: _order(each[0]))[:limit]
        return [_stored(position, message) for position, message in chosen]

    async def remove(self, source: DeadLetters, positions: Sequence[str]) -> int:
        """See ``Transport.remove``."""
        wanted = {position.partition("/")[2].partition("/")[2].encode() for position in positions}
        present = await self._present(source) if wanted else {}
        return await self.bury(source, [key for key in present if key in wanted])

    async def purge(self, source: DeadLetters) -> int:
        """See ``Transport.purge``."""
        return await self.bury(source, list(await self._present(source)))

    async def keys(self, source: DeadLetters) -> set[bytes]:
        """The record keys of the letters that are there: what a consumer of letters may hand out."""
        return set(await self._present(source))

    async def _present(self, source: DeadLetters) -> dict[bytes, tuple[str, Any]]:
        """Record key → (position, the client's message), of the letters that are there."""
        topic = self._names.topic(source)
        places = await self._admin.partitions_of(topic)
        if not places:
            raise DestinationNotFound(str(source))
        reading = asyncio.to_thread(read_to_end, self._make_consumer, dict.fromkeys(places))
        messages, _ = await asyncio.shield(asyncio.ensure_future(reading))
        present: dict[bytes, tuple[str, Any]] = {}
        for message in messages:
            key = message.key() or b""
            present.pop(key, None)
            if message.value() is not None:
                shown = key.decode(errors="replace")
                present[key] = (f"{message.partition()}/{message.offset()}/{shown}", message)
        return present

    async def bury(self, source: DeadLetters, keys: Sequence[bytes]) -> int:
        """Remove letters by the keys of their records. Returns how many keys that were.

        Raises:
            TransportError: not all could be removed.
        """
        topic = self._names.topic(source)
        records = [Entry(topic, key, None, []) for key in keys]
        for outcome in await self._producer.write(records, WRITE_TIMEOUT_S):
            if outcome is not None:
                raise _failed(source, outcome) from outcome
        return len(keys)


def _failed(source: DeadLetters, outcome: Exception) -> BusframeError:
    transient = getattr(outcome, "transient", True) if isinstance(outcome, PublishError) else True
    return TransportError(f"{source}: not all letters could be removed: {outcome}", transient=transient)


def _order(position: str) -> tuple[int, int]:
    """Where a letter stands: (offset, partition)."""
    partition, _, rest = position.partition("/")
    offset = rest.partition("/")[0]
    return (int(offset), int(partition)) if offset.isdigit() and partition.isdigit() else (-1, -1)


def _stored(position: str, raw: Any) -> Stored:
    _, time_ms = raw.timestamp()
    place = position_of(raw.topic(), raw.partition(), raw.offset(), time_ms)
    message, carried = decode(raw.value(), None, raw.headers(), place, time_ms)
    at = wire.from_timestamp(time_ms / 1000) if time_ms and time_ms > 0 else None
    return Stored(position, replace(message, dead=read_dead_letter(carried)), at)
