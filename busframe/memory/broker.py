"""The broker: one lock, the entities by name, and what clients do with them.

How this works. Every method changes state at once, under the lock, and returns; none waits. A receiver that finds
nothing is left among the waiters of its source *in the same step*, so a row that comes right after wakes it. Clients
may live on any event loop of the process; a receiver is woken on its own.

Times are seconds of the calling client's clock.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence

from busframe.errors import DestinationNotFound, MessageTooLarge, SettlementLost, Unsupported
from busframe.logic.filters import matches
from busframe.logic.size import FRAMEWORK_RESERVE_BYTES, message_bytes
from busframe.memory.consumer import Consumer, running_loop
from busframe.memory.rows import Row
from busframe.memory.store import Store, TopicState
from busframe.model.delivery import Delivery, Outgoing
from busframe.model.destination import Address
from busframe.model.message import NO_HEADERS, FrozenHeaders, Headers, Message
from busframe.model.settlement import Ack, DeadLetter, Nack, Release, Settlement

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
DEDUP_WINDOW_S = 120.0


class MemoryBroker:
    """The state that clients of one name share. Give one to several ``MemoryTransport``s to keep it across them.

    Args:
        dedup_window_s: for how long a second write of one key to one destination is confirmed and not stored; 0: never.
        max_message_bytes: the most that a message may take, with what the framework adds.

    Attributes:
        lock: guards everything, held for synchronous changes only.
        entities: what exists, by the broker's names.
    """

    def __init__(self, *, dedup_window_s: float = DEDUP_WINDOW_S, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.dedup_window_s = dedup_window_s
        self.max_message_bytes = max_message_bytes
        self.lock = threading.Lock()
        self.entities: dict[str, Store | TopicState] = {}
        self._limit = max_message_bytes - FRAMEWORK_RESERVE_BYTES
        self._number = 0

    def __repr__(self) -> str:
        stores = [entity for entity in self.entities.values() if isinstance(entity, Store)]
        return f"<MemoryBroker entities={len(self.entities)} rows={sum(len(store.rows.all) for store in stores)}>"

    # ------------------------------------------------------------------------------------------------ publishing

    def publish(
        self, outgoing: Sequence[Outgoing], name_of: Callable[[Address], str], now: float
    ) -> list[Exception | None]:
        """Store messages; one outcome for each, in order."""
        with self.lock:
            return [self._publish(out, name_of(out.to), now) for out in outgoing]

    def _publish(self, out: Outgoing, name: str, now: float) -> Exception | None:
        message = out.message
        entity = self.entities.get(name)
        if entity is None or not isinstance(out.to, entity.kind):
            return DestinationNotFound(str(out.to), message_id=message.id)
        if (size := message_bytes(message)) > self._limit:
            return MessageTooLarge(size, self._limit, message_id=message.id)
        if not entity.recent.add(out.dedup_key or message.id, now):
            return None
        message = _immutable(message)
        carried = _copied(out.carried)
        visible_at = now + out.delay_s
        if isinstance(entity, Store):
            self._store(entity, message, carried, visible_at, now)
        else:
            # A delayed message, too, goes to the subscriptions that exist now: one gets every message that is
            # confirmed after its declaration, and none from before.
            for store in entity.subscriptions:
                if not store.where or matches(store.where, message.headers):
                    self._store(store, message, carried, visible_at, now)
        return None

    def _store(self, store: Store, message: Message, carried: Headers, visible_at: float, now: float) -> None:
        self._number += 1
        store.rows.add(Row(self._number, message, carried, now), visible_at, now)
        if store.waiters:
            store.wake()

    # ------------------------------------------------------------------------------------------------- receiving

    def attach(self, store: Store, loop: asyncio.AbstractEventLoop) -> Consumer:
        """Make a receiver known to its source."""
        with self.lock:
            consumer = Consumer(store, loop)
            store.consumers[consumer] = None
            return consumer

    def take(self, consumer: Consumer, limit: int, now: float, *, keep: bool = True) -> list[Delivery]:
        """Lease up to ``limit`` rows to a receiver.

        Where there is none the receiver is left waiting: its ``arrival`` ends when it should look again, or it looks
        by itself when it is ``due``.

        Args:
            consumer: who asks.
            limit: the most.
            now: time.
            keep: False: the rows are settled by being taken.

        Raises:
            DestinationNotFound: the source was deleted.
        """
        with self.lock:
            store = consumer.store
            store.waiters.pop(consumer, None)  # it is here, perhaps by its own alarm: waking it would wake nobody
            if store.gone:
                raise DestinationNotFound(store.address)
            rows = store.rows
            rows.promote(now)
            held, generation, pop = consumer.held, consumer.generation, rows.pop
            taken: list[Delivery] = []
            while len(taken) < limit and (row := pop()) is not None:
                row.claims += 1
                receipt = object()
                held[receipt] = row
                taken.append(Delivery(row.message, receipt, str(row.number), row.claims, generation, row.carried))
            if not taken:
                consumer.arrival = consumer.loop.create_future()
                consumer.due = rows.next_due()
                store.waiters[consumer] = None
                return taken
            if not keep:
                for row in held.values():
                    rows.finish(row)
                held.clear()
            if store.waiters and rows.waiting:
                store.wake()
            return taken

    def settle(
        self, consumer: Consumer, settled: Sequence[tuple[Delivery, Settlement]], now: float
    ) -> list[Exception | None]:
        """Settle what a receiver holds; one outcome for each, in order.

        Args:
            consumer: who holds it.
            settled: what becomes of each.
            now: time.
        """
        outcomes: list[Exception | None] = []
        with self.lock:
            rows, held = consumer.store.rows, consumer.held
            for delivery, settlement in settled:
                row = held.pop(delivery.receipt, None)
                if row is None or row.state == "gone":
                    outcomes.append(SettlementLost(f"{delivery.message.id!r} is not held by this receiver any more"))
                elif isinstance(settlement, Ack):
                    rows.finish(row)
                    outcomes.append(None)
                else:
                    outcome = self._settle(consumer.store, row, settlement, now)
                    if outcome is not None:
                        held[delivery.receipt] = row  # it stays where it was, and may be settled again
                    outcomes.append(outcome)
            # Whatever was settled may have made a row available: itself, or the next one of its key.
            if consumer.store.waiters and rows.waiting:
                consumer.store.wake()
        return outcomes

    def _settle(self, store: Store, row: Row, settlement: Nack | DeadLetter | Release, now: float) -> Exception | None:
        if isinstance(settlement, Nack):
            row.claims = 0
            row.carried = _copied(settlement.carried)
            store.rows.again(row, now + settlement.delay_s, now)
            store.wake()  # for a delayed one as well: somebody has to wake up when it is due
        elif isinstance(settlement, Release):
            store.rows.give_back(row)
        elif not store.dead:
            return Unsupported(f"{store.address} takes no dead letters: it holds them")
        else:
            letters = self.entities.get(store.dead)
            if not isinstance(letters, Store):
                return DestinationNotFound(f"{store.address}!dead", message_id=row.message.id)
            store.rows.finish(row)
            self._store(letters, row.message, _copied(settlement.carried), now, now)
        return None

    def leave(self, consumer: Consumer) -> None:
        """A receiver waits no more: the next one may have to look in its place."""
        with self.lock:
            consumer.store.waiters.pop(consumer, None)
            consumer.store.wake()

    def stop(self, consumer: Consumer) -> None:
        """A receiver gets no more; what it holds it keeps."""
        with self.lock:
            consumer.stopped = True
            consumer.wake(running_loop())
        self.leave(consumer)

    def detach(self, consumer: Consumer) -> None:
        """A receiver is gone: what it holds goes back, and a temporary source goes with its last receiver."""
        with self.lock:
            store = consumer.store
            store.consumers.pop(consumer, None)
            store.take_back(consumer)
            if store.temporary and not store.consumers and not store.gone:
                self._delete(store.name)
                self._delete(store.dead)

    # ---------------------------------------------------------------------------------------------------- faults

    def disconnect(self) -> None:
        """Take back everything that is held, as a broker does when it loses its clients.

        Receivers go on in a new generation. May be called from any thread.
        """
        with self.lock:
            for entity in self.entities.values():
                if isinstance(entity, Store):
                    for consumer in entity.consumers:
                        consumer.generation += 1
                        entity.take_back(consumer)

    def delete(self, name: str) -> None:
        """Delete an entity behind its clients' backs, by the broker's name of it. May be called from any thread."""
        with self.lock:
            self._delete(name)

    def _delete(self, name: str) -> None:
        entity = self.entities.pop(name, None)
        if isinstance(entity, TopicState):
            for store in list(entity.subscriptions):
                self._delete(store.name)
        elif entity is not None:
            entity.gone = True
            entity.rows.clear()
            for consumer in entity.consumers:
                consumer.held.clear()
            while entity.wake():
                pass
            for other in self.entities.values():
                if isinstance(other, TopicState) and entity in other.subscriptions:
                    other.subscriptions.remove(entity)


def _immutable(message: Message) -> Message:
    """A message that its publisher cannot change any more, without what a broker would not keep."""
    if message.headers is NO_HEADERS and message.dead is None and type(message.body) is bytes:
        return message
    return Message(  # several times as fast as dataclasses.replace
        bytes(message.body),
        message.id,
        message.type,
        message.content_type,
        _copied(message.headers),
        message.key,
        message.correlation_id,
        message.reply_to,
        message.published_at,
        message.ttl_s,
    )


def _copied(headers: Headers) -> Headers:
    return headers if type(headers) is FrozenHeaders else FrozenHeaders(headers)
