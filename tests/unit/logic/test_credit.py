import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from busframe.logic.credit import START, Credit


class CreditMachine(RuleBasedStateMachine):
    """Whatever happens, only what is available is taken."""

    @initialize(limit=st.integers(1, 50), start=st.integers(-1, 60))
    def begin(self, limit: int, start: int) -> None:
        self.credit = Credit(limit, start)
        self.overdrawn = 0  # what was in flight when the window was narrowed

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        self.credit.take(data.draw(st.integers(0, self.credit.available)))

    @precondition(lambda self: self.credit.in_flight)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        self.credit.give(data.draw(st.integers(1, self.credit.in_flight)))
        self.overdrawn = min(self.overdrawn, self.credit.in_flight)

    @rule(count=st.integers(1, 60))
    def succeed(self, count: int) -> None:
        before = self.credit.window
        grew = self.credit.succeed(count)
        assert self.credit.window == (min(self.credit.limit, before * 2) if grew else before)

    @rule()
    def narrow(self) -> None:
        self.overdrawn = self.credit.in_flight
        changed = self.credit.window != 1
        assert self.credit.narrow() is changed

    @rule(limit=st.integers(1, 50))
    def resize(self, limit: int) -> None:
        self.overdrawn = max(self.overdrawn, self.credit.in_flight)
        self.credit.resize(limit)

    @invariant()
    def in_flight_stays_within_the_window(self) -> None:
        assert 1 <= self.credit.window <= self.credit.limit
        assert 0 <= self.credit.in_flight <= max(self.credit.window, self.overdrawn)

    @invariant()
    def it_is_never_stuck(self) -> None:
        assert self.credit.available == max(0, self.credit.window - self.credit.in_flight)
        assert self.credit.available > 0 or self.credit.in_flight > 0, "nothing may be fetched and nothing comes back"


TestCredit = pytest.mark.slow(CreditMachine.TestCase)


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_window_doubles_with_each_window_of_successes(limit: int, start: int) -> None:
    """As many successes as the window is wide double it, up to the limit."""
    credit = Credit(limit, start)
    widths = [credit.window]
    while credit.window < limit:
        wide = credit.window
        assert [credit.succeed() for _ in range(wide)] == [False] * (wide - 1) + [True]
        widths.append(credit.window)
    assert all(after == min(limit, 2 * before) for before, after in itertools.pairwise(widths))
    assert credit.succeed() is False


def test_it_begins_small() -> None:
    """After a start few are fetched, and never more than the limit."""
    assert Credit(100).available == START
    assert Credit(2).available == 2


def test_a_suspect_narrows_it_to_one() -> None:
    """A narrowed window forgets half-counted successes, holds back new work, and grows again from one."""
    credit = Credit(8, 4)
    credit.take(4)
    credit.succeed(3)
    assert credit.narrow() is True
    assert credit.narrow() is False
    assert credit.available == 0
    credit.give(4)
    assert credit.available == 1
    assert credit.succeed() is True
    assert credit.window == 2


def test_a_smaller_limit_keeps_what_is_in_flight() -> None:
    """Resizing below what is in flight takes nothing back and fetches nothing more."""
    credit = Credit(10, 10)
    credit.take(10)
    credit.resize(3)
    assert (credit.window, credit.in_flight, credit.available) == (3, 10, 0)
    credit.resize(20)
    assert credit.window == 3


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    """Nothing could ever be fetched."""
    with pytest.raises(ValueError, match="1 or more"):
        Credit(limit)
    credit = Credit(5)
    with pytest.raises(ValueError, match="1 or more"):
        credit.resize(limit)
    assert credit.limit == 5


def test_more_than_is_in_flight_cannot_come_back() -> None:
    """A settlement counted twice is an error of the worker, and changes nothing."""
    credit = Credit(5)
    credit.take(1)
    with pytest.raises(ValueError, match="2 given back, 1 in flight"):
        credit.give(2)
    assert credit.in_flight == 1
