"""The rows of one source, without a broker around them."""

import pytest

from busframe.memory.rows import KeyedRows, Row, Rows
from busframe.spi import Message

T = 100.0


class Table:
    """Rows made from ids, so that a test reads as a list of them."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.number = 0

    def add(self, id: str, *, key: str | None = None, at: float = T, now: float = T) -> Row:
        self.number += 1
        row = Row(self.number, Message(b"", id, key=key), {}, now)
        self.rows.add(row, at, now)
        return row

    def pop(self) -> Row:
        row = self.rows.pop()
        assert row is not None
        return row

    def drain(self, now: float = T) -> list[str]:
        self.rows.promote(now)
        ids = []
        while (row := self.rows.pop()) is not None:
            ids.append(row.message.id)
        return ids


@pytest.fixture
def plain() -> Table:
    """Rows without an order of keys."""
    return Table(Rows())


@pytest.fixture
def keyed() -> Table:
    """Rows with the order of keys."""
    return Table(KeyedRows())


@pytest.fixture(params=[Rows, KeyedRows])
def either(request: pytest.FixtureRequest) -> Table:
    """Both kinds, one after the other."""
    return Table(request.param())


def test_first_come_first_served(either: Table) -> None:
    """Rows come out in the order in which they were added."""
    for id in "abc":
        either.add(id)
    assert either.drain() == ["a", "b", "c"]


def test_a_row_given_back_has_its_old_place(either: Table) -> None:
    """Rows that are given back, in any order, come before those that were behind them."""
    for id in "abcd":
        either.add(id)
    held = [either.pop() for _ in range(3)]
    for row in reversed(held):
        either.rows.give_back(row)
    assert either.drain() == ["a", "b", "c", "d"]


def test_giving_back_twice_doubles_nothing(either: Table) -> None:
    """A row that is not held any more is not given back again."""
    either.add("a")
    row = either.pop()
    either.rows.give_back(row)
    either.rows.give_back(row)
    assert either.drain() == ["a"]


def test_delayed_rows_come_when_they_are_due(either: Table) -> None:
    """A delayed row is not there before its time, and then it is."""
    either.add("a", at=T + 5)
    assert not either.rows.waiting
    assert either.rows.next_due() == T + 5
    assert either.drain(T + 4.9) == []
    assert either.drain(T + 5) == ["a"]
    assert either.rows.next_due() is None


def test_the_order_is_that_of_becoming_visible(either: Table) -> None:
    """Delayed rows take their place when they are due, although nobody looks before others have come."""
    either.add("late", at=T + 5)
    either.add("soon", at=T + 2)
    either.add("now")
    either.add("between", at=T + 3, now=T + 3)
    either.add("after", at=T + 6, now=T + 6)
    assert either.drain(T + 6) == ["now", "soon", "between", "late", "after"]


def test_a_row_that_is_to_come_again_goes_behind(plain: Table) -> None:
    """Without keys a row that failed goes behind all that is visible when it is."""
    for id in "ab":
        plain.add(id)
    row = plain.pop()
    plain.rows.again(row, T, T)
    assert plain.drain() == ["b", "a"]
    plain.rows.again(row, T + 5, T)
    plain.add("c", at=T + 1, now=T + 1)
    assert plain.drain(T + 5) == ["c", "a"]


def test_nobody_waits_for_a_removed_row(either: Table) -> None:
    """When the delayed row that is due first is removed the next one says when to wake up."""
    row = either.add("a", at=T + 1)
    either.add("b", at=T + 2)
    either.rows.finish(row)
    either.rows.promote(T)
    assert either.rows.next_due() == T + 2


@pytest.mark.parametrize("where", ["waiting", "delayed", "held", "given back"])
def test_a_finished_row_never_comes_up(either: Table, where: str) -> None:
    """A row that is removed is gone wherever it lay, is counted once, and its neighbour is not touched."""
    row = either.add("a", at=T + 1 if where == "delayed" else T)
    either.add("b")
    if where in ("held", "given back"):
        assert either.pop() is row
    if where == "given back":
        either.rows.give_back(row)
    assert either.rows.finish(row)
    assert not either.rows.finish(row)
    either.rows.give_back(row)
    assert either.drain(T + 1) == ["b"]
    assert either.rows.next_due() is None
    assert [row.message.id for row in either.rows.all.values()] == ["b"]


def test_clear_forgets_everything(either: Table) -> None:
    """Rows that wait, are delayed or are held are gone, and a held one does not come back."""
    for id in "ab":
        either.add(id, key="k")
    either.add("c", at=T + 1)
    row = either.pop()
    assert either.rows.clear() == 3
    either.rows.give_back(row)
    assert either.drain(T + 1) == []
    either.add("d", key="k")
    assert either.drain() == ["d"]


def test_one_of_a_key_at_a_time(keyed: Table) -> None:
    """While one row of a key is held the others of the key wait, and no other key does."""
    for id, key in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"), ("n1", None), ("n2", None)):
        keyed.add(id, key=key)
    first = keyed.pop()
    assert keyed.drain() == ["b1", "n1", "n2"]
    keyed.rows.finish(first)
    second = keyed.pop()
    assert second.message.id == "a2"
    assert keyed.drain() == []
    keyed.add("a4", key="a")
    keyed.rows.finish(second)
    assert keyed.drain() == ["a3"]


def test_a_key_is_forgotten_when_nothing_is_left_of_it(keyed: Table) -> None:
    """Keys do not pile up."""
    for number in range(100):
        keyed.add("x", key=f"k{number}")
        keyed.rows.finish(keyed.pop())
    assert isinstance(keyed.rows, KeyedRows)
    assert not keyed.rows._lanes


def test_a_row_given_back_comes_before_the_others_of_its_key(keyed: Table) -> None:
    """Handing a row back does not let the next one of its key pass it."""
    for id in ("a1", "a2"):
        keyed.add(id, key="a")
    first = keyed.pop()
    assert keyed.drain() == []
    keyed.rows.give_back(first)
    assert keyed.drain() == ["a1"]
    keyed.rows.finish(first)
    assert keyed.drain() == ["a2"]


@pytest.mark.parametrize("delay_s", [0.0, 5.0])
def test_a_row_that_is_to_come_again_blocks_its_key(keyed: Table, delay_s: float) -> None:
    """With keys a row that failed keeps its place: its key waits for it, and no other does."""
    for id in ("a1", "a2"):
        keyed.add(id, key="a")
    keyed.add("b1", key="b")
    first = keyed.pop()
    keyed.rows.again(first, T + delay_s, T)
    assert keyed.drain(T) == (["b1"] if delay_s else ["a1", "b1"])
    assert keyed.drain(T + delay_s) == (["a1"] if delay_s else [])
    keyed.rows.finish(first)
    assert keyed.drain(T + delay_s) == ["a2"]


def test_without_a_key_a_row_that_is_to_come_again_blocks_nothing(keyed: Table) -> None:
    """A row without a key waits for its retry alone."""
    for id in ("a", "b"):
        keyed.add(id)
    keyed.rows.again(keyed.pop(), T + 5, T)
    assert keyed.drain(T) == ["b"]
    assert keyed.drain(T + 5) == ["a"]


@pytest.mark.parametrize("where", ["held", "delayed", "given back"])
def test_removing_the_first_of_a_key_frees_it(keyed: Table, where: str) -> None:
    """When the row that blocks a key is removed from the outside the next one of the key comes."""
    first = keyed.add("a1", key="a")
    removed = keyed.add("a2", key="a")
    keyed.add("a3", key="a")
    assert keyed.pop() is first
    assert keyed.drain() == []
    if where == "delayed":
        keyed.rows.again(first, T + 5, T)
    elif where == "given back":
        keyed.rows.give_back(first)
    keyed.rows.finish(removed)
    keyed.rows.finish(first)
    assert keyed.drain(T + 5) == ["a3"]


def test_repr_says_where_a_row_is() -> None:
    """A row in a debugger tells its number, state and id."""
    assert repr(Row(7, Message(b"", "m"), {}, T)) == "<Row 7 waiting 'm' claims=0>"
