"""The broker against a dict, under every order of events that hypothesis thinks of."""

from typing import TypeAlias

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, invariant, multiple, rule

from busframe.errors import SettlementLost
from busframe.logic.names import physical_name
from busframe.memory import MemoryBroker, topology
from busframe.memory.consumer import Consumer
from busframe.memory.store import Ordering, Store
from busframe.spi import ACK, RELEASE, DeadLetter, Delivery, Entity, Message, Nack, Outgoing, Queue, Settlement
from tests.unit.memory.virtual import START

JOBS = Queue("jobs")


class FutureLess:
    """A loop for consumers of which none ever waits."""

    def create_future(self) -> "FutureLess":
        return self

    def done(self) -> bool:
        return True


# When it becomes visible; of one time the delayed ones come first, by age, and then the others as they came.
Order: TypeAlias = tuple[float, bool, int]


class Expected:
    """What the model knows of one stored message."""

    def __init__(self, key: str | None, number: int, order: "Order") -> None:
        self.key = key
        self.number = number
        self.order = order
        self.visible_at = order[0]
        self.claims = 0
        self.carried: dict[str, str] = {}
        self.holder: Consumer | None = None
        self.position: str | None = None


class BrokerMachine(RuleBasedStateMachine):
    """One queue with competing receivers. The model is a dict from id to what is expected of the message."""

    ordering: Ordering = "none"
    deliveries = Bundle("deliveries")

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.broker = MemoryBroker()
        entities = [Entity(JOBS, ordering=self.ordering), Entity(JOBS.dead_letters)]
        topology.apply(self.broker, topology.plan(self.broker, entities, physical_name), physical_name)
        store, dead = self.broker.entities["jobs"], self.broker.entities["jobs--dead"]
        assert isinstance(store, Store)
        assert isinstance(dead, Store)
        self.store, self.dead = store, dead
        self.model: dict[str, Expected] = {}
        self.leases: dict[object, str] = {}
        self.consumers = [self.attach() for _ in range(3)]
        self.owners: dict[object, Consumer] = {}
        self.died: list[str] = []
        self.count = 0

    @rule(
        keys=st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=4),
        delay_s=st.sampled_from([0.0, 0.0, 0.0, 3.0, 7.0]),
    )
    def publish(self, keys: list[str | None], delay_s: float) -> None:
        outgoing = []
        for key in keys:
            self.count += 1
            id = f"m{self.count}"
            outgoing.append(Outgoing(JOBS, Message(b"", id, key=key), delay_s=delay_s))
            self.model[id] = Expected(key, self.count, (self.now + delay_s, not delay_s, self.count))
        assert self.broker.publish(outgoing, physical_name, self.now) == [None] * len(keys)

    def attach(self) -> Consumer:
        return self.broker.attach(self.store, FutureLess())  # type: ignore[arg-type]

    def available(self) -> list[str]:
        """What may be handed out now, in order; with keys the first of each key that nothing blocks."""
        ids: list[str] = []
        seen: set[str] = set()
        for id, expected in sorted(self.model.items(), key=lambda item: item[1].order):
            blocks = self.ordering == "key" and expected.key is not None
            if blocks and expected.key in seen:
                continue
            free = expected.holder is None and expected.visible_at <= self.now
            if free:
                ids.append(id)
            # One that is delayed by its publisher blocks nobody; one that failed keeps its place and blocks its key.
            if blocks and expected.key is not None and expected.order[0] <= self.now:
                seen.add(expected.key)
        return ids

    @rule(which=st.integers(0, 2), limit=st.integers(1, 5), target=deliveries)
    def receive(self, which: int, limit: int) -> "list[Delivery] | MultipleResults[list[Delivery]]":
        consumer = self.consumers[which]
        wanted = self.available()[:limit]
        taken = self.broker.take(consumer, limit, self.now)
        assert [delivery.message.id for delivery in taken] == wanted
        for delivery in taken:
            expected = self.model[delivery.message.id]
            expected.holder = consumer
            expected.claims += 1
            assert delivery.deliveries == expected.claims
            assert delivery.carried == expected.carried
            assert expected.position in (None, delivery.position)
            expected.position = delivery.position
            self.leases[delivery.receipt] = delivery.message.id
            self.owners[delivery.receipt] = consumer
        return taken or multiple()

    @rule(
        batch=deliveries,
        stranger=st.sampled_from([None, None, None, None, 0, 1, 2]),
        kinds=st.lists(
            st.sampled_from(["ack", "release", "nack", "late nack", "dead", "leave"]), min_size=5, max_size=5
        ),
    )
    def settle(self, batch: list[Delivery], stranger: int | None, kinds: list[str]) -> None:
        owner = self.owners[batch[0].receipt] if stranger is None else self.consumers[stranger]
        settled: list[tuple[Delivery, Settlement]] = []
        for delivery, kind in zip(batch, kinds, strict=False):
            if kind != "leave":
                settled.append((delivery, self.settlement(kind)))
        outcomes = self.broker.settle(owner, settled, self.now)
        for (delivery, settlement), outcome in zip(settled, outcomes, strict=True):
            id = self.leases.get(delivery.receipt)
            if id is None or self.model[id].holder is not owner:
                assert isinstance(outcome, SettlementLost)
                continue
            assert outcome is None
            del self.leases[delivery.receipt]
            self.apply(id, settlement)

    def settlement(self, kind: str) -> Settlement:
        match kind:
            case "ack":
                return ACK
            case "release":
                return RELEASE
            case "dead":
                return DeadLetter("rejected", carried={"bf-dead-reason": "rejected"})
            case _:
                return Nack(5.0 if kind == "late nack" else 0.0, {"bf-attempt": str(self.count)})

    def apply(self, id: str, settlement: Settlement) -> None:
        expected = self.model[id]
        expected.holder = None
        match settlement:
            case Nack(delay_s=delay_s, carried=carried):
                expected.claims = 0
                expected.carried = dict(carried)
                expected.visible_at = self.now + delay_s
                if self.ordering == "none" or expected.key is None:
                    self.count += 1
                    expected.order = (expected.visible_at, not delay_s, expected.number if delay_s else self.count)
            case DeadLetter():
                self.died.append(id)
                del self.model[id]
            case _ if settlement is ACK:
                del self.model[id]

    @rule(which=st.integers(0, 2))
    def close_and_open_another(self, which: int) -> None:
        self.broker.detach(self.consumers[which])
        self.taken_back(self.consumers[which])
        self.consumers[which] = self.attach()

    @rule()
    def lose_the_connection(self) -> None:
        self.broker.disconnect()
        for consumer in self.store.consumers:
            self.taken_back(consumer)

    def taken_back(self, consumer: Consumer) -> None:
        for receipt, id in list(self.leases.items()):
            if self.model[id].holder is consumer:
                self.model[id].holder = None
                del self.leases[receipt]

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0]))
    def advance(self, seconds: float) -> None:
        self.now += seconds

    @rule(batch=deliveries)
    def remove_from_outside(self, batch: list[Delivery]) -> None:
        for delivery in batch:
            with self.broker.lock:
                row = self.store.rows.all.get(int(delivery.position))
                removed = row is not None and self.store.rows.finish(row)
            assert removed == (delivery.message.id in self.model)
            self.model.pop(delivery.message.id, None)
            for receipt, id in list(self.leases.items()):
                if id == delivery.message.id:
                    del self.leases[receipt]

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert sorted(row.message.id for row in self.store.rows.all.values()) == sorted(self.model)
        assert [row.message.id for row in self.dead.rows.all.values()] == self.died

    @invariant()
    def nothing_is_held_by_two(self) -> None:
        held = [id(row) for consumer in self.store.consumers for row in consumer.held.values()]
        assert len(held) == len(set(held))

    def teardown(self) -> None:
        """Whatever happened, what is left can be handed out, each once."""
        for consumer in self.consumers:
            self.broker.detach(consumer)
        self.now += 100
        last = self.attach()
        received: list[str] = []
        while taken := self.broker.take(last, 3, self.now):
            received.extend(delivery.message.id for delivery in taken)
            self.broker.settle(last, [(delivery, ACK) for delivery in taken], self.now)
        assert sorted(received) == sorted(self.model)
        assert not self.store.rows.all


class KeyedBrokerMachine(BrokerMachine):
    """The same with the order of keys."""

    ordering = "key"


_SETTINGS = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

TestBroker = BrokerMachine.TestCase
TestBroker.settings = _SETTINGS
TestKeyedBroker = KeyedBrokerMachine.TestCase
TestKeyedBroker.settings = _SETTINGS
