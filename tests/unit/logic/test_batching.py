from collections.abc import Iterator
from itertools import count, islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busframe.logic.batching import batches

streams = st.lists(st.integers(0, 50), max_size=40)


@given(streams, st.integers(1, 10), st.integers(-1, 120))
def test_nothing_is_lost_doubled_or_reordered(items: list[int], max_items: int, max_bytes: int) -> None:
    """Joined, the batches are the stream, and none is empty."""
    cut = list(batches(items, size_of=int, max_items=max_items, max_bytes=max_bytes))
    assert [item for batch in cut for item in batch] == items
    assert all(cut)


@given(streams, st.integers(1, 10), st.integers(0, 120))
def test_limits_hold(items: list[int], max_items: int, max_bytes: int) -> None:
    """No batch is over a limit, except for one item that is too large by itself."""
    for batch in batches(items, size_of=int, max_items=max_items, max_bytes=max_bytes):
        assert len(batch) <= max_items
        assert sum(batch) <= max_bytes or len(batch) == 1


@given(streams, st.integers(1, 10), st.integers(0, 120))
def test_batches_are_as_full_as_they_may_be(items: list[int], max_items: int, max_bytes: int) -> None:
    """A batch ends only where the next item does not fit."""
    cut = list(batches(items, size_of=int, max_items=max_items, max_bytes=max_bytes))
    for batch, following in pairwise(cut):
        assert len(batch) == max_items or sum(batch) + following[0] > max_bytes


@given(st.integers(1, 10), st.integers(0, 20), st.integers(1, 5))
def test_it_reads_one_item_ahead_at_most(max_items: int, max_bytes: int, wanted: int) -> None:
    """An endless stream is cut as it is asked, not in advance."""
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        for _ in count():
            read += 1
            yield 5

    given_out = list(islice(batches(endless(), size_of=int, max_items=max_items, max_bytes=max_bytes), wanted))
    assert read <= sum(map(len, given_out)) + 1


def test_each_item_is_measured_once() -> None:
    """Measuring may cost an encoding."""
    measured: list[str] = []

    def size_of(item: str) -> int:
        measured.append(item)
        return 1

    list(batches("abcde", size_of=size_of, max_items=2, max_bytes=1))
    assert measured == list("abcde")


def test_no_items_in_a_batch_is_refused() -> None:
    """A batch of nothing never ends."""
    with pytest.raises(ValueError, match="max_items must be 1 or more, not 0"):
        list(batches([1], size_of=int, max_items=0, max_bytes=1))
