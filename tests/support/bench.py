"""A broker that outlives the buses of a test, and buses on it with faults and virtual time."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from busframe import Bus
from busframe.logic.dead_letter import read_dead_letter
from busframe.logic.names import physical_name
from busframe.memory import MemoryBroker
from busframe.memory.rows import Row
from busframe.memory.store import Store
from busframe.model.destination import Queue, SourceAddress
from busframe.model.message import DeadLetterInfo
from busframe.spi.transport import Host
from tests.support.faulty import Faults, FaultyTransport
from tests.support.virtual_loop import EPOCH, clock

DEADLINE_S = 600.0


class Bench:
    """One broker, and the buses of a test.

    Attributes:
        broker: keeps its messages while buses come and go.
        faults: of all their transports.
    """

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.faults = Faults()

    def connect(self, host: Host) -> FaultyTransport:
        """A transport, as ``Bus(transport=…)`` wants one."""
        return FaultyTransport(host, self.broker, self.faults)

    def bus(self, *, config: Mapping[str, object] | None = None, random: float = 0.0, **options: Any) -> Bus:
        """Another bus on the broker: a restart, or a competitor."""
        bus = Bus(config=config or {}, transport=self.connect, **options)
        bus._clock = clock(random)
        return bus

    def store(self, source: SourceAddress) -> Store:
        """A source as the broker has it."""
        store = self.broker.entities[physical_name(source)]
        assert isinstance(store, Store)
        return store

    def rows(self, source: SourceAddress) -> list[Row]:
        """What is stored, handed out or not."""
        return list(self.store(source).rows.all.values())

    def ids(self, source: SourceAddress) -> list[str]:
        """The ids of what is stored."""
        return [row.message.id for row in self.rows(source)]

    def letters(self, source: Any) -> dict[str, DeadLetterInfo]:
        """Message id → why it is a dead letter. No message is there twice."""
        rows = self.rows(source.dead_letters)
        found = {row.message.id: read_dead_letter(row.carried) for row in rows}
        assert len(found) == len(rows), "a message is in the dead letters twice"
        return {id: info for id, info in found.items() if info is not None}

    def cut(self) -> None:
        """The connection was lost and is back: what was delivered belongs to the broker again."""
        self.broker.disconnect()
        for receiver in self.faults.receivers:
            receiver.held.clear()


def now() -> float:
    """Virtual seconds since the test began, to the microsecond."""
    return round(asyncio.get_running_loop().time(), 6)


async def until(condition: Callable[[], object], what: str = "", deadline_s: float = DEADLINE_S) -> None:
    """Wait until something holds; looks at each turn of the loop and then each tenth of a virtual second."""
    for _ in range(50):
        if condition():
            return
        await asyncio.sleep(0)
    end = now() + deadline_s
    while not condition():
        assert now() < end, f"it did not happen: {what or condition}"
        await asyncio.sleep(0.1)


async def quiet(seconds: float = 60.0) -> None:
    """Let so much virtual time pass, so that what should not happen has its chance."""
    await asyncio.sleep(seconds)


async def send(bus: Bus, to: Queue[Any], *bodies: Any, **options: Any) -> Sequence[str]:
    """Publish bodies one by one, each with the body's text as its id."""
    return [(await bus.publish(to, body, id=str(body), **options)).id for body in bodies]


__all__ = ["DEADLINE_S", "EPOCH", "Bench", "now", "quiet", "send", "until"]
