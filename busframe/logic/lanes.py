"""Which delivery may start next.

Without ordering: any, first come first served. With ordering by key each key is a lane: one of its deliveries at a
time, in the order of arrival, and the next one only when the first is *finished* (settled for good). A delivery that
waits for its retry keeps its lane, so it blocks exactly its key and nothing else.
"""

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """Deliveries that wait, by lane. A lane of None is no lane: such deliveries wait for nobody."""

    __slots__ = ("_held", "ready")

    def __init__(self) -> None:
        self.ready: deque[tuple[T, str | None]] = deque()
        self._held: dict[str, deque[T]] = {}

    def __len__(self) -> int:
        """How many wait, ready or behind another of their lane."""
        return len(self.ready) + sum(map(len, self._held.values()))

    def offer(self, item: T, lane: str | None = None) -> None:
        """Let a delivery wait for its turn."""
        if lane is None:
            self.ready.append((item, None))
        elif (behind := self._held.get(lane)) is not None:
            behind.append(item)
        else:
            self._held[lane] = deque()
            self.ready.append((item, lane))

    def again(self, item: T, lane: str | None) -> None:
        """A delivery that kept its lane may start again, before all others."""
        self.ready.appendleft((item, lane))

    def seize(self, lane: str) -> bool:
        """Hold a lane for a delivery that does not wait here. False where it is held already."""
        if lane in self._held:
            return False
        self._held[lane] = deque()
        return True

    def take(self) -> tuple[T, str | None] | None:
        """The next one that may start, with its lane; None where there is none."""
        return self.ready.popleft() if self.ready else None

    def finish(self, lane: str | None) -> None:
        """The delivery of this lane is finished: the next one of the lane is ready, or the lane is free."""
        if lane is None:
            return
        behind = self._held[lane]
        if behind:
            self.ready.append((behind.popleft(), lane))
        else:
            del self._held[lane]

    def withdraw(self) -> list[T]:
        """Take out everything that has not started, in order of arrival within each lane. Started lanes stay held."""
        items = [item for item, _ in self.ready]
        idle = {lane for _, lane in self.ready if lane is not None}
        self.ready.clear()
        for lane, behind in list(self._held.items()):
            items.extend(behind)
            behind.clear()
            if lane in idle:
                del self._held[lane]
        return items

    def lanes(self) -> Iterable[str]:
        """The lanes that are held."""
        return self._held.keys()
