"""What is asked against what exists."""

from datetime import UTC, datetime
from typing import Any

import pytest

from busframe.errors import TopologyMismatch, Unsupported
from busframe.memory import MemoryBroker, MemoryTransport
from busframe.memory.store import Store
from busframe.spi import Address, Change, Entity, Queue, Subscription, Topic
from tests.unit.memory.conftest import Declare

JOBS = Queue("jobs")
NEWS = Topic("news")


def subscription(**options: Any) -> Subscription[Any]:
    """The one that all tests declare."""
    return NEWS.subscription("s", **options)


async def test_a_plan_says_what_is_missing(transport: MemoryTransport) -> None:
    """Everything that does not exist is to be created, and the plan says with which properties; nothing is made."""
    entities = [Entity(NEWS), Entity(subscription(where={"a": "b"}), ordering="key"), Entity(JOBS.dead_letters)]
    for _ in range(2):
        changes = await transport.plan(entities)
        assert [(str(change.address), change.action) for change in changes] == [
            ("news", "create"),
            ("news/s", "create"),
            ("jobs!dead", "create"),
        ]
    assert changes[1].wanted == {
        "kind": "subscription",
        "ordering": "key",
        "where": {"a": ("b",)},
        "temporary": False,
    }


async def test_after_a_plan_is_applied_nothing_is_left_of_it(transport: MemoryTransport) -> None:
    """Applying a plan reaches what was asked, and applying it again changes nothing."""
    entities = [
        Entity(JOBS, ordering="key"),
        Entity(JOBS.dead_letters, ordering="key"),
        Entity(NEWS),
        Entity(subscription(where={"a": ["b", "c"]}, temporary=True)),
    ]
    changes = await transport.plan(entities)
    await transport.apply(changes)
    assert await transport.plan(entities) == []
    await transport.apply(changes)
    assert await transport.plan(entities) == []


async def test_who_only_publishes_asks_for_no_ordering(transport: MemoryTransport) -> None:
    """A process without handlers of a source finds no difference, however the workers have declared it."""
    await transport.apply(await transport.plan([Entity(JOBS, ordering="key")]))
    assert await transport.plan([Entity(JOBS)]) == []


async def test_a_filter_is_changed_in_place(broker: MemoryBroker, transport: MemoryTransport, declare: Declare) -> None:
    """Another `where` is an update that keeps what is stored."""
    await declare(subscription(where={"a": "b"}))
    wanted = Entity(subscription(where={"a": "c"}))
    (change,) = await transport.plan([wanted])
    assert change == Change(wanted.address, "update", "where", {"a": ("c",)}, {"a": ("b",)})
    await transport.apply([change])
    assert await transport.plan([wanted]) == []
    assert len(broker.entities) == 3


@pytest.mark.parametrize(
    ("exists", "asked", "property"),
    [
        (Entity(JOBS), Entity(JOBS, ordering="key"), "ordering"),
        (Entity(JOBS, ordering="key"), Entity(JOBS, ordering="none"), "ordering"),
        (Entity(JOBS), Entity(Topic("jobs")), "kind"),
        (Entity(NEWS), Entity(Queue("news")), "kind"),
        (Entity(subscription()), Entity(subscription(temporary=True)), "temporary"),
    ],
)
async def test_what_cannot_be_changed_in_place(
    transport: MemoryTransport, exists: Entity, asked: Entity, property: str
) -> None:
    """Kind, ordering and being temporary stay: asking otherwise is a conflict, and applying it changes nothing."""
    await transport.apply(await transport.plan([exists]))
    changes = await transport.plan([Entity(Queue("new")), asked])
    assert [(change.action, change.property) for change in changes] == [("create", None), ("conflict", property)]
    with pytest.raises(TopologyMismatch, match=property):
        await transport.apply(changes)
    assert [change.action for change in await transport.plan([Entity(Queue("new"))])] == ["create"]
    assert await transport.plan([exists]) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Queue("x"), Topic("x")),
        (Topic("x"), Queue("x")),
        (Queue("x"), Topic("x").subscription("s")),
        (Topic("x").subscription("s"), Queue("x")),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_one_name_has_one_kind(
    transport: MemoryTransport, first: Address, second: Address, together: bool
) -> None:
    """A queue and a topic of one name are refused, in one plan or made by another client since the plan."""
    changes = [*await transport.plan([Entity(first)]), *await transport.plan([Entity(second)])]
    if not together:
        await transport.apply(changes[:1])
        changes = changes[1:]
    with pytest.raises(TopologyMismatch, match="kind"):
        await transport.apply(changes)
    assert [change.action for change in await transport.plan([Entity(first)])] == (["create"] if together else [])


async def test_two_that_declare_the_same_at_once(broker: MemoryBroker, transport: MemoryTransport) -> None:
    """A plan that another client has made true meanwhile is applied; the filter is that of the later one."""
    one = await transport.plan([Entity(subscription(where={"a": "1"}))])
    two = await transport.plan([Entity(subscription(where={"a": "2"}))])
    await transport.apply(one)
    await transport.apply(two)
    store = broker.entities["news--s"]
    assert isinstance(store, Store)
    assert dict(store.where) == {"a": ("2",)}


async def test_a_plan_that_another_one_made_wrong(transport: MemoryTransport) -> None:
    """What has come to exist otherwise since the plan is a mismatch."""
    ordered = await transport.plan([Entity(JOBS, ordering="key")])
    await transport.apply(await transport.plan([Entity(JOBS)]))
    with pytest.raises(TopologyMismatch, match="ordering"):
        await transport.apply(ordered)


async def test_an_update_of_what_is_gone_makes_nothing(
    broker: MemoryBroker, transport: MemoryTransport, declare: Declare
) -> None:
    """A subscription that was deleted since the plan is not made again by changing its filter."""
    await declare(subscription())
    changes = await transport.plan([Entity(subscription(where={"a": "b"}))])
    broker.delete("news")
    await transport.apply(changes)
    assert set(broker.entities) == {"news--s--dead"}


@pytest.mark.parametrize("start", ["earliest", datetime(2025, 1, 1, tzinfo=UTC)])
async def test_the_past_is_not_kept(transport: MemoryTransport, start: Any) -> None:
    """A subscription that would start before its declaration is refused."""
    with pytest.raises(Unsupported, match="start"):
        await transport.plan([Entity(subscription(start=start))])
