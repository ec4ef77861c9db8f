"""How many deliveries may be in flight.

After a start the window is small, so that a message that kills the process takes few others with it, and it doubles
with every window of successes. A suspect narrows it to one.
"""

START = 4


class Credit:
    """In flight ≤ window ≤ limit, and the window is never below one, so that it can always move again.

    After ``narrow`` or ``resize`` more than the window may be in flight, until enough of it is given back.
    """

    __slots__ = ("_successes", "in_flight", "limit", "window")

    def __init__(self, limit: int, start: int = START) -> None:
        if limit < 1:
            raise ValueError(f"the limit must be 1 or more, not {limit}")
        self.limit = limit
        self.window = max(1, min(limit, start))
        self.in_flight = 0
        self._successes = 0

    @property
    def available(self) -> int:
        """How many more may be fetched now."""
        return max(0, self.window - self.in_flight)

    def take(self, count: int) -> None:
        """So many were fetched."""
        self.in_flight += count

    def give(self, count: int = 1) -> None:
        """So many are settled."""
        if count > self.in_flight:
            raise ValueError(f"{count} given back, {self.in_flight} in flight")
        self.in_flight -= count

    def succeed(self, count: int = 1) -> bool:
        """So many were handled well. Returns whether the window grew."""
        if self.window >= self.limit:
            return False
        self._successes += count
        if self._successes < self.window:
            return False
        self._successes = 0
        self.window = min(self.limit, self.window * 2)
        return True

    def narrow(self) -> bool:
        """One at a time from now on, until it grows again. Returns whether that is a change."""
        changed = self.window != 1
        self.window = 1
        return changed

    def resize(self, limit: int) -> None:
        """Another limit, from now on; what is in flight beyond it stays."""
        if limit < 1:
            raise ValueError(f"the limit must be 1 or more, not {limit}")
        self.limit = limit
        self.window = min(self.window, limit)
