"""The transport: one connection for all, since NATS never stops one to slow its publisher down."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from nats.aio.client import Client

from busframe.errors import ClosedError, DestinationNotFound, TransportError, Unsupported
from busframe.logic.size import FRAMEWORK_RESERVE_BYTES
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Outgoing
from busframe.model.destination import DeadLetters, Queue, SourceAddress, Subscription
from busframe.model.entity import Change, Entity, Finding, Stats, Stored
from busframe.spi.transport import Host, Receiver, Transport
from busframe_nats.answers import Answers, JetStream
from busframe_nats.diagnosis import look
from busframe_nats.early import EarlyReceiver
from busframe_nats.letters import Letters
from busframe_nats.link import Link, State
from busframe_nats.provisioning import Provisioning
from busframe_nats.publisher import Publisher
from busframe_nats.receiver import NatsReceiver
from busframe_nats.settings import Settings, shown
from busframe_nats.stats import read_stats
from busframe_nats.topology import MAX_DELAY_S, Names

OLDEST = (2, 10, 0)
SCHEDULES_FROM = (2, 12, 0)
HOLD_MAX_S = 24 * 3600.0
DEFAULT_PAYLOAD = 1024 * 1024
LEAST_PAYLOAD = 2 * FRAMEWORK_RESERVE_BYTES


class Nats(Transport):
    """One client of one NATS server or cluster.

    Args:
        settings: where and how.
        host: what the core gives.

    Attributes:
        link: the connection.
        answers: of the server, to whatever is asked.
        jetstream: its interface.
        names: of streams, consumers and subjects.
    """

    def __init__(self, settings: Settings, host: Host) -> None:
        self.settings = settings
        self.host = host
        self.capabilities = Capabilities(
            durable=settings.storage == "file",
            confirm="replicated" if settings.replicas > 1 else "written",
            delivery_count=True,
            attempt_exact=False,
            nack="native",
            dead_letter="copy",
            ordering="fleet",
            filters="client",
            nack_delay_max_s=MAX_DELAY_S,
            publish_delay_max_s=MAX_DELAY_S,  # see ``open``
            delay_resolution_s=1.0,
            hold_max_s=HOLD_MAX_S,
            dedup_window_s=settings.duplicate_window_s,
            max_message_bytes=DEFAULT_PAYLOAD - FRAMEWORK_RESERVE_BYTES,  # see ``open``
            stats=True,
        )
        self.link = Link(settings, host, self._report)
        self.answers = Answers(self.link)
        self.jetstream = JetStream(self.link, self.answers, settings)
        self.names = Names(settings.subject_prefix, host.name)
        self._publisher = Publisher(self.link, self.answers, self.jetstream, self.names, settings, host)
        self._provisioning = Provisioning(self.jetstream, self.names, settings, lambda: self._publisher.schedules)
        self._letters = Letters(self.jetstream, self.names)
        self._receivers: set[Receiver] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Nats {shown(*self.settings.servers)}: {self.link!r}, {self._publisher!r}>"

    @property
    def native(self) -> Client | None:  # type: ignore[override]
        """nats-py's own client; another one after each reconnect, None while there is none."""
        return self.link.connection.raw if self.link.connection is not None else None

    @property
    def max_payload(self) -> int:
        """The most bytes of headers and payload that the server takes."""
        return self._publisher.max_payload

    async def open(self) -> None:
        """See ``Transport.open``."""
        self._check_open()
        try:
            await self.link.open()
            connection = await self.link.wait_up()
            version = connection.version
            if version < OLDEST:
                text = ".".join(map(str, version))
                raise TransportError(f"NATS {text} is too old: this plugin needs 2.10 or later", transient=False)
            if connection.max_payload < LEAST_PAYLOAD:
                text = f"max_payload of the server is {connection.max_payload} bytes, and {LEAST_PAYLOAD} are needed"
                raise TransportError(f"{text}: half of them for what busframe may add", transient=False)
        except BaseException:
            await self.link.close()
            raise
        self._publisher.schedules = version >= SCHEDULES_FROM
        claims = replace(self.capabilities, max_message_bytes=connection.max_payload - FRAMEWORK_RESERVE_BYTES)
        if not self._publisher.schedules:
            why = {"publish_delay_max_s": "NATS before 2.12 cannot delay what is published"}
            claims = replace(claims, publish_delay_max_s=0.0, why_not=why)
        self.capabilities = claims
        self.host.report("connection", "up", None)

    async def close(self) -> None:
        """See ``Transport.close``."""
        await asyncio.gather(*(receiver.close() for receiver in list(self._receivers)), return_exceptions=True)
        self._closed = True  # not before: what receivers give back is published
        await self._publisher.close()
        await self.link.close()

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """See ``Transport.plan``."""
        self._check_open()
        return await self._provisioning.plan(entities)

    async def apply(self, changes: Sequence[Change]) -> None:
        """See ``Transport.apply``."""
        self._check_open()
        await self._provisioning.apply(changes)

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """See ``Transport.publish``."""
        self._check_open()
        return await self._publisher.publish(outgoing, timeout_s)

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """See ``Transport.receiver``.

        Raises:
            Unsupported: the order of keys is asked of what keeps none: dead letters, and what is settled before.
        """
        self._check_open()
        if not isinstance(entity.address, Queue | Subscription | DeadLetters):
            raise Unsupported(f"{entity.address} is a topic: consume one of its subscriptions")
        if entity.ordering == "key" and isinstance(entity.address, DeadLetters):
            raise Unsupported(f'{entity.address}: ordering="key", but dead letters keep no order: leave it out')
        if entity.ordering == "key" and ack == "before":
            raise Unsupported(f'{entity.address}: ordering="key" with ack="before", which takes ahead without order')
        kind = EarlyReceiver if ack == "before" else NatsReceiver
        receiver = kind(self, entity, prefetch)
        self._receivers.add(receiver)
        return receiver

    def forget(self, receiver: Receiver) -> None:
        """A receiver was closed."""
        self._receivers.discard(receiver)

    async def stats(self, source: SourceAddress) -> Stats:
        """What waits and what is in flight.

        Raises:
            DestinationNotFound: the source does not exist.
        """
        self._check_open()
        found = await read_stats(self.jetstream, self.names, source)
        if found is None:
            raise DestinationNotFound(str(source))
        if isinstance(source, DeadLetters):
            return found
        letters = await read_stats(self.jetstream, self.names, source.dead_letters)
        return found if letters is None else replace(found, dead=(letters.depth or 0) + (letters.in_flight or 0))

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """See ``Transport.browse``; of dead letters only."""
        self._check_open()
        return await self._letters.browse(self._dead_only(source, "looked at"), after, limit)

    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        """See ``Transport.remove``; of dead letters only."""
        self._check_open()
        return await self._letters.remove(self._dead_only(source, "removed singly"), positions)

    async def purge(self, source: SourceAddress) -> int:
        """See ``Transport.purge``; of dead letters only."""
        self._check_open()
        return await self._letters.purge(self._dead_only(source, "purged"))

    async def diagnose(self) -> Sequence[Finding]:
        """See ``Transport.diagnose``."""
        self._check_open()
        return await look(self.settings, await self.link.wait_up(), self.jetstream)

    # ------------------------------------------------------------------------------------------ inside

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the transport is closed")

    def _dead_only(self, source: SourceAddress, what: str) -> DeadLetters:
        if not isinstance(source, DeadLetters):
            raise Unsupported(f"{source}: messages of a queue or subscription cannot be {what}; dead letters can")
        return source

    def _report(self, state: State, cause: TransportError | None) -> None:
        self.host.report("connection", state, cause)
