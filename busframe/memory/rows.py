"""The rows of one source, and which of them may be handed out next. No lock, no clock, no event loop.

How this works. A row that may be handed out has a *place*: rising numbers given when a row becomes visible, so that
"first come" means first visible. Rows lie in one of these until they are taken:

- ``_ready``: a deque in the order of places; where nearly all rows go in at one end and come out at the other;
- ``_returned``: a heap by place, for rows that go back to the place they had (handed back by a receiver);
- ``_delayed``: a heap by the time they become visible. They get their place then, so a later message that was visible
  earlier goes first.

A row that is removed from the outside stays in its deque or heap, marked as gone, and is skipped when it comes up.
"""

from collections import deque
from heapq import heappop, heappush
from typing import Literal, TypeAlias

from busframe.model.message import Headers, Message

State: TypeAlias = Literal["waiting", "delayed", "held", "gone"]


class Row:
    """One stored message of one source.

    Attributes:
        number: unique in its broker and rising; the position is its text.
        message: as published; nobody can change it.
        carried: the core's ``bf-*`` headers of this copy.
        stored_at: seconds since the epoch.
        place: in the order of handing out; 0: none yet.
        claims: deliveries since it was stored or its last failure was recorded.
        state: where it is.
    """

    __slots__ = ("carried", "claims", "message", "number", "place", "state", "stored_at")

    def __init__(self, number: int, message: Message, carried: Headers, stored_at: float) -> None:
        self.number = number
        self.message = message
        self.carried = carried
        self.stored_at = stored_at
        self.place = 0
        self.claims = 0
        self.state: State = "waiting"

    def __repr__(self) -> str:
        return f"<Row {self.number} {self.state} {self.message.id!r} claims={self.claims}>"


class Rows:
    """Rows without an order of keys: first visible, first served.

    Attributes:
        all: every stored row by its number, handed out or not, in rising order.
    """

    __slots__ = ("_delayed", "_places", "_ready", "_returned", "all")

    def __init__(self) -> None:
        self.all: dict[int, Row] = {}
        self._ready: deque[Row] = deque()
        self._returned: list[tuple[int, Row]] = []
        self._delayed: list[tuple[float, int, Row]] = []
        self._places = 0

    @property
    def waiting(self) -> bool:
        """Whether ``pop`` is worth a try."""
        return bool(self._ready or self._returned)

    def add(self, row: Row, visible_at: float, now: float) -> None:
        """Store a row."""
        self.all[row.number] = row
        self._show(row, visible_at, now)

    def promote(self, now: float) -> None:
        """Rows whose delay is over can be handed out from now on."""
        delayed = self._delayed
        while delayed and (delayed[0][0] <= now or delayed[0][2].state == "gone"):
            row = heappop(delayed)[2]
            if row.state == "gone":
                continue
            row.state = "waiting"
            if row.place:
                heappush(self._returned, (row.place, row))
            else:
                self._append(row)

    def next_due(self) -> float | None:
        """When the next delayed row becomes visible; None where none is delayed. Call it after ``promote``."""
        return self._delayed[0][0] if self._delayed else None

    def pop(self) -> Row | None:
        """Take the next row: it is held from now on. None where there is none."""
        ready, returned = self._ready, self._returned
        while True:
            if returned and (not ready or returned[0][0] < ready[0].place):
                row = heappop(returned)[1]
            elif ready:
                row = ready.popleft()
            else:
                return None
            if row.state != "gone":
                row.state = "held"
                return row

    def finish(self, row: Row) -> bool:
        """Forget a row for good, wherever it is. Returns whether it was still stored."""
        row.state = "gone"
        return self.all.pop(row.number, None) is not None

    def give_back(self, row: Row) -> None:
        """A held row was not handled: it goes back to its old place."""
        if row.state == "held":
            row.state = "waiting"
            heappush(self._returned, (row.place, row))

    def again(self, row: Row, visible_at: float, now: float) -> None:
        """A held row is to be handed out again at a time, behind what is visible by then."""
        row.place = 0
        self._show(row, visible_at, now)

    def clear(self) -> int:
        """Forget all rows, held ones as well. Returns how many there were."""
        count = len(self.all)
        for row in self.all.values():
            row.state = "gone"
        self.all.clear()
        self._ready.clear()
        self._returned.clear()
        self._delayed.clear()
        return count

    def _show(self, row: Row, visible_at: float, now: float) -> None:
        if visible_at > now:
            row.state = "delayed"
            heappush(self._delayed, (visible_at, row.number, row))
            return
        if self._delayed:  # what became visible before goes before
            self.promote(now)
        row.state = "waiting"
        self._append(row)

    def _append(self, row: Row) -> None:
        self._places += 1
        row.place = self._places
        self._ready.append(row)


class _Lane:
    """The rows of one key: the first, which blocks the key, and those that came up behind it, by place."""

    __slots__ = ("behind", "first")

    def __init__(self, first: Row) -> None:
        self.first = first
        self.behind: list[tuple[int, Row]] = []


class KeyedRows(Rows):
    """Rows of which, for each key, one at a time is handed out, in order; the others wait, whoever asks.

    Handing the next ones of a key to the receiver that holds its first would keep the order as well. But a key whose
    first message waits for its retry would then fill that receiver's prefetch, and so block other keys.

    A row that is to be handed out again keeps its place and its key: the key waits for it. Rows without a key wait for
    nobody.
    """

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        super().__init__()
        self._lanes: dict[str, _Lane] = {}  # of the keys whose first row is held, delayed by a nack, or handed back

    def pop(self) -> Row | None:
        """Take the next row whose key is free; those that come up before their turn wait in their lane."""
        while (row := super().pop()) is not None:
            key = row.message.key
            if key is None:
                return row
            lane = self._lanes.get(key)
            if lane is None:
                self._lanes[key] = _Lane(row)
                return row
            if lane.first is row:
                return row
            row.state = "waiting"
            heappush(lane.behind, (row.place, row))
        return None

    def finish(self, row: Row) -> bool:
        """Forget a row; if it blocked its key, the next one of the key is free."""
        stored = super().finish(row)
        key = row.message.key
        if key is not None and (lane := self._lanes.get(key)) is not None and lane.first is row:
            while lane.behind:
                entry = heappop(lane.behind)
                if entry[1].state != "gone":
                    lane.first = entry[1]
                    heappush(self._returned, entry)
                    return stored
            del self._lanes[key]
        return stored

    def again(self, row: Row, visible_at: float, now: float) -> None:
        """A held row is to be handed out again at a time, before all others of its key."""
        if row.message.key is None:
            super().again(row, visible_at, now)
        elif visible_at > now:
            row.state = "delayed"
            heappush(self._delayed, (visible_at, row.number, row))
        else:
            self.give_back(row)

    def clear(self) -> int:
        """Forget all rows, and with them which keys are blocked."""
        self._lanes.clear()
        return super().clear()
