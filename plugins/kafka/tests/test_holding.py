"""What a member may hand over of several partitions."""

from busframe.logic.attempts import SUSPECT_FROM
from busframe_kafka.assignment import Guard, Partition
from busframe_kafka.holding import Holding


def _holding(*deliveries: int) -> Holding:
    """One with a partition for each, at whose committed offset stands a message that was delivered so often."""
    holding = Holding(
        gap=lambda _: 100,
        begin=lambda _: 0,
        revoke_timeout_s=0.0,
        changed=lambda *_: None,
        lost=lambda: None,
        dropped=lambda *_: None,
    )
    for number, count in enumerate(deliveries):
        partition = holding.partitions["t", number] = Partition("t", number)
        partition.remember(0, str(Guard(count, 2)))
        for offset in range(3):
            partition.fetch(offset, None)
        holding.penned[partition] = None
    return holding


def test_partitions_without_a_suspect_are_handed_over_together() -> None:
    """Each under its count."""
    holding = _holding(0, 1)
    ready, commits = holding.ready(beside=True)
    assert [partition.number for partition in ready] == [0, 1]
    assert commits == {("t", 0): (0, "bf1 1 2"), ("t", 1): (0, "bf1 2 2")}


def test_the_worst_suspect_comes_first_and_alone() -> None:
    """When nothing else is under way; and what others came to is committed before it may kill the process."""
    holding = _holding(0, SUSPECT_FROM - 1, SUSPECT_FROM)
    other, _, worst = holding.partitions.values()
    assert holding.ready(beside=True) == ([], {})
    other.in_flight = 1
    assert holding.ready(beside=False) == ([], {})
    other.in_flight = 0
    records = other.hand_over()
    for record in records:
        other.finish(record.offset)
    other.advance()
    ready, commits = holding.ready(beside=False)
    assert ready == [worst]
    assert commits == {("t", 0): (3, "bf1 0 -1"), ("t", 2): (0, f"bf1 {SUSPECT_FROM + 1} 2")}
    (record,) = worst.hand_over()
    worst.in_flight = 1
    assert holding.ready(beside=False) == ([], {})
    worst.in_flight = 0
    worst.finish(record.offset)
    worst.advance()
    assert holding.ready(beside=False)[0] != [other]
