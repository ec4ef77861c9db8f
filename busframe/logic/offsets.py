"""Which positions of an ordered stream are finished without a gap: what a cumulative acknowledgement may say.

Positions are given out in rising order with gaps between them being normal (Kafka's compaction and transactions,
another consumer's tags). What counts is that nothing that was *delivered* and is unfinished lies at or below the mark.
"""

from collections.abc import Iterator
from itertools import takewhile


class Offsets:
    """Delivered positions that are not yet covered by the mark."""

    __slots__ = ("_finished", "_last")

    def __init__(self) -> None:
        self._finished: dict[int, bool] = {}  # in the order of delivery
        self._last: int | None = None

    def __len__(self) -> int:
        return len(self._finished)

    def __iter__(self) -> Iterator[int]:
        return iter(self._finished)

    def __contains__(self, position: object) -> bool:
        return position in self._finished

    def deliver(self, position: int) -> None:
        """A position was received. They rise."""
        if self._last is not None and position <= self._last:
            raise ValueError(f"position {position} after {self._last}")
        self._last = position
        self._finished[position] = False

    def finish(self, position: int) -> None:
        """A delivered position is done with; one that is not known any more is ignored."""
        if position in self._finished:
            self._finished[position] = True

    def advance(self) -> int | None:
        """Move the mark over the finished ones at the front.

        Returns:
            The highest position that it moved over, or None where it did not move.
        """
        passed = list(takewhile(self._finished.__getitem__, self._finished))
        for position in passed:
            del self._finished[position]
        return passed[-1] if passed else None

    def forget(self, position: int) -> None:
        """A position was settled alone, or belongs to the broker again."""
        self._finished.pop(position, None)

    def clear(self) -> None:
        """All of them belong to the broker again; positions may start anew."""
        self._finished.clear()
        self._last = None
