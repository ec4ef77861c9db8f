"""One partition's bookkeeping: nothing unfinished is ever committed, and what kills processes is found."""

import random

from hypothesis import given
from hypothesis import strategies as st

from busframe.logic.attempts import SUSPECT_FROM
from busframe_kafka.assignment import Guard, Partition, Record


def _partition(committed: int = 0, metadata: str = "") -> Partition:
    partition = Partition("t", 0)
    partition.remember(committed, metadata)
    return partition


def _take(partition: Partition) -> list[Record]:
    """Hand over all that may be."""
    return partition.hand_over() if partition.may_hand_over else []


@given(st.sets(st.integers(0, 60), min_size=1), st.integers(0, 60), st.randoms(use_true_random=False))
def test_nothing_unfinished_is_ever_committed(offsets: set[int], finished: int, rng: random.Random) -> None:
    """Whatever is finished in whatever order, with gaps between the offsets; and the mark never goes back."""
    partition = _partition()
    for offset in sorted(offsets):
        partition.fetch(offset, None)
    open_ = [record.offset for record in _take(partition)]
    rng.shuffle(open_)
    marks = [0]
    for _ in range(min(finished, len(open_))):
        partition.finish(open_.pop())
        if (commit := partition.advance()) is not None:
            marks.append(commit[0])
    assert marks == sorted(set(marks))
    assert all(offset >= marks[-1] for offset in open_)
    if not open_:
        assert marks[-1] == max(offsets) + 1
    assert partition.gap == sum(offset >= marks[-1] for offset in offsets)


@given(st.lists(st.integers(0, 20), max_size=40))
def test_what_was_fetched_before_is_left_out(offsets: list[int]) -> None:
    """The client may go back after a pause; the record is tracked already."""
    partition = _partition()
    for offset in offsets:
        partition.fetch(offset, None)
    got = [record.offset for record in _take(partition)]
    assert got == sorted(set(got))
    assert partition.next == (max(offsets) + 1 if offsets else 0)


def test_nothing_is_handed_over_before_it_is_known_what_is_committed() -> None:
    """Else a message that kills would not be counted."""
    partition = Partition("t", 0)
    partition.fetch(5, None)
    assert not partition.may_hand_over
    partition.remember(-1001, None)
    assert partition.may_hand_over
    assert partition.to_commit() == (5, "bf1 1 5")


def test_the_count_rises_before_the_first_handler_and_falls_with_progress() -> None:
    """A process that dies in between leaves it raised."""
    partition = _partition(5, "bf1 1 6")
    for offset in (5, 6, 7):
        partition.fetch(offset, None)
    assert partition.to_commit() == (5, "bf1 2 7")
    assert [record.deliveries for record in partition.hand_over()] == [2, 2, 1]
    partition.fetch(8, None)
    assert partition.to_commit() is None
    partition.hand_over()
    partition.finish(6)
    assert partition.advance() is None
    partition.finish(5)
    assert partition.advance() == (7, "bf1 0 8")
    partition.finish(7)
    partition.finish(8)
    assert partition.advance() == (9, "bf1 0 -1")


def test_suspects_are_handed_over_one_by_one_each_under_its_own_count() -> None:
    """Up to the last that may have been under way; then all that is there."""
    partition = _partition(5, "bf1 2 7")
    for offset in range(5, 10):
        partition.fetch(offset, None)
    counts = []
    for offset in (5, 6, 7):
        assert partition.to_commit() == (offset, "bf1 3 7")
        (record,) = partition.hand_over()
        assert not partition.may_hand_over
        counts.append((record.offset, record.deliveries))
        partition.finish(offset)
        partition.advance()
    assert counts == [(5, 3), (6, 3), (7, 3)]
    assert partition.to_commit() is None
    assert [(record.offset, record.deliveries) for record in partition.hand_over()] == [(8, 1), (9, 1)]


@given(st.integers(0, 30), st.integers(1, 6))
def test_the_message_that_kills_is_the_only_one_that_is_given_up(killer: int, at_once: int) -> None:
    """Processes start, take so many at once, and die with the killer: its count alone rises without end."""
    total, limit = 31, SUSPECT_FROM + 2
    committed, metadata, deaths, given_up = 0, "", 0, None
    while given_up is None:
        partition = _partition(committed, metadata)
        alive, position = True, committed
        while alive and position < total:
            for offset in range(position, min(total, position + at_once)):
                partition.fetch(offset, None)
                position = offset + 1
            while alive and partition.may_hand_over:
                if (commit := partition.to_commit()) is not None:
                    committed, metadata = commit
                records = partition.hand_over()
                worst = max(records, key=lambda record: record.deliveries)
                if worst.deliveries > limit:
                    given_up = worst.offset
                    alive = False
                elif killer in [record.offset for record in records]:
                    alive = False
                    deaths += 1
                else:
                    for record in records:
                        partition.finish(record.offset)
                    if (commit := partition.advance()) is not None:
                        committed, metadata = commit
        assert deaths < 20
    assert given_up == killer


def test_what_is_given_back_in_order_has_the_count_that_was_found() -> None:
    """Twenty clean restarts make no suspect, and make none of one that was not finished either."""
    metadata = "bf1 1 3"
    for _ in range(20):
        partition = _partition(0, metadata)
        for offset in range(4):
            partition.fetch(offset, None)
        assert partition.to_commit() == (0, "bf1 2 3")
        partition.hand_over()
        partition.reached = 1
        commit = partition.give_back()
        assert commit == (0, "bf1 1 3")
        metadata = commit[1]


def test_what_is_given_back_says_what_may_have_been_handled() -> None:
    """What nobody received is not delivered again; what was not even fetched changes nothing."""
    partition = _partition()
    assert partition.give_back() is None
    for offset in range(6):
        partition.fetch(offset, None)
    partition.hand_over()
    partition.reached = 3
    partition.finish(0)
    partition.finish(2)
    assert partition.give_back() == (1, "bf1 0 3")
    partition.finish(1)
    partition.finish(3)
    assert partition.give_back() == (4, "bf1 0 -1")


def test_foreign_metadata_counts_nothing() -> None:
    """What other programs commit with their offsets is theirs."""
    for text in (None, "", "mine", "bf1", "bf1 many", "bf2 3 4", "bf1 -1 x"):
        assert Guard.parse(text) == Guard()
    assert Guard.parse("bf1 2") == Guard(2, -1)
    assert Guard.parse(str(Guard(4, 17))) == Guard(4, 17)
