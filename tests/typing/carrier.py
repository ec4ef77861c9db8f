"""A transport of a third party: pigeons carry messages within one process, and forget all of them at night."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Literal

from pydantic import BaseModel, SecretStr

from busframe import Bus, Context, Message, Retry
from busframe.errors import ClosedError, DestinationNotFound, SettlementLost, Unsupported
from busframe.registry import register
from busframe.spi import (
    Ack,
    Address,
    Capabilities,
    Change,
    DeadLetter,
    Delivery,
    Entity,
    Finding,
    Headers,
    Host,
    Nack,
    Outgoing,
    Plugin,
    Receiver,
    Release,
    Settlement,
    SourceAddress,
    Stored,
    Subscription,
    Topic,
    Transport,
)
from tests.typing.parcels import Accepted, labels, tracking


class LoftSettings(BaseModel):
    url: str = "pigeon://"
    seed: SecretStr | None = None


@dataclass
class Pigeon:
    message: Message
    carried: Headers
    due: float
    number: int
    flights: int = 0


@dataclass
class Loft:
    waiting: deque[Pigeon] = field(default_factory=deque[Pigeon])
    away: dict[int, Pigeon] = field(default_factory=dict[int, Pigeon])


class Lofts(dict[str, Loft]):
    """What the pigeons know, by address."""


class Pigeons(Transport):
    """Every address has a loft."""

    def __init__(self, settings: LoftSettings, host: Host) -> None:
        self.capabilities = Capabilities(
            durable=False,
            confirm="none",
            delivery_count=True,
            attempt_exact=True,
            nack="native",
            dead_letter="native",
            ordering="none",
            filters="client",
            nack_delay_max_s=inf,
            publish_delay_max_s=inf,
        )
        self.settings, self.host = settings, host
        self.lofts = Lofts()
        self.native = self.lofts
        self.numbers = count()

    async def open(self) -> None:
        self.host.report("connection", "up", None)

    async def close(self) -> None:
        self.lofts.clear()

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        return [Change(e.address, "create") for e in entities if self.host.name(e.address) not in self.lofts]

    async def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.lofts.setdefault(self.host.name(change.address), Loft())

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        return [self.publish_one(one) for one in outgoing]

    def publish_one(self, one: Outgoing) -> Exception | None:
        name = self.host.name(one.to)
        if name not in self.lofts:
            return DestinationNotFound(str(one.to))
        names = [name]
        if isinstance(one.to, Topic):
            names = [other for other in self.lofts if other.startswith(f"{name}--") and not other.endswith("--dead")]
        for each in names:
            self.send(each, one.message, one.carried, one.delay_s)
        return None

    def send(self, name: str, message: Message, carried: Headers, delay_s: float) -> None:
        due = self.host.clock() + delay_s
        self.lofts[name].waiting.append(Pigeon(message, carried, due, next(self.numbers)))

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        if ack == "before":
            raise Unsupported("pigeons come back first")
        assert not isinstance(entity.address, Topic)
        return Keeper(self, entity.address)

    def loft(self, address: Address) -> Loft:
        return self.lofts[self.host.name(address)]

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        return [Stored(str(pigeon.number), pigeon.message, None) for pigeon in self.loft(source).waiting][:limit]

    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        loft = self.loft(source)
        before = len(loft.waiting)
        loft.waiting = deque(pigeon for pigeon in loft.waiting if str(pigeon.number) not in positions)
        return before - len(loft.waiting)

    async def purge(self, source: SourceAddress) -> int:
        return await self.remove(source, [str(pigeon.number) for pigeon in self.loft(source).waiting])

    async def diagnose(self) -> Sequence[Finding]:
        return [Finding("warn", "hawks", "pigeons may be eaten", "use a broker")]


class Keeper(Receiver):
    def __init__(self, transport: Pigeons, source: SourceAddress) -> None:
        self.transport, self.source, self.stopped = transport, source, False
        self.where = source.where if isinstance(source, Subscription) else None

    async def open(self) -> None:
        self.loft = self.transport.loft(self.source)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while not self.stopped:
            now = self.transport.host.clock()
            due = [pigeon for pigeon in self.loft.waiting if pigeon.due <= now][:limit]
            if due:
                return [self.take(pigeon) for pigeon in due]
            await asyncio.sleep(0.001)
        raise ClosedError("the keeper went home")

    def take(self, pigeon: Pigeon) -> Delivery:
        self.loft.waiting.remove(pigeon)
        self.loft.away[pigeon.number] = pigeon
        pigeon.flights += 1
        return Delivery(pigeon.message, pigeon.number, str(pigeon.number), pigeon.flights, 0, pigeon.carried)

    async def settle(self, settled: Sequence[tuple[Delivery, Settlement]]) -> Sequence[Exception | None]:
        return [self.settle_one(delivery, settlement) for delivery, settlement in settled]

    def settle_one(self, delivery: Delivery, settlement: Settlement) -> Exception | None:
        assert isinstance(delivery.receipt, int)
        pigeon = self.loft.away.pop(delivery.receipt, None)
        if pigeon is None:
            return SettlementLost("the pigeon is back already")
        name = self.transport.host.name
        match settlement:
            case Ack():
                pass
            case Nack(delay_s=delay_s, carried=carried):
                self.transport.send(name(self.source), pigeon.message, carried, delay_s)
            case DeadLetter(carried=carried):
                self.transport.send(name(self.source.dead_letters), pigeon.message, carried, 0.0)
            case Release():
                pigeon.flights -= 1
                self.loft.waiting.appendleft(pigeon)
        return None

    async def stop(self) -> None:
        self.stopped = True

    async def close(self) -> None:
        self.stopped = True


plugin = Plugin("pigeons", ("pigeon",), LoftSettings, Pigeons)
arrived: list[str] = []


def application(bus: Bus) -> Bus:
    @bus.handle(labels, retry=Retry(max_attempts=2, delay_s=0.001))
    async def print_label(parcel: Accepted, ctx: Context) -> None:
        arrived.append(f"{parcel.number} attempt {ctx.attempt}")
        if parcel.number == "P2":
            raise ValueError(parcel.number)

    @bus.handle(tracking.subscription("east", where={"to": "east"}))
    async def route(message: Message) -> None:
        arrived.append(f"{message.type} to {message.headers['to']}")

    @bus.handle(labels.dead_letters)
    async def report(message: Message) -> None:
        assert message.dead is not None
        arrived.append(f"dead: {message.dead.reason}")

    return bus


async def fly(bus: Bus) -> None:
    arrived.clear()
    async with bus.worker() as worker:
        await bus.publish(labels, Accepted(number="P1", weight_kg=0.1))
        await bus.publish(labels, Accepted(number="P2", weight_kg=0.2))
        await bus.publish(tracking, Accepted(number="P3", weight_kg=0.1), headers={"to": "east"})
        await bus.publish(tracking, Accepted(number="P4", weight_kg=0.1), headers={"to": "west"})
        await worker.wait_idle(0.05)
        assert "labels" in bus.native(Lofts)
    assert sorted(arrived) == [
        "P1 attempt 1",
        "P2 attempt 1",
        "P2 attempt 2",
        "dead: attempts",
        "parcel.accepted to east",
    ]


async def main() -> None:
    await fly(application(Bus(transport=lambda host: Pigeons(LoftSettings(), host))))
    register(plugin)
    await fly(application(Bus("pigeon://loft?seed=barley")))


if __name__ == "__main__":
    asyncio.run(main())
