"""The registry: what has been declared, in a compacted topic of one partition that all processes read alike.

Three kinds of records, by their keys::

    <name> is <random>   what a queue, a topic or a subscription was declared as: ordering, and where a subscription
                         begins. Of several for one topic the first counts, so that of two processes that declare at
                         once both go by one position; who was second takes its own record back.
    <name> where         the filter of a subscription. The last counts.
    <name> made          busframe has created this topic, so it may delete what was handled.

A declaration belongs to one incarnation of its topic (Kafka's topic id): when the topic is deleted and made again, what
was declared of the old one says nothing of the new one's offsets.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

from busframe.errors import AccessDenied, TransportError
from busframe_kafka.admin import Admin
from busframe_kafka.client import LATEST, Consumer
from busframe_kafka.entry import Entry
from busframe_kafka.producer import PipelinedProducer
from busframe_kafka.reader import read_to_end

REFRESH_S = 30.0
TIMEOUT_S = 15.0

Kind = Literal["queue", "topic", "subscription"]


@dataclass(frozen=True, slots=True)
class Declared:
    """What something was declared as.

    Attributes:
        kind: what it is.
        topic_id: the incarnation of the topic that it is, or is of.
        ordering: of a source.
        positions: partition → the offset where a subscription begins; a partition that came later: its beginning.
    """

    kind: Kind
    topic_id: str
    ordering: Literal["none", "key"] = "none"
    positions: Mapping[int, int] = field(default_factory=dict)


class Entries:
    """What the records say, in the order of their offsets. Pure."""

    def __init__(self) -> None:
        self._declared: dict[str, dict[str, Declared]] = {}  # name → the record's key → what it says, the first first
        self._where: dict[str, Mapping[str, tuple[str, ...]]] = {}
        self._made: set[str] = set()

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Read the next record. What cannot be read is of a later version, and nobody's business here."""
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            text = (key or b"").decode()
            name, what, *_ = text.split(" ")
            if what == "is":
                declared = self._declared.setdefault(name, {})
                if value is None:
                    declared.pop(text, None)
                else:
                    declared.setdefault(text, _read_declared(json.loads(value)))
            elif what == "where" and value is not None:
                self._where[name] = {
                    str(header): tuple(map(str, values)) for header, values in json.loads(value).items()
                }
            elif what == "made" and value is not None:
                self._made.add(name)

    def declared(self, name: str, topic_id: str) -> Declared | None:
        """What a name was declared as for this incarnation of its topic."""
        of_name = self._declared.get(name, {}).values()
        return next((declared for declared in of_name if declared.topic_id == topic_id), None)

    def where(self, group: str) -> Mapping[str, tuple[str, ...]] | None:
        """The stored filter of a subscription."""
        return self._where.get(group)

    def topics(self) -> set[str]:
        """The queues and topics that are declared, and all that busframe has created."""
        declared = {
            name
            for name, of_name in self._declared.items()
            for each in of_name.values()
            if each.kind in ("queue", "topic")
        }
        return declared | self._made

    def sources(self) -> dict[str, str]:
        """Group → the topic that it reads, of the queues and subscriptions that are declared."""
        return {
            name: name if each.kind == "queue" else name.rpartition("--")[0]
            for name, of_name in self._declared.items()
            for each in of_name.values()
            if each.kind != "topic"
        }

    def is_made(self, topic: str) -> bool:
        """Whether busframe created a topic."""
        return topic in self._made


def _read_declared(said: Mapping[str, Any]) -> Declared:
    positions = {int(partition): int(offset) for partition, offset in said["positions"].items()}
    return Declared(said["kind"], str(said["topic_id"]), said["ordering"], positions)


class Registry:
    """Reads and writes the registry of one prefix.

    Args:
        topic: its name.
        admin: looks for it.
        producer: writes to it.
        make_consumer: makes a consumer that is told the end of a partition.
    """

    def __init__(
        self, topic: str, admin: Admin, producer: PipelinedProducer, make_consumer: Callable[[], Consumer]
    ) -> None:
        self.topic = topic
        self.entries = Entries()
        self._admin = admin
        self._producer = producer
        self._make_consumer = make_consumer
        self._next: int | None = None
        self._topic_id = ""
        self._reading = asyncio.Lock()

    async def catch_up(self) -> Entries:
        """Read what was written before this call, and return all that is known.

        Cheap where nothing is new: one request. A receiver that is about to drop a message because the stored filter
        does not take it calls this first: the filter may have been widened before the message was published.

        Raises:
            TransportError: it cannot be read.
        """
        async with self._reading:
            found = (await self._admin.topics([self.topic])).get(self.topic)
            if found is None or found.topic_id != self._topic_id:  # missing, or another one of the same name
                self.entries, self._next = Entries(), None
                self._topic_id = found.topic_id if found is not None else ""
            if found is not None:
                end = (await self._admin.offsets([(self.topic, 0)], LATEST))[self.topic, 0]
                if end > (self._next or 0):
                    place = (self.topic, 0)
                    reading = asyncio.to_thread(read_to_end, self._make_consumer, {place: self._next})
                    messages, following = await asyncio.shield(asyncio.ensure_future(reading))
                    for message in messages:
                        self.entries.take(message.key(), message.value())
                    self._next = following[place]
            return self.entries

    async def declare(self, wanted: Mapping[str, Declared]) -> Mapping[str, Declared]:
        """Write down what names are, unless they are already. Returns what counts for each.

        Raises:
            TransportError: it cannot be written or read.
        """
        entries = await self.catch_up()
        missing = {
            name: declared for name, declared in wanted.items() if entries.declared(name, declared.topic_id) is None
        }
        if missing:
            keys = {name: f"{name} is {uuid4().hex}" for name in missing}
            await self._write([(keys[name], _text_of(declared)) for name, declared in missing.items()])
            entries = await self.catch_up()
            lost = [
                (keys[name], None)
                for name, declared in missing.items()
                if entries.declared(name, declared.topic_id) != declared
            ]
            await self._write(lost)
        return {name: entries.declared(name, declared.topic_id) or declared for name, declared in wanted.items()}

    async def store_filters(self, filters: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Write down the filters of groups."""
        await self._write([(f"{group} where", json.dumps(dict(where)).encode()) for group, where in filters.items()])

    async def note_made(self, topics: Sequence[str]) -> None:
        """Write down that busframe has created topics."""
        await self._write([(f"{topic} made", b"{}") for topic in topics])

    async def _write(self, records: Sequence[tuple[str, bytes | None]]) -> None:
        made = [Entry(self.topic, key.encode(), value, []) for key, value in records]
        for outcome in await self._producer.write(made, TIMEOUT_S):
            if outcome is not None:
                failed = AccessDenied if isinstance(outcome.__cause__, AccessDenied) else TransportError
                raise failed(f"the registry {self.topic!r} cannot be written: {outcome}") from outcome


def _text_of(declared: Declared) -> bytes:
    said = {
        "kind": declared.kind,
        "topic_id": declared.topic_id,
        "ordering": declared.ordering,
        "positions": {str(partition): offset for partition, offset in declared.positions.items()},
    }
    return json.dumps(said).encode()
