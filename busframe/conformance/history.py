"""What happened in a check, and whether it adds up.

Every publish that was tried, confirmed, failed or is unknown, and every delivery and its end, goes into one history.
One account is made of it: lost (confirmed and never handled), unexpected (never published), duplicated, recovered
(unknown, and it appeared), reordered within a key, held by two consumers at once.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class History:
    """The events of one check, in order. Ids are message ids."""

    tried: list[str] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    handled: list[tuple[str, str]] = field(default_factory=list)
    """(message, by which consumer), once for each time."""
    keys: dict[str, str] = field(default_factory=dict)
    """Message → its key."""
    _held: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _held_by_two: set[str] = field(default_factory=set)

    def taken(self, message: str, consumer: str) -> None:
        """A consumer holds a message."""
        self._held[message].add(consumer)
        if len(self._held[message]) > 1:
            self._held_by_two.add(message)

    def let_go(self, message: str, consumer: str) -> None:
        """A consumer does not hold it any more: it settled it, or lost it."""
        self._held[message].discard(consumer)

    def gone(self, consumer: str) -> None:
        """A consumer holds nothing any more: it ended, or lost its connection."""
        for holders in self._held.values():
            holders.discard(consumer)

    def done(self, message: str, consumer: str) -> None:
        """A consumer has handled a message."""
        self.handled.append((message, consumer))

    def account(self, *, duplicates: int = 0, ordered: bool = False, exclusive: bool = True) -> list[str]:
        """What does not add up; empty: everything does.

        Args:
            duplicates: how many messages may have been handled more than once.
            ordered: whether each key's messages were to be handled first in the order in which they were confirmed.
            exclusive: whether no message may be held by two consumers at once.
        """
        times = Counter(message for message, _ in self.handled)
        published = set(self.tried)
        problems = [
            _some("lost: confirmed and never handled", [message for message in self.confirmed if not times[message]]),
            _some("unexpected: handled and never published", [m for m in times if m not in published]),
            _some("handled although its publish failed", [m for m in self.failed if times[m]]),
        ]
        twice = [message for message, count in times.items() if count > 1]
        if len(twice) > duplicates:
            problems.append(_some(f"handled more than once (allowed: {duplicates})", twice))
        if exclusive:
            problems.append(_some("held by two consumers at once", sorted(self._held_by_two)))
        if ordered:
            problems.append(_some("reordered within a key", self._reordered()))
        return [problem for problem in problems if problem]

    def recovered(self) -> list[str]:
        """Messages whose publish had an unknown outcome, and that appeared."""
        seen = {message for message, _ in self.handled}
        return [message for message in self.unknown if message in seen]

    def _reordered(self) -> list[str]:
        place = {message: number for number, message in enumerate(self.confirmed)}
        newest: dict[str, int] = {}
        seen: set[str] = set()
        wrong = []
        for message, _ in self.handled:
            key = self.keys.get(message)
            if key is None or message not in place or message in seen:
                continue  # a redelivery comes back in its own time
            seen.add(message)
            if place[message] < newest.get(key, -1):
                wrong.append(message)
            newest[key] = max(newest.get(key, -1), place[message])
        return wrong


def _some(what: str, messages: list[str]) -> str:
    if not messages:
        return ""
    shown = ", ".join(messages[:5]) + (", …" if len(messages) > 5 else "")
    return f"{what}: {len(messages)} ({shown})"
