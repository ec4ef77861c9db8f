"""The harness of the memory transport."""

import asyncio
import time
from collections.abc import Mapping
from uuid import uuid4

from busframe.conformance.harness import BrokerState, Harness, NotRunnable
from busframe.logic.wire import split_headers, text_of
from busframe.memory import MemoryBroker, MemoryTransport
from busframe.memory.store import Store
from busframe.model.delivery import Outgoing
from busframe.model.destination import Address
from busframe.model.message import Message
from busframe.model.settlement import ACK
from busframe.spi.transport import Host, Transport


class MemoryHarness(Harness):
    """One broker of this process, shared by all clients of a run."""

    name = "memory"

    @property
    def scheme(self) -> str:
        """Of its URLs."""
        return "memory"

    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def transport(self, host: Host) -> Transport:
        """A client of the one broker."""
        return MemoryTransport(host, self.broker)

    def _store(self, name: str) -> Store:
        store = self.broker.entities.get(name)
        if not isinstance(store, Store):
            raise NotRunnable(f"{name} is no source")
        return store

    async def native_publish(self, to: Address, name: str, body: bytes, headers: Mapping[str, object]) -> None:
        """Straight into the broker's rows; every header becomes text there, and is told apart as on other brokers."""
        _, carried, own = split_headers((key, text_of(value)) for key, value in headers.items())
        outgoing = Outgoing(to, Message(body, uuid4().hex, headers=own), carried=carried)
        (outcome,) = self.broker.publish([outgoing], lambda _: name, time.time())
        if outcome is not None:
            raise outcome

    async def native_read(self, source: Address, name: str) -> tuple[bytes, Mapping[str, str]]:
        """Straight from the broker's rows."""
        consumer = self.broker.attach(self._store(name), asyncio.get_running_loop())
        (delivery,) = self.broker.take(consumer, 1, time.time())
        self.broker.settle(consumer, [(delivery, ACK)], time.time())
        self.broker.detach(consumer)
        return delivery.message.body, dict(delivery.message.headers)

    async def native_exists(self, to: Address, name: str) -> bool:
        """Whether the broker has it."""
        return name in self.broker.entities

    async def broker_state(self, source: Address, name: str) -> BrokerState:
        """Counted in the broker's rows."""
        store = self._store(name)
        leased = sum(row.state == "held" for row in store.rows.all.values())
        return BrokerState(len(store.consumers), len(store.rows.all) - leased, leased)

    async def disconnect(self) -> None:
        """Every receiver loses what it holds."""
        self.broker.disconnect()

    async def delete(self, source: Address, name: str) -> None:
        """Remove it under its consumers."""
        self.broker.delete(name)


def harness(url: str) -> MemoryHarness:
    """The harness for ``memory://``."""
    return MemoryHarness()
