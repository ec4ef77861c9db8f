"""What exists in a broker: topics, and the stores of what can be consumed."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from busframe.memory.consumer import Consumer, running_loop
from busframe.memory.recent import RecentWrites
from busframe.memory.rows import KeyedRows, Rows
from busframe.model.destination import DeadLetters, Queue, Subscription, Topic, Where

Kind: TypeAlias = "type[Queue[Any]] | type[Topic[Any]] | type[Subscription[Any]] | type[DeadLetters]"
Ordering: TypeAlias = Literal["none", "key"]

KIND_NAMES: Mapping[Kind, str] = {
    Queue: "queue",
    Topic: "topic",
    Subscription: "subscription",
    DeadLetters: "dead letters",
}


class Store:
    """A queue, a subscription, or the dead letters of one of them.

    Attributes:
        address: the text form, for errors.
        name: the broker's.
        dead: the broker's name of where its dead letters go; empty: it holds dead letters.
        kind: which of the three.
        ordering: for good.
        where: the filter of a subscription; empty: everything.
        temporary: whether it goes with its last receiver.
        rows: what is stored.
        recent: what was written to it lately.
        consumers: its receivers.
        waiters: those that wait for a row, longest first; an ordered set.
        gone: it was deleted.
    """

    __slots__ = (
        "address",
        "consumers",
        "dead",
        "gone",
        "kind",
        "name",
        "ordering",
        "recent",
        "rows",
        "temporary",
        "waiters",
        "where",
    )

    def __init__(
        self, address: str, name: str, dead: str, kind: Kind, *, ordering: Ordering, dedup_window_s: float
    ) -> None:
        self.address = address
        self.name = name
        self.dead = dead
        self.kind = kind
        self.ordering: Ordering = ordering
        self.where: Where = {}
        self.temporary = False
        self.rows: Rows = KeyedRows() if ordering == "key" else Rows()
        self.recent = RecentWrites(dedup_window_s)
        self.consumers: dict[Consumer, None] = {}
        self.waiters: dict[Consumer, None] = {}
        self.gone = False

    def __repr__(self) -> str:
        return f"<Store {self.address} rows={len(self.rows.all)} consumers={len(self.consumers)}>"

    def wake(self) -> bool:
        """Let the receiver that waits longest look again. Returns whether there was one.

        One is enough, however many rows came: whoever leaves rows behind, or leaves without looking, wakes the next.
        """
        running = running_loop()
        while self.waiters:
            consumer = next(iter(self.waiters))
            del self.waiters[consumer]
            if consumer.wake(running):
                return True
        return False

    def take_back(self, consumer: Consumer) -> None:
        """What a receiver holds goes back to its old place."""
        held = list(consumer.held.values())
        consumer.held.clear()
        for row in held:
            self.rows.give_back(row)
        self.wake()


class TopicState:
    """A topic: it keeps nothing but its subscriptions.

    Attributes:
        address: the text form.
        name: the broker's.
        recent: what was written to it lately.
        subscriptions: the stores that get copies.
    """

    __slots__ = ("address", "name", "recent", "subscriptions")

    kind: Kind = Topic

    def __init__(self, address: str, name: str, dedup_window_s: float) -> None:
        self.address = address
        self.name = name
        self.recent = RecentWrites(dedup_window_s)
        self.subscriptions: list[Store] = []

    def __repr__(self) -> str:
        return f"<TopicState {self.address} subscriptions={len(self.subscriptions)}>"
