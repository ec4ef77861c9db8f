"""What a check has at hand: names of its own, clients, buses, and a history of what it did."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Self
from uuid import uuid4

from busframe.bus import Bus
from busframe.bus.dead_letters import DeadLetterRecord
from busframe.conformance.check import Violation
from busframe.conformance.harness import BrokerState, Harness
from busframe.conformance.history import History
from busframe.errors import BusframeError, PublishError, PublishOutcomeUnknown
from busframe.handling.context import Context
from busframe.logic.names import physical_name
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Address, DeadLetters, Destination, Queue, SourceAddress, Subscription, Topic
from busframe.model.entity import Entity
from busframe.model.events import Failed, Handled
from busframe.model.message import Message
from busframe.model.settlement import ACK, DeadLetter, Settlement
from busframe.spi.transport import Host, Receiver, Transport

QUIET_S = 0.25
"""How long to go on reading after the expected number, so that extras are seen."""

PREFIX = "kit-"


class World:
    """One check's surroundings. Everything it opens is closed at the end.

    Attributes:
        harness: of the broker.
        history: what the check did.
        run: unique for this run of this check; part of every name.
    """

    def __init__(self, harness: Harness, check: str) -> None:
        self.harness = harness
        self.history = History()
        self.run = f"{check.lower()}-{uuid4().hex[:8]}"
        self._names = 0
        self._stack = AsyncExitStack()
        self._capabilities: Capabilities | None = None

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._stack.__aexit__(*exc)

    # ------------------------------------------------------------------------------------------------ names

    def _fresh(self, kind: str) -> str:
        self._names += 1
        return f"{self.run}-{kind}{self._names}"

    def queue(self, *types: type, **options: Any) -> Queue[Any]:
        """A queue that nobody else uses."""
        return Queue(self._fresh("q"), *types, **options)

    def topic(self, *types: type, **options: Any) -> Topic[Any]:
        """A topic that nobody else uses."""
        return Topic(self._fresh("t"), *types, **options)

    def name(self, address: Address) -> str:
        """What an address is called on the broker."""
        return physical_name(address, PREFIX)

    # ------------------------------------------------------------------------------------------------ clients

    def host(self, report: Callable[..., None] = lambda *_: None) -> Host:
        """What a client is given."""
        return Host(
            clock=time.time,
            sleep=asyncio.sleep,
            random=random.random,
            application="conformance",
            instance=f"kit-{os.getpid()}-{uuid4().hex[:6]}",
            name=self.name,
            report=report,
        )

    async def capabilities(self) -> Capabilities:
        """What the transport claims, when it is open."""
        if self._capabilities is None:
            async with self.client() as transport:
                self._capabilities = transport.capabilities
        return self._capabilities

    @asynccontextmanager
    async def client(self, *, report: Callable[..., None] = lambda *_: None) -> AsyncIterator[Transport]:
        """An open client, closed at the end of the block."""
        transport = self.harness.transport(self.host(report))
        try:
            await transport.open()
            yield transport
        finally:
            await transport.close()

    async def open_client(self) -> Transport:
        """An open client, closed at the end of the check."""
        return await self._stack.enter_async_context(self.client())

    def bus(self, **arguments: Any) -> Bus:
        """A bus on this broker, not open. Its names have the kit's prefix, and its time-outs are short."""
        config = {"prefix": PREFIX, "drain_timeout_s": 10, "connect_timeout_s": 10} | dict(arguments.pop("config", {}))
        return Bus(transport=arguments.pop("transport", self.harness.transport), config=config, **arguments)

    async def refused(self, bus: Bus, *kinds: type[BusframeError]) -> BusframeError:
        """Demand that a bus does not open, for a reason of such a class, and tell it."""
        expected = " or ".join(kind.__name__ for kind in kinds)
        try:
            async with bus:
                pass
        except kinds as error:
            return error
        except Exception as error:
            raise Violation(f"{expected} was expected when the bus opens, not {error!r}") from error
        raise Violation(f"{expected} was expected when the bus opens, and it opened")

    async def declare(self, transport: Transport, *wanted: Address | Entity) -> None:
        """Make sources and topics exist, each source with its dead letters, as the core does."""
        entities: dict[Address, Entity] = {}
        for item in wanted:
            entity = item if isinstance(item, Entity) else Entity(item, ordering="none")
            address = entity.address
            if isinstance(address, Subscription):
                entities.setdefault(address.topic, Entity(address.topic))
            entities[address] = entity
            if isinstance(address, Queue | Subscription):
                entities.setdefault(address.dead_letters, Entity(address.dead_letters))
        await transport.apply(await transport.plan(list(entities.values())))

    async def receiver(
        self, transport: Transport, source: SourceAddress | Entity, *, prefetch: int = 10, **options: Any
    ) -> Receiver:
        """An open receiver, closed at the end of the check."""
        entity = source if isinstance(source, Entity) else Entity(source, ordering="none")
        receiver = transport.receiver(entity, prefetch=prefetch, **options)
        self._stack.push_async_callback(receiver.close)
        await receiver.open()
        return receiver

    # ------------------------------------------------------------------------------------------------ messages

    def message(self, body: bytes = b'{"n": 1}', **fields: Any) -> Message:
        """A message as the core makes one."""
        fields.setdefault("id", uuid4().hex)
        fields.setdefault("content_type", "application/json")
        fields.setdefault("published_at", datetime.now(UTC))
        return Message(body, **fields)

    async def try_publish(
        self, transport: Transport, to: Address, *messages: Message, timeout_s: float = 10.0, **outgoing: Any
    ) -> Sequence[Exception | None]:
        """Publish through the driver interface, and write down how each ended."""
        history = self.history
        for message in messages:
            history.tried.append(message.id)
            if message.key is not None:
                history.keys[message.id] = message.key
        outcomes = await transport.publish(
            [Outgoing(to, message, **outgoing) for message in messages], timeout_s=timeout_s
        )
        for message, outcome in zip(messages, outcomes, strict=True):
            kind = (
                history.confirmed
                if outcome is None
                else history.unknown
                if isinstance(outcome, PublishOutcomeUnknown)
                else history.failed
            )
            kind.append(message.id)
        return outcomes

    async def publish(self, transport: Transport, to: Address, *messages: Message, **outgoing: Any) -> None:
        """Publish, and demand that each is confirmed."""
        for message, outcome in zip(
            messages, await self.try_publish(transport, to, *messages, **outgoing), strict=True
        ):
            if outcome is not None:
                raise Violation(f"message {message.id} was not confirmed: {outcome!r}")

    async def send(self, bus: Bus, to: Destination[Any], *bodies: object, **options: Any) -> list[Message]:
        """Publish through a bus, one after the other, and write down that each was confirmed."""
        sent = []
        for body in bodies:
            message = await bus.publish(to, body, **options)
            self.history.tried.append(message.id)
            self.history.confirmed.append(message.id)
            if message.key is not None:
                self.history.keys[message.id] = message.key
            sent.append(message)
        return sent

    def handled(self, ctx: Context, by: str = "") -> None:
        """Write down, in a handler, that it has handled its message."""
        self.history.done(ctx.message.id, by or ctx.handler)

    async def take(
        self, receiver: Receiver, count: int, *, within_s: float = 10.0, consumer: str = ""
    ) -> list[Delivery]:
        """Receive exactly so many deliveries, unsettled."""
        taken: list[Delivery] = []
        within_s *= self.harness.patience
        try:
            async with asyncio.timeout(within_s):
                while len(taken) < count:
                    taken += await receiver.receive(count - len(taken))
        except TimeoutError:
            raise Violation(f"{len(taken)} of {count} messages came within {within_s:g} s") from None
        for delivery in taken:
            self.history.taken(delivery.message.id, consumer or str(id(receiver)))
        return taken

    async def settle(self, receiver: Receiver, deliveries: Sequence[Delivery], settlement: Settlement = ACK) -> None:
        """Settle deliveries alike, and demand that the broker has it."""
        for delivery in deliveries:  # before: another consumer may have it before the broker's answer is here
            self.history.let_go(delivery.message.id, str(id(receiver)))
        outcomes = await receiver.settle([(delivery, settlement) for delivery in deliveries])
        for delivery, outcome in zip(deliveries, outcomes, strict=True):
            if outcome is not None:
                raise Violation(f"message {delivery.message.id} was not settled: {outcome!r}")
            if settlement == ACK:
                self.history.done(delivery.message.id, str(id(receiver)))

    async def drain(self, receiver: Receiver, count: int, *, within_s: float = 10.0) -> list[Delivery]:
        """Receive and acknowledge so many, with no longer pause than that, and see that no more come."""
        deliveries: list[Delivery] = []
        within_s *= self.harness.patience
        while len(deliveries) < count:
            try:
                async with asyncio.timeout(within_s):
                    some = await receiver.receive(count - len(deliveries))
            except TimeoutError:
                raise Violation(f"{len(deliveries)} of {count} messages came, and none for {within_s:g} s") from None
            for delivery in some:
                self.history.taken(delivery.message.id, str(id(receiver)))
            await self.settle(receiver, some)
            deliveries += some
        await self.nothing(receiver)
        return deliveries

    async def nothing(self, receiver: Receiver, *, quiet_s: float = QUIET_S) -> None:
        """Demand that nothing comes for a quiet period."""
        try:
            async with asyncio.timeout(quiet_s):
                extra = await receiver.receive(1)
        except TimeoutError:
            return
        raise Violation(f"unexpected message {extra[0].message.id}: {extra[0].message.body[:60]!r}")

    async def rest(self, receiver: Receiver, *, quiet_s: float = QUIET_S) -> list[Delivery]:
        """Receive and acknowledge whatever comes, until nothing comes for a quiet period."""
        deliveries: list[Delivery] = []
        while True:
            try:
                async with asyncio.timeout(quiet_s):
                    some = await receiver.receive(10)
            except TimeoutError:
                return deliveries
            await self.settle(receiver, some)
            deliveries += some

    async def close(self, receiver: Receiver) -> None:
        """End a receiver with all that it holds."""
        self.history.gone(str(id(receiver)))
        await receiver.close()

    # ------------------------------------------------------------------------------------------------ native

    async def native_publish(self, to: Address, body: bytes, headers: Mapping[str, object] | None = None) -> None:
        """Publish as a foreign program does."""
        await self.harness.native_publish(to, self.name(to), body, headers or {})

    async def native_read(self, source: Address) -> tuple[bytes, Mapping[str, str]]:
        """Take one message as a foreign program does."""
        return await self.harness.native_read(source, self.name(source))

    async def broker_state(self, source: Address) -> BrokerState:
        """What the broker says of a source."""
        return await self.harness.broker_state(source, self.name(source))

    async def dead(
        self, transport: Transport, source: Queue[Any] | Subscription[Any], count: int, *, within_s: float = 15.0
    ) -> list[Message]:
        """The dead letters of a source, when there are so many; and no more."""
        letters = DeadLetters(source)
        found: list[Message] = []

        async def enough() -> bool:
            found[:] = [stored.message for stored in await transport.browse(letters)]
            return len(found) >= count

        await self.until(enough, f"{count} dead letters of {source}", within_s=within_s)
        if len(found) > count:
            raise Violation(f"{len(found)} dead letters of {source}, not {count}")
        return found

    async def letters(self, bus: Bus, source: Queue[Any] | Subscription[Any], count: int) -> list[DeadLetterRecord]:
        """The same through an open bus."""
        found: list[DeadLetterRecord] = []

        async def enough() -> bool:
            found[:] = [record async for record in bus.dead_letters(source).list(limit=count + 10)]
            return len(found) >= count

        await self.until(enough, f"{count} dead letters of {source}")
        if len(found) > count:
            raise Violation(f"{len(found)} dead letters of {source}, not {count}")
        return found

    # ------------------------------------------------------------------------------------------------ waiting

    async def until(self, true: Callable[[], Any], what: str, *, within_s: float = 15.0) -> None:
        """Wait for a condition (plain or async), and say what it was when it does not come."""
        within_s *= self.harness.patience
        until = time.monotonic() + within_s
        while True:
            value = true()
            if await value if asyncio.iscoroutine(value) else value:
                return
            if time.monotonic() > until:
                raise Violation(f"not within {within_s:g} s: {what}\n{self.account()}")
            await asyncio.sleep(0.01)

    async def stays(self, true: Callable[[], bool], what: str, *, quiet_s: float = QUIET_S) -> None:
        """Demand that a condition holds for a quiet period."""
        until = time.monotonic() + quiet_s
        while true():
            if time.monotonic() > until:
                return
            await asyncio.sleep(0.01)
        raise Violation(f"it did not stay so: {what}")

    async def quiet(self, count: Callable[[], int], *, quiet_s: float = QUIET_S) -> None:
        """Wait until a count of what happens stays as it is for a quiet period, so that extras are seen."""
        before = -1
        while before != count():
            before = count()
            await asyncio.sleep(quiet_s)

    def balanced(self, **allowed: Any) -> None:
        """Demand that the history adds up."""
        problems = self.history.account(**allowed)
        if problems:
            raise Violation("; ".join(problems))

    def account(self) -> str:
        """What the history says, for a failure's text."""
        return "; ".join(self.history.account()) or "the history adds up so far"


def ended(events: Sequence[object]) -> list[Handled | Failed]:
    """Those of a bus's events (``observers=[events.append]``) that end a message: handled, or given up."""
    return [
        event
        for event in events
        if isinstance(event, Handled) or (isinstance(event, Failed) and isinstance(event.settlement, DeadLetter))
    ]


def failed_as(outcome: Exception | None, kind: type[PublishError] | type[Exception]) -> None:
    """Demand that an outcome is of a class."""
    if not isinstance(outcome, kind):
        raise Violation(f"{kind.__name__} was expected, not {outcome!r}")


def with_entity(entity: Entity, **changes: Any) -> Entity:
    """An entity with something else asked."""
    return replace(entity, **changes)
