"""Comparing what applications ask with what exists, and making it.

Nothing is ever deleted here, and what cannot be changed in place is a conflict: the kind of a name, the ordering of a
source, whether a subscription is temporary. A filter can be changed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, assert_never

from busframe.errors import TopologyMismatch, Unsupported
from busframe.memory.broker import MemoryBroker
from busframe.memory.store import KIND_NAMES, Kind, Ordering, Store, TopicState
from busframe.model.destination import Address, DeadLetters, Queue, Subscription, Topic
from busframe.model.entity import Change, Entity


def plan(broker: MemoryBroker, entities: Iterable[Entity], name_of: Callable[[Address], str]) -> list[Change]:
    """The differences between what is asked and what exists.

    Raises:
        Unsupported: a subscription asks for messages from before its declaration, which nobody has kept.
    """
    changes: list[Change] = []
    with broker.lock:
        for entity in entities:
            changes.extend(_compare(entity.address, _ordering(entity), broker.entities.get(name_of(entity.address))))
    return changes


def apply(broker: MemoryBroker, changes: Sequence[Change], name_of: Callable[[Address], str]) -> None:
    """Make the changes of a plan, all or, where one cannot be made, none.

    What has come to exist since the plan is compared again.

    Raises:
        TopologyMismatch: what exists differs and cannot be changed in place.
    """
    with broker.lock:
        conflicts = [conflict for change in changes for conflict in _conflicts(broker, change, name_of)]
        conflicts += _twins(changes, name_of)
        if conflicts:
            raise TopologyMismatch([describe(conflict) for conflict in conflicts])
        for change in changes:
            _make(broker, change, name_of)


def _conflicts(broker: MemoryBroker, change: Change, name_of: Callable[[Address], str]) -> list[Change]:
    if change.action == "conflict":
        return [change]
    address, conflicts = change.address, []
    if (found := broker.entities.get(name_of(address))) is not None:
        conflicts = _compare(address, _wanted_ordering(change), found) if change.action == "create" else []
    if isinstance(address, Subscription) and isinstance(topic := broker.entities.get(name_of(address.topic)), Store):
        conflicts += [Change(address.topic, "conflict", "kind", KIND_NAMES[Topic], KIND_NAMES[topic.kind])]
    return [conflict for conflict in conflicts if conflict.action == "conflict"]


def _twins(changes: Sequence[Change], name_of: Callable[[Address], str]) -> list[Change]:
    """Two kinds of one name that are to be created together; a subscription says that its topic is one."""
    kinds: dict[str, Kind] = {}
    twins: list[Change] = []
    for change in changes:
        addresses: list[Address] = [change.address]
        if isinstance(change.address, Subscription):
            addresses.append(change.address.topic)
        for address in addresses:
            kind = _kind(address)
            other = kinds.setdefault(name_of(address), kind)
            if other is not kind:
                twins.append(Change(address, "conflict", "kind", KIND_NAMES[kind], KIND_NAMES[other]))
    return twins


def describe(change: Change) -> str:
    """A conflict in words."""
    what = change.property or "entity"
    return (
        f"{change.address}: its {what} is {change.found!r} and the code asks for {change.wanted!r}, which cannot be "
        "changed in place: use another name, or drop it first"
    )


def _compare(address: Address, ordering: Ordering | None, found: Store | TopicState | None) -> list[Change]:
    if isinstance(address, Subscription) and address.start != "latest":
        raise Unsupported(f"{address}: start={address.start!r} on memory://, where a topic keeps no messages")
    kind = _kind(address)
    if found is None:
        return [Change(address, "create", None, _asked(address, ordering))]
    if found.kind is not kind:
        return [Change(address, "conflict", "kind", KIND_NAMES[kind], KIND_NAMES[found.kind])]
    changes: list[Change] = []
    if isinstance(found, Store):
        if ordering is not None and found.ordering != ordering:
            changes.append(Change(address, "conflict", "ordering", ordering, found.ordering))
        if isinstance(address, Subscription):
            if found.temporary != address.temporary:
                changes.append(Change(address, "conflict", "temporary", address.temporary, found.temporary))
            if dict(found.where) != dict(address.where):
                changes.append(Change(address, "update", "where", dict(address.where), dict(found.where)))
    return changes


def _make(broker: MemoryBroker, change: Change, name_of: Callable[[Address], str]) -> None:
    address, name = change.address, name_of(change.address)
    if isinstance(address, Topic):
        _topic(broker, address, name_of)
        return
    store = broker.entities.get(name)
    if store is None and change.action == "create":
        dead = "" if isinstance(address, DeadLetters) else name_of(address.dead_letters)
        ordering = _wanted_ordering(change)
        store = Store(str(address), name, dead, _kind(address), ordering=ordering, dedup_window_s=broker.dedup_window_s)
        broker.entities[name] = store
        if isinstance(address, Subscription):
            store.temporary = address.temporary
            _topic(broker, address.topic, name_of).subscriptions.append(store)
    if isinstance(store, Store) and isinstance(address, Subscription):
        store.where = address.where


def _topic(broker: MemoryBroker, address: Topic[Any], name_of: Callable[[Address], str]) -> TopicState:
    """The topic of that name, made where there is none: a subscription may be declared without it."""
    name = name_of(address)
    topic = broker.entities.setdefault(name, TopicState(str(address), name, broker.dedup_window_s))
    assert isinstance(topic, TopicState), "_conflicts looked"
    return topic


def _kind(address: Address) -> Kind:
    match address:
        case Queue():
            return Queue
        case Topic():
            return Topic
        case Subscription():
            return Subscription
        case DeadLetters():
            return DeadLetters
        case _:
            assert_never(address)


def _ordering(entity: Entity) -> Ordering | None:
    """What orders a source; None: nobody here asks. Dead letters and topics are never ordered by key."""
    return entity.ordering if isinstance(entity.address, Queue | Subscription) else "none"


def _asked(address: Address, ordering: Ordering | None) -> dict[str, object]:
    asked: dict[str, object] = {"kind": KIND_NAMES[_kind(address)]}
    if isinstance(address, Queue | Subscription):
        asked["ordering"] = ordering or "none"
    if isinstance(address, Subscription):
        asked |= {"where": dict(address.where), "temporary": address.temporary}
    return asked


def _wanted_ordering(change: Change) -> Ordering:
    asked = change.wanted if isinstance(change.wanted, dict) else {}
    return "key" if asked.get("ordering") == "key" else "none"
