"""The transport: two connections, so that an alarm which stops publishing does not stop acknowledgements."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from busframe.errors import ClosedError, DestinationNotFound, TransportError, Unsupported
from busframe.logic.size import FRAMEWORK_RESERVE_BYTES
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Outgoing
from busframe.model.destination import DeadLetters, Queue, SourceAddress, Topic
from busframe.model.entity import Change, Entity, Finding, Stats, Stored
from busframe.spi.transport import Host, Receiver, Transport
from busframe_rabbitmq.cascade import MAX_DELAY_S, Cascade
from busframe_rabbitmq.channel import Channel, open_channel
from busframe_rabbitmq.client import ChannelRefused
from busframe_rabbitmq.delays import Delays
from busframe_rabbitmq.diagnosis import Seen, findings
from busframe_rabbitmq.early import EarlyReceiver
from busframe_rabbitmq.letters import Letters
from busframe_rabbitmq.link import Link, State
from busframe_rabbitmq.provisioning import Provisioning
from busframe_rabbitmq.publisher import Publisher
from busframe_rabbitmq.receiver import RabbitReceiver
from busframe_rabbitmq.settings import Settings, shown

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection

    from busframe_rabbitmq.management import Listed, Management

log = logging.getLogger(__name__)

HOLD_MAX_S = 1500.0
"""Below the server's ``consumer_timeout`` of 30 minutes, after which it takes an unsettled message back."""


@dataclass(frozen=True, slots=True)
class Native:
    """pika's own connections, for what is not portable; None while there is none.

    Use them on the bus's loop only, and on channels of your own: pika is not thread-safe.
    """

    publishing: "AsyncioConnection | None"
    consuming: "AsyncioConnection | None"


class RabbitMQ(Transport):
    """One client of one RabbitMQ server or cluster.

    Args:
        settings: where and how.
        host: what the core gives.
    """

    def __init__(self, settings: Settings, host: Host) -> None:
        self.settings = settings
        self.host = host
        self.capabilities = Capabilities(
            durable=True,
            confirm="replicated",
            delivery_count=True,
            attempt_exact=True,
            nack="copy",
            dead_letter="copy",
            ordering="fleet",  # see ``open``
            filters="broker",
            nack_delay_max_s=MAX_DELAY_S,
            publish_delay_max_s=MAX_DELAY_S,
            delay_resolution_s=0.5,  # measured: late by 0.15 s at most, 1000 at once on an idle server
            hold_max_s=HOLD_MAX_S,
            max_message_bytes=settings.max_message_bytes - FRAMEWORK_RESERVE_BYTES,
            stats=True,
        )
        self.publishing = Link("publish", settings, host, lambda state, cause: self._report("publish", state, cause))
        self.consuming = Link("consume", settings, host, lambda state, cause: self._report("consume", state, cause))
        self._states: dict[str, State] = {"publish": "down", "consume": "down"}
        self._prefix = host.name(Queue("q")).removesuffix("q")
        cascade = Cascade(self._prefix)
        self._delays = Delays(self.consuming, settings, host, cascade)
        self._publisher = Publisher(self.publishing, self._delays, settings, host, cascade)
        self._management = _management(settings)
        self._provisioning = Provisioning(self.consuming, self._delays, host, self._is_4, self._management, HOLD_MAX_S)
        self._letters = Letters(self.consuming, host, self._provisioning.check_looks)
        self._receivers: set[Receiver] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<RabbitMQ {shown(*self.settings.servers)}: {self.publishing!r}, {self.consuming!r}>"

    @property
    def native(self) -> Native:  # type: ignore[override]
        """pika's own connections."""
        publishing, consuming = self.publishing.connection, self.consuming.connection
        return Native(publishing.raw if publishing else None, consuming.raw if consuming else None)

    async def open(self) -> None:
        """See ``Transport.open``."""
        self._check_open()
        try:
            await self.publishing.open()
            await self.consuming.open()
        except BaseException:
            await self.publishing.close()
            await self.consuming.close()
            raise
        if not self._is_4():
            why = "RabbitMQ before 4.0 mixes up the messages of a key when its consumer changes"
            self.capabilities = replace(self.capabilities, ordering="none", why_not={"ordering": why})
        self._states = {"publish": "up", "consume": "up"}
        self.host.report("connection", "up", None)

    async def close(self) -> None:
        """See ``Transport.close``."""
        await asyncio.gather(*(receiver.close() for receiver in list(self._receivers)), return_exceptions=True)
        self._closed = True  # not before: what receivers give back is published
        await self._publisher.close()
        await self.publishing.close()
        await self.consuming.close()

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
        if entity.ordering == "key" and isinstance(entity.address, DeadLetters):
            raise Unsupported(f'{entity.address}: ordering="key", but dead letters keep no order: leave it out')
        if entity.ordering == "key" and ack == "before":
            raise Unsupported(f'{entity.address}: ordering="key" with ack="before", which takes ahead without order')
        kind = EarlyReceiver if ack == "before" else RabbitReceiver
        receiver = kind(self, entity, prefetch)
        self._receivers.add(receiver)
        return receiver

    def forget(self, receiver: Receiver) -> None:
        """A receiver was closed."""
        self._receivers.discard(receiver)

    async def stats(self, source: SourceAddress) -> Stats:
        """The ready messages, the consumers, and with a management URL the unsettled messages of some seconds ago.

        Raises:
            DestinationNotFound: the source does not exist.
        """
        self._check_open()
        depth, consumers = await self._look(source)
        dead = None
        if not isinstance(source, DeadLetters):
            try:
                dead, _ = await self._look(source.dead_letters)
            except DestinationNotFound:
                dead = None
        in_flight = None
        if self._management is not None:
            try:
                in_flight = await self._management.unsettled(self.host.name(source))
            except TransportError as error:
                log.warning("unsettled messages are not known: %s", error)
        return Stats(depth=depth, in_flight=in_flight, consumers=consumers, dead=dead)

    async def diagnose(self) -> Sequence[Finding]:
        """See ``Transport.diagnose``."""
        self._check_open()
        nodes: Sequence[Listed] | TransportError | None = None
        if self._management is not None:
            try:
                nodes = await self._management.nodes()
            except TransportError as error:
                nodes = error
        connection = await self.consuming.wait_up()
        seen = Seen(connection.server_version, self.publishing.blocked, nodes, HOLD_MAX_S)
        return findings(self.settings, seen)

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """See ``Transport.browse``; of dead letters only. While it looks, the letters are invisible to others."""
        self._check_open()
        return await self._letters.browse(self._dead_only(source, "looked at"), after, limit)

    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        """See ``Transport.remove``; of dead letters only."""
        self._check_open()
        return await self._letters.remove(self._dead_only(source, "removed singly"), positions)

    async def purge(self, source: SourceAddress) -> int:
        """See ``Transport.purge``; unsettled messages stay."""
        self._check_open()
        channel = await self._channel()
        try:
            return await channel.purge(self.host.name(source))
        except ChannelRefused as error:
            raise self._not_found(source, error) from error
        finally:
            channel.abandon()

    # ------------------------------------------------------------------------------------------ inside

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the transport is closed")

    def _is_4(self) -> bool:
        """Whether the server is 4.0 or later, which counts each look at a message of a quorum queue."""
        connection = self.consuming.connection or self.publishing.connection
        return connection is None or connection.server_version >= (4, 0)

    def _report(self, role: str, state: State, cause: TransportError | None) -> None:
        before = self._states
        self._states = {**before, role: state}
        worst = next((state for state in ("down", "blocked") if state in self._states.values()), "up")
        if worst != next((state for state in ("down", "blocked") if state in before.values()), "up"):
            self.host.report("connection", worst, cause)  # type: ignore[arg-type]

    async def _channel(self) -> Channel:
        connection = await self.consuming.wait_up()
        return await open_channel(connection)

    async def _look(self, source: SourceAddress) -> tuple[int, int]:
        channel = await self._channel()
        try:
            return await channel.declare_queue(self.host.name(source), passive=True)
        except ChannelRefused as error:
            raise self._not_found(source, error) from error
        finally:
            channel.abandon()

    def _not_found(self, source: SourceAddress, error: ChannelRefused) -> Exception:
        return DestinationNotFound(str(source)) if error.is_missing else error

    def _dead_only(self, source: SourceAddress | Topic[Any], what: str) -> DeadLetters:
        if not isinstance(source, DeadLetters):
            raise Unsupported(f"{source}: over AMQP messages of a queue cannot be {what}; dead letters can")
        return source


def _management(settings: Settings) -> "Management | None":
    if settings.management_url is None:
        return None
    from busframe_rabbitmq.management import Management  # HTTP is imported only where it is used

    return Management(settings.management_url.get_secret_value(), settings)
