"""A broker, a client of it, and a clock that stands still."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal

import pytest

from busframe.memory import MemoryBroker, MemoryTransport
from busframe.memory.receiver import MemoryReceiver
from busframe.spi import Address, DeadLetters, Entity, Message, Outgoing, Topic
from tests.unit.memory.virtual import VirtualClock, host

Declare = Callable[..., Awaitable[None]]
Open = Callable[..., Awaitable[MemoryReceiver]]
Send = Callable[..., Awaitable[None]]


@pytest.fixture
def clock() -> VirtualClock:
    """Time that stands still."""
    return VirtualClock()


@pytest.fixture
def broker() -> MemoryBroker:
    """An empty broker, kept for the whole test."""
    return MemoryBroker()


@pytest.fixture
async def transport(broker: MemoryBroker, clock: VirtualClock) -> AsyncIterator[MemoryTransport]:
    """An open client of the broker."""
    transport = MemoryTransport(host(clock), broker)
    await transport.open()
    yield transport
    await transport.close()


@pytest.fixture
def declare(transport: MemoryTransport) -> Declare:
    """Make addresses exist, with the dead letters of each source."""

    async def declare(*addresses: Address, ordering: Literal["none", "key"] = "none") -> None:
        entities = []
        for address in addresses:
            entities.append(Entity(address, ordering=ordering))
            if not isinstance(address, Topic | DeadLetters):
                entities.append(Entity(address.dead_letters))
        await transport.apply(await transport.plan(entities))

    return declare


@pytest.fixture
def receiver(transport: MemoryTransport) -> Open:
    """An open receiver."""

    async def receiver(
        address: Address, *, ordering: Literal["none", "key"] = "none", ack: Literal["after", "before"] = "after"
    ) -> MemoryReceiver:
        receiver = transport.receiver(Entity(address, ordering=ordering), prefetch=10, ack=ack)
        assert isinstance(receiver, MemoryReceiver)
        await receiver.open()
        return receiver

    return receiver


@pytest.fixture
def send(transport: MemoryTransport) -> Send:
    """Publish messages by their ids, in one call."""

    async def send(to: Address, *ids: str, key: str | None = None, delay_s: float = 0.0) -> None:
        outgoing = [Outgoing(to, Message(id.encode(), id, key=key), delay_s=delay_s) for id in ids]
        assert await transport.publish(outgoing, timeout_s=1) == [None] * len(ids)

    return send
