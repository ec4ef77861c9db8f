import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from busframe.logic.offsets import Offsets


class OffsetsMachine(RuleBasedStateMachine):
    """Deliveries with gaps, finished in any order, against two sets."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = Offsets()
        self.last = -1
        self.mark = -1
        self.open: set[int] = set()
        self.finished: set[int] = set()

    @rule(gap=st.integers(1, 3))
    def deliver(self, gap: int) -> None:
        self.last += gap
        self.open.add(self.last)
        self.offsets.deliver(self.last)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        position = data.draw(st.sampled_from(sorted(self.open)))
        self.open.remove(position)
        self.finished.add(position)
        self.offsets.finish(position)

    @precondition(lambda self: self.open | self.finished)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        position = data.draw(st.sampled_from(sorted(self.open | self.finished)))
        self.open.discard(position)
        self.finished.discard(position)
        self.offsets.forget(position)

    @rule()
    def advance(self) -> None:
        expected = max((one for one in self.finished if one < min(self.open, default=self.last + 1)), default=None)
        mark = self.offsets.advance()
        assert mark == expected
        if mark is not None:
            assert mark > self.mark, "the mark went back"
            assert all(position > mark for position in self.open), "the mark passed an unfinished one"
            self.mark = mark
            self.finished = {position for position in self.finished if position > mark}
        assert self.offsets.advance() is None, "nothing is said twice"

    @rule()
    def clear(self) -> None:
        self.offsets.clear()
        self.last = self.mark = -1
        self.open.clear()
        self.finished.clear()

    @rule(position=st.integers(-5, 100))
    def finish_something_unknown(self, position: int) -> None:
        if position not in self.open:
            self.offsets.finish(position)

    @invariant()
    def it_knows_what_is_not_covered(self) -> None:
        assert list(self.offsets) == sorted(self.open | self.finished)
        assert len(self.offsets) == len(self.open) + len(self.finished)
        assert all(position in self.offsets for position in self.open)


TestOffsets = pytest.mark.slow(OffsetsMachine.TestCase)


@given(st.permutations(range(6)))
def test_mark_waits_for_the_oldest(order: list[int]) -> None:
    """In whatever order six deliveries finish, the mark is always just below the oldest unfinished one."""
    offsets = Offsets()
    for position in range(6):
        offsets.deliver(position)
    marks, done = [-1], set()
    for position in order:
        offsets.finish(position)
        done.add(position)
        mark = offsets.advance()
        marks.append(marks[-1] if mark is None else mark)
        assert marks[-1] == min((one for one in range(6) if one not in done), default=6) - 1
    assert marks[-1] == 5


def test_gaps_are_normal() -> None:
    """Positions that were never delivered hold nothing up."""
    offsets = Offsets()
    for position in (3, 70, 71):
        offsets.deliver(position)
        offsets.finish(position)
    assert offsets.advance() == 71


def test_a_forgotten_position_holds_nothing_up() -> None:
    """What was settled alone, or went back to the broker, does not stop the mark, and is not said to be done."""
    offsets = Offsets()
    for position in (1, 2, 3):
        offsets.deliver(position)
    offsets.finish(2)
    offsets.forget(1)
    offsets.forget(99)
    assert offsets.advance() == 2
    offsets.forget(3)
    offsets.finish(3)
    assert offsets.advance() is None


@pytest.mark.parametrize("position", [5, 4])
def test_positions_rise(position: int) -> None:
    """A position that does not rise is an error of the transport; nothing changes."""
    offsets = Offsets()
    offsets.deliver(5)
    offsets.finish(5)
    assert offsets.advance() == 5
    with pytest.raises(ValueError, match=f"position {position} after 5"):
        offsets.deliver(position)
    assert len(offsets) == 0


def test_after_clearing_positions_may_start_anew() -> None:
    """A new assignment or channel begins where it likes."""
    offsets = Offsets()
    offsets.deliver(5)
    offsets.clear()
    offsets.deliver(1)
    offsets.finish(5)
    assert list(offsets) == [1]
    assert offsets.advance() is None
