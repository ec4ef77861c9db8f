"""What became of each message: nothing confirmed may be lost, and whatever came twice needs a reason.

There are two. A publisher that was told nothing (its connection was lost before the answer) published again: then the
message is there twice. Or a fault cut a worker off while a message was with it: handled, and its acknowledgement not
yet with the server, or not handled yet. How many these may be, the transport says.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from busframe.conformance.history import History
from tests.faults.workers import Journal


@dataclass(frozen=True, slots=True)
class Fault:
    """What cuts workers off from the server.

    Attributes:
        begun: when, on the machine's monotonic clock; until now all was well.
        ended: from now on it is certain that they were cut off.
        pid: of the worker that it hit; None: all that ran.
        over: from now on all of them were seen to work again.
    """

    begun: float
    ended: float
    pid: int | None = None
    over: float = math.inf


class Run(NamedTuple):
    """One call of a handler, to its end."""

    n: int
    pid: int
    begun: float
    ended: float


def runs(journal: Journal) -> list[Run]:
    """All that a journal tells of, in the order of their ends."""
    return [Run(int(n), int(pid), float(begun), float(ended)) for n, _, pid, begun, ended in journal.lines("handled")]


class Allowance(ABC):
    """What a transport says that a fault may bring back.

    Attributes:
        most: how many of one worker.
    """

    most: float = math.inf

    @abstractmethod
    def cut_off(self, runs: Sequence[Run], faults: Sequence[Fault]) -> set[Run]:
        """The runs whose settlement may not have reached the server."""


class Prefetch(Allowance):
    """A worker holds so many unsettled messages at most, and settles what it has finished at once."""

    def __init__(self, limit: int) -> None:
        self.most = limit
        self._limit = limit

    def cut_off(self, runs: Sequence[Run], faults: Sequence[Fault]) -> set[Run]:
        """The last that a worker finished before, not settled yet, and the next that it finishes."""
        of_worker: dict[int, list[Run]] = defaultdict(list)
        for run in sorted(runs, key=_ended):
            of_worker[run.pid].append(run)
        found: set[Run] = set()
        for fault in faults:
            for pid, its in of_worker.items():
                if fault.pid in (None, pid):
                    first = bisect_left(its, fault.begun, key=_ended) - self._limit
                    last = bisect_right(its, fault.ended, key=_ended) + self._limit
                    found.update(its[max(0, first) : last])
        return found


class Account:
    """The account of one test.

    Args:
        journal: what publishers and handlers wrote.
        faults: what happened to workers and connections.
        allowance: what each of them may bring back.
    """

    def __init__(self, journal: Journal, faults: list[Fault], allowance: Allowance) -> None:
        self.runs = runs(journal)
        self.tried = [n for (n,) in journal.lines("tried")]
        self.confirmed = [n for (n,) in journal.lines("confirmed")]
        self.unknown = [n for (n,) in journal.lines("unknown")]
        self.doubled = sum(times - 1 for times in Counter(run.n for run in self.runs).values())
        self._faults = faults
        self._allowance = allowance

    def __str__(self) -> str:
        return (
            f"{len(self.confirmed)} of {len(self.tried)} messages confirmed, {len(self.unknown)} outcomes unknown; "
            f"handled {len(self.runs)} times, {self.doubled} of them again; {len(self._faults)} faults"
        )

    def problems(self) -> list[str]:
        """What does not add up; empty: everything does."""
        history = History(tried=self.tried, confirmed=self.confirmed, unknown=self.unknown)
        for run in self.runs:
            history.done(str(run.n), str(run.pid))
        # A worker that was cut off finishes what it holds, though the server gave it to another one: so not exclusive.
        found = history.account(duplicates=self.doubled, exclusive=False)
        if unconfirmed := set(self.tried) - set(self.confirmed):
            found.append(f"publishers ended before these were confirmed: {sorted(unconfirmed)[:5]}")
        if unexplained := self._unexplained():
            found.append(f"handled again without a reason: {len(unexplained)} ({unexplained[:5]})")
        return found

    def _unexplained(self) -> list[int]:
        reasons = Counter(int(n) for n in self.unknown)
        reasons.update(run.n for run in self._allowance.cut_off(self.runs, self._faults))
        times = Counter(run.n for run in self.runs)
        return sorted(n for n, handled in times.items() if handled - 1 > reasons[n])


def _ended(run: Run) -> float:
    return run.ended
