"""What is known of one assigned partition: what was fetched, what of it is finished, what may be committed. Pure.

A partition that is assigned anew is a new ``Partition``: whatever belongs to an earlier one finds it not ``owned`` and
changes nothing. So there is no number of an epoch that could be compared wrongly.

**The crash guard.** A group stores one number for each partition, so what is counted is how often the message *at the
committed offset* was delivered. Before the first handler after an assignment starts, that offset is committed again
with the count raised by one; progress, or giving the partition back in order, lowers it again. A process that dies with
it leaves it raised. With it stands ``until``, the last offset that had been fetched: any of those may be what killed
the process. Once the count makes a suspect, the messages up to there are delivered one by one, of all partitions of a
consumer, each under a count of its own, so that what is given up in the end is the one that kills.
"""

from collections import deque
from dataclasses import dataclass

from busframe.logic.attempts import SUSPECT_FROM
from busframe.logic.offsets import Offsets

VERSION = "bf1"
ALONE = 64
"""So many after the committed offset are delivered one by one, at most: more were hardly under way at once."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The metadata of a committed offset.

    Attributes:
        deliveries: how often the message at this offset was delivered, and not settled.
        until: the last offset that may have been delivered as well; -1: none.
    """

    deliveries: int = 0
    until: int = -1

    def __str__(self) -> str:
        return f"{VERSION} {self.deliveries} {self.until}"

    @classmethod
    def parse(cls, metadata: str | None) -> "Guard":
        """What was committed; of a foreign program: nothing was delivered."""
        words = (metadata or "").split()
        if len(words) < 2 or words[0] != VERSION:
            return cls()
        try:
            return cls(max(0, int(words[1])), int(words[2]) if len(words) > 2 else -1)
        except ValueError:
            return cls()


class Record:
    """One fetched record, and the receipt of its delivery.

    Attributes:
        partition: the assignment it belongs to.
        offset: where it stands.
        raw: as the client library gave it.
        deliveries: how often it was delivered, this time included, as far as anybody knows.
        settled: somebody has said what becomes of it.
    """

    __slots__ = ("deliveries", "offset", "partition", "raw", "settled")

    def __init__(self, partition: "Partition", offset: int, raw: object) -> None:
        self.partition = partition
        self.offset = offset
        self.raw = raw
        self.deliveries = 1
        self.settled = False

    def anew(self) -> "Record":
        """The same one for another delivery: the receipt of the earlier one settles nothing any more."""
        self.settled = True
        other = Record(self.partition, self.offset, self.raw)
        other.deliveries = max(2, self.deliveries)
        return other

    def __lt__(self, other: "Record") -> bool:
        """In the order of their offsets; of several partitions in no order that means anything."""
        return self.offset < other.offset

    def __repr__(self) -> str:
        return f"<Record {self.partition.topic}/{self.partition.number}/{self.offset}>"


class Partition:
    """One assignment of one partition. ``in_flight`` and ``reached`` are changed under its
    consumer's lock, and all else by the consumer's thread alone.

    Args:
        topic: its name.
        number: of the partition.
        generation: of the membership that it was assigned in.

    Attributes:
        owned: it is assigned, and this is its latest assignment.
        leaving: nothing more of it is received.
        in_flight: records that were received here and are neither settled nor held back.
        reached: the highest offset that was received here; -1: none.
        pen: fetched records that may not be received yet.
        committed: what the group had committed at the assignment; -1: nothing; None: not known yet.
        paused: nothing is fetched of it.
    """

    __slots__ = (
        "_alone_until", "_guard", "_handed", "_last", "_mark", "_offsets", "_raised", "committed", "generation",
        "in_flight", "leaving", "number", "owned", "paused", "pen", "reached", "topic",
    )  # fmt: skip

    def __init__(self, topic: str, number: int, generation: int = 0) -> None:
        self.topic = topic
        self.number = number
        self.generation = generation
        self.owned = True
        self.leaving = False
        self.in_flight = 0
        self.reached = -1
        self.pen: deque[Record] = deque()
        self.committed: int | None = None
        self.paused = False
        self._offsets = Offsets()
        self._last = -1
        self._mark: int | None = None
        self._guard = Guard()
        self._alone_until = -1
        self._raised = False
        self._handed = 0

    def __repr__(self) -> str:
        return f"<Partition {self.topic}/{self.number}: {len(self._offsets)} open, mark {self._mark}>"

    @property
    def gap(self) -> int:
        """How many fetched records the mark has not passed: what a crash may bring back."""
        return len(self._offsets)

    @property
    def next(self) -> int | None:
        """The offset after the last one that was fetched, or what is committed; None: neither."""
        if self._last >= 0:
            return self._last + 1
        return self.committed if self.committed is not None and self.committed >= 0 else None

    def remember(self, offset: int, metadata: str | None) -> None:
        """Take what the group has committed.

        Args:
            offset: of the next record; negative: nothing is committed.
            metadata: with it.
        """
        self.committed = max(-1, offset)
        self._guard = Guard.parse(metadata) if offset >= 0 else Guard()
        self._alone_until = min(self._guard.until, offset + ALONE)

    def fetch(self, offset: int, raw: object) -> None:
        """A record was fetched. One that was fetched before, in the same assignment, is left out."""
        if offset <= self._last:
            return
        self._last = offset
        self._offsets.deliver(offset)
        self.pen.append(Record(self, offset, raw))

    # ------------------------------------------------------------------------------------------------ handing over

    @property
    def suspicious(self) -> bool:
        """Whether what comes next may be what killed earlier processes: it is handed over alone."""
        return self._guard.deliveries >= SUSPECT_FROM - 1

    @property
    def suspicion(self) -> int:
        """How often what comes next was delivered, and not settled."""
        return self._guard.deliveries

    @property
    def may_hand_over(self) -> bool:
        """Whether something of the pen may be received, once ``to_commit`` is committed."""
        return bool(self.pen) and self.committed is not None and not (self.suspicious and self._handed)

    def to_commit(self) -> tuple[int, str] | None:
        """What must be committed before the pen may be handed over: (offset, metadata); None: nothing.

        Only while ``may_hand_over``.
        """
        guard = self._guard
        if self.suspicious:  # everything before the pen is finished
            return self.pen[0].offset, str(Guard(guard.deliveries + 1, guard.until))
        if self._raised:
            return None
        return self._start(), str(Guard(guard.deliveries + 1, max(guard.until, self._last)))

    def _start(self) -> int:
        known = self.committed
        return known if known is not None and known >= 0 else next(iter(self._offsets))

    def hand_over(self) -> list[Record]:
        """Take out of the pen what may be received now; ``to_commit`` is committed."""
        guard, first = self._guard, not self._raised
        records = [self.pen.popleft()] if self.suspicious else list(self.pen)
        if not self.suspicious:
            self.pen.clear()
        self._raised = True
        self._handed += len(records)
        for record in records:
            if record.offset > guard.until:
                break
            record.deliveries = 2
        if records and (first or self.suspicious):
            records[0].deliveries = max(records[0].deliveries, guard.deliveries + 1)
        return records

    # ------------------------------------------------------------------------------------------------ finishing

    def finish(self, offset: int) -> None:
        """A record that was handed over is done with."""
        if offset in self._offsets:
            self._offsets.finish(offset)
            self._handed -= 1

    def advance(self) -> tuple[int, str] | None:
        """What may be committed now, where that has changed: (offset of the next record, metadata)."""
        passed = self._offsets.advance()
        if passed is None:
            return None
        self._mark = passed + 1
        until = self._guard.until
        # The next one was not delivered alone yet; and up to ``until`` each one is.
        alone = self.suspicious and passed < self._alone_until
        self._guard = Guard(SUSPECT_FROM - 1 if alone else 0, until)
        return self.progress()

    def progress(self) -> tuple[int, str] | None:
        """What ``advance`` said last; None: nothing yet."""
        if self._mark is None:
            return None
        return self._mark, str(self._guard if self.suspicious else Guard(0, self._last if self._offsets else -1))

    def give_back(self) -> tuple[int, str] | None:
        """What to commit when the partition is given back in order: (offset, metadata); None: nothing has changed."""
        self.advance()
        until = max(self.reached, self._guard.until)
        if self._mark is not None:
            return self._mark, str(Guard(self._guard.deliveries, until if until >= self._mark else -1))
        if not self._raised:
            return None
        return self._start(), str(Guard(self._guard.deliveries, until))  # nobody died of it here: as it was found
