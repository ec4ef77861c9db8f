"""One client of a ``MemoryBroker``."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from math import inf
from typing import Literal

from busframe.errors import ClosedError, DestinationNotFound, TransportError, Unsupported
from busframe.logic.dead_letter import read_dead_letter
from busframe.logic.size import FRAMEWORK_RESERVE_BYTES
from busframe.logic.wire import from_timestamp
from busframe.memory import sharing, topology
from busframe.memory.broker import DEDUP_WINDOW_S, MAX_MESSAGE_BYTES, MemoryBroker
from busframe.memory.receiver import MemoryReceiver
from busframe.memory.store import Store
from busframe.model.capabilities import Capabilities
from busframe.model.delivery import Outgoing
from busframe.model.destination import Address, DeadLetters, Queue, SourceAddress, Subscription
from busframe.model.entity import Change, Entity, Finding, Stats, Stored
from busframe.spi.transport import Host, Receiver, Transport

_YIELD_EVERY = 64
_NAMES_KEPT = 1024


class MemoryTransport(Transport):
    """A client; many may share one broker, on any loop and thread.

    Args:
        host: what the core gives.
        broker: the broker to use, which stays when this client closes; None: the one of ``name``, which is dropped
            when its last client closes. What follows is for that one.
        name: of the broker in this process.
        dedup_window_s: for how long a second write of one key to one destination is confirmed and not stored.
        max_message_bytes: the most that a message may take, with what the framework adds.
    """

    def __init__(
        self,
        host: Host,
        broker: MemoryBroker | None = None,
        *,
        name: str = "",
        dedup_window_s: float = DEDUP_WINDOW_S,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        if broker is not None:
            dedup_window_s, max_message_bytes = broker.dedup_window_s, broker.max_message_bytes
        self.capabilities = Capabilities(
            durable=False,
            confirm="written",
            delivery_count=True,
            attempt_exact=True,
            nack="native",
            dead_letter="native",
            ordering="fleet",
            filters="broker",
            nack_delay_max_s=inf,
            publish_delay_max_s=inf,
            delay_resolution_s=0.05,
            hold_max_s=inf,
            dedup_window_s=dedup_window_s,
            max_message_bytes=max_message_bytes - FRAMEWORK_RESERVE_BYTES,
            temporary=True,
            browse=True,
            remove=True,
            stats=True,
        )
        self._host = host
        self._given = broker
        self._name = name
        self._dedup_window_s = dedup_window_s
        self._max_message_bytes = max_message_bytes
        self._broker: MemoryBroker | None = None
        self._receivers: list[MemoryReceiver] = []
        self._names: dict[int, tuple[Address, str]] = {}
        self._calls = 0

    def __repr__(self) -> str:
        return f"<MemoryTransport memory://{self._name} [{self._broker or 'closed'}]>"

    async def open(self) -> None:
        """Join the broker.

        Raises:
            InvalidSettings: another client of this process has the broker open with other settings.
        """
        if self._broker is None:
            self._broker = self._given or sharing.join(
                self._name, dedup_window_s=self._dedup_window_s, max_message_bytes=self._max_message_bytes
            )
            self.native = self._broker
            self._host.report("connection", "up", None)

    async def close(self) -> None:
        """Close the receivers and leave the broker. Idempotent."""
        if self._broker is None:
            return
        self._broker = None
        receivers, self._receivers = self._receivers, []
        for receiver in receivers:
            await receiver.close()
        if self._given is None:
            sharing.leave(self._name)

    def _opened(self) -> MemoryBroker:
        if self._broker is None:
            raise ClosedError(f"the transport memory://{self._name} is not open")
        return self._broker

    def _name_of(self, address: Address) -> str:
        # Composing a name costs as much as storing a message. Kept by identity, with the address, so that no other
        # object can come to have that identity.
        kept = self._names.get(id(address))
        if kept is not None:
            return kept[1]
        if len(self._names) >= _NAMES_KEPT:
            self._names.clear()
        name = self._host.name(address)
        self._names[id(address)] = (address, name)
        return name

    async def plan(self, entities: Sequence[Entity]) -> Sequence[Change]:
        """Compare what is asked with what exists.

        Raises:
            Unsupported: a subscription asks for messages from before its declaration.
        """
        return topology.plan(self._opened(), entities, self._name_of)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the changes, all or none.

        Raises:
            TopologyMismatch: what exists differs and cannot be changed in place.
        """
        topology.apply(self._opened(), changes, self._name_of)

    async def publish(self, outgoing: Sequence[Outgoing], *, timeout_s: float) -> Sequence[Exception | None]:
        """Store messages: all are stored before anything is waited for, so ``timeout_s`` never ends."""
        outcomes = self._opened().publish(outgoing, self._name_of, self._host.clock())
        self._calls += 1
        if self._calls % _YIELD_EVERY == 0:
            # Publishing to a server always lets others run; a loop that publishes here would let nobody.
            await asyncio.sleep(0)
        return outcomes

    def receiver(self, entity: Entity, *, prefetch: int, ack: Literal["after", "before"] = "after") -> Receiver:
        """Make a consumer. Nothing is fetched ahead, so ``prefetch`` is kept by whoever calls ``receive``."""
        if not isinstance(entity.address, Queue | Subscription | DeadLetters):
            raise Unsupported(f"{entity.address} is a topic: consume one of its subscriptions")
        receiver = MemoryReceiver(
            self._opened(), self._host, entity.address, ordering=entity.ordering or "none", keep=ack == "after"
        )
        self._receivers = [known for known in self._receivers if not known.closed]
        self._receivers.append(receiver)
        return receiver

    async def stats(self, source: SourceAddress) -> Stats:
        """What a source holds: ``depth`` is what waits, delayed messages included; the oldest may be in flight.

        Raises:
            DestinationNotFound: it does not exist.
        """
        broker, store = self._opened(), self._store(source)
        with broker.lock:
            held = (row for consumer in store.consumers for row in consumer.held.values())
            in_flight = sum(row.state == "held" for row in held)  # others were removed from the outside
            oldest = next(iter(store.rows.all.values()), None)
            letters = broker.entities.get(store.dead)
            return Stats(
                depth=len(store.rows.all) - in_flight,
                in_flight=in_flight,
                oldest_age_s=0.0 if oldest is None else max(0.0, self._host.clock() - oldest.stored_at),
                consumers=len(store.consumers),
                dead=len(letters.rows.all) if isinstance(letters, Store) else None,
            )

    async def browse(self, source: SourceAddress, *, after: str = "", limit: int = 100) -> Sequence[Stored]:
        """Look at stored messages, handed out or not, without taking or counting anything.

        Raises:
            DestinationNotFound: the source does not exist.
            TransportError: ``after`` is no position.
        """
        broker, store = self._opened(), self._store(source)
        if after and not _is_position(after):
            raise TransportError(f"{after!r} is no position in {source}: use one that browse returned", transient=False)
        first = int(after) + 1 if after else 0
        with broker.lock:
            found = list(islice((row for row in store.rows.all.values() if row.number >= first), max(0, limit)))
        return [
            Stored(
                str(row.number),
                replace(row.message, dead=read_dead_letter(row.carried)) if row.carried else row.message,
                from_timestamp(row.stored_at),
            )
            for row in found
        ]

    async def remove(self, source: SourceAddress, positions: Sequence[str]) -> int:
        """Remove stored messages, handed out or not: who holds one gets ``SettlementLost``."""
        broker, store = self._opened(), self._store(source)
        removed = 0
        with broker.lock:
            for position in positions:
                row = store.rows.all.get(int(position)) if _is_position(position) else None
                if row is not None:
                    removed += store.rows.finish(row)
            store.wake()  # the next one of a key may be free
        return removed

    async def purge(self, source: SourceAddress) -> int:
        """Remove all that is stored, handed out or not."""
        broker, store = self._opened(), self._store(source)
        with broker.lock:
            return store.rows.clear()

    async def diagnose(self) -> Sequence[Finding]:
        """What an acknowledgement is worth here."""
        return (
            Finding(
                "warn",
                "durability",
                "a confirmed message lives in the memory of this process and ends with it; no other process sees it",
                "use memory:// for tests and for trying things out, and a broker's URL for everything else",
            ),
        )

    def _store(self, source: SourceAddress) -> Store:
        store = self._opened().entities.get(self._name_of(source))
        if not isinstance(store, Store) or not isinstance(source, store.kind):
            raise DestinationNotFound(str(source))
        return store


def _is_position(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
