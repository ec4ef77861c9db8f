"""What a check opens: names of its own, clients of the broker, buses and receivers."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self
from uuid import uuid4

from busframe.bus import Bus
from busframe.conformance.check import Violation
from busframe.conformance.harness import Harness
from busframe.errors import BusframeError
from busframe.logic.names import physical_name
from busframe.model.capabilities import Capabilities
from busframe.model.destination import Address, Queue, SourceAddress, Subscription, Topic
from busframe.model.entity import Entity
from busframe.spi.transport import Host, Receiver, Transport

PREFIX = "kit-"


class Clients:
    """Makes them, and closes them when the check ends.

    Attributes:
        harness: of the broker.
        run: unique for this run of this check; part of every name.
    """

    def __init__(self, harness: Harness, check: str) -> None:
        self.harness = harness
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
    async def client(
        self, make: Callable[[Host], Transport] | None = None, *, report: Callable[..., None] = lambda *_: None
    ) -> AsyncIterator[Transport]:
        """An open client, closed at the end of the block; the harness's, or what something else makes."""
        transport = (make or self.harness.transport)(self.host(report))
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
