"""Which writes were seen within the window."""

from hypothesis import given
from hypothesis import strategies as st

from busframe.memory.recent import RecentWrites


def test_a_second_write_within_the_window_is_known() -> None:
    """A key is known for exactly one window, from its first write."""
    recent = RecentWrites(120)
    assert recent.add("a", 0.0)
    assert not recent.add("a", 119.9)
    assert recent.add("a", 120.0)
    assert not recent.add("a", 239.9)


def test_a_window_of_zero_knows_nothing() -> None:
    """Without a window every write is a new one, and nothing is remembered."""
    recent = RecentWrites(0)
    assert recent.add("a", 0.0)
    assert recent.add("a", 0.0)
    assert len(recent) == 0


def test_keys_do_not_pile_up() -> None:
    """Only what was written in the last two windows is kept."""
    recent = RecentWrites(10)
    for second in range(1000):
        recent.add(f"k{second}", float(second))
    assert len(recent) <= 20


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 15))))
def test_it_answers_as_a_table_of_times_would(writes: list[tuple[str, float]]) -> None:
    """Whatever the pauses between writes: known means written less than a window ago."""
    recent, table, now = RecentWrites(10), dict[str, float](), 0.0
    for key, pause in writes:
        now += pause
        new = key not in table or now - table[key] >= 10
        assert recent.add(key, now) == new
        if new:
            table[key] = now
