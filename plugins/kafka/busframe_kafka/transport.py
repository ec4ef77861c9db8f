"""The transport: one producer, one administration client, and a consumer with a thread of its own for each source."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from busframe.errors import (
    AccessDenied,
    ClosedError,
    ConnectionFailed,
    TransportError,
    Unsupported,
)
from busframe.logic.size import FRAMEWORK_RESERVE_BYTES
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Outgoing
from busframe.model.destination import DeadLetters, Queue, SourceAddress, Topic
from busframe.model.entity import Change, Entity, Finding, Stats, Stored
from busframe.spi.transport import Host, Receiver, Transport
from busframe_kafka.admin import Admin, first_answer
from busframe_kafka.client import (
    DENIED,
    AdminClient,
    Consumer,
    KafkaError,
    Producer,
    admin_config,
    producer_config,
    registry_config,
    translate,
)
from busframe_kafka.consumer import Member
from busframe_kafka.early import EarlyReceiver, LettersReceiver
from busframe_kafka.forwarder import Forwarder
from busframe_kafka.ladder import LONGEST_S
from busframe_kafka.letters import Letters
from busframe_kafka.producer import PipelinedProducer
from busframe_kafka.provisioning import Provisioning
from busframe_kafka.publisher import Publisher
from busframe_kafka.receiver import KafkaReceiver
from busframe_kafka.registry import Registry
from busframe_kafka.settings import Settings
from busframe_kafka.stats import Statistics
from busframe_kafka.topology import Names

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 15.0
OPENING_S = 0.02
SERVE_S = 0.5
"""How often the administration client is asked what became of its connections."""

LEAVE_S = 5.0


@dataclass(frozen=True, slots=True)
class Native:
    """confluent-kafka's own clients, for what is not portable; None while there is none."""

    producer: "Producer | None"
    admin: "AdminClient"


class Kafka(Transport):
    """One client of one Kafka cluster.

    Args:
        settings: where and how.
        host: what the core gives.

    Attributes:
        names: of topics and groups.
        producer: stores records.
        admin: asks and tells the cluster.
        registry: what has been declared, stored filters among it.
    """

    def __init__(self, settings: Settings, host: Host) -> None:
        self.settings = settings
        self.host = host
        self.capabilities = Capabilities(
            durable=True,
            confirm="replicated",
            delivery_count=False,
            attempt_exact=True,
            nack="copy",
            dead_letter="copy",
            ordering="fleet",
            filters="client",
            nack_delay_max_s=LONGEST_S,
            publish_delay_max_s=LONGEST_S,
            delay_resolution_s=0.5,
            ack_lag_s=1.0,
            ack_gap=settings.ack_gap,
            hold_max_s=24 * 3600.0,
            max_message_bytes=settings.max_message_bytes - FRAMEWORK_RESERVE_BYTES,
            start=True,
            stats=True,
        )
        self.client_id = f"{host.application}/{host.instance}"
        self.names = Names(host.name(Queue("q")).removesuffix("q"))
        self.admin = Admin(self._make_admin, REQUEST_TIMEOUT_S)
        self.producer = PipelinedProducer(self._make_producer, settings.publish_window, settings.publish_window_bytes)
        self.registry = Registry(self.names.registry, self.admin, self.producer, self._make_registry_consumer)
        self.provisioning = Provisioning(self.admin, self.registry, self.names, settings)
        self.letters = Letters(self.admin, self.producer, self.names, self._make_registry_consumer)
        self._statistics = Statistics(self.admin, self.registry, self.letters, self.names)
        self._publisher = Publisher(
            self.producer, self.admin, self.names, settings, host, self.provisioning.make_ladder
        )
        self._forwarder = Forwarder(self)
        self._receivers: set[Receiver] = set()
        self._leaving: list[Member] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unreachable = asyncio.Event()
        self._error: TransportError = ConnectionFailed("not connected yet")
        self._state: Literal["up", "down"] = "down"
        self._watch: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Kafka {self.settings.server.shown}: {self._state}, {self.producer!r}>"

    @property
    def native(self) -> Native:  # type: ignore[override]
        """confluent-kafka's own clients."""
        return Native(self.producer.client, self.admin.client)

    async def open(self) -> None:
        """See ``Transport.open``."""
        self._check_open()
        self._loop = asyncio.get_running_loop()
        self._unreachable.clear()
        self._serving = asyncio.create_task(
            self.admin.serve(lambda: SERVE_S if self._state == "up" else OPENING_S), name="busframe kafka serves"
        )
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                if not await first_answer(self.admin, self.names.registry, self._unreachable):
                    raise self._error
        except TimeoutError as error:
            failed = self._error if self._unreachable.is_set() else ConnectionFailed("no server answered in time")
            await self._disconnect()
            raise self._shown(failed) from error
        except TransportError as error:
            await self._disconnect()
            raise self._shown(error) from error.__cause__
        except BaseException:
            await self._disconnect()
            raise
        self._state = "up"
        self.host.report("connection", "up", None)

    async def close(self) -> None:
        """See ``Transport.close``."""
        closing = [receiver.close() for receiver in list(self._receivers)]
        await asyncio.gather(*closing, self._forwarder.close(), return_exceptions=True)
        self._closed = True  # not before: what receivers settle is published
        await asyncio.gather(self._publisher.close(), self._wait_until_left())
        await self.producer.close()
        await self._disconnect()

    def leave(self, members: Iterable[Member]) -> None:
        """Let those go on leaving that have not left their groups yet: the transport waits for them when it closes.

        While others join and leave, the server may take seconds for it; and of who is gone without it, the partitions
        stand still until the session is over.
        """
        self._leaving = [member for member in (*self._leaving, *members) if not member.has_left]

    async def _wait_until_left(self) -> None:
        leaving, self._leaving = self._leaving, []
        if self._state == "up" and not all(await asyncio.gather(*(member.close(LEAVE_S) for member in leaving))):
            log.warning("a group was not left in time: others get its partitions when session_timeout_s is over")

    async def _disconnect(self) -> None:
        tasks = [task for task in (self._watch, self._serving) if task is not None]
        self._watch = self._serving = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.admin.close(unreachable=self._state == "down" and self._unreachable.is_set())

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """See ``Transport.plan``."""
        self._check_open()
        return await self.provisioning.plan(entities)

    async def apply(self, changes: Sequence[Change]) -> None:
        """See ``Transport.apply``."""
        self._check_open()
        await self.provisioning.apply(changes)

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """See ``Transport.publish``."""
        self._check_open()
        return await self._publisher.publish(outgoing, timeout_s)

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """See ``Transport.receiver``."""
        self._check_open()
        kind = KafkaReceiver
        if isinstance(entity.address, DeadLetters):
            kind = LettersReceiver
        elif ack == "before":
            kind = EarlyReceiver
        receiver = kind(self, entity)
        self._receivers.add(receiver)
        return receiver

    def forward(self) -> None:
        """A worker moves the delayed messages of its prefix on."""
        if not self._closed:
            self._forwarder.start()

    def forget(self, receiver: Receiver) -> None:
        """A receiver was closed."""
        self._receivers.discard(receiver)

    async def stats(self, source: SourceAddress) -> Stats:
        """What the group has not finished, rather too much than too little, and its members.

        Raises:
            DestinationNotFound: the source does not exist.
        """
        self._check_open()
        return await self._statistics.of(source)

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """See ``Transport.browse``; of dead letters only."""
        self._check_open()
        return await self.letters.browse(self._dead_only(source, "looked at"), after, limit)

    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        """See ``Transport.remove``; of dead letters only."""
        self._check_open()
        return await self.letters.remove(self._dead_only(source, "removed singly"), positions)

    async def purge(self, source: SourceAddress) -> int:
        """See ``Transport.purge``; of dead letters only."""
        self._check_open()
        return await self.letters.purge(self._dead_only(source, "purged"))

    async def diagnose(self) -> Sequence[Finding]:
        """See ``Transport.diagnose``."""
        self._check_open()
        return await self._statistics.diagnose()

    # ------------------------------------------------------------------------------------------ inside

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the transport is closed")

    def _make_admin(self) -> AdminClient:
        return _made(lambda: AdminClient(admin_config(self.settings, self.client_id, self.on_client_error)))

    def _make_producer(self) -> Producer:
        return _made(lambda: Producer(producer_config(self.settings, self.client_id, self.on_client_error)))

    def _make_registry_consumer(self) -> Consumer:
        return _made(lambda: Consumer(registry_config(self.settings, self.client_id)))

    def on_client_error(self, error: KafkaError) -> None:
        """What a client says of its connections, on any thread; for the ``error_cb`` of every client."""
        try:
            if error.code() in _DOWN and self._loop is not None:
                self._loop.call_soon_threadsafe(self._lost, error)
        except BaseException:  # nothing may leave a callback; the loop may be closed
            pass

    def _lost(self, error: KafkaError) -> None:
        failed = self._shown(translate(error))
        if not (isinstance(self._error, AccessDenied) and self._unreachable.is_set()):
            self._error = failed
        self._unreachable.set()
        if self._state == "up" and not self._closed:
            self._state = "down"
            self.host.report("connection", "down", failed)
            self._watch = asyncio.create_task(self._wait_up(), name="busframe kafka waits for a server")

    async def _wait_up(self) -> None:
        """Until a server answers again: clients say when all are down, and not when one is back."""
        while True:
            try:
                async with asyncio.timeout(self.settings.connect_timeout_s):
                    await self.admin.answer(self.names.registry)
            except (TransportError, TimeoutError):
                await asyncio.sleep(self.settings.reconnect_min_s)
                continue
            self._state = "up"
            self.host.report("connection", "up", None)
            return

    def _shown(self, error: TransportError) -> TransportError:
        """The same error with the servers that it is of."""
        shown = self.settings.server.shown
        if shown in str(error):
            return error
        text = f"{shown}: {error}"
        named: TransportError
        if isinstance(error, AccessDenied):
            named = AccessDenied(text)
        elif isinstance(error, ConnectionFailed):
            named = ConnectionFailed(text)
        else:
            named = TransportError(text, transient=error.transient)
        named.__cause__ = error.__cause__
        return named

    def _dead_only(self, source: SourceAddress | Topic[Any], what: str) -> DeadLetters:
        if not isinstance(source, DeadLetters):
            raise Unsupported(f"{source}: on Kafka messages of a queue cannot be {what}; dead letters can")
        return source


_DOWN = DENIED | {KafkaError._ALL_BROKERS_DOWN}


def _made(make: "Callable[[], T]") -> T:
    try:
        return make()
    except Exception as error:
        raise translate(error, "the client library refuses its settings") from error
