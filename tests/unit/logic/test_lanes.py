from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from busframe.logic.lanes import Lanes

keys = st.none() | st.sampled_from("abc")


class LanesMachine(RuleBasedStateMachine):
    """Any interleaving of what a worker does, against what is true of each key by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[int] = Lanes()
        self.number = 0
        self.offered: Counter[int] = Counter()
        self.expected: dict[str, deque[int]] = {}  # in the order of offer, the one that has the lane first
        self.free: set[int] = set()  # without a lane, not started
        self.running: list[tuple[int, str | None]] = []
        self.waiting: list[tuple[int, str | None]] = []  # failed, and wait for their retry
        self.done: list[int] = []

    @rule(key=keys)
    def offer(self, key: str | None) -> None:
        item = self.number = self.number + 1
        self.offered[item] += 1
        if key is None:
            self.free.add(item)
        else:
            self.expected.setdefault(key, deque()).append(item)
        self.lanes.offer(item, key)

    @rule(key=st.sampled_from("abc"))
    def seize(self, key: str) -> None:
        free = not self.expected.get(key)
        assert self.lanes.seize(key) is free
        if free:
            item = self.number = self.number + 1
            self.offered[item] += 1
            self.expected.setdefault(key, deque()).append(item)
            self.running.append((item, key))

    @rule()
    def take(self) -> None:
        taken = self.lanes.take()
        held = {key for _, key in (*self.running, *self.waiting) if key is not None}
        if taken is None:
            assert not self.free
            assert {key for key, items in self.expected.items() if items} <= held, "a lane is blocked by nothing"
            return
        item, key = taken
        if key is None:
            self.free.remove(item)
        else:
            assert key not in held, "two of one key at a time"
            assert self.expected[key][0] == item, "out of order"
        self.running.append(taken)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.waiting.append(self.running.pop(data.draw(st.integers(0, len(self.running) - 1))))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        item, key = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        if key is None:
            self.free.add(item)
        self.lanes.again(item, key)
        assert self.lanes.ready[0] == (item, key), "a retry starts before all others"

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        started = self.running if self.running else self.waiting
        item, key = started.pop(data.draw(st.integers(0, len(started) - 1)))
        if key is not None:
            assert self.expected[key].popleft() == item
        self.done.append(item)
        self.lanes.finish(key)

    @rule()
    def withdraw(self) -> None:
        started = {item for item, _ in (*self.running, *self.waiting)}
        withdrawn = self.lanes.withdraw()
        assert len(self.lanes) == 0
        for items in self.expected.values():
            left = [item for item in items if item not in started]
            assert [item for item in withdrawn if item in left] == left, "a lane was given back out of order"
            for item in left:
                items.remove(item)
        self.free.clear()
        self.done.extend(withdrawn)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        started = [item for item, _ in (*self.running, *self.waiting)]
        waiting = self.offered - Counter(started) - Counter(self.done)
        assert len(self.lanes) == waiting.total()
        assert waiting.total() + len(started) + len(self.done) == self.offered.total()

    @invariant()
    def lanes_are_held_exactly_by_what_is_unfinished(self) -> None:
        assert set(self.lanes.lanes()) == {key for key, items in self.expected.items() if items}


TestAnyInterleaving = pytest.mark.slow(LanesMachine.TestCase)


@given(st.lists(st.none() | st.sampled_from("abc"), max_size=20))
def test_everything_offered_is_taken_in_order(offered: list[str | None]) -> None:
    """When each is finished before the next is taken, every key is drained in the order of its offers."""
    lanes: Lanes[int] = Lanes()
    for item, key in enumerate(offered):
        lanes.offer(item, key)
    taken = []
    while (one := lanes.take()) is not None:
        taken.append(one)
        lanes.finish(one[1])
    assert sorted(item for item, _ in taken) == list(range(len(offered)))
    for key in {*offered}:
        assert [item for item, of in taken if of == key] == [item for item, of in enumerate(offered) if of == key]
    assert list(lanes.lanes()) == []


def test_without_a_key_nothing_waits_for_another() -> None:
    """Deliveries without a key are all ready at once, first come first served."""
    lanes: Lanes[str] = Lanes()
    for item in "xyz":
        lanes.offer(item)
    assert [lanes.take(), lanes.take(), lanes.take(), lanes.take()] == [("x", None), ("y", None), ("z", None), None]


def test_a_waiting_retry_blocks_exactly_its_key() -> None:
    """While one of a key waits for its retry, the next of that key is held and all other keys go on."""
    lanes: Lanes[str] = Lanes()
    for item, key in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("free", None)):
        lanes.offer(item, key)
    assert lanes.take() == ("a1", "a")  # fails and waits outside
    others = []
    while (one := lanes.take()) is not None:
        others.append(one[0])
        lanes.finish(one[1])
    assert others == ["b1", "free", "b2"]
    lanes.again("a1", "a")
    assert lanes.take() == ("a1", "a")
    lanes.finish("a")
    assert lanes.take() == ("a2", "a")


def test_a_retry_goes_before_all_others() -> None:
    """What already waited does not queue up once more."""
    lanes: Lanes[str] = Lanes()
    lanes.offer("a1", "a")
    lanes.take()
    lanes.offer("x")
    lanes.again("a1", "a")
    assert lanes.take() == ("a1", "a")


def test_withdrawing_gives_up_idle_lanes_and_keeps_started_ones() -> None:
    """After a withdrawal a lane that runs still holds its key, and a lane that did not start is free."""
    lanes: Lanes[str] = Lanes()
    for item, key in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")):
        lanes.offer(item, key)
    assert lanes.take() == ("a1", "a")
    assert lanes.withdraw() == ["b1", "a2", "b2"]
    assert list(lanes.lanes()) == ["a"]
    lanes.offer("a2", "a")
    assert lanes.take() is None
    lanes.finish("a")
    assert lanes.take() == ("a2", "a")


def test_a_seized_lane_holds_its_key() -> None:
    """A delivery that runs without having waited here keeps the others of its key back until it is finished."""
    lanes: Lanes[str] = Lanes()
    assert lanes.seize("a") is True
    assert lanes.seize("a") is False
    lanes.offer("a2", "a")
    assert lanes.take() is None
    assert lanes.withdraw() == ["a2"]
    lanes.offer("a2", "a")
    lanes.finish("a")
    assert lanes.take() == ("a2", "a")


def test_a_lane_that_nobody_holds_cannot_be_finished() -> None:
    """Finishing twice is an error of the worker and is not hidden."""
    lanes: Lanes[str] = Lanes()
    lanes.offer("a1", "a")
    lanes.take()
    lanes.finish("a")
    with pytest.raises(KeyError):
        lanes.finish("a")
